"""Connections to one PostgreSQL database: how they are opened, pooled, and what its errors mean to a caller.

Nothing is kept in a session (no SET, no LISTEN, no session lock), so that a pooler in transaction mode
may stand in between. A pooler that refuses our start-up settings is connected to without them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import field
from ssl import SSLError
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

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
from longcase.record import record
from longcase.store.postgres.options import CACHED_STATEMENTS, CONNECT_SECONDS, read_options

TRANSACTION_SECONDS: Final = 60.0  # of one that writes, where the server can end it (17 and newer)
ENDS_TRANSACTIONS: Final = 17  # the first major version that has `transaction_timeout`
STATEMENT_SECONDS: Final = 60.0  # of ours; questions have a shorter bound of their own
ANSWER_SECONDS: Final = 10.0  # for a statement of a pool: longer than this, the line counts as dead
QUEUE_SECONDS: Final = 20.0  # for a connection of a pool to come free, where all are lent
OLDEST: Final = 14  # the oldest major version we run on

_SETTINGS: Final = {
    "application_name": "longcase",
    "timezone": "UTC",
    "statement_timeout": str(int(STATEMENT_SECONDS * 1000)),
    "idle_in_transaction_session_timeout": "30000",  # a process that hangs inside a transaction gives its locks up
    "jit": "off",
    # Our statements go by keys. Their plans are kept, and were perhaps made while the tables were empty.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",  # it reads all that is due, and sorts it, for the few that one claim takes
    # They take arrays, for which PostgreSQL would plan anew at every use: a quarter of the server's time.
    "plan_cache_mode": "force_generic_plan",
}
_STORABLE: Final = "leave out what no text holds (NUL, half a surrogate pair); numbers stay within 64 bits"
_UNTRUSTED: Final = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncio.TimeoutError)
_PLACES: Final = ("host", "port", "dbname", "user", "service")  # options that say where it is, and no secret
Connection = asyncpg.Connection  # the type; asyncpg has no generic one


@record
class Address:
    """Where a database is, and how its connections are to be made."""

    url: str  # as asyncpg takes it
    shown: str  # without the secret
    statements: int = CACHED_STATEMENTS  # prepared statements kept by a connection; 0 behind an old pooler
    patience: float = CONNECT_SECONDS
    settings: Mapping[str, str] = field(default_factory=dict)  # of the session, as the URL has them

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL: what libpq takes, and `statement_cache_size=0` for a pooler without prepared statements.

        A password may hold an @ as it is; where it has cut the URL in the wrong place, nothing of it is shown.

        Raises:
            UsageError: it names no PostgreSQL database, or an option is not taken.
        """
        try:
            parts = urlsplit(url)
            _ = parts.port  # a ValueError unless it is a number that ports have
        except ValueError:  # its text would show what was taken for the port: a part of a password, perhaps
            raise _unreadable("its port is no number") from None
        if parts.scheme not in ("postgresql", "postgres"):
            raise UsageError(
                f"a database's URL begins with {parts.scheme!r}, expected postgresql",
                hint="LONGCASE_DATABASE_URL=postgresql://user@host/database; LONGCASE_LISTEN_URL likewise",
            )
        if parts.fragment or "@" in parts.path + parts.query:
            raise _unreadable("it has an @ or a # behind its host")
        options = read_options(parts.query)
        user, at, host = parts.netloc.rpartition("@")
        name, colon, password = user.partition(":")
        where = urlencode([(option, value) for option, value in options.driver if option in _PLACES], safe="/,")
        shown = f"{parts.scheme}://{name}{':***' if password else ''}{at}{host}{parts.path}{where and '?'}{where}"
        # The driver ends the user part at the first @, and would look for a host that has the rest of a password.
        user = f"{_escaped(name)}{colon}{_escaped(password)}"
        query = f"?{urlencode(options.driver, safe='/')}" if options.driver else ""
        bare = f"{parts.scheme}://{user}{at}{host}{parts.path}{query}"
        return cls(bare, shown, options.statements, options.patience, options.settings)

    @property
    def demands_tls(self) -> bool:
        """Whether a connection without TLS is none."""
        mode = dict(parse_qsl(urlsplit(self.url).query)).get("sslmode") or os.environ.get("PGSSLMODE", "")
        return mode in ("require", "verify-ca", "verify-full")

    def __str__(self) -> str:
        return self.shown


def _escaped(text: str) -> str:
    return quote(unquote(text), safe="")


def _unreadable(why: str) -> UsageError:
    return UsageError(
        f"the store's URL cannot be read: {why}, or its password has a character that must be escaped",
        hint="postgresql://user:password@host:5432/database; write @ : / ? # % [ ] in a password as "
        "%40 %3A %2F %3F %23 %25 %5B %5D",
    )


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
        UsageError: the driver or the server refuses what the URL says.
    """
    ours = {"application_name": "longcase"} if plain else _SETTINGS
    try:
        try:
            return await _connect(address, {**ours, **(settings or {}), **address.settings}, answer)
        except asyncpg.ProtocolViolationError:  # a pooler that takes no settings at start-up
            return await _connect(address, dict(address.settings), answer)
    except asyncpg.ClientConfigurationError as error:
        raise UsageError(
            f"no connection can be made by the store's URL and the environment: {error}",
            hint="mend that part of the URL, or the variable PG... it comes from",
        ) from error
    except (asyncpg.PostgresError, *_UNTRUSTED) as error:
        if own_fault(error):
            raise UsageError(
                f"the server refuses a setting in the URL of the store {address}: {error}",
                hint="look at ?options= and at the role's settings (ALTER ROLE)",
            ) from error
        raise our_error(error, address, changing=False) from error


async def _connect(address: Address, settings: dict[str, str], answer: float) -> Any:
    return await asyncpg.connect(
        address.url,
        timeout=address.patience,
        command_timeout=answer,
        statement_cache_size=address.statements,
        server_settings=settings or None,
    )


class Pool:
    """A few connections, opened as they are needed. Not asyncpg's pool: that one resets sessions, a trip each time."""

    def __init__(
        self, address: Address, size: int, *, settings: Mapping[str, str] | None = None, plain: bool = False,
        lent_for_long: bool = False,
    ) -> None:  # fmt: skip
        """Make a pool; nothing is opened yet.

        Args:
            lent_for_long: a connection may be lent for as long as it takes, so one that waits is not told to give up.
        """
        self._address = address
        self._size = size
        self._lent_for_long = lent_for_long
        self._settings = dict(settings or {})
        self._plain = plain
        self._free: list[Any] = []
        self._all: set[Any] = set()
        self._room = asyncio.Semaphore(size)
        self._closed = False
        self.relatives: tuple[Pool, ...] = ()  # pools of the same server
        self.losses = 0  # connections that broke: what was learnt over them may be of a server that is gone

    def bound_transactions(self, seconds: float) -> None:
        """Let the server end transactions that last longer, on connections that are still to be opened.

        The other bounds do not see a process that was stopped between the parts of one statement: its session
        is neither idle nor at work, and keeps its locks for as long as the process stands still.
        """
        self._settings["transaction_timeout"] = str(int(seconds * 1000))

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Any]:
        """Lend a connection. One that is left in a transaction, or in doubt, is not lent again."""
        if self._room.locked():
            await self._line_up()
        else:
            await self._room.acquire()
        try:
            connection = await self._take()
            try:
                yield connection
            except BaseException as error:
                await self._look_after(connection, error)
                raise
            else:
                self._give_back(connection)
        finally:
            self._room.release()

    async def _line_up(self) -> None:
        """Wait until a connection comes free; a caller is told where none does."""
        try:
            async with asyncio.timeout(None if self._lent_for_long else QUEUE_SECONDS):
                await self._room.acquire()
        except TimeoutError:
            raise StoreUnavailable(
                f"the store {self._address} is busy: each of the {self._size} connections for this has been in use for "
                f"{QUEUE_SECONDS:g} s; nothing was sent",
                hint="try again; if that comes often, longcase doctor, and look what the server is waiting for",
            ) from None

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
        if isinstance(error, asyncpg.InternalClientError):  # the server has ended it, which is about to be noticed
            self._lost(connection)
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


def our_error(error: BaseException, address: Address | str, *, changing: bool = True) -> BaseException:
    """Return the error a caller gets for what asyncpg raised; other errors come back as they are.

    Args:
        changing: something was perhaps being written; of a mere question nothing is left in doubt.
    """
    if isinstance(error, LongcaseError):
        return error
    if isinstance(error, asyncpg.DataError):
        return InvalidInput(f"the data cannot be kept: {error}", reason="not_storable", hint=_STORABLE)
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
        return _of_the_server(error, str(error.sqlstate), address, changing)
    tls = _without_tls(error, address)
    if tls is not None:
        return tls
    if isinstance(error, (asyncpg.PostgresError, *_UNTRUSTED)):
        why = f"{type(error).__name__}: {error}" if str(error) else "nothing came in time"
        return _lost(f"the store {address} does not answer ({why})", changing)
    return error


def _without_tls(error: BaseException, address: Address | str) -> StoreUnavailable | None:
    """Tell what TLS, and not the server's absence, stood in the way of; asyncpg has no error of its own for it."""
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        if isinstance(address, Address) and not address.demands_tls:  # a server would have gone on without it
            return StoreUnavailable(
                f"what answers at the store {address} is no PostgreSQL server", hint="look at host and port of the URL"
            )
        return StoreUnavailable(
            f"the server of the store {address} speaks no TLS, and the URL asks for it (sslmode)",
            hint="turn it on there (ssl = on in postgresql.conf), or write ?sslmode=prefer where the line is trusted",
        )
    if isinstance(error, SSLError):
        return StoreUnavailable(
            f"no TLS with the server of the store {address}: {getattr(error, 'reason', None) or error}",
            hint="give the authority that signed its certificate: ?sslmode=verify-full&sslrootcert=/path/to/ca.crt",
        )
    return None


def _lost(message: str, changing: bool) -> StoreUnavailable:
    if changing:
        return StoreUnavailable(
            f"{message}; what was under way is unknown",
            hint="look whether PostgreSQL runs, then read the case again before repeating",
        )
    return StoreUnavailable(message, hint="look whether PostgreSQL runs there, and at host and port of the URL")


def _of_the_server(error: asyncpg.PostgresError, state: str, address: Address | str, changing: bool) -> LongcaseError:
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
                f"this role may not do that in the store {address}: {said}",
                hint="grant it the rights of its part: longcase_viewer to look, longcase_api to change a case",
            )
        case "28", _:
            return StoreUnavailable(f"the store {address} does not let us in: {said}", hint="mend user or password")
        case _, "XX001" | "XX002":
            return StoreCorrupt(f"the store {address} is damaged: {said}", hint="restore a backup, longcase verify")
        case "22", _:
            return InvalidInput(f"the data cannot be kept: {said}", reason="not_storable", hint=_STORABLE)
        case ("08", _) | (_, "57P01" | "57P02"):
            return _lost(f"the connection to the store {address} was lost ({said})", changing)
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
