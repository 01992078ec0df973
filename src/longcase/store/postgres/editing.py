"""One unit of work on a case as it stands: what decides, judges; what was decided goes on the sheet."""

from __future__ import annotations

from typing import TypeVar

from longcase.store.editing import not_found, wake_after
from longcase.store.folding import prepare
from longcase.store.postgres.sheet import Sheet
from longcase.store.records import CaseRef, Decide, DedupKey, Locked

T = TypeVar("T")


def edit(sheet: Sheet, ref: CaseRef, decide: Decide[T], dedup: DedupKey | None) -> tuple[T, Exception | None]:
    """Run a unit of work on a case of the sheet; returns its result, and the refusal to raise."""
    held = sheet.find(ref)
    # A number names a case of another tenant only to whoever has not looked: the sender's key is the tenant's.
    if held is None or (ref.case_no and dedup is not None and held.row.state.tenant != ref.tenant):
        raise not_found(ref)
    row = held.row
    known = sheet.remembered(row.state.tenant, dedup) if dedup is not None else None
    now = max(sheet.now, row.state.at)
    wanted = decide(Locked(row.case_no, row.state, now, lambda: held.pending, known[0] if known else None))
    accepted = [sheet.put_input(held, item) for item in wanted.inputs]
    if wanted.events:
        for event in wanted.events:
            event.at = event.at or now
        prepare(wanted.events, sheet.salt)
        sheet.append(held, wanted.events)
    before = row.wake_at
    row.wake_at = wake_after(row, wanted, any(accepted), sheet.now)
    held.touched = held.touched or row.wake_at != before
    if wanted.dedup is not None and known is None:
        sheet.remember(held, wanted.dedup, wanted.answer)
    return wanted.result, wanted.refusal
