"""Connections to one PostgreSQL database: how they are opened, pooled, and what its errors mean to a caller.

Nothing is kept in a session (no SET, no LISTEN, no session lock), so that a pooler in transaction mode
may stand in between. A pooler that refuses our start-up settings is connected to without them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from longcase.errors import (
    BugError,
    InvalidInput,
    LongcaseError,
    StorageFull,
    StoreCorrupt,
    StoreUnavailable,
    UsageError,
)

CONNECT_SECONDS: Final = 10.0
STATEMENT_SECONDS: Final = 60.0  # of ours; questions have a shorter bound of their own
ANSWER_SECONDS: Final = 10.0  # for a statement of a pool: longer than this, the line counts as dead
OLDEST: Final = 14  # the oldest major version we run on
CACHED_STATEMENTS: Final = 200

_SETTINGS: Final = {
    "application_name": "longcase",
    "timezone": "UTC",
    "statement_timeout": str(int(STATEMENT_SECONDS * 1000)),
    "idle_in_transaction_session_timeout": "30000",  # a process that hangs inside a transaction gives its locks up
    "jit": "off",
    # Our statements go by keys. Their plans are kept, and were perhaps made while the tables were empty.
    "enable_seqscan": "off",
}
_UNTRUSTED: Final = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncio.TimeoutError)
Connection = asyncpg.Connection  # the type; asyncpg has no generic one


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is, and how its connections are to be made."""

    url: str  # as asyncpg takes it
    shown: str  # without the secret
    statements: int = CACHED_STATEMENTS  # prepared statements kept by a connection; 0 behind an old pooler

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL: what libpq takes, and `statement_cache_size=0` for a pooler without prepared statements.

        Raises:
            UsageError: it names no PostgreSQL database.
        """
        try:
            parts = urlsplit(url)
            _ = parts.port  # a ValueError unless it is a number that ports have
        except ValueError as error:
            raise UsageError(
                f"the store's URL cannot be read: {error}",
                hint="postgresql://user:password@host:5432/database; write @ : / % in a password as %40 %3A %2F %25",
            ) from None
        if parts.scheme not in ("postgresql", "postgres"):
            raise UsageError(
                f"a database's URL begins with {parts.scheme!r}, expected postgresql",
                hint="LONGCASE_DATABASE_URL=postgresql://user@host/database; LONGCASE_LISTEN_URL likewise",
            )
        options = parse_qsl(parts.query, keep_blank_values=True)
        kept = [(name, value) for name, value in options if name != "statement_cache_size"]
        wanted = dict(options).get("statement_cache_size", str(CACHED_STATEMENTS))
        if not wanted.isdigit():
            raise UsageError(
                f"statement_cache_size={wanted!r} in the store's URL, expected a number",
                hint="?statement_cache_size=0 behind a pooler in transaction mode",
            )
        secret = f":{parts.password}@" if parts.password else "@"
        shown = urlunsplit(
            (parts.scheme, parts.netloc.replace(secret, ":***@" if parts.password else "@"), parts.path, "", "")
        )
        # urlunsplit drops the empty host part that a socket's URL may have.
        bare = urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(kept, safe="/"), ""))
        return cls(bare, shown, int(wanted))

    def __str__(self) -> str:
        return self.shown


async def connect(
    address: Address,
    *,
    settings: Mapping[str, str] | None = None,
    plain: bool = False,
    answer: float = STATEMENT_SECONDS,
) -> Any:
    """Open one connection.

    Args:
        settings: more start-up settings.
        plain: without ours, as for people's questions: their plans are PostgreSQL's to choose.
        answer: seconds a statement may take.

    Raises:
        StoreUnavailable: nobody answers there, or we are not let in.
    """
    wanted = {**({"application_name": "longcase"} if plain else _SETTINGS), **(settings or {})}
    try:
        try:
            return await _connect(address, wanted, answer)
        except asyncpg.ProtocolViolationError:  # a pooler that takes no settings at start-up
            return await _connect(address, {}, answer)
    except (asyncpg.PostgresError, *_UNTRUSTED, ValueError) as error:
        raise our_error(error, address) from error


async def _connect(address: Address, settings: dict[str, str], answer: float) -> Any:
    return await asyncpg.connect(
        address.url,
        timeout=CONNECT_SECONDS,
        command_timeout=answer,
        statement_cache_size=address.statements,
        server_settings=settings or None,
    )


class Pool:
    """A few connections, opened as they are needed. Not asyncpg's pool: that one resets sessions, a trip each time."""

    def __init__(
        self, address: Address, size: int, *, settings: Mapping[str, str] | None = None, plain: bool = False
    ) -> None:
        self._address = address
        self._settings = settings
        self._plain = plain
        self._free: list[Any] = []
        self._all: set[Any] = set()
        self._room = asyncio.Semaphore(size)
        self._closed = False
        self.relatives: tuple[Pool, ...] = ()  # pools of the same server
        self.losses = 0  # connections that broke: what was learnt over them may be of a server that is gone

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Any]:
        """Lend a connection. One that is left in a transaction, or in doubt, is not lent again."""
        async with self._room:
            connection = await self._take()
            try:
                yield connection
            except BaseException as error:
                await self._look_after(connection, error)
                raise
            else:
                self._give_back(connection)

    async def _take(self) -> Any:
        if self._closed:
            raise StoreUnavailable(f"the store {self._address} is closed", hint="open it again")
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
            self._lost(connection)
        answer = STATEMENT_SECONDS if self._plain else ANSWER_SECONDS
        connection = await connect(self._address, settings=self._settings, plain=self._plain, answer=answer)
        self._all.add(connection)
        return connection

    def _give_back(self, connection: Any) -> None:
        if connection.is_closed() or connection.is_in_transaction() or self._closed:
            self._lost(connection)
        else:
            self._free.append(connection)

    async def _look_after(self, connection: Any, error: BaseException) -> None:
        if isinstance(error, TimeoutError):  # half open, perhaps, and then those that are idle are too
            self._lost(connection)
            for pool in (self, *self.relatives):
                pool.distrust()
            return
        if isinstance(error, Exception) and not connection.is_closed() and connection.is_in_transaction():
            with suppress(Exception):  # it is closed below if that did not work
                await connection.execute("ROLLBACK", timeout=CONNECT_SECONDS)
        self._give_back(connection)

    def distrust(self) -> None:
        """Drop the connections that nobody uses: what they lead to does not answer."""
        while self._free:
            self._lost(self._free.pop())

    def _lost(self, connection: Any) -> None:
        self._all.discard(connection)
        self.losses += 1
        connection.terminate()

    async def close(self) -> None:
        """Close every connection; those that are lent are cut."""
        self._closed = True
        for connection in list(self._all):
            self._all.discard(connection)
            if connection in self._free:
                with suppress(Exception):  # it is gone either way
                    await connection.close(timeout=1.0)
            connection.terminate()
        self._free.clear()


def own_fault(error: BaseException) -> bool:
    """Tell whether an error is of what was to be written, not of the connection or the server."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in ("22", "23", "42", "54", "P0") and error.sqlstate != "42501"
    return isinstance(error, asyncpg.DataError | LongcaseError)


def of_the_store(error: BaseException) -> bool:
    """Tell whether an error is of the connection or the server: what was under way is lost or unknown."""
    return isinstance(error, (asyncpg.PostgresError, *_UNTRUSTED)) and not own_fault(error)


def collided(error: BaseException) -> bool:
    """Tell whether a transaction was rolled back because of another one, and may be run again."""
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate in ("40001", "40P01", "55P03")


def our_error(error: BaseException, address: Address | str) -> BaseException:
    """Return the error a caller gets for what asyncpg raised; other errors come back as they are."""
    if isinstance(error, LongcaseError):
        return error
    if isinstance(error, asyncpg.DataError):
        return InvalidInput(f"the data cannot be kept: {error}", reason="not_storable")
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
        return _of_the_server(error, str(error.sqlstate), address)
    if isinstance(error, (asyncpg.PostgresError, *_UNTRUSTED)):
        return StoreUnavailable(
            f"the store {address} does not answer ({type(error).__name__}: {error}); what was under way is unknown",
            hint="look whether PostgreSQL runs, then read the case again before repeating",
        )
    return error


def _of_the_server(error: asyncpg.PostgresError, state: str, address: Address | str) -> LongcaseError:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    match state[:2], state:
        case _, "53100":
            return StorageFull(
                f"the disk of the store {address} is full; nothing was half-written", hint="free space on the server"
            )
        case _, "53300":
            return StoreUnavailable(
                f"the store {address} takes no more connections: {said}",
                hint="raise max_connections, or put a pooler in between",
            )
        case _, "25006":
            return StoreUnavailable(
                f"the store {address} is read-only (a standby?): {said}", hint="point the URL at the primary"
            )
        case _, "3D000":
            return StoreUnavailable(f"there is no such database: {said}", hint="createdb NAME, then longcase migrate")
        case _, "42501":
            return StoreUnavailable(
                f"this role may not do that in the store {address}: {said}", hint="grant it the rights of its part"
            )
        case "28", _:
            return StoreUnavailable(f"the store {address} does not let us in: {said}", hint="mend user or password")
        case _, "XX001" | "XX002":
            return StoreCorrupt(f"the store {address} is damaged: {said}", hint="restore a backup, longcase verify")
        case "22", _:
            return InvalidInput(f"the data cannot be kept: {said}", reason="not_storable")
        case ("08", _) | (_, "57P01" | "57P02"):
            return StoreUnavailable(
                f"the connection to the store {address} was lost ({said}); what was under way is unknown",
                hint="look whether PostgreSQL runs, then read the case again before repeating",
            )
        case (("40" | "53" | "55" | "57" | "58"), _):
            return StoreUnavailable(f"the store {address} cannot serve now: {said}", hint="longcase doctor")
    return BugError(f"the store {address} refused a statement of ours: {type(error).__name__} ({state}): {said}")


def setting_of(name: str, default: float) -> float:
    """Return a number from the environment.

    Raises:
        UsageError: it is not a positive number.
    """
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 < value < 86_400:
        raise UsageError(f"{name}={text!r}, expected seconds above 0 and below 86400", hint=f"{name}={default:g}")
    return value
