"""The turn over a store: written once, called by every mover (HOST.md).

    load or rebuild -> advance (engine) -> write (store) -> commands

`advance` is idempotent: whatever is not committed is computed again from the store. A mover may call
it for any case at any time, twice, late, or for nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from longcase.engine.advance import refuse_input
from longcase.engine.code import WorkflowCode
from longcase.engine.incidents import TurnDiscarded
from longcase.engine.work import Accepted, Item
from longcase.env import Env
from longcase.errors import BugError, UnavailableError
from longcase.history.event import Event, instant_text
from longcase.history.state import CaseState, blocked
from longcase.model.queue import DEFAULT_QUEUE
from longcase.runtime.composing import Writes
from longcase.runtime.doubt import Doubt
from longcase.runtime.landing import Landing
from longcase.runtime.limits import Slots
from longcase.runtime.moved import Batch, Moved, Prepared, Refused, Reserved
from longcase.runtime.queues import Queues, stands_in_queue
from longcase.runtime.residents import Residents
from longcase.runtime.starts import Starts
from longcase.runtime.unmoved import Unmoved
from longcase.runtime.watchdog import Watchdog
from longcase.store.port import Store
from longcase.store.records import CaseRow, Input, NewCase, Started

log = logging.getLogger("longcase.runtime")

LIVE_CASES = 512  # coroutines kept in memory; a parked case beyond it is rows and nothing else
LOST_RACES = 3  # for one case, before a worker asks whether it is still known
ITEMS_A_TURN = 256  # inputs of one case applied in one commit; a bound on what a crash repeats

# What a turn may come to because the code is another release's: a worker of that one may do better.
DECLINED = frozenset({"code_changed", "object_invalid"})
_VISIT_ENDS = frozenset({"stage_entered", "case_closed"})


class Turns:
    """Moves cases over a store. One per mover."""

    def __init__(
        self,
        store: Store,
        env: Env,
        codes: Mapping[str, WorkflowCode],
        worker: int,
        slots: Slots,
        *,
        live: int = LIVE_CASES,
        queues: Queues | None = None,
    ) -> None:
        self.store = store
        self.env = env
        self.codes = codes
        self.worker = worker
        self.slots = slots
        self.queues = queues  # None: this mover serves every queue, and keeps none
        self.residents = Residents(store, env, worker, slots, live, queues)
        self._doubt = Doubt(worker, slots)
        self._writes = Writes(env, codes, worker, queues, store.is_dead)
        self._landing = Landing(self.residents, self._doubt, queues)
        self._unmoved = Unmoved(codes, self.residents, self._writes, self.now)
        self._starts = Starts(env, codes, self.residents, self._writes, self._doubt, self._landing)

    @property
    def watchdog(self) -> Watchdog:
        return self.residents.watchdog

    def evict_all(self) -> None:
        """Forget every coroutine; cases are rebuilt from rows when they move again."""
        self.residents.evict_all()

    def give_up(self, moved: Sequence[Moved] = ()) -> None:
        """Forget every coroutine and give every slot back: the worker was forgotten, and others take over.

        Args:
            moved: what was moved, and is not carried out any more.
        """
        self._doubt.carry_later(moved)
        self._doubt.give_up()
        self._starts.give_up()
        self.evict_all()

    def now(self, state: CaseState | None = None) -> str:
        """Return the store's instant, never before what the case has already seen."""
        now = instant_text(self.env.now())
        return max(now, state.at) if state is not None else now

    async def start(self, new: Sequence[NewCase]) -> tuple[list[Started], list[Moved]]:
        """Accept cases and run each to its first wait, in one transaction: a start without a second commit.

        A case whose first turn cannot be committed is accepted all the same; its next turn opens the incident.
        """
        return await self._starts.start(self.store, new)

    async def look_up_starts(self) -> list[int]:
        """Look up starts whose commit's answer was lost; returns the cases whose attempts must be carried out."""
        return await self._starts.look_up(self.store)

    async def advance(
        self, cases: Mapping[int, Sequence[Item]], look: frozenset[int] | set[int] = frozenset()
    ) -> list[Moved]:
        """Move cases, each by the items given; those in `look` also by what the store holds for them.

        Effects: one transaction over all cases. A case that lost a race is thrown away and, if it was
        given items, moved again at once. What could not be applied is kept in the store's inbox.
        """
        moved: list[Moved] = []
        todo = Batch({case_no: list(items) for case_no, items in cases.items()}, set(look))
        try:
            for attempt in range(20):
                if attempt > LOST_RACES:
                    await self.store.beat(self.worker)  # raises if it is forgotten: its writes are refused then
                todo = await self._round(todo, moved)
                if not todo.items:
                    return moved
            raise todo.unavailable or BugError(f"cases {sorted(todo.items)} lost every race for the row")
        except BaseException:
            # What did move is durable: the attempts it began are carried out when their cases are looked at again.
            self._doubt.carry_later(moved)
            raise

    async def _round(self, todo: Batch, moved: list[Moved]) -> Batch:
        """Move cases by one commit; returns those that must be looked at anew."""
        again = Batch()
        settled = await self._settled(todo)
        prepared = await self._prepare(todo, again)
        writes = [entry for entry in prepared if entry.write is not None]
        moved.extend(self._landing.unwritten(entry, settled) for entry in prepared if entry.write is None)
        try:
            batch = [entry.write for entry in writes if entry.write is not None]
            outcomes = await self.store.write(batch, partial=True) if batch else []
        except BaseException:
            for entry in writes:
                self._doubt.note(entry)
                self.residents.evict(entry.resident.case_no)
            raise
        broken: Exception | None = None
        for entry, outcome in zip(writes, outcomes, strict=True):
            case_no, error = entry.resident.case_no, outcome.error
            if outcome.outcome == "done":
                moved.append(self._landing.written(entry, outcome))
                continue
            self.residents.give_back(entry.reserved)
            self.residents.evict(case_no)
            if isinstance(error, UnavailableError):
                again.unavailable = error
            elif outcome.outcome == "failed" and case_no in todo.refused:
                broken = error  # not even its incident can be stored
                continue
            elif outcome.outcome == "failed":
                again.refused[case_no] = Refused("not_storable", error)
            again.add(case_no, entry.items)
        if broken is not None:
            raise broken
        for entry in prepared:
            if entry.look_again and entry.resident.case_no not in again.items:
                again.add(entry.resident.case_no, [])
        return again

    async def _settled(self, todo: Batch) -> bool:
        """Tell whether what the rows say next is all that will come of this worker's commits of unknown outcome."""
        if any(case_no in self._doubt for case_no in todo.items):
            try:
                await self.store.settle()
            except UnavailableError:
                return False
        return True

    # -- what cannot be moved here -------------------------------------------------------------------

    async def _others(self, state: CaseState, code: WorkflowCode) -> set[str]:
        """Return the other codes that living workers would move a case with; none if this one has no name."""
        if not code.fingerprint:
            return set()
        living = [row for row in await self.store.workers() if row.alive and row.serves(DEFAULT_QUEUE)]
        return {row.codes.get(state.workflow, "") for row in living} - {code.fingerprint, ""}

    async def _decline(self, case_no: int, state: CaseState, code: WorkflowCode, others: set[str]) -> bool:
        """Give back a case that this code does not replay, for a living worker of another code to move; see I34.

        Each code declines a visit once; when every other living one has, this worker opens the incident.
        """
        if others <= await self.store.decline(case_no, state.visit, code.fingerprint, self.worker):
            await self.store.undecline(case_no)
            return False
        if self.queues is not None and (back := self.queues.give_up(case_no)):
            await self.store.give_back(self.worker, back)
        log.info("%s: this code does not replay visit %d; left to another release", state.address, state.visit)
        return True

    # -- preparing -----------------------------------------------------------------------------------

    async def _prepare(self, todo: Batch, again: Batch) -> list[Prepared]:
        """Compute the turns of a round; what it finds out too late to write goes into the one after it, `again`."""
        residents = self.residents
        unknown = [case_no for case_no in todo.items if case_no in todo.looking or case_no not in residents]
        rows = await self.store.load_many(unknown) if unknown else {}
        inboxes = {case_no: row.inbox for case_no, row in rows.items() if row.inbox is not None}
        pending = [case_no for case_no, row in rows.items() if row.pending and row.inbox is None]
        if pending:
            inboxes |= await self.store.inboxes(pending)
        if any(self._runs_elsewhere(row.state) for row in rows.values()):
            await self.store.dead_workers()  # `is_dead` answers from the last reading: the case may wait for just this
        asked = set(unknown)
        now = instant_text(self.env.now())  # one reading of the clock serves the batch
        recorded = await self._recorded(rows)
        prepared: list[Prepared] = []
        try:
            for case_no, items in todo.items.items():
                row = rows.get(case_no)
                if row is None and case_no in asked:
                    continue
                if row is not None and case_no in todo.refused:
                    inbox = inboxes.get(case_no, ())
                    held = self._unmoved.open_incident(row, items, inbox, todo.refused[case_no])
                    prepared += [held] if held is not None else []
                    continue
                reserved = Reserved()
                try:
                    entry = await self._prepare_one(
                        case_no, row, items, inboxes.get(case_no, ()), recorded.get(case_no), now, reserved, again
                    )
                except UnavailableError:
                    residents.give_back(reserved)
                    raise
                except Exception as error:
                    # One case that breaks a promise of ours must not stop the others: it is held, with its owner.
                    log.exception("case %d cannot be moved", case_no)
                    residents.give_back(reserved)
                    residents.evict(case_no)
                    again.add(case_no, items, Refused("engine_fault", error))
                    continue
                if entry is not None:
                    prepared.append(entry)
        except BaseException:
            # None of it is written: the coroutines are ahead of their rows, and what they began begins anew.
            for entry in prepared:
                residents.give_back(entry.reserved)
                residents.evict(entry.resident.case_no)
            raise
        return prepared

    def _runs_elsewhere(self, state: CaseState) -> bool:
        return any(call["worker"] not in (0, self.worker) for call in state.calls.values())

    async def _recorded(self, rows: Mapping[int, CaseRow]) -> dict[int, list[Event]]:
        """Read the current visits of the cases that must be rebuilt, in one query.

        Up to what their rows say: another process may have appended to a history since.
        """
        wanted = [
            (case_no, row.state.entered_seq, row.state.seq)
            for case_no, row in rows.items()
            if row.state.visit and row.state.status == "open" and not self._is_resident(case_no, row)
        ]
        return await self.store.ranges(wanted) if wanted else {}

    def _is_resident(self, case_no: int, row: CaseRow) -> bool:
        resident = self.residents.get(case_no)
        return resident is not None and resident.visit is not None and resident.state.seq == row.state.seq

    async def _load(self, case_no: int) -> CaseRow | None:
        return (await self.store.load_many([case_no])).get(case_no)

    async def _prepare_one(
        self,
        case_no: int,
        row: CaseRow | None,
        local: list[Item],
        inbox: Sequence[Input],
        recorded: Sequence[Event] | None,
        batch_now: str,
        reserved: Reserved,
        again: Batch,
    ) -> Prepared | None:
        residents = self.residents
        resident = residents.get(case_no)
        if resident is None and row is None:
            # It was in memory when the batch was put together, and another call has evicted it since.
            row = await self._load(case_no)
            resident = residents.get(case_no)
        if resident is not None and row is not None and resident.state.seq != row.state.seq:
            residents.evict(case_no)
            resident = None
        state = resident.state if resident is not None else row.state if row is not None else None
        code = self.codes.get(state.workflow) if state is not None else None
        if state is None or code is None:
            return None  # this process does not have the workflow; another worker moves the case
        items, untaken = _merged(local, inbox) if inbox else (local, 0)
        # Never before what the case has already seen; the clock may have gone back since an item was accepted.
        now = max(batch_now, state.at, items[-1].at if items else "")
        limit: int | None = None
        left: list[Item] = []
        unsettled = False
        for _ in range(3):
            if resident is None:
                row = row or await self._load(case_no)
                if row is None:
                    return None
                # A commit works on the state it was given: the row's copy must stay as it was read.
                fresh = CaseState.from_json(row.state.to_json()) if limit is not None else row.state
                resident = residents.new(case_no, code, fresh)
            state = resident.state
            base_seq, base_seen = state.seq, state.seen_seq
            queued = self.queues is not None and stands_in_queue(state)
            try:
                events: Sequence[Event] = ()
                rebuild = resident.visit is None and state.status == "open" and not blocked(state)
                if rebuild and state.visit:
                    events = recorded = await self._visit(case_no, state, recorded)
                result = residents.run(resident, events, residents.work(now, items, limit), rebuild, reserved)
                break
            except TurnDiscarded as discarded:
                resident.discard()
                recorded = None  # the discarded state grew on their snapshot
                residents.evict(case_no)
                residents.give_back(reserved)
                row = await self._load(case_no)
                if row is None:
                    return None
                if row.state.seq != base_seq:
                    # Another process moved the case meanwhile: what was discarded may not be so any more.
                    again.add(case_no, local)
                    return None
                # What it says more may quote the case's data: that is kept with the incident, and is in no log.
                log.info("%s: turn discarded: %s", row.state.address, discarded.kind)
                resident = None
                if discarded.applied:
                    limit = discarded.applied
                    continue
                if discarded.kind in DECLINED and (others := await self._others(row.state, code)):
                    if local:  # kept first: once the case is given back, another worker's turn may come in between
                        return self._unmoved.keep(row, local, inbox)
                    if await self._decline(case_no, row.state, code, others):
                        return self._unmoved.nothing(row)
                resident = residents.new(case_no, code, row.state)
                base_seq, base_seen = row.state.seq, row.state.seen_seq
                result = refuse_input(resident, residents.work(now), discarded, discarded.item)
                left = [other for other in items if other is not discarded.item]
                if row.state.move is not None:  # it comes before all inputs, and would be refused again
                    left = [other for other in left if not isinstance(other, Accepted)]
                # What the discarded turn had settled of dead workers' attempts, the next one settles, held or not; but
                # not this code, if it is not the case's: a call would be tried again by what does not know its stage.
                unsettled = discarded.kind not in DECLINED and self._runs_elsewhere(resident.state)
                break
        else:
            raise BugError(f"case {case_no}: a turn that was fine is discarded at its second run")
        if limit is not None:
            left = items[result.items_applied :]
        # What was accepted beside a turn that was discarded waits in the inbox, and wants one of its own.
        more = bool(left) or unsettled or limit is not None or len(inbox) > ITEMS_A_TURN
        left = [other for other in left if not isinstance(other, Accepted)]
        residents.put(resident)
        return self._prepared(
            Prepared(resident, result, local, None, reserved, left, more, untaken - len(result.taken)),
            base_seq, base_seen, now, row, queued, inbox,
        )  # fmt: skip

    async def _visit(self, case_no: int, state: CaseState, recorded: Sequence[Event] | None) -> Sequence[Event]:
        """Return the events of the current visit, as far as the state has them."""
        first, last = state.entered_seq, state.seq
        if recorded and recorded[0].seq == first and recorded[-1].seq == last:
            return recorded
        return (await self.store.ranges([(case_no, first, last)]))[case_no]

    def _prepared(
        self,
        entry: Prepared,
        base_seq: int,
        base_seen: int,
        now: str,
        row: CaseRow | None,
        queued: bool,
        inbox: Sequence[Input],
    ) -> Prepared:
        resident, result = entry.resident, entry.result
        if row is not None:
            self._writes.stop_again(resident, result)
        write = entry.write = self._writes.of(
            resident, result, base_seq, base_seen, now, entry.more, row, queued, inbox
        )
        if write is not None and row is not None and _VISIT_ENDS.isdisjoint([event.type for event in write.events]):
            # What was refused for as long as an exception path ran is looked at again where the visit ends (B7).
            write.heard = max((item.no for item in inbox), default=0)
        return entry


def _merged(local: Sequence[Item], inbox: Sequence[Input]) -> tuple[list[Item], int]:
    """Return what has ended here and what was accepted, in order, and how many of them are from the inbox."""
    accepted: list[Accepted] = []
    for one in inbox[:ITEMS_A_TURN]:
        # In the order of acceptance, also if the clock went back in between (I11).
        at = max(one.accepted_at, accepted[-1].at) if accepted else one.accepted_at
        accepted.append(
            Accepted(
                one.no, one.id, one.type, one.data, one.actor, one.channel, one.on_behalf, one.cause, at, one.damaged
            )
        )
    items: list[Item] = [*local, *accepted]
    items.sort(key=lambda item: item.at)
    return items, len(accepted)
