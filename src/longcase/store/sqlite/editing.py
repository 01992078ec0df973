"""One unit of work under the lock of a case's row: what decides, judges; what was decided is written."""

from __future__ import annotations

from typing import TypeVar

from longcase.errors import CaseNotFound
from longcase.history.waits import next_due
from longcase.store.folding import earliest, prepare
from longcase.store.port import CaseRef, Decide, DedupKey, Locked
from longcase.store.sqlite.transaction import Transaction

T = TypeVar("T")


def edit(tx: Transaction, ref: CaseRef, decide: Decide[T], dedup: DedupKey | None) -> tuple[T, Exception | None]:
    """Run a unit of work under the lock of the case's row; returns its result, and the refusal to raise."""
    case_no = tx.find(ref)
    if not case_no:
        name = f"case {ref.case_no}" if ref.case_no else f"{ref.workflow}/{ref.key}"
        raise CaseNotFound(f"no case is known as {name}", hint="longcase list")
    row = tx.case(case_no)
    known = tx.remembered(row.state.tenant, dedup) if dedup is not None else None
    now = max(tx.now, row.state.at)
    pending = tx.pending(case_no) if row.pending else []
    wanted = decide(Locked(case_no, row.state, now, pending, known[0] if known else None))
    accepted = [tx.put_input(case_no, item) for item in wanted.inputs]
    if wanted.events:
        for event in wanted.events:
            event.at = event.at or now
        prepare(wanted.events, tx.salt)
        tx.append(row, wanted.events)
    before = row.wake_at
    if wanted.wake or any(accepted):
        row.wake_at = tx.now
    elif row.state.status == "open":
        # Kept if it was due already: somebody asked for a turn that has not been taken yet.
        row.wake_at = earliest(row.wake_at, next_due(row.state))
    if wanted.events or row.wake_at != before:
        tx.store(row, wanted.events)
    if wanted.dedup is not None and known is None:
        tx.remember(row.state.tenant, wanted.dedup, wanted.answer, case_no)
    return wanted.result, wanted.refusal
