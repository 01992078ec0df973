"""A transaction of the user's on a connection of its own: their function, in a thread, has the loop do its statements.

The row of the case is locked only at the end, when the outcome is written: other turns of a batch do not wait
for a function of the user's. COMMIT is sent under that lock, so that whoever gets it after a lost answer knows.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import cache
from threading import get_ident
from typing import Any, Final

import asyncpg

from longcase.errors import CaseNotFound, StatementRefused, UsageError
from longcase.store.apart import Unit, Use, ends_it, not_yours, of_the_session, own_names
from longcase.store.postgres import migrate
from longcase.store.postgres.editing import edit
from longcase.store.postgres.fence import OPEN
from longcase.store.postgres.sheet import Sheet, Wanted
from longcase.store.postgres.statement import flush
from longcase.store.records import CaseRef, Locked

TRANSACTIONS: Final = 4  # of the user's at once, in one process
IDLE_MS: Final = 10_000  # after which the server ends one whose process stands still
STATEMENT_MS: Final = 10_000  # for one statement; the function's own limit is shorter

_COMMENT: Final = re.compile(r"\s+|--[^\n]*|/\*.*?\*/", re.DOTALL)
_WORD: Final = re.compile(r"[A-Za-z]+")
# About the transaction, and about the session. The driver sends one statement at a time, so its first word tells.
_ENDS_IT: Final = frozenset(
    {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "PREPARE"}
)  # fmt: skip
_OF_THE_SESSION: Final = frozenset(
    {
        "SET", "RESET", "DISCARD", "LISTEN", "UNLISTEN", "VACUUM", "DEALLOCATE", "DECLARE", "CLUSTER", "CHECKPOINT",
        "LOAD",
    }
)  # fmt: skip
_BOUNDS: Final = """
SELECT set_config('statement_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true)
"""
# What a statement did to a table is told by the lock it took, which is kept until the transaction ends: those for
# reading are the two weakest. One query tells of changed rows, of TRUNCATE and of DDL.
_OUR_TABLES: Final = """
SELECT oid, relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname = ANY($1::text[])
"""
_LOCKED: Final = """
SELECT relation FROM pg_locks AS l
WHERE locktype = 'relation' AND pid = pg_backend_pid() AND mode NOT IN ('AccessShareLock', 'RowShareLock')
  AND (relation = ANY($1::oid[])
       OR EXISTS (SELECT FROM pg_class WHERE oid = l.relation AND relnamespace = pg_my_temp_schema()))
ORDER BY relation
"""
_TRIGGER: Final = re.compile(r"^CREATE TRIGGER \w+ [^;]*? ON (\w+)\s[^;]*?EXECUTE FUNCTION (\w+)", re.MULTILINE)
_OUR_PLANS: Final = """
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('plan_cache_mode', 'force_generic_plan', true)
"""


@cache
def _own() -> tuple[str, ...]:
    return tuple(sorted(own_names(migrate.migrations())))


@cache
def _guarded() -> dict[str, str]:
    """Return which table each of our triggers' functions guards."""
    return {function: table for one in migrate.migrations() for table, function in _TRIGGER.findall(one.sql)}


async def run_apart(connection: Any, unit: Unit, now: Callable[[], str], salt: Callable[[], str]) -> None:
    """Do everything between BEGIN and COMMIT."""
    await connection.fetch(_BOUNDS, str(STATEMENT_MS), str(IDLE_MS))
    ours = dict(await connection.fetch(_OUR_TABLES, _own()))
    await _admit(connection, unit, Sheet(now(), salt))
    statements = Statements(connection, asyncio.get_running_loop())
    try:
        await unit.work.run(statements)
    except BaseException:
        await statements.interrupt()
        unit.spoilt_by = statements.error
        raise
    unit.spoilt_by = statements.error
    statements.end()
    for (table,) in await connection.fetch(_LOCKED, list(ours)):
        raise not_yours(ours[table]) if table in ours else of_the_session("CREATE TEMP")
    await connection.fetch(_OUR_PLANS)
    sheet = Sheet(now(), salt)
    await sheet.read(connection, Wanted({unit.case_no}), lock=True, inboxes=True)
    edit(sheet, CaseRef(unit.case_no), unit.record, None)
    if not all(await flush(connection, sheet.drafts(), OPEN)):
        raise CaseNotFound(
            f"case {unit.case_no} has gone while a transaction of it was under way", hint="longcase list"
        )


async def _admit(connection: Any, unit: Unit, sheet: Sheet) -> None:
    """Look, without a lock, whether it is worth beginning."""
    await sheet.read(connection, Wanted({unit.case_no}), lock=False, inboxes=True)
    held = sheet.case(unit.case_no)
    unit.work.admit(Locked(unit.case_no, held.row.state, max(sheet.now, held.row.state.at), lambda: held.pending))


async def happened(connection: Any, unit: Unit) -> bool:
    """Tell whether a unit whose COMMIT had no answer is there.

    Its lock on the case's row is waited for first: nothing of it can still be under way afterwards.
    """
    seq, salt = unit.mark
    async with connection.transaction():
        await connection.execute("SELECT FROM cases WHERE case_no = $1 FOR NO KEY UPDATE", unit.case_no)
        asked = "SELECT 1 FROM history WHERE case_no = $1 AND seq = $2 AND salt = $3"
        return await connection.fetchval(asked, unit.case_no, seq, salt) is not None


class Statements:
    """`store.port.Statements` over a connection that another thread's event loop drives."""

    inline = False

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._use = Use()
        self._loops_own = get_ident()
        self._running: asyncio.Task[Any] | None = None

    @property
    def error(self) -> BaseException | None:
        """What the first statement that failed has raised."""
        return self._use.error

    def execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._ask(sql, lambda: self._connection.fetch(sql, *values))]

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        given = [tuple(row) for row in rows]
        self._ask(sql, lambda: self._connection.executemany(sql, given))

    def _ask(self, sql: str, send: Callable[[], Awaitable[Any]]) -> Any:
        if get_ident() == self._loops_own:
            raise UsageError(
                "a transaction on PostgreSQL was used on the event loop's own thread, which it would wait for",
                hint="use tx in the function it was given to",
            )
        with self._use.statement():
            word = _first_word(sql)
            if word in _ENDS_IT:
                raise ends_it(word)
            if word in _OF_THE_SESSION:
                raise of_the_session(word)
            try:
                return asyncio.run_coroutine_threadsafe(self._send(send), self._loop).result()
            except CancelledError as error:
                raise RuntimeError("the statement was cut off") from error
            except asyncpg.RaiseError as error:
                if (refusal := _refused_by_a_trigger(error)) is not None:
                    raise refusal from error
                raise

    async def _send(self, send: Callable[[], Awaitable[Any]]) -> Any:
        if self._use.over:
            raise asyncio.CancelledError
        self._running = asyncio.current_task()
        try:
            return await send()
        finally:
            self._running = None

    async def interrupt(self) -> None:
        """End its use and the statement that runs now; returns when none does."""
        self._use.over = True
        if self._running is not None:
            self._running.cancel()
            with suppress(Exception):
                await asyncio.wait({self._running})

    def end(self) -> None:
        """End its use; raises the error of a statement that failed. No statement runs: its function has returned."""
        self._use.over = True
        if self._use.error is not None:
            raise self._use.error


def _first_word(sql: str) -> str:
    place = 0
    while (skipped := _COMMENT.match(sql, place)) is not None:
        place = skipped.end()
    word = _WORD.match(sql, place)
    return word[0].upper() if word is not None else ""


def _refused_by_a_trigger(error: asyncpg.RaiseError) -> StatementRefused | None:
    """Return the refusal that a trigger of ours meant; None for a trigger of somebody else's."""
    where = str(getattr(error, "context", None) or "")
    for function, table in _guarded().items():
        if f" {function}()" in where:
            return not_yours(table)
    return None
