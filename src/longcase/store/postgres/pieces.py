"""What may be asked of the commit: a turn, a start, an edit. Each is written wholly or not at all.

A piece offers itself for the fast road (`fast`: a draft made of what is known or was read without a lock),
and can be judged on a sheet whose rows are locked when that did not land (`judge`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

from longcase.history.chain import GENESIS
from longcase.history.state import CaseState
from longcase.store.folding import prepare, refold
from longcase.store.postgres import writing
from longcase.store.postgres.editing import edit
from longcase.store.postgres.sheet import Sheet, Wanted, check_key, needs
from longcase.store.postgres.statement import Draft
from longcase.store.postgres.workers import forgotten
from longcase.store.postgres.writing import Head
from longcase.store.records import CaseRef, CaseRow, CaseWrite, Decide, DedupKey, NewCase, Started, Written
from longcase.store.unit import Entry


class Known(Protocol):
    """What the commit knows without asking: heads of cases, the instant, salts."""

    now: str
    salt: Callable[[], str]

    def head(self, case_no: int) -> Head | None: ...


class Piece(Protocol):
    """One thing to be written."""

    error: Exception | None
    reads: bool  # the fast road needs a sheet, read without locks
    alone: bool  # it writes to the case of its number, and to nothing else
    inbox: bool  # the careful road reads what waits in the inboxes of its cases

    @property
    def workers(self) -> set[int]:
        """The workers that must still be registered: who writes it, and whom it wants a lease for."""
        ...

    @property
    def runs(self) -> set[int]:
        """The other workers that its case's queued attempts run on: the careful road looks whether they are gone."""
        ...

    @property
    def about(self) -> list[Hashable]:
        """What it writes to, by number or key: two pieces about one thing wait for each other."""
        ...

    def wanted(self) -> Wanted: ...

    def fast(self, known: Known) -> Draft | None: ...

    def judge(self, sheet: Sheet) -> None: ...

    def landed(self, draft: Draft, head: Head | None) -> None:
        """Take note that the fast road's draft was written on `head`."""
        ...

    def fenced(self) -> None:
        """Take note that it may not be written: its worker is no longer registered."""
        ...


class TurnPiece:
    """A CaseWrite."""

    reads = False
    inbox = True

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.write: CaseWrite = entry.write
        self.worker = entry.write.worker or entry.write.lease  # who is told when it is refused
        self.workers = {entry.write.worker, entry.write.lease} - {0}
        write = entry.write
        self.runs = {call.worker for call in write.queued or ()} - {0, write.worker}
        self.alone = write.new is None and not (write.children or write.notify or write.cancel_children)
        self.error: Exception | None = None

    @property
    def about(self) -> list[Hashable]:
        write = self.write
        found: list[Hashable] = [write.case_no] if write.new is None else []
        found += [case_no for case_no, _ in write.notify]
        for one in (write.new, *write.children):
            if one is not None:
                found.append(_key(one))
        return found

    def wanted(self) -> Wanted:
        return writing.wanted(self.write)

    def fast(self, known: Known) -> Draft | None:
        if self.write.new is not None:
            return writing.first(self.write, known.now, known.salt)
        if self.runs:
            return None
        return writing.straight(self.write, known.head(self.write.case_no), known.now)

    def judge(self, sheet: Sheet) -> None:
        self.entry.outcome = writing.judge(sheet, self.write)

    def landed(self, draft: Draft, head: Head | None) -> None:
        pending = len(draft.puts) + (head.pending - len(draft.taken) if head is not None else 0)
        self.entry.outcome = Written("done", draft.case_no, self.write.state, pending=pending)

    def fenced(self) -> None:
        if self.write.new is not None:  # it can be accepted all the same, only not begun by this worker
            self.error = forgotten(self.worker)
        self.entry.outcome = Written("stale", self.write.case_no)


class StartPiece:
    """A NewCase, only accepted."""

    reads = alone = inbox = False
    workers: set[int] = set()  # noqa: RUF012 - nobody's, and never changed
    runs = workers

    def __init__(self, new: NewCase) -> None:
        self.new = new
        self.result: Started | None = None
        self.error: Exception | None = None

    @property
    def about(self) -> list[Hashable]:
        return [_key(self.new)]

    def wanted(self) -> Wanted:
        return needs([self.new])

    def fast(self, known: Known) -> Draft | None:
        event = self.new.started
        check_key(event)
        event.seq, event.at = 0, event.at or known.now
        prepare([event], known.salt)
        row = CaseRow(0, CaseState(), GENESIS, known.now, 0, 0)
        refold(row, [event])
        draft = Draft(0, row.state, row.hash, row.wake_at, 0, [event], "fresh", again=self.new.again)
        if self.new.dedup is not None:
            draft.dedups.append((self.new.dedup, None, known.now))
        return draft

    def judge(self, sheet: Sheet) -> None:
        self.result = sheet.start(self.new)[1]

    def landed(self, draft: Draft, head: Head | None) -> None:
        self.result = Started(draft.case_no, False, draft.state)

    def fenced(self) -> None:
        raise AssertionError("a start holds no lease")


class EditPiece:
    """A unit of work on one case."""

    reads = True
    alone = False  # its case may be named by key, and another piece's by number
    workers: set[int] = set()  # noqa: RUF012 - nobody's, and never changed
    runs = workers

    def __init__(self, ref: CaseRef, decide: Decide[Any], dedup: DedupKey | None) -> None:
        self.ref = ref
        self.decide = decide
        self.dedup = dedup
        self.inbox = False  # ten thousand inputs may wait there, and few edits ask for them
        self.result: Any = None
        self.refusal: Exception | None = None
        self.error: Exception | None = None

    @property
    def about(self) -> list[Hashable]:
        ref = self.ref
        return [ref.case_no or (ref.tenant, ref.workflow, ref.key)]

    def wanted(self) -> Wanted:
        asked = Wanted()
        if self.ref.case_no:
            asked.cases.add(self.ref.case_no)
        else:
            asked.keys.add((self.ref.tenant, self.ref.workflow, self.ref.key))
        if self.dedup is not None:
            asked.dedups.add((self.ref.tenant, self.dedup.scope, self.dedup.key))
        return asked

    def fast(self, known: Known) -> Draft | None:
        return None

    def judge(self, sheet: Sheet) -> None:
        self.result, self.refusal = edit(sheet, self.ref, self.decide, self.dedup)

    def landed(self, draft: Draft, head: Head | None) -> None:
        pass

    def fenced(self) -> None:
        raise AssertionError("an edit holds no lease of a worker of its own")


def _key(new: NewCase) -> tuple[str, str, str]:
    data = new.started.data
    return (data["tenant"], data["workflow"], data["key"])
