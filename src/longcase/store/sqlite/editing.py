"""One unit of work under the lock of a case's row: what decides, judges; what was decided is written."""

from __future__ import annotations

from typing import TypeVar

from longcase.store.editing import not_found, wake_after
from longcase.store.folding import prepare
from longcase.store.records import CaseRef, Decide, DedupKey, Locked
from longcase.store.sqlite.transaction import Transaction

T = TypeVar("T")


def edit(tx: Transaction, ref: CaseRef, decide: Decide[T], dedup: DedupKey | None) -> tuple[T, Exception | None]:
    """Run a unit of work under the lock of the case's row; returns its result, and the refusal to raise."""
    case_no = tx.find(ref)
    if not case_no:
        raise not_found(ref)
    row = tx.case(case_no)
    known = tx.remembered(row.state.tenant, dedup) if dedup is not None else None
    now = max(tx.now, row.state.at)
    wanted = decide(Locked(case_no, row.state, now, lambda: tx.pending(case_no), known[0] if known else None))
    accepted = [tx.put_input(case_no, item) for item in wanted.inputs]
    if wanted.events:
        for event in wanted.events:
            event.at = event.at or now
        prepare(wanted.events, tx.salt)
        tx.append(row, wanted.events)
    before = row.wake_at
    row.wake_at = wake_after(row, wanted, any(accepted), tx.now)
    if wanted.events or row.wake_at != before:
        tx.store(row, wanted.events)
    if wanted.dedup is not None and known is None:
        tx.remember(row.state.tenant, wanted.dedup, wanted.answer, case_no)
    return wanted.result, wanted.refusal
