"""What a unit of work sees and changes: rows read into memory, changed there, and written by one statement.

A sheet is filled by `read`, with or without the rows' locks, and judged upon by plain functions that never
wait (`editing`, `writing`). Nothing of it is true until its drafts have landed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from typing import Any, Final

from longcase.errors import BugError, CaseNotFound, IdempotencyConflict, InvalidInput
from longcase.history.chain import GENESIS
from longcase.history.event import Event
from longcase.history.state import CaseState
from longcase.model.codec import Json
from longcase.record import record
from longcase.store import rows
from longcase.store.folding import prepare, refold
from longcase.store.postgres.statement import Draft
from longcase.store.records import CaseRef, CaseRow, DedupKey, Input, NewCase, QueuedCall, Started, differing

Key = tuple[str, str, str]  # tenant, workflow, key

SELECT_ROW: Final = (
    f"SELECT {', '.join(rows.LOADED)}, (SELECT count(*) FROM inbox WHERE inbox.case_no = cases.case_no), revision, "
    "coalesce((SELECT max(no) FROM inbox WHERE inbox.case_no = cases.case_no), 0) FROM cases"
)
# The same, and before it what waits in the inbox, as JSON: both as of one instant.
SELECT_WITH_INBOX: Final = f"""
SELECT waiting.inputs, {", ".join(rows.LOADED)}, waiting.count, revision, coalesce(waiting.newest, 0)
FROM cases CROSS JOIN LATERAL (
    SELECT count(*), max(no) AS newest, json_agg(json_build_array({rows.INPUT_COLUMNS}) ORDER BY no) AS inputs
    FROM inbox WHERE inbox.case_no = cases.case_no
) AS waiting
"""
_LOCK: Final = """
SELECT case_no FROM cases WHERE case_no = ANY($1::bigint[]) ORDER BY case_no FOR NO KEY UPDATE
"""
_NEWEST: Final = """
SELECT f.case_no
FROM unnest($1::text[], $2::text[], $3::text[]) AS t (tenant, workflow, key)
CROSS JOIN LATERAL (
    SELECT c.case_no FROM cases AS c WHERE c.tenant = t.tenant AND c.workflow = t.workflow AND c.key = t.key
    ORDER BY (c.status = 'open') DESC, c.case_no DESC LIMIT 1
) AS f
"""
_THOSE: Final = f"WHERE case_no = ANY(ARRAY({_NEWEST}) || $4::bigint[])"
_ROWS: Final = f"{SELECT_WITH_INBOX} {_THOSE}"
# Without the inbox: a signal to a case that ten thousand wait for must not read them all.
_BARE_ROWS: Final = f"SELECT NULL::json, {', '.join(rows.LOADED)}, 0::bigint, revision, 0::bigint FROM cases {_THOSE}"
_DEDUPS: Final = """
SELECT d.tenant, d.scope, d.key, d.body, d.answer, d.case_no, d.at
FROM unnest($1::text[], $2::text[], $3::text[]) AS t (tenant, scope, key)
JOIN dedup AS d ON d.tenant = t.tenant AND d.scope = t.scope AND d.key = t.key
"""
_FRESH: Final = "SELECT nextval('cases_case_no_seq') FROM generate_series(1, $1::int)"
_TYPES: Final = """
SELECT case_no, type FROM history
WHERE (case_no, seq) IN (
    SELECT t.case_no, s FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS t (case_no, first, last),
    generate_series(t.first, t.last) AS s
)
"""


class Unread(Exception):
    """An inbox was asked for that was not read."""


@record(frozen=False)
class Wanted:
    """What a unit of work must have on its sheet."""

    cases: set[int] = field(default_factory=set)
    keys: set[Key] = field(default_factory=set)
    dedups: set[Key] = field(default_factory=set)  # tenant, scope, key
    fresh: int = 0  # cases it may start
    between: dict[int, int] = field(default_factory=dict)  # case -> seq behind which the types of events are asked

    def __ior__(self, other: Wanted) -> Wanted:
        self.cases |= other.cases
        self.keys |= other.keys
        self.dedups |= other.dedups
        self.fresh += other.fresh
        self.between |= other.between
        return self


@record(frozen=False)
class Held:
    """A case on the sheet."""

    row: CaseRow
    revision: int
    base_seq: int
    inputs: list[Input] | None  # None: not read
    events: list[Event] = field(default_factory=list)
    puts: list[Input] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    dedups: list[tuple[DedupKey, Json, str]] = field(default_factory=list)
    queued: Sequence[QueuedCall] | None = None
    fresh: bool = False
    again: bool = False
    parent: int = 0
    touched: bool = False

    @property
    def pending(self) -> list[Input]:
        """The inputs no turn has applied, as they will stand when this is written.

        Raises:
            Unread: the sheet was filled without them.
        """
        if self.inputs is None:
            raise Unread
        taken = set(self.taken)
        return [item for item in self.inputs if item.no not in taken] + self.puts

    def draft(self) -> Draft:
        row = self.row
        return Draft(
            row.case_no, row.state, row.hash, row.wake_at, row.lease, self.events,
            "fresh" if self.fresh else "wide" if self.events else "operated",
            self.revision, self.base_seq, self.parent, self.again, self.puts, self.taken, self.dedups, self.queued,
        )  # fmt: skip


class Sheet:
    """The cases a unit of work is about, and what is known of keys."""

    def __init__(self, now: str, salt: Callable[[], str]) -> None:
        self.now = now
        self.salt = salt
        self.cases: dict[int, Held] = {}
        self.keys: dict[Key, int] = {}
        self.dedups: dict[Key, tuple[str, Json, int, str]] = {}
        self.numbers: list[int] = []
        self.between: dict[int, list[str]] = {}
        self.gone: set[int] = set()  # workers with queued attempts of these cases that are no longer registered

    # -- reading -------------------------------------------------------------------------------------

    async def read(self, connection: Any, wanted: Wanted, *, lock: bool, inboxes: bool) -> None:
        """Fill the sheet; with `lock` its cases stay as they are until the transaction ends."""
        numbers = set(wanted.cases)
        if wanted.dedups:
            await self._read_dedups(connection, wanted.dedups)
            numbers |= {known[2] for known in self.dedups.values() if known[2]}
        keys = [list(column) for column in zip(*sorted(wanted.keys), strict=True)] or [[], [], []]
        if lock and (numbers or wanted.keys):
            if wanted.keys:
                numbers |= {row[0] for row in await connection.fetch(_NEWEST, *keys)}
            await connection.execute(_LOCK, sorted(numbers))
        if numbers or wanted.keys:
            await self._read_cases(connection, _ROWS if inboxes else _BARE_ROWS, keys, sorted(numbers))
        if wanted.fresh:
            self.numbers = [row[0] for row in await connection.fetch(_FRESH, wanted.fresh)]
        ranges = [
            (case_no, after + 1, held.base_seq)
            for case_no, after in wanted.between.items()
            if (held := self.cases.get(case_no)) is not None and held.base_seq > after
        ]
        if ranges:
            for case_no, type_ in await connection.fetch(_TYPES, *map(list, zip(*ranges, strict=True))):
                self.between.setdefault(case_no, []).append(type_)

    async def _read_cases(self, connection: Any, sql: str, keys: list[list[str]], numbers: list[int]) -> None:
        for found in await connection.fetch(sql, *keys, numbers):
            held = held_from(found, bare=sql is _BARE_ROWS)
            self.cases[held.row.case_no] = held
        # A key names its live case, else its newest.
        for held in sorted(self.cases.values(), key=lambda held: (held.row.state.status == "open", held.row.case_no)):
            self._name(held)

    async def _read_dedups(self, connection: Any, dedups: set[Key]) -> None:
        columns = map(list, zip(*sorted(dedups), strict=True))
        for tenant, scope, key, body, answer, case_no, at in await connection.fetch(_DEDUPS, *columns):
            self.dedups[tenant, scope, key] = (body, json.loads(answer), case_no or 0, at)

    def case(self, case_no: int) -> Held:
        held = self.cases.get(case_no)
        if held is None:
            raise CaseNotFound(f"no case has the number {case_no}")
        return held

    def numbers_of(self, wanted: Wanted) -> set[int]:
        """Return the numbers of the cases that were wanted and are there."""
        return {case_no for case_no in wanted.cases | {self.keys.get(key, 0) for key in wanted.keys} if case_no}

    def find(self, ref: CaseRef) -> Held | None:
        """Return the case a reference names, None if there is none."""
        return self.cases.get(ref.case_no or self.keys.get((ref.tenant, ref.workflow, ref.key), 0))

    def remembered(self, tenant: str, dedup: DedupKey) -> tuple[Json, int] | None:
        """Return the answer kept under a sender's key and the case it was about.

        Raises:
            IdempotencyConflict: another message came under that key.
        """
        known = self.dedups.get((tenant, dedup.scope, dedup.key))
        if known is None:
            return None
        body, answer, case_no, at = known
        if body != dedup.body:
            raise reused(dedup.key, at)
        return answer, case_no

    # -- changing ------------------------------------------------------------------------------------

    def remember(self, held: Held, dedup: DedupKey, answer: Json) -> None:
        """Keep the answer of a message with the case it is about."""
        place = (held.row.state.tenant, dedup.scope, dedup.key)
        if place not in self.dedups:
            self.dedups[place] = (dedup.body, answer, held.row.case_no, self.now)
            held.dedups.append((dedup, answer, self.now))
            held.touched = True

    def put_input(self, held: Held, item: Input) -> bool:
        """Accept an input; returns False if one with its id waits already.

        Where the inbox was not read, the table finds that out: no id stands in it twice.
        """
        item.accepted_at = item.accepted_at or self.now
        # A taken one still stands in the table when this is written: its id is not free before.
        if any(waiting.id == item.id for waiting in (*(held.inputs or ()), *held.puts)):
            return False
        held.puts.append(item)
        held.touched = True
        return True

    def append(self, held: Held, events: Sequence[Event]) -> None:
        """Put prepared events after the stored ones and fold them into the row."""
        refold(held.row, events)
        held.events.extend(events)
        held.touched = True

    def wake(self, held: Held) -> None:
        """Let a case be advanced now."""
        held.row.wake_at = self.now
        held.touched = True

    def start(self, new: NewCase, *, parent: int = 0) -> tuple[Held, Started]:
        """Accept a case, or answer with the one that is there."""
        event = new.started
        existing = self.existing(new)
        if existing is not None:
            state = existing.row.state
            if new.dedup is not None and (not parent or (state.parent or {}).get("case_no") == parent):
                self.remember(existing, new.dedup, None)
            return existing, Started(existing.row.case_no, True, state, differing(state.object, event.data["object"]))
        check_key(event)
        event.at = event.at or self.now
        event.seq = 0
        prepare([event], self.salt)
        held = self.add(CaseRow(0, CaseState(), GENESIS, self.now, 0, 0), new, parent)
        self.append(held, [event])
        self._name(held)
        if new.dedup is not None:
            self.remember(held, new.dedup, None)
        return held, Started(held.row.case_no, False, held.row.state)

    def existing(self, new: NewCase) -> Held | None:
        """Return the case that a start finds instead of making one."""
        data = new.started.data
        if new.dedup is not None:
            known = self.remembered(data["tenant"], new.dedup)
            if known is not None:
                return self.case(known[1])
        held = self.cases.get(self.keys.get((data["tenant"], data["workflow"], data["key"]), 0))
        if held is None or (held.row.state.status == "closed" and new.again):
            return None
        return held

    def add(self, row: CaseRow, new: NewCase, parent: int = 0) -> Held:
        """Give a case that is to be inserted its number and its place on the sheet."""
        row.case_no = self.numbers.pop(0)
        held = Held(row, 0, 0, [], fresh=True, again=new.again, parent=parent, touched=True)
        self.cases[row.case_no] = held
        if row.state.key:
            self._name(held)
        return held

    def _name(self, held: Held) -> None:
        state = held.row.state
        self.keys[state.tenant, state.workflow, state.key] = held.row.case_no

    def drafts(self) -> list[Draft]:
        """Return what is to be written, new cases last: they may refer to the others."""
        touched = [held for held in self.cases.values() if held.touched]
        return [held.draft() for held in sorted(touched, key=lambda held: held.row.case_no)]


def held_from(found: Any, *, bare: bool) -> Held:
    """Return the case of a row of SELECT_WITH_INBOX; `bare`: its inbox was not read."""
    inputs, *row, revision, _ = found
    case = rows.case_from(tuple(row))
    return Held(case, revision, case.state.seq, None if bare else inputs_from(inputs))


def inputs_from(inputs: str | None) -> list[Input]:
    """Return what waits in an inbox, from the first column of SELECT_WITH_INBOX."""
    return [
        Input(id_, type_, data, actor, channel, accepted_at, no, cause, on_behalf)
        if isinstance(data, dict)
        else Input(id_, type_, {"damaged": data}, actor, channel, accepted_at, no, cause, on_behalf, damaged=True)
        for no, id_, type_, data, actor, on_behalf, channel, accepted_at, cause in json.loads(inputs or "[]")
    ]


def check_key(started: Event) -> None:
    """Refuse a blank key (I12).

    Raises:
        InvalidInput: there is nothing in it.
    """
    if not started.data["key"].strip():
        key = started.data["key"]
        raise InvalidInput(f"a case of {started.data['workflow']} needs a key, got {key!r}", reason="blank_key")


def reused(key: str, at: str) -> IdempotencyConflict:
    """Return the error for a sender's key that came with another body."""
    return IdempotencyConflict(
        f"the idempotency key {key} was used at {at} with another body",
        hint="send a new key with a new message; repeat a message unchanged under its old key",
        key=key,
        first_used=at,
    )


def needs(new: Iterable[NewCase]) -> Wanted:
    """Return what the starts of these cases must see."""
    wanted = Wanted()
    for one in new:
        data = one.started.data
        wanted.keys.add((data["tenant"], data["workflow"], data["key"]))
        if one.dedup is not None:
            wanted.dedups.add((data["tenant"], one.dedup.scope, one.dedup.key))
        wanted.fresh += 1
    return wanted


def numbered(events: Sequence[Event], address: str) -> None:
    """Refuse events of a new case that are not numbered from 1, with their instants."""
    for seq, event in enumerate(events, 1):
        if event.seq != seq or not event.at:
            raise BugError(f"a new case of {address}: event {event.type} has seq {event.seq}, expected {seq}")
