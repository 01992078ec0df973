"""The one statement that writes: many cases and all that belongs to them, in one round trip and one commit.

    alive    which of the workers that write, or shall hold a lease, are still registered, and let through
             what is sent now (`fence`)
    turns, wide, operated
             update the rows of cases that still stand as they were read: `revision` and `seq` are compared
    fresh    insert cases whose key is free: each is numbered on from its key's newest, so that of two
             statements that begin one at once the later finds its number taken, whatever it saw
    landed   the cases of those parts that were written; everything else joins them:
             history, tasks, inbox in and out, remembered answers

A case is therefore written wholly or not at all, and one that somebody else changed meanwhile holds up
no other. It is the same statement without locks (the fast road) and under them (the careful one).
Parts that a batch does not need are left out; the text for each set of parts is made once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from typing import Any, Final, Literal

from longcase.errors import BugError
from longcase.history.event import Event
from longcase.history.state import CaseState
from longcase.model.codec import Json
from longcase.record import record
from longcase.store import rows
from longcase.store.folding import task_rows
from longcase.store.records import DedupKey, Input, QueuedCall
from longcase.store.rows import Row, text_of

_NUMBERS: Final = {"visit", "seq", "seen_seq", "wait_count", "incident_count", "version", "cause", "map", "n", "round"}
_JSON: Final = {"state", "object", "data", "whose", "decided_by", "answer_json", "kept"}
_BYTES: Final = {"hash", "digest"}
_TYPES: Final = {
    "case_no": "bigint", "revision": "bigint", "base_seq": "bigint", "lease": "bigint", "parent_case": "bigint",
    "again": "boolean", "writer": "bigint", "rank": "bigint", "attempt": "bigint", "worker": "bigint",
    "begun": "boolean", "stop": "boolean",
}  # fmt: skip
_EVENT: Final = tuple(rows.EVENT_COLUMNS.split(", "))
_INPUT: Final = ("id", "type", "data", "actor", "on_behalf", "channel", "accepted_at", "cause")
_DEDUP: Final = ("tenant", "scope", "key", "body", "answer_json", "at")
_QUEUED: Final = ("call", "queue", "rank", "tenant", "attempt", "due", "since", "worker", "begun", "stop")
_OPERATION: Final = ("hash", "wake_at", "lease")
_BASE: Final = ("case_no", "revision", "base_seq", "writer")
LONE_ROWS: Final = 8  # beside a lone case; a statement of its own for each number of them
_SEPARATORS: Final = (30, 28, 29, *range(0xE000, 0xF900))  # between values: the first that is in none of them
_PLAIN: Final = {"bigint", "boolean", "bytea"}
SEPARATOR: Final = "\x1f"  # between the parts of a key that names a case not yet numbered

Kind = Literal["turns", "wide", "operated", "fresh"]
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "turns": (*_BASE, *rows.TURN_COLUMNS, *_OPERATION),
    "wide": (*_BASE, *rows.STATE_COLUMNS, *_OPERATION),
    "operated": (*_BASE, "wake_at", "lease"),
    "fresh": ("case_no", *rows.STATE_COLUMNS, *_OPERATION, "parent_case", "again", "writer"),
}


@record(frozen=False)
class Draft:
    """A case as a unit of work wants it written, if it still stands as the unit saw it."""

    case_no: int  # 0: the statement numbers it
    state: CaseState
    hash: bytes
    wake_at: str
    lease: int
    events: list[Event]
    kind: Kind
    revision: int = 0  # of the row it was computed on
    base_seq: int = 0
    parent: int = 0
    again: bool = False
    puts: list[Input] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    dedups: list[tuple[DedupKey, Json, str]] = field(default_factory=list)  # key, answer, at
    queued: Sequence[QueuedCall] | None = None  # all its calls that stand in a queue; None: as they were
    writer: int = 0  # the worker that must still be registered, whatever the lease is; 0 for nobody

    @property
    def ref(self) -> str:
        """What names a case that has no number yet."""
        return SEPARATOR.join((self.state.tenant, self.state.workflow, self.state.key))

    @property
    def row(self) -> Row:
        state = self.state
        match self.kind:
            case "operated":
                return (self.case_no, self.revision, self.base_seq, self.writer, self.wake_at, self.lease)
            case "turns":
                values = rows.turn_values(state)
            case _:
                values = rows.state_values(state)
        operation = (self.hash, self.wake_at, self.lease)
        if self.kind == "fresh":
            return (self.case_no, *values, *operation, self.parent or None, self.again, self.writer)
        return (self.case_no, self.revision, self.base_seq, self.writer, *values, *operation)


def _type(column: str) -> str:
    if column in _TYPES:
        return _TYPES[column]
    if column in _NUMBERS:
        return "bigint"
    return "json" if column in _JSON else "bytea" if column in _BYTES else "text"


def _cast(type_: str, parameter: str) -> str:
    """Return the array of a column's values, from the text that `_joined` has made of them.

    Args:
        parameter: the text; $1 is what separates its values, unless they cannot hold a comma.
    """
    if type_ in _PLAIN:
        return f"{parameter}::text::{type_}[]"
    # Taken apart, an empty text is no value at all; here it is one that is empty.
    parts = f"coalesce(nullif(string_to_array({parameter}, $1), '{{}}'), '{{\"\"}}')"
    return parts if type_ == "text" else f"{parts}::{type_}[]"


def _joined(column: str, values: Sequence[Any], separator: str) -> str | None:
    """Return a column's values as one text; None if one of them has the separator in it."""
    match _type(column):
        case "bigint":
            return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"
        case "boolean":
            return "{" + ",".join(["t" if value else "f" for value in values]) + "}"
        case "bytea":
            return '{"\\\\x' + '","\\\\x'.join([value.hex() for value in values]) + '"}'
    text = separator.join(values)
    return text if text.count(separator) < len(values) else None


def _parameters(tables: Iterable[tuple[Sequence[str], Sequence[Row]]]) -> list[Any]:
    """Return the separator, then the columns of tables.

    Each is one text: of a list asyncpg looks at every element twice before it sends it.
    """
    columns = [pair for names, table in tables for pair in zip(names, zip(*table, strict=True), strict=True)]
    for code in _SEPARATORS:
        separator = chr(code)
        texts = [_joined(name, values, separator) for name, values in columns]
        if None not in texts:
            return [separator, *texts]
    raise BugError("no character is left to separate values by")


# -- text ------------------------------------------------------------------------------------------------


class _Text:
    """The statement for one set of parts, being written.

    Many rows come as one array a column; those of a lone case one by one, which costs the server half.
    """

    def __init__(self, counts: Mapping[str, int], *, lone: bool) -> None:
        self.counts = counts
        self.lone = lone
        self.parameters = 0 if lone else 1  # the separator comes first
        self.parts: list[str] = []

    def table(self, part: str, columns: Sequence[str]) -> str:
        """Return a table of the next parameters: the rows of a part, with their place."""
        if not self.lone:
            casts = ", ".join(_cast(_type(column), self.next()) for column in columns)
            return f"unnest({casts}) WITH ORDINALITY AS t ({', '.join(columns)}, place)"
        lines = [
            "(" + ", ".join([*(f"{self.next()}::{_type(column)}" for column in columns), str(place)]) + ")"
            for place in range(self.counts[part])
        ]
        return f"(VALUES {', '.join(lines)}) AS t ({', '.join(columns)}, place)"

    def next(self) -> str:
        self.parameters += 1
        return f"${self.parameters}"

    def add(self, name: str, body: str) -> None:
        self.parts.append(f"{name} AS ({body})")


def _fence(fenced: bool) -> str:
    if not fenced:
        return "true"
    return " AND ".join(f"(t.{by} = 0 OR t.{by} IN (SELECT no FROM alive))" for by in ("lease", "writer"))


@lru_cache(maxsize=512)
def _text(kinds: tuple[str, ...], fenced: bool, counts: tuple[tuple[str, int], ...], lone: bool) -> str:
    """Return the statement for the kinds of drafts there are and for what belongs to them.

    Args:
        counts: the parts around the cases; how many rows each has, if the draft is a lone one.
    """
    text = _Text({**dict(counts), kinds[0]: 1}, lone=lone)
    if fenced:
        # Their rows stay locked to the end: a worker is forgotten before this commits, or after, never beside it.
        text.parts.append(
            f"alive AS MATERIALIZED (SELECT no FROM workers WHERE no = ANY({text.next()}::bigint[]) "
            f"AND NOT lapsed AND fence <= {text.next()}::bigint FOR SHARE)"
        )
    for kind in kinds:
        if kind == "fresh":
            _add_fresh(text, fenced)
        else:
            _add_update(text, kind, fenced)
    landed = " UNION ALL ".join(
        f"SELECT case_no, {'ref' if kind == 'fresh' else 'NULL::text AS ref'} FROM {kind}" for kind in kinds
    )
    text.add("landed", landed)
    for part, _ in counts:
        _add_around(text, part)
    return f"WITH {', '.join(text.parts)} SELECT case_no, ref FROM landed"


def _add_update(text: _Text, kind: str, fenced: bool) -> None:
    columns = COLUMNS[kind]
    source = text.table(kind, columns)
    changes = ", ".join(f"{column} = t.{column}" for column in columns[len(_BASE) :])
    stands = "c.case_no = t.case_no AND c.revision = t.revision AND c.seq = t.base_seq"
    if text.lone:
        stands += f" AND {_fence(fenced)}" if fenced else ""
    else:
        text.parts.append(f"{kind}_in AS MATERIALIZED (SELECT * FROM {source} WHERE {_fence(fenced)})")
        source = f"{kind}_in AS t"
        # The numbers once more, so that rows are found by key, in its order.
        stands = f"c.case_no = ANY({_cast('bigint', text.next())}) AND {stands}"
    text.add(
        kind,
        f"UPDATE cases AS c SET {changes}, revision = t.revision + 1 FROM {source} WHERE {stands} RETURNING c.case_no",
    )


def _add_fresh(text: _Text, fenced: bool) -> None:
    columns = COLUMNS["fresh"][:-2]  # without `again` and `writer`, which are no columns of the table
    values = ", ".join(
        "coalesce(nullif(t.case_no, 0), nextval('cases_case_no_seq')) AS case_no"
        if column == "case_no"
        else f"t.{column}"
        for column in columns
    )
    named = ", ".join(columns)
    # A statement that waits, or begins beside another, does not see what that one begins, and perhaps closes at once.
    # It then takes the same number for it, and the index of (tenant, workflow, key, nth) refuses it.
    text.add(
        "fresh",
        # Numbered in the order they came, inserted in that of their keys: two statements never wait crosswise.
        f"INSERT INTO cases ({named}, nth) SELECT {named}, nth FROM (SELECT {values}, coalesce(x.nth, 0) + 1 AS nth "
        f"FROM {text.table('fresh', COLUMNS['fresh'])} LEFT JOIN LATERAL (SELECT c.nth FROM cases AS c "
        "WHERE c.tenant = t.tenant AND c.workflow = t.workflow AND c.key = t.key ORDER BY c.nth DESC LIMIT 1) AS x "
        f"ON true WHERE {_fence(fenced)} AND (x.nth IS NULL OR t.again) ORDER BY t.place) AS f "
        "ORDER BY tenant, workflow, key ON CONFLICT DO NOTHING "
        "RETURNING case_no, tenant || chr(31) || workflow || chr(31) || key AS ref",
    )


# name of a part -> table, columns, and what follows the SELECT
_AROUND: Final[dict[str, tuple[str, tuple[str, ...], str]]] = {
    "history": ("history", _EVENT, ""),
    "tasks": (
        "tasks",
        ("task", *rows.TASK_COLUMNS),
        "ON CONFLICT (case_no, task) DO UPDATE SET " + ", ".join(f"{c} = excluded.{c}" for c in rows.TASK_COLUMNS),
    ),
    "inbox": ("inbox", _INPUT, ""),
    "dedup": ("dedup", _DEDUP, ""),
    "queued": (
        "queued",
        _QUEUED,
        # A claim is not lost by the turn of another worker: the attempt it is for is still to be begun.
        "ON CONFLICT (case_no, call) DO UPDATE SET queue = excluded.queue, rank = excluded.rank, due = excluded.due, "
        "begun = excluded.begun, stop = excluded.stop, worker = CASE WHEN excluded.worker = 0 AND NOT queued.begun "
        "AND queued.attempt = excluded.attempt THEN queued.worker ELSE excluded.worker END, attempt = excluded.attempt",
    ),
}


def _columns_around(part: str) -> tuple[str, ...]:
    """Return the columns of the rows that go with cases: what names the case, then the table's."""
    name = part.rstrip("+")
    if name == "taken":
        return ("n", "case_no")
    if name == "unqueued":
        return ("case_no", "kept")
    return ("ref" if part.endswith("+") else "case_no", *_AROUND[name][1])


def _add_around(text: _Text, part: str) -> None:
    name = part.rstrip("+")
    if name == "taken":
        table = text.table(part, _columns_around(part))
        text.add(
            "taken", f"DELETE FROM inbox AS i USING {table} JOIN landed AS l USING (case_no) "
            "WHERE i.no = t.n AND i.case_no = t.case_no",
        )  # fmt: skip
        return
    if name == "unqueued":
        table = text.table(part, _columns_around(part))
        text.add(
            "unqueued",
            f"DELETE FROM queued AS q USING {table} JOIN landed AS l USING (case_no) WHERE q.case_no = t.case_no "
            "AND q.call NOT IN (SELECT json_array_elements_text(t.kept))",
        )
        return
    target, columns, rest = _AROUND[name]
    by = _columns_around(part)[0]
    named = ", ".join("answer" if column == "answer_json" else column for column in columns)
    values = ", ".join(f"t.{column}" for column in columns)
    text.add(
        f"{name}_{by}",
        f"INSERT INTO {target} (case_no, {named}) SELECT l.case_no, {values} "
        f"FROM {text.table(part, _columns_around(part))} JOIN landed AS l USING ({by}) ORDER BY t.place {rest}",
    )


# -- values ----------------------------------------------------------------------------------------------


@record(frozen=False)
class Batch:
    """Drafts laid out for the statement."""

    sql: str
    values: list[Any]

    @classmethod
    def of(cls, drafts: Iterable[Draft], number: int) -> Batch:
        """Lay out drafts; no case may stand in two of them, no key in two that are fresh."""
        cases: dict[str, list[Row]] = {}
        around: dict[str, list[Row]] = {}
        workers: set[int] = set()
        for draft in drafts:
            cases.setdefault(draft.kind, []).append(draft.row)
            workers |= {draft.lease, draft.writer} - {0}
            _lay_out(draft, around)
        kinds = tuple(kind for kind in COLUMNS if kind in cases)
        names = tuple(sorted(around))
        fence: list[Any] = [sorted(workers), number] if workers else []
        if len(cases) == 1 and len(cases[kinds[0]]) == 1 and sum(map(len, around.values())) <= LONE_ROWS:
            counts = tuple((name, len(around[name])) for name in names)
            values = [*fence, *cases[kinds[0]][0]]
            for name in names:
                for row in around[name]:
                    values += row
            return cls(_text(kinds, bool(workers), counts, True), values)
        tables: list[tuple[Sequence[str], Sequence[Row]]] = []
        for kind in kinds:
            tables.append((COLUMNS[kind], cases[kind]))
            if kind != "fresh":
                tables.append((("case_no",), [row[:1] for row in cases[kind]]))
        tables += [(_columns_around(name), around[name]) for name in names]
        separator, *columns = _parameters(tables)
        sql = _text(kinds, bool(workers), tuple((name, 0) for name in names), False)
        return cls(sql, [separator, *fence, *columns])


def _lay_out(draft: Draft, around: dict[str, list[Row]]) -> None:
    """Sort what belongs to a case into the tables it goes to."""
    fresh = draft.kind == "fresh"
    name: Any = draft.ref if fresh else draft.case_no
    mark = "+" if fresh else ""
    if draft.events:
        around.setdefault(f"history{mark}", []).extend(
            (name, *rows.event_values(0, event)[1:]) for event in draft.events
        )
        if tasks := task_rows(0, draft.state, draft.events):
            around.setdefault(f"tasks{mark}", []).extend((name, *row[1:]) for row in tasks)
    for item in draft.puts:
        around.setdefault(f"inbox{mark}", []).append(
            (
                name, item.id, item.type, text_of(item.data, item.type), item.actor, item.on_behalf, item.channel,
                item.accepted_at, item.cause,
            )
        )  # fmt: skip
    if draft.queued is not None:
        _lay_out_queue(draft, name, around)
    if draft.taken:
        around.setdefault("taken", []).extend((no, name) for no in draft.taken)
    for dedup, answer, at in draft.dedups:
        around.setdefault(f"dedup{mark}", []).append(
            (name, draft.state.tenant, dedup.scope, dedup.key, dedup.body, text_of(answer, "the answer"), at)
        )


def _lay_out_queue(draft: Draft, name: Any, around: dict[str, list[Row]]) -> None:
    """Let the rows of a case be those of its state."""
    calls = draft.queued or ()
    if draft.kind != "fresh":
        around.setdefault("unqueued", []).append((name, text_of([call.call for call in calls], "calls")))
    if calls:
        around.setdefault("queued+" if draft.kind == "fresh" else "queued", []).extend(
            (
                name, call.call, call.queue, -call.priority, draft.state.tenant, call.attempt, call.due, call.since,
                call.worker, bool(call.worker), call.stop,
            )
            for call in calls
        )  # fmt: skip


async def flush(connection: Any, drafts: Sequence[Draft], fence: int) -> list[bool]:
    """Write drafts; tells of each whether it was, and numbers those that are fresh.

    Args:
        fence: they are refused if their workers' is above it.
    """
    batch = Batch.of(drafts, fence)
    found = await connection.fetch(batch.sql, *batch.values)
    landed = {case_no for case_no, ref in found if ref is None}
    numbered = {ref: case_no for case_no, ref in found if ref is not None}
    outcome = []
    for draft in drafts:
        if draft.kind == "fresh":
            draft.case_no = numbered.get(draft.ref, draft.case_no)
            outcome.append(draft.ref in numbered)
        else:
            outcome.append(draft.case_no in landed)
    return outcome


# -- by themselves, for a rebuild ----------------------------------------------------------------------------


async def update_row(connection: Any, case_no: int, state: CaseState, head: bytes, wake_at: str) -> None:
    """Write what follows from a state into its row, whatever stands there."""
    columns = (*rows.STATE_COLUMNS, "hash", "wake_at")
    changes = ", ".join(f"{column} = ${number}::{_type(column)}" for number, column in enumerate(columns, 2))
    await connection.execute(
        f"UPDATE cases SET {changes}, revision = revision + 1 WHERE case_no = $1",
        case_no, *rows.state_values(state), head, wake_at,
    )  # fmt: skip


async def put_tasks(connection: Any, tasks: Sequence[Row]) -> None:
    """Write rows of the tasks projection."""
    if not tasks:
        return
    table, columns, rest = _AROUND["tasks"]
    text = _Text({}, lone=False)
    source = text.table("tasks", ("case_no", *columns))
    named = ", ".join(("case_no", *columns))
    values = ", ".join(f"t.{column}" for column in ("case_no", *columns))
    sql = f"INSERT INTO {table} ({named}) SELECT {values} FROM {source} WHERE true {rest}"
    await connection.execute(sql, *_parameters([(("case_no", *columns), tasks)]))
