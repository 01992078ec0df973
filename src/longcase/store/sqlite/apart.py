"""A transaction of the user's on the writer's connection: SQLite's authorizer tells what is theirs to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import apsw

from longcase.errors import StatementRefused
from longcase.store.apart import Unit, Use, ends_it, not_yours, of_the_session, own_names
from longcase.store.records import CaseRef, Locked
from longcase.store.sqlite import migrate
from longcase.store.sqlite.editing import edit
from longcase.store.sqlite.transaction import Transaction

_ENDS_IT: Final = {apsw.SQLITE_TRANSACTION: "BEGIN, COMMIT or ROLLBACK", apsw.SQLITE_SAVEPOINT: "SAVEPOINT"}
# They would stay on the connection, for whoever uses it next.
_OF_THE_SESSION: Final = {
    apsw.SQLITE_ATTACH: "ATTACH",
    apsw.SQLITE_DETACH: "DETACH",
    apsw.SQLITE_PRAGMA: "PRAGMA",
    apsw.SQLITE_CREATE_TEMP_TABLE: "CREATE TEMP TABLE",
    apsw.SQLITE_CREATE_TEMP_VIEW: "CREATE TEMP VIEW",
    apsw.SQLITE_CREATE_TEMP_TRIGGER: "CREATE TEMP TRIGGER",
}
# By the argument of the authorizer that names the table.
_FIRST: Final = frozenset(
    {
        apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE, apsw.SQLITE_DROP_TABLE, apsw.SQLITE_DROP_VIEW,
        apsw.SQLITE_CREATE_TABLE, apsw.SQLITE_CREATE_VIEW,
    }
)  # fmt: skip
_SECOND: Final = frozenset(
    {
        apsw.SQLITE_ALTER_TABLE, apsw.SQLITE_CREATE_INDEX, apsw.SQLITE_DROP_INDEX, apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_DROP_TRIGGER,
    }
)  # fmt: skip


@cache
def _own() -> frozenset[str]:
    return own_names(migrate.migrations()) | {"sqlite_sequence"}  # it counts the numbers of workers and cases


async def run_apart(tx: Transaction, unit: Unit, *, inline: bool) -> None:
    """Do everything but begin and commit; whatever is raised is to be followed by ROLLBACK."""
    row = tx.case(unit.case_no)
    unit.work.admit(Locked(unit.case_no, row.state, max(tx.now, row.state.at), lambda: tx.pending(unit.case_no)))
    statements = Statements(tx.cursor.connection.cursor(), inline=inline)
    with statements.guarded():
        try:
            await unit.work.run(statements)
        except BaseException:
            statements.interrupt()
            raise
        statements.end()
    edit(tx, CaseRef(unit.case_no), unit.record, None)


def happened(tx: Transaction, unit: Unit) -> bool:
    """Tell, under the lock of the file, whether a unit whose COMMIT had no answer is there."""
    seq, salt = unit.mark
    asked = "SELECT 1 FROM history WHERE case_no = ? AND seq = ? AND salt = ?"
    return tx.execute(asked, (unit.case_no, seq, salt)).fetchone() is not None


class Statements:
    """`store.port.Statements` over the writer's cursor."""

    def __init__(self, cursor: apsw.Cursor, *, inline: bool) -> None:
        self.inline = inline
        self._cursor = cursor
        self._connection = cursor.connection
        self._use = Use()
        self._refusal: StatementRefused | None = None

    def execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._use.statement(), self._explained():
            return self._cursor.execute(sql, values).fetchall()

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        given = [tuple(row) for row in rows]  # may run the user's code, and that may use this transaction
        with self._use.statement(), self._explained():
            self._cursor.executemany(sql, given)

    def interrupt(self) -> None:
        """End its use from another thread, and the statement that runs now; returns when none does."""
        self._use.over = True
        while not self._use.lock.acquire(timeout=0.01):
            self._connection.interrupt()  # again and again: one that was about to begin has not heard the first
        self._use.lock.release()

    def end(self) -> None:
        """End its use; raises the error of a statement that failed."""
        self._use.end()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Have SQLite ask us about every statement that is prepared."""
        self._connection.authorizer = self._allowed
        try:
            yield
        finally:
            self._connection.authorizer = None

    def _allowed(self, action: int, first: str | None, second: str | None, _: str | None, __: str | None) -> int:
        if (what := _ENDS_IT.get(action)) is not None:
            self._refusal = ends_it(what)
            return apsw.SQLITE_DENY
        if (what := _OF_THE_SESSION.get(action)) is not None:
            self._refusal = of_the_session(what)
            return apsw.SQLITE_DENY
        table = first if action in _FIRST else second if action in _SECOND else None
        if table is not None and table.casefold() in _own():
            self._refusal = not_yours(table)
            return apsw.SQLITE_DENY
        return apsw.SQLITE_OK

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except apsw.Error as error:
            refusal, self._refusal = self._refusal, None
            if refusal is not None:
                raise refusal from error
            raise
