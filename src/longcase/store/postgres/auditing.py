"""Reading everything that is kept of a case, and rebuilding what follows from its history.

`insight.verify` judges; `store.auditing` says what a state's row must hold.
"""

from __future__ import annotations

from typing import Any, Final

from longcase.errors import CaseNotFound
from longcase.history.chain import GENESIS
from longcase.history.state import CaseState
from longcase.store import rows
from longcase.store.auditing import OPERATION, ROW_COLUMNS, decoded, refolded
from longcase.store.folding import tasks_of
from longcase.store.postgres.statement import put_tasks, update_row
from longcase.store.records import Stored

_CASES: Final = f"""
SELECT case_no, hash, {", ".join((*ROW_COLUMNS, *OPERATION))} FROM cases WHERE case_no > $1 ORDER BY case_no LIMIT $2
"""
_AMONG: Final = "case_no > $1 AND case_no <= $2"
_EVENTS: Final = f"SELECT case_no, {rows.EVENT_COLUMNS} FROM history WHERE {_AMONG} ORDER BY case_no, seq"
_INBOX: Final = f"SELECT case_no, {rows.INPUT_COLUMNS} FROM inbox WHERE {_AMONG} ORDER BY case_no, no"
_TASKS: Final = f"SELECT case_no, task, {', '.join(rows.TASK_COLUMNS)} FROM tasks WHERE {_AMONG}"
# Where the schema has no foreign key, or one that a superuser may have gone past.
_REFERENCES: Final = (
    ("history", "case_no", "cases", "case_no", "true"),
    ("history", "map", "maps", "number", "map <> 0"),
    ("inbox", "case_no", "cases", "case_no", "true"),
    ("tasks", "case_no", "cases", "case_no", "true"),
    ("dedup", "case_no", "cases", "case_no", "true"),
    ("heartbeats", "case_no", "cases", "case_no", "true"),
    ("map_nodes", "map", "maps", "number", "true"),
)


async def stored(connection: Any, after: int, limit: int) -> list[Stored]:
    """Return cases as they stand in the tables, all as of one instant."""
    found: dict[int, Stored] = {}
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for case_no, head, *values in await connection.fetch(_CASES, after, limit):
            row = decoded((*ROW_COLUMNS, *OPERATION), values)
            found[case_no] = Stored(case_no, row, bytes(head), [], [], {})
        if not found:
            return []
        span = (after, max(found))
        for case_no, *event in await connection.fetch(_EVENTS, *span):
            if case_no in found:
                found[case_no].events.append(rows.event_from(tuple(event)))
        for case_no, *item in await connection.fetch(_INBOX, *span):
            found[case_no].inbox.append(rows.input_from(tuple(item)))
        for case_no, name, *task in await connection.fetch(_TASKS, *span):
            found[case_no].tasks[name] = decoded(rows.TASK_COLUMNS, task)
    return list(found.values())


async def broken_references(connection: Any) -> list[str]:
    """Return every reference to a row that is not there."""
    broken: list[str] = []
    for table, column, parent, key, where in _REFERENCES:
        missing = await connection.fetch(
            f"SELECT DISTINCT {column} FROM {table} AS c WHERE {where} AND {column} IS NOT NULL "
            f"AND NOT EXISTS (SELECT FROM {parent} AS p WHERE p.{key} = c.{column}) LIMIT 20"
        )
        broken += [f"{table} refers to {column} {number} of {parent}, which is not there" for (number,) in missing]
    return broken


async def rebuild(connection: Any, case_no: int, now: str) -> None:
    """Write a case's row and tasks anew from its history; what lies outside the fold stays, and it is woken."""
    async with connection.transaction():
        row = await connection.fetchrow("SELECT lease FROM cases WHERE case_no = $1 FOR NO KEY UPDATE", case_no)
        if row is None:
            raise CaseNotFound(f"no case has the number {case_no}")
        found = await connection.fetch(
            f"SELECT {rows.EVENT_COLUMNS} FROM history WHERE case_no = $1 ORDER BY seq", case_no
        )
        events = [rows.event_from(tuple(event)) for event in found]
        state: CaseState = refolded(case_no, events)
        head = events[-1].hash if events else GENESIS
        await update_row(connection, case_no, state, head, now)
        tasks = {**state.ended_tasks, **state.tasks}
        others = "DELETE FROM tasks WHERE case_no = $1 AND task <> ALL($2::text[])"
        await connection.execute(others, case_no, list(tasks))
        await put_tasks(connection, tasks_of(case_no, tasks))
