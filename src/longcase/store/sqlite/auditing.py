"""Reading everything that is kept of a case, and rebuilding what follows from its history.

`insight.verify` judges what `stored` and `broken_references` read: rows as they are, damaged ones too.
`rebuild` writes: a case's row and tasks anew, from its history. `store.auditing` says what they must hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from longcase.errors import CaseNotFound
from longcase.store import rows
from longcase.store.auditing import OPERATION, ROW_COLUMNS, decoded, refolded
from longcase.store.folding import tasks_of
from longcase.store.records import CaseRow, Stored
from longcase.store.sqlite.transaction import UPDATE_CASE, Transaction, inputs

Read = Callable[[str, Sequence[Any]], list[Any]]

_READ: Final = ", ".join(rows.AS_BYTES.get(name, name) for name in (*ROW_COLUMNS, *OPERATION))
_CASES: Final = f"""
SELECT case_no, hash, {_READ} FROM cases WHERE case_no > ? ORDER BY case_no LIMIT ?
"""
_AMONG: Final = "case_no > ? AND case_no <= ?"
_EVENTS: Final = f"SELECT case_no, {rows.EVENT_COLUMNS_AS_BYTES} FROM history WHERE {_AMONG} ORDER BY case_no, seq"
_INBOX: Final = f"SELECT case_no, {{columns}} FROM inbox WHERE {_AMONG} ORDER BY case_no, no"
_TASK: Final = ", ".join(rows.AS_BYTES.get(name, name) for name in rows.TASK_COLUMNS)
_TASKS: Final = f"SELECT case_no, task, {_TASK} FROM tasks WHERE {_AMONG}"


def stored(read: Read, after: int, limit: int) -> list[Stored]:
    """Return cases as they stand in the tables. The caller holds one snapshot over all of it."""
    found: dict[int, Stored] = {}
    for case_no, head, *values in read(_CASES, (after, limit)):
        row = decoded((*ROW_COLUMNS, *OPERATION), values)
        found[case_no] = Stored(case_no, row, bytes(head), [], [], {})
    if not found:
        return []
    span = (after, max(found))
    for case_no, *event in read(_EVENTS, span):
        found[case_no].events.append(rows.event_from(tuple(event)))
    for case_no, *item in inputs(read, _INBOX, span):
        found[case_no].inbox.append(rows.input_from(tuple(item)))
    for case_no, name, *task in read(_TASKS, span):
        found[case_no].tasks[name] = decoded(rows.TASK_COLUMNS, task)
    return list(found.values())


def broken_references(read: Read) -> list[str]:
    """Return every reference to a row that is not there."""
    broken = [
        f"row {row} of {table} refers to a row of {parent} that is not there"
        for table, row, parent, _ in read("PRAGMA foreign_key_check", ())
    ]
    unknown = "SELECT DISTINCT map FROM history WHERE map <> 0 AND map NOT IN (SELECT number FROM maps) LIMIT 20"
    return broken + [f"events refer to map {number}, which is not there" for (number,) in read(unknown, ())]


def rebuild(tx: Transaction, case_no: int) -> None:
    """Write a case's row and tasks anew from its history; what lies outside the fold stays, and it is woken."""
    row = tx.execute("SELECT lease FROM cases WHERE case_no = ?", (case_no,)).fetchone()
    if row is None:
        raise CaseNotFound(f"no case has the number {case_no}")
    found = tx.execute(
        f"SELECT {rows.EVENT_COLUMNS_AS_BYTES} FROM history WHERE case_no = ? ORDER BY seq", (case_no,)
    ).fetchall()
    events = [rows.event_from(tuple(event)) for event in found]
    state = refolded(case_no, events)
    rebuilt = CaseRow(case_no, state, events[-1].hash, tx.now, row[0], 0)
    tx.execute(UPDATE_CASE, (*rows.state_values(state), rebuilt.hash, rebuilt.wake_at, rebuilt.lease, case_no))
    tasks = {**state.ended_tasks, **state.tasks}
    tx.execute(
        "DELETE FROM tasks WHERE case_no = ? AND task NOT IN (SELECT value FROM json_each(?))",
        (case_no, rows.text_of(list(tasks), "tasks")),
    )
    tx.put_tasks(tasks_of(case_no, tasks))
