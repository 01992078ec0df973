"""One call of `Store.write` on its way through a store: its entries, what failed of it, and its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from longcase.errors import BugError, InvalidInput
from longcase.store.folding import prepare
from longcase.store.records import CaseWrite, Written


class Entry:
    """One CaseWrite on its way, and its outcome."""

    __slots__ = ("outcome", "write")

    def __init__(self, write: CaseWrite) -> None:
        self.write = write
        self.outcome: Written | None = None


class WriteUnit:
    """The turns of one call of `Store.write`."""

    __slots__ = ("entries", "failed", "partial")

    def __init__(self, writes: Sequence[CaseWrite], salt: Callable[[], str], *, partial: bool = False) -> None:
        self.partial = partial
        self.entries: list[Entry] = []
        self.failed: dict[int, Exception] = {}  # by place in the call
        # What needs no lock is done before there is one: other transactions may be committing.
        for place, write in enumerate(writes):
            try:
                prepare(write.events, salt)
            except InvalidInput as error:
                if not partial:
                    raise
                self.failed[place] = error
            self.entries.append(Entry(write))
        numbers = [write.case_no for write in writes if write.new is None]
        if len(set(numbers)) != len(numbers):
            raise BugError(f"a case stands twice in one call of write: {numbers}")

    def writable(self) -> list[Entry]:
        """Return the entries that have not failed."""
        if not self.failed:
            return self.entries
        return [entry for place, entry in enumerate(self.entries) if place not in self.failed]

    def answer(self) -> list[Written]:
        """Return the outcomes, once they are durable; the states' ended tasks are in their table now."""
        written = []
        for place, entry in enumerate(self.entries):
            if place in self.failed:
                written.append(Written("failed", entry.write.case_no, error=self.failed[place]))
                continue
            outcome = entry.outcome
            assert outcome is not None
            if outcome.state is not None and outcome.state.ended_tasks:
                outcome.state.ended_tasks.clear()
            written.append(outcome)
        return written
