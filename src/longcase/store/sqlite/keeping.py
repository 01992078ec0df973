"""Keeping and purging: the receipt of an export, and the deletion of cases that stand in one.

The views `retention` and `purged` say what may go and what has gone; the triggers of the schema hold that
nothing else ever deletes an event. Deleted content is overwritten, not only unlinked.
"""

from __future__ import annotations

from typing import Any, Final

from longcase.store import rows
from longcase.store.purging import bounded
from longcase.store.records import Exported, Purge, Purged
from longcase.store.sqlite.transaction import Transaction

_RECEIPT: Final = "INSERT INTO exports (file, digest, cases, events, at, actor) VALUES (?, ?, ?, ?, ?, ?)"
_EXPORTED: Final = """
INSERT INTO exported_cases (case_no, export_no, events, hash)
SELECT case_no, ?, ?, hash FROM cases WHERE case_no = ? AND status = 'closed' AND hash = ?
ON CONFLICT (case_no) DO UPDATE SET export_no = excluded.export_no, events = excluded.events, hash = excluded.hash
"""
_MAY_GO: Final = """
SELECT case_no, workflow, key, events FROM retention
WHERE tenant = ? AND workflow = ? AND closed_at <= ? AND export IS NOT NULL AND held_by IS NULL
  AND coalesce(newest_key_at, '') <= ?
ORDER BY closed_at, case_no LIMIT ?
"""
_TOMBSTONE: Final = """
INSERT INTO tombstones
SELECT case_no, tenant, workflow, key, uid, close_name, started_at, closed_at, seq, hash, parent_case,
       (SELECT export_no FROM exported_cases AS x WHERE x.case_no = cases.case_no), ?, ?, ?
FROM cases WHERE case_no = ?
"""
_TABLES: Final = ("dedup", "heartbeats", "tasks", "history", "exported_cases", "cases")  # who refers to whom, last


def keep_receipt(tx: Transaction, export: Exported) -> int:
    """Remember an export; a case that has got another event meanwhile is not in it."""
    events = sum(count for count, _ in export.cases.values())
    values = (export.file, export.digest, len(export.cases), events, tx.now, export.by)
    tx.execute(_RECEIPT, values)
    number = tx.cursor.connection.last_insert_rowid()
    tx.cursor.executemany(
        _EXPORTED, [(number, count, case_no, hash_) for case_no, (count, hash_) in export.cases.items()]
    )
    return number


def purge(tx: Transaction, what: Purge) -> list[Purged]:
    """Delete some of the cases that may go, each under its tombstone; [] if none may."""
    found: list[Any] = tx.execute(
        _MAY_GO, (what.tenant, what.workflow, what.closed_until, what.keys_until, what.limit)
    ).fetchall()
    chosen = bounded(found)
    if not chosen:
        return []
    tx.execute("PRAGMA secure_delete = ON")
    tx.cursor.executemany(_TOMBSTONE, [(tx.now, what.by, what.reason, one.case_no) for one in chosen])
    numbers = rows.text_of([one.case_no for one in chosen], "cases")
    for table in _TABLES:
        tx.execute(f"DELETE FROM {table} WHERE case_no IN (SELECT value FROM json_each(?))", (numbers,))
    return chosen
