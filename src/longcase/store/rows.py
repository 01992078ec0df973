"""Between records and rows: the only place that knows which column holds what.

A case's state is kept in columns where SQL asks for it, its object as JSON, and the rest as JSON
without empty fields; nothing is kept twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

from longcase.errors import InvalidInput, StoreCorrupt
from longcase.history.event import Event
from longcase.history.records import TRANSIENT
from longcase.history.state import CaseState, Task
from longcase.history.waits import Wait, waits
from longcase.model.codec import Json, json_bytes, json_value
from longcase.model.names import storable
from longcase.store.records import CaseRow, Input

Row = tuple[Any, ...]


def text_of(value: Json, what: str) -> str:
    """Return compact JSON text of data already JSON-able.

    Raises:
        InvalidInput: it holds what cannot be kept (NaN, a lone surrogate, an object of no JSON type).
    """
    try:
        return str(json_bytes(value), "utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        hint = "send JSON data: text, whole and broken numbers, lists, objects with text for keys"
        told = f"{what}: the data cannot be kept as JSON: {error}"
        raise InvalidInput(told, reason="not_json", hint=hint) from None


# -- cases ---------------------------------------------------------------------------------------

# (column, field of CaseState); the rest of the record goes into `state`.
_FOLDED: Final = (
    ("tenant", "tenant"), ("workflow", "workflow"), ("key", "key"), ("uid", "uid"), ("status", "status"),
    ("stage", "stage"), ("kind", "kind"), ("visit", "visit"), ("owner", "owner"), ("started_at", "started_at"),
    ("entered_at", "entered_at"), ("closed_at", "closed_at"), ("expected_by", "expected"),
    ("stage_expected", "stage_expected"), ("seq", "seq"), ("seen_seq", "seen_seq"), ("at", "at"),
)  # fmt: skip
_DERIVED: Final = (
    "close_name", "wait_kind", "wait_what", "wait_whose", "wait_since", "wait_expected", "wait_count", "incident_count",
)  # fmt: skip
_REST: Final = tuple(
    f.name for f in fields(CaseState) if f.name not in {field for _, field in _FOLDED} | TRANSIENT | {"object"}
)
_folded_values = attrgetter(*(field for _, field in _FOLDED))
_rest_values = attrgetter(*_REST)

STATE_COLUMNS: Final = (*(column for column, _ in _FOLDED), *_DERIVED, "state", "object")

# The columns that every turn changes; the others only with an event of WIDE (a test reads the reducers).
_TURN: Final = ("seq", "seen_seq", "at")
TURN_COLUMNS: Final = (*_TURN, *_DERIVED[1:], "state")
WIDE: Final = frozenset({"case_started", "stage_entered", "object_changed", "corrected", "case_closed"})


def state_values(state: CaseState) -> Row:
    """Return the values of STATE_COLUMNS."""
    close_name = state.close["name"] if state.close else ""
    return (*_folded_values(state), close_name, *_waiting(state), _rest(state), text_of(state.object, "the object"))


def turn_values(state: CaseState) -> Row:
    """Return the values of TURN_COLUMNS."""
    return (state.seq, state.seen_seq, state.at, *_waiting(state), _rest(state))


def _waiting(state: CaseState) -> Row:
    found: Sequence[Wait] = waits(state) if state.status == "open" else ()
    if not found:
        return ("", "", "", "", "", 0, len(state.incidents))
    first = found[0]
    return (first.kind, first.what, first.whose, first.since, first.expected, len(found), len(state.incidents))


def _rest(state: CaseState) -> str:
    """Return the JSON of what has no column of its own."""
    rest = {name: value for name, value in zip(_REST, _rest_values(state), strict=True) if value}
    return text_of(rest, "the state")


LOADED: Final = (*(column for column, _ in _FOLDED), "object", "state", "hash", "wake_at", "lease", "case_no")
AS_BYTES: Final = {  # also where they are no UTF-8
    name: f"CAST({name} AS BLOB)" for name in ("object", "state", "whose", "decided_by", "data")
}
_SELECTED: Final = ", ".join(AS_BYTES.get(name, name) for name in LOADED)
SELECT_CASE: Final = f"SELECT {_SELECTED}, (SELECT count(*) FROM inbox WHERE inbox.case_no = cases.case_no) FROM cases"  # noqa: S608 - our own columns
_FOLDED_FIELDS: Final = tuple(field for _, field in _FOLDED)


def state_from(row: Row) -> CaseState:
    """Return the state of a row of SELECT_CASE."""
    state = CaseState()
    width = len(_FOLDED_FIELDS)
    for name, value in zip(_FOLDED_FIELDS, row, strict=False):
        setattr(state, name, value)
    state.object = json_value(row[width])
    for name, value in json_value(row[width + 1]).items():
        setattr(state, name, value)
    return state


def case_from(row: Row) -> CaseRow:
    """Return the case of a row of SELECT_CASE.

    Raises:
        StoreCorrupt: what is JSON in it is that no more; its history has it, too.
    """
    hash_, wake_at, lease, case_no, pending = row[-5:]
    try:
        state = state_from(row)
    except (ValueError, AttributeError) as error:
        address = f"{row[1]}/{row[2]}"
        raise StoreCorrupt(
            f"{address} (case {case_no}): its row cannot be read", hint=f"longcase verify; longcase rebuild {address}"
        ) from error
    return CaseRow(case_no=case_no, state=state, hash=hash_, wake_at=wake_at, lease=lease, pending=pending)


# -- history ---------------------------------------------------------------------------------------

EVENT_COLUMNS: Final = (
    "seq, visit, type, version, at, actor, on_behalf, channel, cause, map, node, n, strand, data, salt, digest, hash"
)

# As bytes: where a damaged payload is no UTF-8 any more, SQLite's driver would refuse the whole reading.
EVENT_COLUMNS_AS_BYTES: Final = EVENT_COLUMNS.replace(" data,", " CAST(data AS BLOB),")


def event_values(case_no: int, event: Event) -> Row:
    """Return the values of a row of history: case_no, then EVENT_COLUMNS."""
    return (
        case_no, event.seq, event.visit, event.type, event.version, event.at, event.actor, event.on_behalf,
        event.channel, event.cause, event.map, event.node, event.n, event.strand, event.text, event.salt,
        event.digest, event.hash,
    )  # fmt: skip


def event_from(row: Row) -> Event:
    """Return the event of a row of EVENT_COLUMNS; of one whose payload was damaged too: see `chain.damaged`."""
    (
        seq,
        visit,
        type_,
        version,
        at,
        actor,
        on_behalf,
        channel,
        cause,
        map_,
        node,
        n,
        strand,
        text,
        salt,
        digest,
        hash_,
    ) = row
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        data = json_value(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        data = {}  # damaged
    return Event(
        type_, data, visit, at, actor, on_behalf, channel, cause, map_, node, n, strand, seq, version,
        salt, digest, hash_, text,
    )  # fmt: skip


# -- inbox -----------------------------------------------------------------------------------------

INPUT_COLUMNS: Final = "no, id, type, data, actor, on_behalf, channel, accepted_at, cause"


# Where SQLite's driver has refused the whole reading, since one text of it is no UTF-8 any more.
_INPUT_TEXTS: Final = ("id", "type", "data", "actor", "on_behalf", "channel", "accepted_at")
INPUT_COLUMNS_AS_BYTES: Final = ", ".join(
    f"CAST({name} AS BLOB)" if name in _INPUT_TEXTS else name for name in INPUT_COLUMNS.split(", ")
)


def input_from(row: Row) -> Input:
    """Return the input of a row of INPUT_COLUMNS; of one that was damaged too: `Input.damaged`."""
    no, id_, type_, data, actor, on_behalf, channel, accepted_at, cause = row
    try:
        if isinstance(data, bytes):
            id_, type_, data, actor, on_behalf, channel, accepted_at = (str(text, "utf-8") for text in row[1:8])
        value = json_value(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return _damaged(row)
    return Input(id_, type_, value, actor, channel, accepted_at, no, cause, on_behalf)


def _damaged(row: Row) -> Input:
    """Return what is left of an input. Without an instant that can be read it is as old as what comes before it."""
    no, *texts, cause = row
    id_, type_, data, actor, on_behalf, channel, at = (
        str(text, "utf-8", "replace") if isinstance(text, bytes) else text for text in texts
    )
    left: dict[str, Json] = {"damaged": storable(str(data))}
    return Input(id_, type_, left, actor, channel, "" if "\ufffd" in at else at, no, cause, on_behalf, damaged=True)


# -- tasks -----------------------------------------------------------------------------------------

TASK_COLUMNS: Final = (
    "kind", "node", "round", "status", "question", "of_team", "whose", "opened_at", "expected_by", "next_due",
    "answer", "decided_at", "decided_by", "data",
)  # fmt: skip


def touched_tasks(state: CaseState, events: Iterable[Event]) -> dict[str, Task]:
    """Return the tasks that `events` changed, as they stand after them."""
    found: dict[str, Task] = dict(state.ended_tasks)
    if not found and not state.tasks:
        return found
    for event in events:
        if event.type.startswith(("task_", "vote_")):
            task = state.tasks.get(event.data["task"])
            if task is not None:
                found[event.data["task"]] = task
    return found


def task_values(task: Task) -> Row:
    """Return the values of TASK_COLUMNS."""
    outcome: dict[str, Json] = task.get("outcome") or {}
    by = outcome.get("by") or []
    due = _next_due(task) if task["status"] in ("ready", "reserved") else ""
    return (
        task["kind"], task["node"], task["round"], task["status"], task["question"], task["of"],
        text_of(task["whose"], "a task"), task["since"], task["expected"], due, _text(outcome.get("answer")),
        outcome.get("at", ""), text_of([by] if isinstance(by, str) else by, "a task"), text_of(task, "a task"),
    )  # fmt: skip


def _next_due(task: Task) -> str:
    level = task["level"]
    climb: Json = task["ladder"][level]["at"] if level < len(task["ladder"]) else ""
    reminder = task["reminders"][0] if task["reminders"] else ""
    return min((instant for instant in (reminder, task["expires_at"], climb) if instant), default="")


def _text(answer: Json) -> str:
    if answer is None:
        return ""
    return answer if isinstance(answer, str) else text_of(answer, "an answer")
