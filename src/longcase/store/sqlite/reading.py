"""Questions in SQL: anybody's SELECT on a connection that can do nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import apsw

from longcase.errors import StoreCorrupt, StoreUnavailable, UsageError
from longcase.store.kept import in_log
from longcase.store.sqlite.connection import BUSY_SECONDS, mapped, no_text

T = TypeVar("T")
Read = Callable[[str, Sequence[Any]], list[Any]]

SECONDS: Final = 30.0  # how long one question may run
STEPS: Final = 20_000  # of SQLite's machine between two looks at the clock

_READING: Final = frozenset(
    {apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE}
)  # fmt: skip


_TELLING: Final = frozenset({"table_info", "table_xinfo", "table_list"})  # pragmas that list names of columns


def _only_reading(
    operation: int, first: str | None, second: str | None, database: str | None, source: str | None
) -> int:
    if operation == apsw.SQLITE_FUNCTION and second == "load_extension":
        return apsw.SQLITE_DENY
    if operation == apsw.SQLITE_PRAGMA:
        return apsw.SQLITE_OK if first in _TELLING else apsw.SQLITE_DENY
    return apsw.SQLITE_OK if operation in _READING else apsw.SQLITE_DENY


class Questions:
    """One read-only connection, opened at the first question; one question at a time."""

    def __init__(self, path: str, monotonic: Callable[[], float], memory: apsw.Connection | None) -> None:
        self._path = path
        self._monotonic = monotonic
        self._memory = memory  # the only connection that a store in memory can have
        self._connection = memory
        self._lock = threading.Lock()

    def ask(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> list[dict[str, Any]]:
        """Return the rows of a SELECT.

        Raises:
            UsageError: it is not a SELECT, or SQLite does not understand it.
            StoreUnavailable: it ran too long.
        """
        with self._lock, mapped(self._path):
            return self._run(self._open(), sql, parameters)

    def snapshot(self, question: Callable[[Read], T]) -> T:
        """Run statements of our own that all see the store as of one instant."""
        with self._lock, mapped(self._path):
            connection = self._open()
            connection.execute("BEGIN")
            try:
                return question(lambda sql, parameters: connection.execute(sql, parameters).fetchall())
            except UnicodeDecodeError as error:
                raise no_text(error, self._path) from error
            finally:
                connection.execute("ROLLBACK")

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = apsw.Connection(self._path, apsw.SQLITE_OPEN_READONLY)
            self._connection.set_busy_timeout(int(BUSY_SECONDS * 1000))
        return self._connection

    def _run(
        self, connection: apsw.Connection, sql: str, parameters: Mapping[str, Any] | Sequence[Any]
    ) -> list[dict[str, Any]]:
        deadline = self._monotonic() + SECONDS
        connection.authorizer = _only_reading
        connection.set_progress_handler(lambda: self._monotonic() > deadline, STEPS)
        try:
            try:
                return list(_rows(connection, sql, parameters))
            except UnicodeDecodeError as error:
                return _beside(connection, sql, parameters, no_text(error, self._path))
        except apsw.AuthError as error:
            raise UsageError("a query may only read", hint="write a single SELECT over the documented views") from error
        except apsw.InterruptError as error:
            raise StoreUnavailable(
                f"the query ran for more than {SECONDS:g} s and was stopped", hint="narrow it"
            ) from error
        except (apsw.SQLError, apsw.BindingsError, TypeError) as error:  # the last for a parameter of a strange type
            if str(error) == "malformed JSON":  # in what a view takes apart
                told = f"the store {self._path} holds a row that is no JSON any more"
                raise StoreCorrupt(told, hint="longcase verify names it; longcase rebuild CASE") from error
            raise UsageError(
                f"the query does not run: {error}",
                hint="SELECT name, sql FROM sqlite_schema WHERE type = 'view' lists views and columns",
            ) from error
        finally:
            connection.authorizer = None
            connection.set_progress_handler(None)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._memory is None:
                self._connection.close()
            self._connection = None


def _rows(
    connection: apsw.Connection, sql: str, parameters: Mapping[str, Any] | Sequence[Any]
) -> Iterator[dict[str, Any]]:
    cursor = connection.cursor()
    for row in cursor.execute(sql, parameters):
        names = [column[0] for column in cursor.get_description()]
        yield dict(zip(names, row, strict=True))


def _beside(
    connection: apsw.Connection, sql: str, parameters: Mapping[str, Any] | Sequence[Any], damage: StoreCorrupt
) -> list[dict[str, Any]]:
    """Return the rows of a SELECT where some text is no UTF-8: it is named in the log, and returned as far as it is.

    SQLite's driver refuses the whole reading and does not say of which row: every text is asked for as bytes.
    """
    of = f"({sql.strip().rstrip(';')})"
    (none,) = _rows(connection, f"SELECT q.* FROM (SELECT 1) LEFT JOIN {of} AS q ON 0", parameters)
    columns = ['"{}"'.format(name.replace('"', '""')) for name in none]
    asked = ", ".join(
        f"typeof({one}) = 'text', CASE typeof({one}) WHEN 'text' THEN CAST({one} AS BLOB) ELSE {one} END"
        for one in columns
    )
    found: list[dict[str, Any]] = []
    for values in connection.execute(f"SELECT {asked} FROM {of}", parameters):
        row = dict(zip(none, values[1::2], strict=True))
        texts = {name: row[name] for name, is_text in zip(none, values[::2], strict=True) if is_text}
        row |= {name: str(text, "utf-8", "replace") for name, text in texts.items()}
        found.append(row)
        for name, text in texts.items():
            if row[name].encode() != text:
                in_log(StoreCorrupt(f"{_whose(row)}: its {name} is no UTF-8 any more", hint=damage.hint))
    return found


def _whose(row: Mapping[str, Any]) -> str:
    """Return what a row is of, as far as it says so."""
    if "workflow" in row and "key" in row:
        return f"{row['workflow']}/{row['key']}"
    if address := row.get("case_address") or row.get("address"):
        return str(address)
    named = next((name for name in ("case_no", "number", "worker", "queue", "name") if name in row), "")
    return f"{named} {row[named]}" if named else "a row"
