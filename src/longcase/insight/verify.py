"""Verify: read everything that is stored and say what does not hold, by case and event.

The checks are those of `invariants`; the next step after a finding of I3 is `rebuild`, after one of
I39 a backup.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Protocol

from longcase.errors import StoreCorrupt
from longcase.insight.invariants import CHECKS, CaseFacts, Finding, LiveKeys, Overdue, inv_02
from longcase.model.map import WorkflowMap
from longcase.store.kept import beside_damage, kept
from longcase.store.port import Audited

CHUNK: Final = 100  # cases read at once: bounds memory and the age of a snapshot

Anchors = Mapping[int, Mapping[int, bytes]]  # case -> seq -> hash, noted earlier outside the store

_TOMBSTONE: Final = "SELECT tenant, workflow, key, events, hash FROM purged WHERE case_no = :case_no"
_HALF_PURGED: Final = """
SELECT p.case_no, p.tenant, p.workflow, p.key FROM purged AS p JOIN case_overview AS c ON c.case_no = p.case_no LIMIT 20
"""
_MAPS: Final = "SELECT number, workflow, graph FROM maps ORDER BY number"


class Verified(Audited, Protocol):
    """A store that can be verified."""

    async def query(self, sql: str, parameters: Mapping[str, Any] = ...) -> list[dict[str, Any]]: ...


async def verify(
    store: Verified, *, anchors: Anchors | None = None, progress: Callable[[int], None] = lambda cases: None
) -> AsyncIterator[Finding]:
    """Yield every finding, of all tenants, by case number; nothing is yielded by a sound store.

    Each case is read as of one instant, so a store in use may be verified.

    Args:
        anchors: hashes that were noted outside the store; what stands there now must be the same. A case that
            was purged must have a tombstone over the same head.
        progress: told the number of cases looked at.
    """
    for broken in await store.broken_references():
        yield Finding("I5", 0, "the store", 0, broken)
    for row in await store.query(_MAPS, {}):
        unread: list[StoreCorrupt] = []
        with beside_damage(unread.append):
            kept(row["graph"], f"map {row['number']} of {row['workflow']}", WorkflowMap.from_json)
        for damage in unread:
            yield Finding("I5", 0, "the store", 0, damage.message)
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
    for row in await store.query(_HALF_PURGED, {}):
        address = f"{row['workflow']}/{row['key']}"
        yield Finding("I2", row["case_no"], address, 0, "has a tombstone and is still there", row["tenant"])
    for case_no in sorted(missing):
        for finding in await _gone(store, case_no, known[case_no]):
            yield finding


async def _gone(store: Verified, case_no: int, anchors: Mapping[int, bytes]) -> list[Finding]:
    """Return what is wrong with an anchored case that is not there: nothing, if its purge is recorded."""
    for row in await store.query(_TOMBSTONE, {"case_no": case_no}):
        address = f"{row['workflow']}/{row['key']}"
        events, head = int(row["events"]), bytes.fromhex(row["hash"])
        if max(anchors, default=0) > events or anchors.get(events, head) != head:
            told = "its tombstone is not of the history that was anchored"
            return [Finding("I2", case_no, address, events, told, row["tenant"])]
        return []
    return [Finding("I2", case_no, "unknown", 0, "an anchored case is gone, and no purge of it is recorded")]
