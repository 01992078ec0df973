"""What a unit of work may do inside the open transaction: read, append events, start cases, put inputs.

seq and hash are given here, under the lock that BEGIN IMMEDIATE took. `commit` opens and ends the
transaction; `rows` knows the columns; `writing` and `editing` are the units built of this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import apsw

from longcase.errors import CaseNotFound, IdempotencyConflict, InvalidInput, StoreCorrupt
from longcase.history.chain import GENESIS
from longcase.history.event import Event
from longcase.history.state import CaseState
from longcase.model.codec import Json
from longcase.store import rows
from longcase.store.folding import prepare, refold, task_rows
from longcase.store.kept import kept_json
from longcase.store.records import CaseRef, CaseRow, DedupKey, Input, NewCase, Started, differing
from longcase.store.rows import Row, text_of

# -- statements ------------------------------------------------------------------------------------

INSERT_EVENT = f"INSERT INTO history (case_no, {rows.EVENT_COLUMNS}) VALUES ({', '.join('?' * 18)})"
_INSERT_CASE = (
    f"INSERT INTO cases ({', '.join(rows.STATE_COLUMNS)}, hash, wake_at, lease, parent_case) "
    f"VALUES ({', '.join('?' * (len(rows.STATE_COLUMNS) + 4))})"
)
OPERATION = "hash = ?, wake_at = ?, lease = ? WHERE case_no = ?"
UPDATE_CASE = f"UPDATE cases SET {', '.join(f'{column} = ?' for column in rows.STATE_COLUMNS)}, {OPERATION}"
UPDATE_OPERATION = "UPDATE cases SET wake_at = ?, lease = ? WHERE case_no = ?"
_UPSERT_TASK = (
    f"INSERT INTO tasks (case_no, task, {', '.join(rows.TASK_COLUMNS)}) VALUES ({', '.join('?' * 16)}) "
    f"ON CONFLICT (case_no, task) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in rows.TASK_COLUMNS)}"
)
_INSERT_INPUT = """
INSERT INTO inbox (case_no, id, type, data, actor, on_behalf, channel, accepted_at, cause)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (case_no, id) DO NOTHING
"""
_ANY_BY_KEY = "SELECT 1 FROM cases WHERE tenant = ? AND workflow = ? AND key = ? LIMIT 1"
_BY_KEY = """
SELECT case_no, status FROM cases WHERE tenant = ? AND workflow = ? AND key = ?
ORDER BY status = 'open' DESC, case_no DESC LIMIT 1
"""
INBOX: Final = "SELECT {columns} FROM inbox WHERE case_no = ? ORDER BY no"


def inputs(read: Callable[[str, Sequence[Any]], list[Any]], sql: str, parameters: Sequence[Any]) -> list[Any]:
    """Read rows of the inbox with INPUT_COLUMNS for `{columns}`; as bytes, if one of them is no UTF-8 any more."""
    try:
        return read(sql.format(columns=rows.INPUT_COLUMNS), parameters)
    except (UnicodeDecodeError, StoreCorrupt):
        return read(sql.format(columns=rows.INPUT_COLUMNS_AS_BYTES), parameters)


class Transaction:
    """The open transaction: one cursor, one instant."""

    __slots__ = ("cursor", "execute", "now", "salt")

    def __init__(self, cursor: apsw.Cursor, now: str, salt: Callable[[], str]) -> None:
        self.cursor = cursor
        self.execute = cursor.execute
        self.now = now
        self.salt = salt

    # -- reading under the lock ----------------------------------------------------------------------

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
        return [rows.input_from(row) for row in inputs(self._rows, INBOX, (case_no,))]

    def _rows(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        return self.execute(sql, parameters).fetchall()

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
        return kept_json(answer, f"the answer kept under the idempotency key {dedup.key}"), case_no

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
        self.execute(
            _INSERT_INPUT,
            (
                case_no, item.id, item.type, text_of(item.data, item.type), item.actor, item.on_behalf, item.channel,
                item.accepted_at, item.cause,
            ),
        )  # fmt: skip
        # RETURNING would make a table of its answers: three times the cost of the insert.
        connection = self.cursor.connection
        if not connection.changes():
            return False
        item.no = connection.last_insert_rowid()
        return True

    def append(self, row: CaseRow, events: Sequence[Event]) -> None:
        """Put prepared events after the stored ones and fold them into `row`; `store` then writes the row."""
        refold(row, events)
        self.cursor.executemany(INSERT_EVENT, [rows.event_values(row.case_no, event) for event in events])

    def store(self, row: CaseRow, events: Sequence[Event]) -> None:
        """Write a row that has `events` folded in, and the tasks they changed."""
        if not events:
            self.execute(UPDATE_OPERATION, (row.wake_at, row.lease, row.case_no))
            return
        self.execute(UPDATE_CASE, (*rows.state_values(row.state), row.hash, row.wake_at, row.lease, row.case_no))
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
            if new.dedup is not None and (not parent or (row.state.parent or {}).get("case_no") == parent):
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
        named = (data["tenant"], data["workflow"], data["key"])
        # Most starts are of new keys, and to see that takes a sixth of the time that sorting nothing takes.
        if self.execute(_ANY_BY_KEY, named).fetchone() is None:
            return 0
        row = self.execute(_BY_KEY, named).fetchone()
        assert row is not None
        if row[1] == "closed" and new.again:
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
        self.cursor.executemany(INSERT_EVENT, [rows.event_values(row.case_no, event) for event in events])
        self.put_tasks(task_rows(row.case_no, row.state, events))

    def is_open(self, case_no: int) -> bool:
        return (
            self.execute("SELECT 1 FROM cases WHERE case_no = ? AND status = 'open'", (case_no,)).fetchone() is not None
        )

    def wake(self, case_no: int) -> None:
        """Let a case be advanced now."""
        self.execute("UPDATE cases SET wake_at = ? WHERE case_no = ?", (self.now, case_no))
