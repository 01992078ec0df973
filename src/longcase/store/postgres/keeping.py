"""Keeping and purging: the receipt of an export, and the deletion of cases that stand in one.

The views `retention` and `purged` say what may go and what has gone; the triggers of the schema hold that
nothing else ever deletes an event, whatever a role may do.
"""

from __future__ import annotations

from typing import Any, Final

from longcase.store.purging import bounded
from longcase.store.records import Exported, Purge, Purged

_RECEIPT: Final = """
INSERT INTO exports (file, digest, cases, events, at, actor) VALUES ($1, $2, $3, $4, $5, $6) RETURNING export_no
"""
_EXPORTED: Final = """
INSERT INTO exported_cases (case_no, export_no, events, hash)
SELECT c.case_no, $1, x.events, c.hash
FROM unnest($2::bigint[], $3::bigint[], $4::bytea[]) AS x (case_no, events, hash)
JOIN cases AS c ON c.case_no = x.case_no AND c.status = 'closed' AND c.hash = x.hash
ORDER BY c.case_no
ON CONFLICT (case_no) DO UPDATE SET export_no = excluded.export_no, events = excluded.events, hash = excluded.hash
"""
_MAY_GO: Final = """
SELECT case_no, workflow, key, events FROM retention
WHERE tenant = $1 AND workflow = $2 AND closed_at <= $3 AND export IS NOT NULL AND held_by IS NULL
  AND coalesce(newest_key_at, '') <= $4 {among}
ORDER BY closed_at, case_no LIMIT $5
"""
# What others hold now is left to the next batch: a purge never waits, and two of them share the work.
_LOCK: Final = """
SELECT case_no FROM cases WHERE case_no = ANY ($1::bigint[]) ORDER BY case_no FOR UPDATE SKIP LOCKED
"""
_TOMBSTONES: Final = """
INSERT INTO tombstones (
    case_no, tenant, workflow, key, uid, close_name, started_at, closed_at, events, hash, parent_case, export_no,
    purged_at, actor, reason
)
SELECT c.case_no, c.tenant, c.workflow, c.key, c.uid, c.close_name, c.started_at, c.closed_at, c.seq, c.hash,
       c.parent_case, x.export_no, $2, $3, $4
FROM cases AS c JOIN exported_cases AS x ON x.case_no = c.case_no
WHERE c.case_no = ANY ($1::bigint[])
"""
_TABLES: Final = ("dedup", "heartbeats", "tasks", "history", "exported_cases", "cases")  # who refers to whom, last


async def keep_receipt(connection: Any, now: str, export: Exported) -> int:
    """Remember an export; a case that has got another event meanwhile is not in it."""
    events = sum(count for count, _ in export.cases.values())
    numbers = list(export.cases)
    async with connection.transaction():
        number: int = await connection.fetchval(
            _RECEIPT, export.file, export.digest, len(numbers), events, now, export.by
        )
        counts, heads = [c for c, _ in export.cases.values()], [h for _, h in export.cases.values()]
        await connection.execute(_EXPORTED, number, numbers, counts, heads)
    return number


async def purge(connection: Any, now: str, what: Purge) -> list[Purged]:
    """Delete some of the cases that may go, each under its tombstone; [] if none may."""
    asked = (what.tenant, what.workflow, what.closed_until, what.keys_until)
    async with connection.transaction():
        found = await connection.fetch(_MAY_GO.format(among=""), *asked, what.limit)
        wanted = [one.case_no for one in bounded(tuple(row) for row in found)]
        if not wanted:
            return []
        locked = [row[0] for row in await connection.fetch(_LOCK, wanted)]
        # Looked at again under the locks: a late signal may have got there first.
        among = "AND case_no = ANY ($6::bigint[])"
        found = await connection.fetch(_MAY_GO.format(among=among), *asked, what.limit, locked)
        chosen = bounded(tuple(row) for row in found)
        numbers = [one.case_no for one in chosen]
        await connection.execute(_TOMBSTONES, numbers, now, what.by, what.reason)
        for table in _TABLES:
            await connection.execute(f"DELETE FROM {table} WHERE case_no = ANY ($1::bigint[])", numbers)
    return chosen
