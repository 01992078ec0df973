"""Cases that cannot be moved here: what has ended in this process is kept with them, without any turn of theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from longcase.engine.code import WorkflowCode
from longcase.engine.incidents import TurnDiscarded, incident
from longcase.engine.kept import keep_ended
from longcase.engine.work import Advance, Item
from longcase.history.event import instant_of
from longcase.history.state import CaseState, blocked
from longcase.model.names import storable
from longcase.runtime.composing import Writes
from longcase.runtime.moved import Prepared, Refused, Reserved
from longcase.runtime.queues import stands_in_queue
from longcase.runtime.residents import Residents
from longcase.store.records import CaseRow, Input


class Unmoved:
    """Prepares what is written of such cases."""

    def __init__(
        self, codes: Mapping[str, WorkflowCode], residents: Residents, writes: Writes, now: Callable[[CaseState], str]
    ) -> None:
        self._codes = codes
        self._residents = residents
        self._writes = writes
        self._now = now

    def open_incident(
        self, row: CaseRow, items: Sequence[Item], inbox: Sequence[Input], refused: Refused
    ) -> Prepared | None:
        """Open an incident on a case that this process cannot move on; its inputs and outcomes are kept.

        None: this process does not have its workflow.
        """
        code = self._codes.get(row.state.workflow)
        if code is None:
            return None
        discarded = TurnDiscarded(refused.kind, storable(str(refused.error)), owner=code.workflow.owner.name)
        return self._prepared(row, code, items, inbox, discarded)

    def keep(self, row: CaseRow, items: Sequence[Item], inbox: Sequence[Input]) -> Prepared:
        """Keep what has ended of a case that is about to be left to another worker."""
        entry = self._prepared(row, self._codes[row.state.workflow], items, inbox, None)
        entry.untaken, entry.look_again = len(inbox), True
        if entry.write is not None:
            entry.write.lease, entry.write.wake_at = 0, self._now(row.state)
        return entry

    def nothing(self, row: CaseRow) -> Prepared:
        """Return a case that was left to another worker: there is nothing to write."""
        resident = self._residents.new(row.case_no, self._codes[row.state.workflow], row.state)
        return Prepared(resident, Advance(), [], None, Reserved(), [], False, 0)

    def _prepared(
        self,
        row: CaseRow,
        code: WorkflowCode,
        items: Sequence[Item],
        inbox: Sequence[Input],
        discarded: TurnDiscarded | None,
    ) -> Prepared:
        state, now = row.state, self._now(row.state)
        base_seq, base_seen, queued = state.seq, state.seen_seq, stands_in_queue(state)
        resident = self._residents.new(row.case_no, code, state)
        result = keep_ended(resident, self._residents.work(now, items))
        if discarded is not None and not blocked(state):
            resident.append(incident(state, discarded, instant_of(now), code), now)
        write = self._writes.of(resident, result, base_seq, base_seen, now, False, row, queued, inbox)
        return Prepared(resident, result, list(items), write, Reserved(), [], False, 0)
