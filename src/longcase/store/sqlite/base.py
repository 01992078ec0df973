"""What every part of the store stands on: its connections to one file, and the instant.

Writes go through `commit`; reads go straight to a second connection on the caller's thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apsw

from longcase.env import Env
from longcase.errors import UsageError
from longcase.history.event import instant_text
from longcase.record import record
from longcase.store.sqlite import migrate, settings
from longcase.store.sqlite.commit import Committer
from longcase.store.sqlite.connection import MEMORY, check_path, connect, mapped, no_text
from longcase.store.sqlite.reading import Questions, Read

T = TypeVar("T")


@record
class Options:
    """How a file is opened; `open_sqlite` says what each means."""

    inline: bool
    create: bool
    synchronous: str
    faults: str | None


class Base:
    """The connections to one file."""

    def __init__(self, path: str, env: Env, how: Options) -> None:
        check_path(path, create=how.create)
        if how.synchronous not in ("FULL", "NORMAL", "EXTRA"):
            raise UsageError(
                f"synchronous is FULL, EXTRA or NORMAL, got {how.synchronous!r}",
                hint='Longcase(..., synchronous="FULL")',
            )
        self.path = path
        self._env = env
        self._how = how
        self._inline = how.inline or path == MEMORY
        self._reader: apsw.Connection | None = None
        self._reading = threading.Lock()  # inline: callers in several threads take turns
        with mapped(path):
            self._prepare()
            self._committer = Committer(
                path, self._connect, self._now, env.salt, env.signal_point, env.monotonic, inline=self._inline
            )
            try:
                self._open_reader()
            except BaseException:
                if self._committer.connection is not None:
                    self._committer.connection.close()
                raise
        self._identity = _identity(path)
        self._questions = Questions(path, env.monotonic, self._memory if path == MEMORY else None)

    def _prepare(self) -> None:
        """Bring a new file into being, or check the schema of an old one."""
        if self.path == MEMORY:
            self._memory = connect(MEMORY, create=True, synchronous=self._how.synchronous)
            migrate.migrate(self._memory, self._now())
            return
        how = self._how
        connection = connect(self.path, create=how.create, synchronous=how.synchronous, vfs=how.faults)
        try:
            if how.create and migrate.current(connection) == 0:
                migrate.migrate(connection, self._now(), self._env.signal_point)
            migrate.check(connection)
            settings.check_history_format(connection)
        finally:
            connection.close()

    def _connect(self) -> apsw.Connection:
        if self.path == MEMORY:
            return self._memory
        return connect(self.path, synchronous=self._how.synchronous, vfs=self._how.faults)

    def _open_reader(self) -> None:
        self._reader = self._connect()
        if self.path != MEMORY:
            self._reader.pragma("query_only", True)

    def _now(self) -> str:
        return instant_text(self._env.now())

    def _read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._reading, mapped(self.path):
            if self._reader is None:
                self._open_reader()
            assert self._reader is not None
            try:
                return self._reader.execute(sql, parameters).fetchall()
            except UnicodeDecodeError as error:
                raise no_text(error, self.path) from error
            except apsw.IOError:
                # The file may be well again by the next read; this connection is not trusted any more.
                if self.path != MEMORY:
                    broken, self._reader = self._reader, None
                    broken.close(True)
                raise

    async def _ask(self, question: Callable[[Read], T]) -> T:
        """Read much on the connection for questions, from one snapshot, beside the loop where there is one."""
        if self._inline:
            return self._questions.snapshot(question)
        return await asyncio.to_thread(lambda: self._questions.snapshot(question))

    def gone(self) -> bool:
        try:
            return self._identity != _identity(self.path)
        except FileNotFoundError:
            return True
        except OSError:  # not to be told now: a right that was taken away, a disk that does not answer
            return False


def _identity(path: str) -> tuple[int, int]:
    """Return what tells a file from another that takes its name."""
    if path == MEMORY:
        return 0, 0
    found = os.stat(path)
    return found.st_dev, found.st_ino
