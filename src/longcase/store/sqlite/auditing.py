"""Reading everything that is kept of a case, and rebuilding what follows from its history.

`insight.verify` judges; this module only reads rows as they are, damaged ones too, and says what a
state's row must hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from longcase.errors import BugError, CaseNotFound, StoreCorrupt
from longcase.history.chain import GENESIS, link, payload_digest
from longcase.history.event import Event
from longcase.history.state import CaseState, fold
from longcase.model.codec import Json
from longcase.store.port import CaseRow, Stored
from longcase.store.sqlite import rows
from longcase.store.sqlite.transaction import UPDATE_CASE, Transaction, tasks_of

Read = Callable[[str, Sequence[Any]], list[Any]]

ROW_COLUMNS: Final = rows.STATE_COLUMNS
_JSON_COLUMNS: Final = frozenset({"state", "object", "whose", "decided_by", "data"})
_OPERATION: Final = ("wake_at", "lease", "parent_case")
_CASES: Final = f"""
SELECT case_no, hash, {", ".join((*ROW_COLUMNS, *_OPERATION))} FROM cases WHERE case_no > ? ORDER BY case_no LIMIT ?
"""
_AMONG: Final = "case_no > ? AND case_no <= ?"
_EVENTS: Final = f"SELECT case_no, {rows.EVENT_COLUMNS} FROM history WHERE {_AMONG} ORDER BY case_no, seq"
_INBOX: Final = f"SELECT case_no, {rows.INPUT_COLUMNS} FROM inbox WHERE {_AMONG} ORDER BY case_no, no"
_TASKS: Final = f"SELECT case_no, task, {', '.join(rows.TASK_COLUMNS)} FROM tasks WHERE {_AMONG}"


def stored(read: Read, after: int, limit: int) -> list[Stored]:
    """Return cases as they stand in the tables. The caller holds one snapshot over all of it."""
    found: dict[int, Stored] = {}
    for case_no, head, *values in read(_CASES, (after, limit)):
        row = _decoded((*ROW_COLUMNS, *_OPERATION), values)
        found[case_no] = Stored(case_no, row, bytes(head), [], [], {})
    if not found:
        return []
    span = (after, max(found))
    for case_no, *event in read(_EVENTS, span):
        found[case_no].events.append(_event(event))
    for case_no, *item in read(_INBOX, span):
        found[case_no].inbox.append(rows.input_from(tuple(item)))
    for case_no, name, *task in read(_TASKS, span):
        found[case_no].tasks[name] = _decoded(rows.TASK_COLUMNS, task)
    return list(found.values())


def folded_row(state: CaseState) -> dict[str, Json]:
    """Return what the row of a case in that state must hold."""
    return _decoded(ROW_COLUMNS, rows.state_values(state))


def folded_tasks(state: CaseState) -> dict[str, dict[str, Json]]:
    """Return what the tasks projection must hold for a state folded from the first event."""
    tasks = {**state.settled_tasks, **state.tasks}
    return {name: _decoded(rows.TASK_COLUMNS, rows.task_values(task)) for name, task in tasks.items()}


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
        f"SELECT {rows.EVENT_COLUMNS} FROM history WHERE case_no = ? ORDER BY seq", (case_no,)
    ).fetchall()
    events = [_event(list(event)) for event in found]
    _refuse_damaged(case_no, events)
    try:
        state = fold(events)
    except (BugError, KeyError, ValueError, TypeError) as error:
        raise StoreCorrupt(
            f"case {case_no}: its history cannot be folded: {error}", hint="longcase restore BACKUP"
        ) from error
    rebuilt = CaseRow(case_no, state, events[-1].hash, tx.now, row[0], 0)
    tx.execute(UPDATE_CASE, (*rows.state_values(state), rebuilt.hash, rebuilt.wake_at, rebuilt.lease, case_no))
    tasks = {**state.settled_tasks, **state.tasks}
    tx.execute(
        "DELETE FROM tasks WHERE case_no = ? AND task NOT IN (SELECT value FROM json_each(?))",
        (case_no, rows.text_of(list(tasks), "tasks")),
    )
    tx.put_tasks(tasks_of(case_no, tasks))


def _refuse_damaged(case_no: int, events: Sequence[Event]) -> None:
    previous = GENESIS
    for seq, event in enumerate(events, 1):
        sound = event.seq == seq and event.digest == payload_digest(event.salt, event.text)
        if not sound or event.hash != link(previous, event):
            raise StoreCorrupt(
                f"case {case_no}: event {seq} is not what was recorded; a rebuild would make the damage true",
                hint="longcase restore BACKUP, or compare with one: longcase verify --store BACKUP",
            )
        previous = event.hash
    if not events:
        raise StoreCorrupt(f"case {case_no} has no history", hint="longcase restore BACKUP")


def _event(row: list[Any]) -> Event:
    """Return an event also where its payload was damaged."""
    text = row[13]
    try:
        data = json.loads(text)
    except ValueError:
        data = {}
    seq, visit, type_, version, at, actor, on_behalf, channel, cause, map_, node, n, strand, _, salt, digest, hash_ = (
        row
    )
    return Event(
        type_, data, visit, at, actor, on_behalf, channel, cause, map_, node, n, strand, seq, version, salt, digest,
        hash_, text,
    )  # fmt: skip


def _decoded(columns: Sequence[str], values: Sequence[Any]) -> dict[str, Json]:
    decoded: dict[str, Json] = {}
    for column, value in zip(columns, values, strict=True):
        if column in _JSON_COLUMNS:
            try:
                value = json.loads(value)
            except ValueError:
                value = {"not JSON": value}
        decoded[column] = value
    return decoded
