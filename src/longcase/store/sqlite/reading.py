"""Questions in SQL: anybody's SELECT on a connection that can do nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import apsw

from longcase.errors import StoreUnavailable, UsageError
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
            cursor = connection.cursor()
            found: list[dict[str, Any]] = []
            for row in cursor.execute(sql, parameters):
                names = [column[0] for column in cursor.get_description()]
                found.append(dict(zip(names, row, strict=True)))
            return found
        except UnicodeDecodeError as error:
            raise no_text(error, self._path) from error
        except apsw.AuthError as error:
            raise UsageError("a query may only read", hint="write a single SELECT over the documented views") from error
        except apsw.InterruptError as error:
            raise StoreUnavailable(
                f"the query ran for more than {SECONDS:g} s and was stopped", hint="narrow it"
            ) from error
        except (apsw.SQLError, apsw.BindingsError) as error:
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
