"""The coroutines in memory, which are a cache and nothing more, and the one place where user code runs in turns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from longcase.engine.advance import advance
from longcase.engine.code import WorkflowCode
from longcase.engine.incidents import TurnDiscarded
from longcase.engine.turn import Resident
from longcase.engine.work import Advance, Item, Work
from longcase.env import Env
from longcase.errors import BugError
from longcase.history.event import Event
from longcase.history.state import Call, CaseState
from longcase.model.activity import Activity
from longcase.runtime.limits import Slots
from longcase.runtime.moved import Reserved
from longcase.runtime.queues import Queues
from longcase.runtime.watchdog import StageNeverYields, Watchdog
from longcase.store.port import Store


class Residents:
    """The cases one mover has in memory, least recently moved first."""

    def __init__(self, store: Store, env: Env, worker: int, slots: Slots, live: int, queues: Queues | None) -> None:
        self.watchdog = Watchdog(env)
        self._store = store
        self._worker = worker
        self._slots = slots
        self._live = live
        self._queues = queues
        self._granted = queues.may_run if queues is not None else _all_granted
        self._draw = env.random.random
        self._cases: OrderedDict[int, Resident] = OrderedDict()
        self._reserving = Reserved()  # of the turn that is running: set and read without an await in between

    # -- the cache -------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._cases)

    def __contains__(self, case_no: int) -> bool:
        return case_no in self._cases

    def get(self, case_no: int) -> Resident | None:
        return self._cases.get(case_no)

    def put(self, resident: Resident) -> None:
        """Keep a case, the most recently moved one; another coroutine of it is forgotten."""
        before = self._cases.get(resident.case_no)
        if before is not resident:
            if before is not None:
                before.discard()
            self._cases[resident.case_no] = resident
        self._cases.move_to_end(resident.case_no)

    def evict(self, case_no: int) -> None:
        """Forget a case's coroutine; it is rebuilt from rows when it moves again."""
        resident = self._cases.pop(case_no, None)
        if resident is not None:
            resident.discard()

    def evict_all(self) -> None:
        """Forget every coroutine."""
        for case_no in list(self._cases):
            self.evict(case_no)

    def shrink(self) -> None:
        """Forget the least recently moved cases above the bound."""
        while len(self._cases) > self._live:
            self.evict(next(iter(self._cases)))

    # -- turns -----------------------------------------------------------------------------------------

    def new(self, case_no: int, code: WorkflowCode, state: CaseState) -> Resident:
        """Return a case without a coroutine, which is not kept yet."""
        return Resident(case_no, code, state, self._begin)

    def work(self, now: str, items: Sequence[Item] = (), limit: int | None = None) -> Work:
        return Work(now, items, self._is_dead, self._draw, limit, self._granted)

    def run(
        self, resident: Resident, events: Sequence[Event], work: Work, rebuild: bool, reserved: Reserved
    ) -> Advance:
        """Run user code: replay if there is no coroutine, then the turns.

        No await in here: the watchdog measures it, and `_begin` puts down to `reserved` what is begun.
        """
        row_seq = resident.state.seq
        self._reserving = reserved
        self._slots.refusing = reserved.refused
        try:
            with self.watchdog:
                if rebuild:
                    resident.rebuild(events)
                    replayed = resident.state.seq - len(resident.emitted)
                    if replayed != row_seq:
                        raise BugError(f"{resident.state.address}: replay ended at {replayed}, the row says {row_seq}")
                return advance(resident, work)
        except StageNeverYields:
            owner = resident.visit.stage.owner.name if resident.visit is not None else resident.code.workflow.owner.name
            raise TurnDiscarded(
                "stage_never_yields", f"{resident.state.stage} ran longer than the limit of one turn", owner=owner
            ) from None

    def give_back(self, reserved: Reserved) -> None:
        """Give back the slots of turns that are not written."""
        for slot in reserved.taken:
            self._slots.give_up(slot)
        reserved.taken.clear()

    def _begin(self, activity: Activity[..., Any], granted: bool = False, lost: int = 0) -> int:
        if not granted and self._queues is not None and (activity.queue is not None or not self._queues.general):
            return 0  # it goes through its queue, or to a worker that serves the default one
        slot = self._slots.take(activity, lost)
        if slot is None:
            return 0
        self._reserving.taken.append(slot)
        return self._worker

    def _is_dead(self, worker: int) -> bool:
        # Asked each time: a store between machines may have taken a late worker for dead, and know better now.
        return worker != self._worker and self._store.is_dead(worker)


def _all_granted(case_no: int, ref: str, call: Call) -> bool:
    return True
