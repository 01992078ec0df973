"""After the commit: what is kept in memory, and what whoever moves the case has to carry out."""

from __future__ import annotations

from longcase.history.state import blocked
from longcase.runtime.doubt import Doubt
from longcase.runtime.moved import Moved, Prepared
from longcase.runtime.queues import Queues, stands_in_queue
from longcase.runtime.residents import Residents
from longcase.store.records import CaseWrite, Written


class Landing:
    """Turns what was prepared, and what the store answered, into what became of a case."""

    def __init__(self, residents: Residents, doubt: Doubt, queues: Queues | None) -> None:
        self._residents = residents
        self._doubt = doubt
        self._queues = queues

    def unwritten(self, entry: Prepared, settled: bool) -> Moved:
        """Return what became of a case for which there was nothing to write.

        Args:
            settled: what its row does not show of earlier commits never comes. A write needs no such word: it is
                refused, or makes what comes late be refused.
        """
        resident = entry.resident
        case_no, state = resident.case_no, resident.state
        if self._queues is not None:
            self._queues.forget_used(case_no, state)
        doubtful = case_no in self._doubt
        if doubtful and settled:
            entry.result.commands += self._doubt.resolve(case_no, state)
        queued = self._queues is not None and stands_in_queue(state)
        return Moved(
            case_no, state, resident.code, [], entry.result.commands, entry.left,
            entry.more or (doubtful and not settled),
            refused=tuple(entry.reserved.refused), queued=queued,
        )  # fmt: skip

    def written(self, entry: Prepared, outcome: Written) -> Moved:
        """Return what became of a case whose write is durable."""
        resident, write, result = entry.resident, entry.write, entry.result
        assert write is not None
        case_no = resident.case_no
        state = outcome.state or resident.state
        if self._queues is not None:
            self._queues.forget_used(case_no, state)
        stopped = blocked(resident.state)
        if outcome.interleaved or resident.state.status == "closed" or stopped:
            # The coroutine's state is no longer the row's; the next advance reads it again.
            self._residents.evict(case_no)
        if case_no in self._doubt:
            result.commands += self._doubt.resolve(case_no, state, result.commands)
        self._residents.shrink()
        again = entry.more or result.again
        if outcome.pending and not stopped:
            again = again or outcome.pending > entry.untaken + len(result.kept)
        return Moved(
            case_no, state, resident.code, write.events, result.commands, entry.left, again, write.wake_at,
            tuple(entry.reserved.refused), write.queued is not None, _moves_others(write),
        )  # fmt: skip


def _moves_others(write: CaseWrite) -> bool:
    return bool(write.children or write.cancel_children) or any(no != write.case_no for no, _ in write.notify)
