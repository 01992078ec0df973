"""The SQLite store: the port of `store.port`, on one file, for several processes of one machine.

Writes go through `commit`; reads go straight to a second connection on the caller's thread (a few
microseconds each) and see every commit that was answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from longcase.backoff import Backoff
from longcase.env import Env
from longcase.errors import NotFoundError, StoreCorrupt, UnavailableError
from longcase.history.event import Event
from longcase.history.state import CaseState
from longcase.model.codec import Json
from longcase.store import rows
from longcase.store.apart import Unit
from longcase.store.auditing import folded_row, folded_tasks, rebuilt
from longcase.store.kept import kept, something
from longcase.store.port import Apart
from longcase.store.records import (
    CaseRef,
    CaseRow,
    CaseWrite,
    Decide,
    DedupKey,
    Exported,
    Input,
    NewCase,
    Purge,
    Purged,
    Started,
    Stored,
    Written,
)
from longcase.store.rows import text_of
from longcase.store.sqlite import auditing, keeping, settings
from longcase.store.sqlite.apart import happened
from longcase.store.sqlite.base import Options
from longcase.store.sqlite.connection import MEMORY
from longcase.store.sqlite.editing import edit
from longcase.store.sqlite.fleet import Fleet
from longcase.store.sqlite.transaction import INBOX, Transaction, inputs
from longcase.store.unit import WriteUnit

T = TypeVar("T")
log = logging.getLogger("longcase.store")

_BY_KEY: Final = f"""
{rows.SELECT_CASE} WHERE tenant = ? AND workflow = ? AND key = ? ORDER BY status = 'open' DESC, case_no DESC LIMIT 1
"""
_THOSE: Final = f"{rows.SELECT_CASE} WHERE case_no IN (SELECT value FROM json_each(?))"
_RANGES: Final = f"""
WITH wanted (wanted_case, first, last) AS (
    SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)
)
SELECT case_no, {rows.EVENT_COLUMNS_AS_BYTES}
FROM wanted JOIN history ON case_no = wanted_case AND seq BETWEEN first AND last
ORDER BY case_no, seq
"""
_INBOXES: Final = """
SELECT case_no, {columns} FROM inbox WHERE case_no IN (SELECT value FROM json_each(?)) ORDER BY no
"""
_FIND_MAP: Final = "SELECT number FROM maps WHERE workflow = ? AND fingerprint = ?"
_NEWEST_MAP: Final = "SELECT CAST(graph AS BLOB) FROM maps WHERE workflow = ? ORDER BY number DESC LIMIT 1"
_ADD_MAP: Final = """
INSERT INTO maps (workflow, fingerprint, graph, first_seen) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_VISIT_BEGIN: Final = """
SELECT coalesce(min(seq), 1) FROM history INDEXED BY history_visits
WHERE case_no = ? AND visit = ? AND type = 'stage_entered'
"""


async def open_sqlite(
    path: str,
    env: Env,
    *,
    inline: bool = False,
    create: bool = True,
    synchronous: str = "FULL",
    faults: str | None = None,
) -> SqliteStore:
    """Open the store at `path`, creating it if it is not there.

    Args:
        path: the file, or ":memory:" for a store that lives as long as this object.
        env: clock, randomness and ids.
        inline: finish every method without suspending, in the caller's thread.
        create: make the store if there is none.
        synchronous: FULL survives a power cut; NORMAL does not, and is for tests and trials only.
        faults: the name of a registered apsw VFS that the file is opened through; for tests of disk faults.

    Raises:
        StoreUnavailable: no such directory, no right to it, locked, or a network file system.
        StoreCorrupt: damaged, or somebody else's database.
        SchemaMismatch: its schema is older or newer than this release's.
    """
    return SqliteStore(path, env, Options(inline, create, synchronous, faults))


class SqliteStore(Fleet):
    """Cases in one SQLite file. Made by `open_sqlite`."""

    def __init__(self, path: str, env: Env, how: Options) -> None:
        super().__init__(path, env, how)
        self._closed = False

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            for worker in self._locks.held:
                await self.leave(worker)
        finally:
            await self._committer.close()
            self._questions.close()
            with self._reading:
                if self._reader is not None:
                    self._reader.close()

    # -- writing ---------------------------------------------------------------------------------

    async def start(self, new: Sequence[NewCase]) -> list[Started]:
        def unit(tx: Transaction) -> list[Started]:
            return [tx.start(item) for item in new]

        return await self._committer.run(unit)

    async def write(self, writes: Sequence[CaseWrite], *, partial: bool = False) -> list[Written]:
        if not writes:
            return []
        return await self._committer.write(WriteUnit(writes, self._env.salt, partial=partial))

    async def edit(self, ref: CaseRef, decide: Decide[T], dedup: DedupKey | None = None) -> T:
        def unit(tx: Transaction) -> tuple[T, Exception | None]:
            return edit(tx, ref, decide, dedup)

        result, refusal = await self._committer.run(unit)
        if refusal is not None:
            raise refusal
        return result

    @property
    def holds_tables(self) -> bool:
        return self.path != MEMORY

    async def transact(self, case_no: int, work: Apart) -> None:
        unit = Unit(case_no, work)
        try:
            await self._committer.apart(unit)
        except UnavailableError:
            if not unit.committing or not await self._happened(unit):
                raise

    async def _happened(self, unit: Unit) -> bool:
        backoff = Backoff(self._env.random.random)
        while True:
            try:
                return await self._committer.run(lambda tx: happened(tx, unit))
            except UnavailableError as error:
                if self._inline or self._closed or not error.retryable:
                    raise
                log.warning("a transaction waits for the answer whether it was committed: %s", error.message)
            await backoff.pause()

    async def settle(self) -> None:
        """Nothing is under way here: a commit has happened or not when its error is raised."""

    # -- reading one case --------------------------------------------------------------------------

    async def load(self, ref: CaseRef) -> CaseRow | None:
        if ref.case_no:
            found = self._read(f"{rows.SELECT_CASE} WHERE case_no = ?", (ref.case_no,))
        else:
            found = self._read(_BY_KEY, (ref.tenant, ref.workflow, ref.key))
        return rows.case_from(found[0]) if found else None

    async def load_many(self, cases: Sequence[int]) -> dict[int, CaseRow]:
        loaded: dict[int, CaseRow] = {}
        try:
            found = self._read(_THOSE, (text_of(list(cases), "cases"),))
        except StoreCorrupt as error:
            if not isinstance(error.__cause__, UnicodeDecodeError):
                raise
            found = []
            for case_no in cases:  # one of them has text that is no UTF-8: the others are read without it
                try:
                    found += self._read(_THOSE, (text_of([case_no], "cases"),))
                except StoreCorrupt as damage:
                    if (mended := await rebuilt(self, case_no, damage)) is not None:
                        loaded[case_no] = mended
        for row in found:
            case: CaseRow | None
            try:
                case = rows.case_from(row)
            except StoreCorrupt as error:
                case = await rebuilt(self, row[-2], error)
            if case is not None:
                loaded[case.case_no] = case
        return loaded

    async def events(
        self,
        case_no: int,
        *,
        after: int = 0,
        until: int | None = None,
        visit: int | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        sql = f"SELECT {rows.EVENT_COLUMNS_AS_BYTES} FROM history WHERE case_no = ? AND seq > ?"
        parameters: list[Any] = [case_no, after]
        if visit is not None:
            if visit:
                # A visit's events begin at its stage_entered: nothing older is read (B2).
                begin = self._read(_VISIT_BEGIN, (case_no, visit))[0][0]
                parameters[1] = max(after, begin - 1)
            sql += " AND visit = ?"
            parameters.append(visit)
        if until is not None:
            sql += " AND seq <= ?"
            parameters.append(until)
        sql += " ORDER BY seq"
        if limit is not None:
            sql += " LIMIT ?"
            parameters.append(limit)
        return [rows.event_from(row) for row in self._read(sql, parameters)]

    async def ranges(self, wanted: Sequence[tuple[int, int, int]]) -> dict[int, list[Event]]:
        found: dict[int, list[Event]] = {case_no: [] for case_no, _, _ in wanted}
        for case_no, *row in self._read(_RANGES, (text_of([list(one) for one in wanted], "cases"),)):
            found[case_no].append(rows.event_from(tuple(row)))
        return found

    async def event(self, case_no: int, seq: int) -> Event:
        found = self._read(
            f"SELECT {rows.EVENT_COLUMNS_AS_BYTES} FROM history WHERE case_no = ? AND seq = ?", (case_no, seq)
        )
        if not found:
            raise NotFoundError(f"case {case_no} has no event {seq}")
        return rows.event_from(found[0])

    async def inbox(self, case_no: int) -> list[Input]:
        return [rows.input_from(row) for row in inputs(self._read, INBOX, (case_no,))]

    async def inboxes(self, cases: Sequence[int]) -> dict[int, list[Input]]:
        found: dict[int, list[Input]] = {case_no: [] for case_no in cases}
        for case_no, *row in inputs(self._read, _INBOXES, (text_of(list(cases), "cases"),)):
            found[case_no].append(rows.input_from(tuple(row)))
        return found

    # -- maps ----------------------------------------------------------------------------------------

    async def map_number(self, workflow: str, fingerprint: str, graph: Json, nodes: Sequence[str]) -> int:
        known = self._read(_FIND_MAP, (workflow, fingerprint))
        if known:
            return int(known[0][0])

        def unit(tx: Transaction) -> int:
            tx.execute(_ADD_MAP, (workflow, fingerprint, text_of(graph, "the map"), tx.now))
            number: int = tx.execute(_FIND_MAP, (workflow, fingerprint)).get
            tx.cursor.executemany("INSERT OR IGNORE INTO map_nodes VALUES (?, ?)", [(number, node) for node in nodes])
            return number

        return await self._committer.run(unit)

    async def newest_map(self, workflow: str) -> Json:
        found = self._read(_NEWEST_MAP, (workflow,))
        return kept(found[0][0], f"the newest map of {workflow}", something) if found else None

    # -- settings ------------------------------------------------------------------------------------

    async def setting(self, name: str) -> Json:
        """Return a fact of the store itself, None if it was never set."""
        return settings.read(self._read, name)

    async def set_setting(self, name: str, value: Json) -> None:
        """Set a fact of the store itself."""
        await self._committer.run(lambda tx: settings.write(tx, name, value))

    # -- asking ---------------------------------------------------------------------------------------

    async def query(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> list[dict[str, Any]]:
        if self._inline:
            return self._questions.ask(sql, parameters)
        return await asyncio.to_thread(self._questions.ask, sql, parameters)

    # -- auditing -------------------------------------------------------------------------------------

    async def stored(self, after: int, limit: int) -> list[Stored]:
        return await self._ask(lambda read: auditing.stored(read, after, limit))

    def folded_row(self, state: CaseState) -> dict[str, Json]:
        return folded_row(state)

    def folded_tasks(self, state: CaseState) -> dict[str, dict[str, Json]]:
        return folded_tasks(state)

    async def broken_references(self) -> list[str]:
        return await self._ask(auditing.broken_references)

    async def rebuild(self, case_no: int) -> None:
        await self._committer.run(lambda tx: auditing.rebuild(tx, case_no))

    # -- keeping --------------------------------------------------------------------------------------

    async def keep_receipt(self, export: Exported) -> int:
        return await self._committer.run(lambda tx: keeping.keep_receipt(tx, export))

    async def purge(self, what: Purge) -> list[Purged]:
        return await self._committer.run(lambda tx: keeping.purge(tx, what))
