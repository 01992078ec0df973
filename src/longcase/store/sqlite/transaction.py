"""What a unit of work may do inside the open transaction: append turns, start cases, put inputs.

Every append goes by the same two roads (SEMANTICS A2): straight, when nothing came in between, and
folded again from the stored row, when only unseen events did. seq and hash are given here, under the
lock that BEGIN IMMEDIATE took. `commit` opens and ends the transaction; `rows` knows the columns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import apsw

from longcase.errors import BugError, CaseNotFound, IdempotencyConflict, InvalidInput
from longcase.history.chain import GENESIS, link, payload_digest
from longcase.history.event import Event
from longcase.history.state import CaseState, apply
from longcase.history.waits import next_due
from longcase.model.codec import Json
from longcase.store.port import CaseRef, CaseRow, CaseWrite, DedupKey, Input, NewCase, Started, Written
from longcase.store.sqlite import rows
from longcase.store.sqlite.rows import Row, text_of

# -- statements ------------------------------------------------------------------------------------

_HEADS = """
SELECT case_no, seq, seen_seq, hash, status, at, wake_at,
       (SELECT count(*) FROM inbox WHERE inbox.case_no = cases.case_no)
FROM cases WHERE case_no IN (SELECT value FROM json_each(?))
"""
_INSERT_EVENT = f"INSERT INTO history (case_no, {rows.EVENT_COLUMNS}) VALUES ({', '.join('?' * 18)})"
_INSERT_CASE = (
    f"INSERT INTO cases ({', '.join(rows.STATE_COLUMNS)}, hash, wake_at, lease, parent_case) "
    f"VALUES ({', '.join('?' * (len(rows.STATE_COLUMNS) + 4))})"
)
_OPERATION = "hash = ?, wake_at = ?, lease = ? WHERE case_no = ?"
_UPDATE_CASE = f"UPDATE cases SET {', '.join(f'{column} = ?' for column in rows.STATE_COLUMNS)}, {_OPERATION}"
_UPDATE_TURN = f"UPDATE cases SET {', '.join(f'{column} = ?' for column in rows.TURN_COLUMNS)}, {_OPERATION}"
_UPDATE_OPERATION = "UPDATE cases SET wake_at = ?, lease = ? WHERE case_no = ?"
_UPSERT_TASK = (
    f"INSERT INTO tasks (case_no, task, {', '.join(rows.TASK_COLUMNS)}) VALUES ({', '.join('?' * 16)}) "
    f"ON CONFLICT (case_no, task) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in rows.TASK_COLUMNS)}"
)
_INSERT_INPUT = """
INSERT INTO inbox (case_no, id, type, data, actor, on_behalf, channel, accepted_at, cause) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (case_no, id) DO NOTHING RETURNING no
"""
_BY_KEY = "SELECT case_no, status FROM cases WHERE tenant = ? AND workflow = ? AND key = ? ORDER BY status = 'open' DESC, case_no DESC LIMIT 1"
_INBOX = f"SELECT {rows.INPUT_COLUMNS} FROM inbox WHERE case_no = ? ORDER BY no"

Head = tuple[int, int, bytes, str, str, str, int]  # seq, seen_seq, hash, status, at, wake_at, pending


class Entry:
    """One CaseWrite on its way, and its outcome."""

    __slots__ = ("outcome", "write")

    def __init__(self, write: CaseWrite) -> None:
        self.write = write
        self.outcome: Written | None = None


class WriteUnit:
    """The turns of one call of `Store.write`."""

    __slots__ = ("entries",)

    def __init__(self, writes: Sequence[CaseWrite], salt: Callable[[], str]) -> None:
        self.entries = [Entry(write) for write in writes]
        # What needs no lock is done before there is one: other transactions may be committing.
        for write in writes:
            prepare(write.events, salt)
        numbers = [write.case_no for write in writes if write.new is None]
        if len(set(numbers)) != len(numbers):
            raise BugError(f"a case stands twice in one call of write: {numbers}")

    def answer(self) -> list[Written]:
        """Return the outcomes, once they are durable; the states' settled tasks are in their table now."""
        written = []
        for entry in self.entries:
            outcome = entry.outcome
            assert outcome is not None
            if outcome.state is not None and outcome.state.settled_tasks:
                outcome.state.settled_tasks.clear()
            written.append(outcome)
        return written


def prepare(events: Iterable[Event], salt: Callable[[], str]) -> None:
    """Give events their payload text, salt and digest: all that does not depend on their place."""
    for event in events:
        text = event.text = event.text or text_of(event.data, event.type)
        event.salt = salted = salt()
        event.digest = payload_digest(salted, text)


class Transaction:
    """The open transaction: one cursor, one instant."""

    __slots__ = ("cursor", "execute", "now", "salt")

    def __init__(self, cursor: apsw.Cursor, now: str, salt: Callable[[], str]) -> None:
        self.cursor = cursor
        self.execute = cursor.execute
        self.now = now
        self.salt = salt

    # -- reading under the lock ----------------------------------------------------------------------

    def heads(self, cases: Sequence[int]) -> dict[int, Head]:
        """Return what a write is checked against, for every case there is, in one statement."""
        return {row[0]: row[1:] for row in self.execute(_HEADS, (text_of(cases, "cases"),))}

    def case(self, case_no: int) -> CaseRow:
        """Return a case as the transaction sees it."""
        row = self.execute(f"{rows.SELECT_CASE} WHERE case_no = ?", (case_no,)).fetchone()
        if row is None:
            raise CaseNotFound(f"no case has the number {case_no}")
        return rows.case_from(row)

    def find(self, ref: CaseRef) -> int:
        """Return the number of the case a reference names, 0 if there is none."""
        if ref.case_no:
            row = self.execute("SELECT case_no FROM cases WHERE case_no = ?", (ref.case_no,)).fetchone()
        else:
            row = self.execute(_BY_KEY, (ref.tenant, ref.workflow, ref.key)).fetchone()
        return row[0] if row else 0

    def pending(self, case_no: int) -> list[Input]:
        """Return the inputs no turn has applied yet, in order of acceptance."""
        return [rows.input_from(row) for row in self.execute(_INBOX, (case_no,))]

    def remembered(self, tenant: str, dedup: DedupKey) -> tuple[Json, int] | None:
        """Return the answer kept under a sender's key and the case it was about.

        Raises:
            IdempotencyConflict: another message came under that key.
        """
        row = self.execute(
            "SELECT body, answer, case_no, at FROM dedup WHERE tenant = ? AND scope = ? AND key = ?",
            (tenant, dedup.scope, dedup.key),
        ).fetchone()
        if row is None:
            return None
        body, answer, case_no, at = row
        if body != dedup.body:
            raise IdempotencyConflict(
                f"the idempotency key {dedup.key} was used at {at} with another body",
                hint="send a new key with a new message; repeat a message unchanged under its old key",
                key=dedup.key,
                first_used=at,
            )
        return json.loads(answer), case_no

    # -- writing -------------------------------------------------------------------------------------

    def remember(self, tenant: str, dedup: DedupKey, answer: Json, case_no: int) -> None:
        """Keep the answer of a message, so that its repeat gets the same one."""
        self.execute(
            "INSERT INTO dedup (tenant, scope, key, body, answer, case_no, at) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            (tenant, dedup.scope, dedup.key, dedup.body, text_of(answer, "the answer"), case_no, self.now),
        )

    def put_input(self, case_no: int, item: Input) -> bool:
        """Accept an input; returns False if one with its id waits already."""
        item.accepted_at = item.accepted_at or self.now
        row = self.execute(
            _INSERT_INPUT,
            (
                case_no, item.id, item.type, text_of(item.data, item.type), item.actor, item.on_behalf, item.channel,
                item.accepted_at, item.cause,
            ),
        ).fetchone()  # fmt: skip
        if row is not None:
            item.no = row[0]
        return row is not None

    def append(self, row: CaseRow, events: Sequence[Event]) -> None:
        """Put prepared events after the stored ones and fold them into `row`; `store` then writes the row."""
        refold(row, events)
        self.cursor.executemany(_INSERT_EVENT, [rows.event_values(row.case_no, event) for event in events])

    def store(self, row: CaseRow, events: Sequence[Event]) -> None:
        """Write a row that has `events` folded in, and the tasks they changed."""
        if not events:
            self.execute(_UPDATE_OPERATION, (row.wake_at, row.lease, row.case_no))
            return
        self.execute(
            _UPDATE_CASE, (*rows.state_values(row.state), row.hash, row.wake_at, row.lease, row.case_no)
        )
        self.put_tasks(task_rows(row.case_no, row.state, events))

    def put_tasks(self, tasks: Sequence[Row]) -> None:
        if tasks:
            self.cursor.executemany(_UPSERT_TASK, tasks)

    def start(self, new: NewCase, *, parent: int = 0) -> Started:
        """Accept a case, or answer with the one that is there."""
        event = new.started
        tenant, workflow, key = event.data["tenant"], event.data["workflow"], event.data["key"]
        existing = self.existing(new)
        if existing:
            row = self.case(existing)
            if new.dedup is not None:
                self.remember(tenant, new.dedup, None, existing)
            return Started(existing, True, row.state, differing(row.state.object, event.data["object"]))
        if not key.strip():
            raise InvalidInput(f"a case of {workflow} needs a key, got {key!r}", reason="blank_key")
        event.at = event.at or self.now
        prepare([event], self.salt)
        row = CaseRow(0, CaseState(), GENESIS, self.now, 0, 0)
        refold(row, [event])
        self.insert(row, [event], parent)
        if new.dedup is not None:
            self.remember(tenant, new.dedup, None, row.case_no)
        return Started(row.case_no, False, row.state)

    def existing(self, new: NewCase) -> int:
        """Return the case that a start finds instead of making one, 0 if there is none."""
        data = new.started.data
        if new.dedup is not None:
            known = self.remembered(data["tenant"], new.dedup)
            if known is not None:
                return known[1]
        row = self.execute(_BY_KEY, (data["tenant"], data["workflow"], data["key"])).fetchone()
        if row is None or (row[1] == "closed" and new.again):
            return 0
        case_no: int = row[0]
        return case_no

    def insert(self, row: CaseRow, events: Sequence[Event], parent: int = 0) -> None:
        """Insert a case whose state has `events`, its first ones, folded in; gives it its number."""
        self.execute(
            _INSERT_CASE,
            (*rows.state_values(row.state), row.hash, row.wake_at, row.lease, parent or None),
        )
        row.case_no = self.cursor.connection.last_insert_rowid()
        self.cursor.executemany(_INSERT_EVENT, [rows.event_values(row.case_no, event) for event in events])
        self.put_tasks(task_rows(row.case_no, row.state, events))

    def wake(self, case_no: int) -> None:
        """Let an open case be advanced now."""
        self.execute("UPDATE cases SET wake_at = ? WHERE case_no = ? AND status = 'open'", (self.now, case_no))


def refold(row: CaseRow, events: Sequence[Event]) -> None:
    """Give events their place after the stored ones: instant, seq, hash; and fold them in."""
    state = row.state
    for event in events:
        event.seq = state.seq + 1
        if event.at < state.at:  # the clock went back, or the turn was computed before the last event
            event.at = state.at
        event.hash = row.hash = link(row.hash, event)
        apply(state, event)


def task_rows(case_no: int, state: CaseState, events: Sequence[Event]) -> list[Row]:
    """Return the rows of the tasks that `events` changed."""
    touched = rows.touched_tasks(state, events)
    return [(case_no, name, *rows.task_values(task)) for name, task in touched.items()] if touched else []


def differing(existing: dict[str, Json], sent: dict[str, Json]) -> tuple[str, ...]:
    """Return the fields of two objects that differ, sorted."""
    return tuple(sorted(name for name in existing.keys() | sent.keys() if existing.get(name) != sent.get(name)))


def earliest(*instants: str) -> str:
    """Return the earliest of the instants that are given, or ""."""
    return min((instant for instant in instants if instant), default="")


# -- many turns at once ----------------------------------------------------------------------------


def run_writes(tx: Transaction, entries: Sequence[Entry]) -> None:
    """Append the turns of many cases: one statement per table; sets every entry's outcome.

    Calls of different callers may hold the same case; the later one is then checked against what the
    earlier one wrote.
    """
    rest = list(entries)
    while rest:
        batch: list[Entry] = []
        again: list[Entry] = []
        taken: set[int] = set()
        for entry in rest:
            if entry.write.new is None and entry.write.case_no in taken:
                again.append(entry)
            else:
                taken.add(entry.write.case_no)
                batch.append(entry)
        _run_batch(tx, batch)
        rest = again


def _run_batch(tx: Transaction, entries: Sequence[Entry]) -> None:
    heads = tx.heads([entry.write.case_no for entry in entries if entry.write.new is None])
    events: list[Row] = []
    updates: list[Row] = []
    turns: list[Row] = []
    operations: list[Row] = []
    tasks: list[Row] = []
    for entry in entries:
        write = entry.write
        if write.new is not None:
            _write_new(tx, entry)
            continue
        head = heads.get(write.case_no)
        if head is None:
            raise CaseNotFound(f"no case has the number {write.case_no}")
        seq, seen_seq, previous, status, at, wake_at, pending = head
        if seen_seq != write.base_seen or (status == "closed" and any(event.seen for event in write.events)):
            entry.outcome = Written("stale", write.case_no)
            continue
        appended = write.events
        if seq != write.base_seq or (appended and appended[0].at < at):
            _write_between(tx, entry, pending, wake_at)
            continue
        unheard = False
        if pending:
            pending, unheard = _take(tx, write)
        wake = tx.now if unheard else write.wake_at
        if not appended:
            operations.append((wake, write.lease, write.case_no))
        else:
            state = write.state
            wide = False
            for event in appended:
                seq += 1
                if event.seq != seq:
                    raise BugError(f"case {write.case_no}: event {event.type} has seq {event.seq}, expected {seq}")
                event.hash = previous = link(previous, event)
                events.append(rows.event_values(write.case_no, event))
                wide = wide or event.type in rows.WIDE
            if state.seq != seq:
                raise BugError(f"case {write.case_no}: the state stands at {state.seq}, its events at {seq}")
            if wide:
                updates.append((*rows.state_values(state), previous, wake, write.lease, write.case_no))
            else:
                turns.append((*rows.turn_values(state), previous, wake, write.lease, write.case_no))
            tasks += task_rows(write.case_no, state, appended)
        entry.outcome = Written("done", write.case_no, write.state, pending=pending)
    many = tx.cursor.executemany
    if events:
        many(_INSERT_EVENT, events)
    if updates:
        many(_UPDATE_CASE, updates)
    if turns:
        many(_UPDATE_TURN, turns)
    if operations:
        many(_UPDATE_OPERATION, operations)
    tx.put_tasks(tasks)
    for entry in entries:
        write = entry.write
        if entry.outcome is None or entry.outcome.outcome != "done":
            continue
        if write.children or write.notify or write.cancel_children:
            entry.outcome = _write_around(tx, write, entry.outcome)


def _take(tx: Transaction, write: CaseWrite) -> tuple[int, bool]:
    """Remove the inputs a turn applied; returns how many are left, and whether one is news to the turn."""
    if write.taken:
        tx.cursor.executemany("DELETE FROM inbox WHERE no = ? AND case_no = ?", [(no, write.case_no) for no in write.taken])
    left, newest = tx.execute("SELECT count(*), coalesce(max(no), 0) FROM inbox WHERE case_no = ?", (write.case_no,)).fetchone()
    return left, newest > write.heard


def _write_between(tx: Transaction, entry: Entry, pending: int, wake_at: str) -> None:
    """Append a turn after unseen events that came in between (A2)."""
    write = entry.write
    row = tx.case(write.case_no)
    interleaved = row.state.seq != write.base_seq
    tx.execute("SAVEPOINT between")
    try:
        unheard = False
        if pending:
            pending, unheard = _take(tx, write)
        tx.append(row, write.events)
        row.lease = write.lease
        # Somebody may have asked for a turn together with what came in between: his wake stays.
        row.wake_at = earliest(write.wake_at, next_due(row.state), wake_at if interleaved else "", tx.now if unheard else "")
        tx.store(row, write.events)
    except (KeyError, BugError):
        # What came in between took away what the turn speaks of: it is redone on what is there now.
        tx.execute("ROLLBACK TO between")
        tx.execute("RELEASE between")
        entry.outcome = Written("stale", write.case_no)
        return
    tx.execute("RELEASE between")
    entry.outcome = Written("done", write.case_no, row.state, interleaved=True, pending=pending)


def _write_new(tx: Transaction, entry: Entry) -> None:
    """Start a case together with its first turns."""
    write = entry.write
    new = write.new
    assert new is not None
    existing = tx.existing(new)
    if existing:
        entry.outcome = Written("existing", existing, tx.case(existing).state)
        return
    first = new.started
    prepare([first], tx.salt)
    first.seq = 1
    events = [first, *write.events]
    previous = GENESIS
    for seq, event in enumerate(events, 1):
        if event.seq != seq or not event.at:
            raise BugError(f"a new case of {write.state.address}: event {event.type} has seq {event.seq} at {event.at!r}, expected {seq}")
        event.hash = previous = link(previous, event)
    row = CaseRow(0, write.state, previous, write.wake_at, write.lease, 0)
    tx.insert(row, events)
    if new.dedup is not None:
        tx.remember(write.state.tenant, new.dedup, None, row.case_no)
    entry.outcome = Written("done", row.case_no, write.state)


def _write_around(tx: Transaction, write: CaseWrite, written: Written) -> Written:
    """Write what a turn does to other cases, in the same transaction."""
    children = []
    for child in write.children:
        parent = child.started.data.get("parent")
        if parent is not None and not parent.get("case_no"):
            # The parent is started in this very write: its number is known only now.
            child.started.data["parent"] = {**parent, "case_no": written.case_no}
            child.started.text = ""
        children.append(tx.start(child, parent=written.case_no))
    for case_no, item in write.notify:
        if tx.put_input(case_no, item):
            tx.wake(case_no)
    for workflow, key, reason in write.cancel_children:
        _cancel(tx, CaseRef(workflow=workflow, key=key, tenant=write.state.tenant), reason)
    return replace(written, children=tuple(children))


def _cancel(tx: Transaction, ref: CaseRef, reason: str) -> None:
    """Ask a live case to cancel, as a person would."""
    case_no = tx.find(ref)
    if not case_no:
        return
    row = tx.case(case_no)
    if row.state.status == "closed" or row.state.cancel is not None:
        return
    event = Event("cancel_requested", {"reason": reason}, visit=row.state.visit, at=tx.now)
    prepare([event], tx.salt)
    row.wake_at = tx.now
    tx.append(row, [event])
    tx.store(row, [event])
