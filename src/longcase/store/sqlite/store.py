"""The SQLite store: the port of `store.port`, on one file, for several processes of one machine.

Writes go through `commit`; reads go straight to a second connection on the caller's thread (a few
microseconds each) and see every commit that was answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import apsw

from longcase.env import Env
from longcase.errors import LongcaseError, NotFoundError, UsageError, WorkerForgotten
from longcase.history.event import Event, instant_text
from longcase.history.state import CaseState
from longcase.model.codec import Json
from longcase.store import rows
from longcase.store.auditing import folded_row, folded_tasks
from longcase.store.port import (
    CaseRef,
    CaseRow,
    CaseWrite,
    Decide,
    DedupKey,
    Exported,
    Heart,
    Input,
    NewCase,
    Purge,
    Purged,
    QueueLimits,
    Started,
    Stored,
    Taken,
    WorkerRow,
    Written,
)
from longcase.store.rows import text_of
from longcase.store.sqlite import auditing, keeping, migrate, queues, settings, workers
from longcase.store.sqlite.commit import Committer
from longcase.store.sqlite.connection import MEMORY, check_path, connect, mapped
from longcase.store.sqlite.editing import edit
from longcase.store.sqlite.reading import Questions
from longcase.store.sqlite.transaction import Transaction
from longcase.store.unit import WriteUnit

T = TypeVar("T")

_LIVE_FIRST: Final = "WHERE tenant = ? AND workflow = ? AND key = ? ORDER BY status = 'open' DESC, case_no DESC LIMIT 1"
_READY: Final = """
SELECT case_no FROM cases
WHERE wake_at <> '' AND wake_at <= ? AND (lease IN (0, ?) OR lease NOT IN (SELECT no FROM workers)) {only}
ORDER BY wake_at, case_no LIMIT ?
"""
_ONLY: Final = f"""
AND workflow IN (SELECT value FROM json_each(?)) AND NOT {queues.DECLINED.format(worker="?")}
"""
_LEASE: Final = "UPDATE cases SET lease = ? WHERE case_no IN (SELECT value FROM json_each(?))"
_RANGES: Final = f"""
WITH wanted (wanted_case, first, last) AS (
    SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)
)
SELECT case_no, {rows.EVENT_COLUMNS}
FROM wanted JOIN history ON case_no = wanted_case AND seq BETWEEN first AND last
ORDER BY case_no, seq
"""
_BEAT: Final = """
INSERT INTO heartbeats (case_no, call, attempt, details, at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET attempt = excluded.attempt, details = excluded.details, at = excluded.at
WHERE excluded.attempt >= heartbeats.attempt
"""
_NEXT_WAKE: Final = "SELECT coalesce(min(wake_at), '') FROM cases WHERE wake_at <> '' AND wake_at > ?"
_INBOX: Final = f"SELECT {rows.INPUT_COLUMNS} FROM inbox WHERE case_no = ? ORDER BY no"
_INBOXES: Final = f"""
SELECT case_no, {rows.INPUT_COLUMNS} FROM inbox WHERE case_no IN (SELECT value FROM json_each(?)) ORDER BY no
"""
_FIND_MAP: Final = "SELECT number FROM maps WHERE workflow = ? AND fingerprint = ?"
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
    return SqliteStore(path, env, inline=inline, create=create, synchronous=synchronous, faults=faults)


def _identity(path: str) -> tuple[int, int]:
    """Return what tells a file from another that takes its name."""
    if path == MEMORY:
        return 0, 0
    found = os.stat(path)
    return found.st_dev, found.st_ino


class SqliteStore:
    """Cases in one SQLite file. Made by `open_sqlite`."""

    def __init__(
        self, path: str, env: Env, *, inline: bool, create: bool, synchronous: str, faults: str | None
    ) -> None:
        check_path(path, create=create)
        if synchronous not in ("FULL", "NORMAL", "EXTRA"):
            raise UsageError(f"synchronous is FULL, EXTRA or NORMAL, got {synchronous!r}")
        self.path = path
        self._env = env
        self._inline = inline or path == MEMORY
        self._synchronous = synchronous
        self._vfs = faults
        self._version = 0
        self._closed = False
        self._locks = workers.Locks(path)
        self._reader: apsw.Connection | None = None
        self._reading = threading.Lock()  # inline: callers in several threads take turns
        with mapped(path):
            self._prepare(create)
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

    def _prepare(self, create: bool) -> None:
        """Bring a new file into being, or check the schema of an old one."""
        if self.path == MEMORY:
            self._memory = connect(MEMORY, create=True, synchronous=self._synchronous)
            migrate.migrate(self._memory, self._now())
            return
        connection = connect(self.path, create=create, synchronous=self._synchronous, vfs=self._vfs)
        try:
            if create and migrate.current(connection) == 0:
                migrate.migrate(connection, self._now(), self._env.signal_point)
            migrate.check(connection)
            settings.check_history_format(connection)
        finally:
            connection.close()

    def _connect(self) -> apsw.Connection:
        if self.path == MEMORY:
            return self._memory
        return connect(self.path, synchronous=self._synchronous, vfs=self._vfs)

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
            except apsw.IOError:
                # The file may be well again by the next read; this connection is not trusted any more.
                if self.path != MEMORY:
                    broken, self._reader = self._reader, None
                    broken.close(True)
                raise

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

    async def release(self, cases: Sequence[int], worker: int) -> None:
        def unit(tx: Transaction) -> None:
            tx.cursor.executemany(
                "UPDATE cases SET lease = 0 WHERE case_no = ? AND lease = ?", [(case_no, worker) for case_no in cases]
            )

        if cases:
            await self._committer.run(unit)

    # -- reading one case --------------------------------------------------------------------------

    async def load(self, ref: CaseRef) -> CaseRow | None:
        if ref.case_no:
            found = self._read(f"{rows.SELECT_CASE} WHERE case_no = ?", (ref.case_no,))
        else:
            found = self._read(f"{rows.SELECT_CASE} {_LIVE_FIRST}", (ref.tenant, ref.workflow, ref.key))
        return rows.case_from(found[0]) if found else None

    async def load_many(self, cases: Sequence[int]) -> dict[int, CaseRow]:
        found = self._read(
            f"{rows.SELECT_CASE} WHERE case_no IN (SELECT value FROM json_each(?))", (text_of(list(cases), "cases"),)
        )
        return {row.case_no: row for row in map(rows.case_from, found)}

    async def events(
        self,
        case_no: int,
        *,
        after: int = 0,
        until: int | None = None,
        visit: int | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        sql = f"SELECT {rows.EVENT_COLUMNS} FROM history WHERE case_no = ? AND seq > ?"
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
        found = self._read(f"SELECT {rows.EVENT_COLUMNS} FROM history WHERE case_no = ? AND seq = ?", (case_no, seq))
        if not found:
            raise NotFoundError(f"case {case_no} has no event {seq}")
        return rows.event_from(found[0])

    async def inbox(self, case_no: int) -> list[Input]:
        return [rows.input_from(row) for row in self._read(_INBOX, (case_no,))]

    async def inboxes(self, cases: Sequence[int]) -> dict[int, list[Input]]:
        found: dict[int, list[Input]] = {case_no: [] for case_no in cases}
        for case_no, *row in self._read(_INBOXES, (text_of(list(cases), "cases"),)):
            found[case_no].append(rows.input_from(tuple(row)))
        return found

    # -- moving --------------------------------------------------------------------------------------

    async def ready(self, now: str, worker: int, limit: int, workflows: Sequence[str] | None = None) -> list[int]:
        sql, parameters = _READY.format(only=""), [now, worker, limit]
        if workflows is not None:
            sql = _READY.format(only=_ONLY)
            parameters[2:2] = [text_of(list(workflows), "workflows"), worker]
        found = [row[0] for row in self._read(sql, parameters)]
        if not found or not worker or self._read("SELECT count(*) FROM workers")[0][0] < 2:
            return found

        def unit(tx: Transaction) -> list[int]:
            cases = [row[0] for row in tx.execute(sql, parameters)]
            tx.execute(_LEASE, (worker, text_of(cases, "cases")))
            return cases

        return await self._committer.run(unit)

    async def next_wake(self, after: str) -> str:
        return str(self._read(_NEXT_WAKE, (after,))[0][0])

    async def join(
        self, host: str, pid: int, *, codes: Mapping[str, str] | None = None, serves: Sequence[str] = ()
    ) -> int:
        taken: list[int] = []

        def unit(tx: Transaction) -> int:
            worker = workers.join(tx, self._locks, host, pid, codes or {}, serves)
            taken.append(worker)
            return worker

        try:
            return await self._committer.run(unit)
        except LongcaseError:
            for worker in taken:
                self._locks.drop(worker)
            raise

    async def leave(self, worker: int) -> None:
        def unit(tx: Transaction) -> None:
            workers.leave(tx, worker)

        await self._committer.run(unit)
        self._locks.drop(worker)

    def heart(self, worker: int) -> Heart | None:
        return None

    async def beat(self, worker: int) -> None:
        """Note that the incarnation is well. For the eye only: the lock says who is alive."""

        def unit(tx: Transaction) -> None:
            tx.execute("UPDATE workers SET beat_at = ? WHERE no = ?", (tx.now, worker))
            if not tx.cursor.connection.changes():  # its lock file was taken away, and others took it for dead
                raise WorkerForgotten(f"worker {worker} is not registered any more", hint="longcase workers")

        await self._committer.run(unit)

    async def workers(self) -> list[WorkerRow]:
        """Return every registered incarnation, oldest first."""
        return workers.rows_of(self._read, self._locks)

    async def dead_workers(self) -> list[int]:
        return [row[0] for row in self._read("SELECT no FROM workers ORDER BY no") if not self._locks.alive(row[0])]

    async def recover(self, worker: int) -> int:
        if self._locks.alive(worker):
            raise UsageError(
                f"worker {worker} is alive; only a dead worker's leases are voided", hint="longcase doctor"
            )
        freed = 0
        while some := await self._committer.run(lambda tx: workers.free_some(tx, worker)):
            freed += some
        await self._committer.run(lambda tx: workers.forget(tx, worker))
        self._locks.drop(worker)
        return freed

    async def decline(self, case_no: int, visit: int, code: str, worker: int) -> frozenset[str]:
        return await self._committer.run(lambda tx: workers.decline(tx, case_no, visit, code, worker))

    async def undecline(self, case_no: int) -> None:
        await self._committer.run(lambda tx: workers.undecline(tx, case_no))

    async def take(
        self, worker: int, served: Sequence[QueueLimits], now: str, limit: int,
        workflows: Sequence[str] | None = None, granted: Sequence[tuple[int, str]] | None = None,
    ) -> Taken:  # fmt: skip
        names = text_of([queue.name for queue in served], "queues")
        if not self._read(queues.ANY, (names, worker, granted is not None))[0][0]:
            return Taken((), "")
        return await self._committer.run(lambda tx: queues.take(tx, worker, served, now, limit, workflows, granted))

    async def give_back(self, worker: int, calls: Sequence[tuple[int, str]]) -> None:
        if calls:
            await self._committer.run(lambda tx: queues.give_back(tx, worker, calls))

    async def stops(self, worker: int) -> list[tuple[int, str, int]]:
        return list(self._read(queues.STOPS, (worker,)))

    async def keep_beat(self, case_no: int, call: str, attempt: int, details: Json) -> None:
        values = (case_no, call, attempt, text_of(details, "heartbeat details"))

        def unit(tx: Transaction) -> None:
            tx.execute(_BEAT, (*values, tx.now))

        await self._committer.run(unit)

    async def last_beat(self, case_no: int, call: str) -> tuple[int, Json] | None:
        found = self._read("SELECT attempt, details FROM heartbeats WHERE case_no = ? AND call = ?", (case_no, call))
        return (found[0][0], json.loads(found[0][1])) if found else None

    async def forget_beats(self, case_no: int, calls: Sequence[str]) -> None:
        def unit(tx: Transaction) -> None:
            of_calls = [(case_no, call) for call in calls]
            tx.cursor.executemany("DELETE FROM heartbeats WHERE case_no = ? AND call = ?", of_calls)

        await self._committer.run(unit)

    def is_dead(self, worker: int) -> bool:
        return not self._locks.alive(worker)

    def abandon(self, worker: int) -> None:
        """Let an incarnation of this process die as in a crash: its lock is free, its leases stay. For tests."""
        self._locks.drop(worker)

    def changed(self) -> bool:
        writer = self._committer.connection
        if writer is None or self.path == MEMORY:
            return False  # asked again soon; the version is still another then
        with mapped(self.path):
            # On the writer, because a connection does not see its own commits here.
            version: int = writer.execute("PRAGMA data_version").get
        before, self._version = self._version, version
        return before not in (0, version)

    def gone(self) -> bool:
        try:
            return self._identity != _identity(self.path)
        except FileNotFoundError:
            return True
        except OSError:  # not to be told now: a right that was taken away, a disk that does not answer
            return False

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

    async def _ask(self, question: Callable[[auditing.Read], T]) -> T:
        """Read much on the connection for questions, from one snapshot, beside the loop where there is one."""
        if self._inline:
            return self._questions.snapshot(question)
        return await asyncio.to_thread(lambda: self._questions.snapshot(question))
