"""Verify: read everything that is stored and say what does not hold, by case and event.

The checks are those of `invariants`; the next step after a finding of I3 is `rebuild`, after one of
I39 a backup.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from longcase.insight.invariants import CHECKS, CaseFacts, Finding, LiveKeys, Overdue, inv_02
from longcase.store.port import Audited

CHUNK: Final = 100  # cases read at once: bounds memory and the age of a snapshot

Anchors = Mapping[int, Mapping[int, bytes]]  # case -> seq -> hash, noted earlier outside the store


async def verify(
    store: Audited, *, anchors: Anchors | None = None, progress: Callable[[int], None] = lambda cases: None
) -> AsyncIterator[Finding]:
    """Yield every finding, by case number; nothing is yielded by a sound store.

    Each case is read as of one instant, so a store in use may be verified.

    Args:
        anchors: hashes that were noted outside the store; what stands there now must be the same.
        progress: told the number of cases looked at.
    """
    for broken in await store.broken_references():
        yield Finding("I5", 0, "the store", 0, broken)
    live_keys = LiveKeys()
    overdue = Overdue()
    known = anchors or {}
    after = looked_at = 0
    missing = set(known)
    while chunk := await store.stored(after, CHUNK):
        for stored in chunk:
            case = CaseFacts(stored, store.folded_row, store.folded_tasks)
            for check in CHECKS:
                for finding in check(case):
                    yield finding
            for finding in live_keys(case):
                yield finding
            overdue(case)
            if stored.case_no in known:
                missing.discard(stored.case_no)
                for finding in inv_02(case, known[stored.case_no]):
                    yield finding
        after = chunk[-1].case_no
        looked_at += len(chunk)
        progress(looked_at)
    for finding in overdue.findings():
        yield finding
    for case_no in sorted(missing):
        yield Finding("I2", case_no, "unknown", 0, "an anchored case is gone")
