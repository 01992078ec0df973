"""The group commit: units of work of many callers, one transaction, one fsync.

Model. A unit is a function of the open transaction. Units are queued; a transaction takes all that
wait, runs their statements, commits, and only then answers. While a COMMIT waits for the disk (in
one helper thread, so that the event loop goes on) new units queue up and join the next transaction;
a lone unit is committed at once, in its caller's own step of the loop. `inline` commits every unit so.

    idle --unit--> BEGIN IMMEDIATE, statements --> COMMIT --answers--> idle, or the next transaction

Guarantees. A unit's error rolls back that unit alone and goes to its caller. An error of the file
(disk full, I/O error, lost lock) fails the whole transaction; every caller of it is told, nothing of
it is kept, and the connection is closed and opened anew: after a failed fsync nothing is assumed.
Whoever cancels his wait does not cancel what was queued: it may still be written.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

import apsw

from longcase.errors import StoreUnavailable
from longcase.store.apart import Unit as ApartUnit
from longcase.store.records import Written
from longcase.store.sqlite.apart import run_apart
from longcase.store.sqlite.connection import BUSY_SECONDS, OWN_FAULT, our_error
from longcase.store.sqlite.transaction import Transaction
from longcase.store.sqlite.writing import run_writes
from longcase.store.unit import WriteUnit

T = TypeVar("T")
Unit = Callable[[Transaction], T]

MAX_UNITS: Final = 1_000  # of one transaction: bounds the time others wait for the lock
QUICK_COMMIT: Final = 0.002  # seconds; about what the row work of a full batch blocks the loop anyway


class Job(Generic[T]):
    """A queued unit and what became of it."""

    __slots__ = ("error", "future", "result", "unit")

    def __init__(self, unit: Unit[T] | WriteUnit | ApartUnit) -> None:
        self.unit = unit
        self.result: Any = None
        self.error: BaseException | None = None
        self.future: asyncio.Future[None] | None = None


def _raise_if_of_the_file(error: Exception) -> None:
    """Re-raise what spoils the whole transaction; return if it is one unit's own fault."""
    if isinstance(error, apsw.Error) and not isinstance(error, OWN_FAULT):
        raise error


class Committer:
    """Owns the writer connection."""

    def __init__(
        self, path: str, connect: Callable[[], apsw.Connection], now: Callable[[], str], salt: Callable[[], str],
        signal_point: Callable[[str], None], monotonic: Callable[[], float], *, inline: bool,
    ) -> None:  # fmt: skip
        self._path = path
        self._connect = connect
        self._now = now
        self._salt = salt
        self._point = signal_point
        self._monotonic = monotonic
        self._commit_took = 0.0
        self._inline = inline
        self._connection: apsw.Connection | None = None
        self._cursor: apsw.Cursor | None = None
        self._queue: deque[Job[Any]] = deque()
        self._draining: asyncio.Task[None] | None = None
        self._alone = True  # the last transaction had one unit: callers come one at a time
        self._stepped = False  # one has been committed in this step of the loop: those after it go together
        self._busy = False  # the helper thread has the connection
        self._closed = False
        self._lock = threading.RLock()  # inline: callers in several threads take turns
        self._thread = None if inline else ThreadPoolExecutor(1, thread_name_prefix="longcase-commit")
        self.open()

    # -- the two ways in -----------------------------------------------------------------------------

    async def run(self, unit: Unit[T]) -> T:
        """Run a unit in the next transaction; returns when it is durable."""
        return cast(T, await self._submit(Job(unit)))

    async def write(self, unit: WriteUnit) -> list[Written]:
        """Write turns in the next transaction, beside those of other callers."""
        await self._submit(Job(unit))
        return unit.answer()

    async def apart(self, unit: ApartUnit) -> None:
        """Run a unit of the user's in a transaction of its own; what others submit meanwhile waits for its end."""
        await self._submit(Job(unit))

    async def _submit(self, job: Job[Any]) -> Any:
        if self._closed:
            raise StoreUnavailable(f"the store {self._path} is closed", hint="open it again")
        if self._inline:
            with self._lock:
                if isinstance(job.unit, ApartUnit):
                    await self._transact_apart(job, job.unit)
                else:
                    self._transact_inline([job])
        elif not self._committed_at_once(job):
            job.future = asyncio.get_running_loop().create_future()
            self._queue.append(job)
            if self._draining is None:
                self._draining = asyncio.create_task(self._drain(), name="longcase-commit")
            await job.future
        if job.error is not None:
            raise job.error
        return job.result

    def _committed_at_once(self, job: Job[Any]) -> bool:
        """Commit a lone unit without a task and two rounds of the loop; False if it had better join others.

        It goes alone only where units have come alone, where the disk is quick, and once in a round of the
        loop: of many that come together the others share a transaction, and after it nobody goes alone.
        """
        if self._draining is not None or self._stepped or not self._alone or self._commit_took > QUICK_COMMIT:
            return False
        if isinstance(job.unit, ApartUnit):
            return False
        with self._failing_together([job]):
            cursor = self._open_cursor()
            if not self._begin_at_once(cursor):
                return False
            self._run_and_commit(cursor, [job])
        self._stepped = True
        asyncio.get_running_loop().call_soon(self._next_step)
        return True

    def _next_step(self) -> None:
        self._stepped = False

    # -- transactions --------------------------------------------------------------------------------

    async def _drain(self) -> None:
        try:
            while self._queue:
                jobs: list[Job[Any]] = []
                while self._queue and len(jobs) < MAX_UNITS:
                    if jobs and isinstance(self._queue[0].unit, ApartUnit):
                        break
                    job = self._queue.popleft()
                    if job.future is not None and not job.future.cancelled():
                        jobs.append(job)
                        if isinstance(job.unit, ApartUnit):
                            break
                if jobs and isinstance(jobs[0].unit, ApartUnit):
                    await self._transact_apart(jobs[0], jobs[0].unit)
                elif jobs:
                    self._alone = len(jobs) == 1
                    await self._transact(jobs)
        except BaseException as error:
            self._fail([*self._queue], error)
            self._answer(self._queue)
            self._queue.clear()
            raise
        finally:
            self._draining = None

    async def _transact(self, jobs: list[Job[Any]]) -> None:
        try:
            with self._failing_together(jobs):
                cursor = self._open_cursor()
                if not self._begin_at_once(cursor):
                    await self._off_loop(self._begin_waiting, cursor)
                if self._commit_took <= QUICK_COMMIT:
                    self._run_and_commit(cursor, jobs)
                elif self._run_units(cursor, jobs):
                    self._point("before_commit")
                    await self._off_loop(self._commit, cursor)
                    self._point("after_commit")
                else:
                    cursor.execute("ROLLBACK")
        finally:
            self._answer(jobs)

    async def _transact_apart(self, job: Job[Any], unit: ApartUnit) -> None:
        """Run a unit of the user's alone. Its own error rolls it back and is its caller's, as it was raised."""
        try:
            with self._failing_together([job]):
                cursor = self._open_cursor()
                if not self._begin_at_once(cursor):
                    await self._waiting(self._begin_waiting, cursor)
                if await self._ran_apart(cursor, job, unit):
                    self._point("before_commit")
                    unit.committing = True
                    await self._waiting(self._commit, cursor)
                    self._point("after_commit")
        finally:
            self._answer([job])

    async def _ran_apart(self, cursor: apsw.Cursor, job: Job[Any], unit: ApartUnit) -> bool:
        self._busy = True  # nobody else uses the connection, least of all from another thread
        try:
            await run_apart(Transaction(cursor, self._now(), self._salt), unit, inline=self._inline)
        except BaseException as error:
            if isinstance(error, apsw.Error) and not isinstance(error, (*OWN_FAULT, apsw.InterruptError)):
                raise  # of the file
            if cursor.connection.in_transaction:
                cursor.execute("ROLLBACK")
            if isinstance(error, asyncio.CancelledError):
                raise  # the loop is going down
            job.error = error
            return False
        finally:
            self._busy = False
        self._point("in_transaction")
        return True

    async def _waiting(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Wait for the disk or for a lock: in the helper thread, where there is one."""
        if self._inline:
            call(*arguments)
        else:
            await self._off_loop(call, *arguments)

    def _transact_inline(self, jobs: list[Job[Any]]) -> None:
        with self._failing_together(jobs):
            cursor = self._open_cursor()
            if not self._begin_at_once(cursor):
                self._begin_waiting(cursor)
            self._run_and_commit(cursor, jobs)

    @contextmanager
    def _failing_together(self, jobs: list[Job[Any]]) -> Iterator[None]:
        """Tell an error of the file to every caller of the transaction; ours, and a loop that goes down, go on."""
        try:
            yield
        except apsw.Error as error:
            self._fail(jobs, error)
        except BaseException as error:
            self._fail(jobs, error)
            raise

    def _run_and_commit(self, cursor: apsw.Cursor, jobs: list[Job[Any]]) -> None:
        if self._run_units(cursor, jobs):
            self._point("before_commit")
            self._commit(cursor)
            self._point("after_commit")
        else:
            cursor.execute("ROLLBACK")

    def _commit(self, cursor: apsw.Cursor) -> None:
        began = self._monotonic()
        cursor.execute("COMMIT")
        self._commit_took = self._monotonic() - began

    async def _off_loop(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Wait in the helper thread for the disk or for a lock; the loop goes on meanwhile."""
        assert self._thread is not None
        self._busy = True
        future = self._thread.submit(call, *arguments)
        try:
            await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            # The loop is going down. What is in hand is finished, so that nobody closes under it.
            concurrent.futures.wait([future])
            raise
        finally:
            self._busy = False

    def _answer(self, jobs: Iterable[Job[Any]]) -> None:
        for job in jobs:
            if job.future is not None and not job.future.done():
                job.future.set_result(None)

    def _run_units(self, cursor: apsw.Cursor, jobs: Sequence[Job[Any]]) -> bool:
        """Run every unit of a transaction; returns whether there is anything to commit."""
        tx = Transaction(cursor, self._now(), self._salt)
        writes = [(job, job.unit) for job in jobs if isinstance(job.unit, WriteUnit)]
        if writes and not self._write_together(tx, [unit for _, unit in writes]):
            for job, unit in writes:
                self._write_alone(tx, job, unit)
        for job in jobs:
            if not isinstance(job.unit, (WriteUnit, ApartUnit)):  # one of those never shares a transaction
                self._run_alone(tx, job, job.unit)
        return any(job.error is None for job in jobs)

    def _write_together(self, tx: Transaction, units: Sequence[WriteUnit]) -> bool:
        """Write the turns of all calls at once; returns False, with nothing written, if one of them spoils it."""
        tx.execute("SAVEPOINT together")
        try:
            run_writes(tx, [entry for unit in units for entry in unit.writable()])
        except Exception as error:
            _raise_if_of_the_file(error)
            tx.execute("ROLLBACK TO together")
            tx.execute("RELEASE together")
            return False
        tx.execute("RELEASE together")
        return True

    def _write_alone(self, tx: Transaction, job: Job[Any], unit: WriteUnit) -> None:
        """Write the turns of one call; where the call allows it, each case by itself."""
        if not unit.partial:
            self._run_alone(tx, job, lambda tx: run_writes(tx, unit.entries))
            return
        for place, entry in enumerate(unit.entries):
            if place not in unit.failed:
                probe: Job[None] = Job(unit)
                self._run_alone(tx, probe, partial(run_writes, entries=[entry]))
                if isinstance(probe.error, Exception):
                    unit.failed[place] = probe.error

    def _run_alone(self, tx: Transaction, job: Job[Any], unit: Unit[Any]) -> None:
        tx.execute("SAVEPOINT unit")
        try:
            job.result = unit(tx)
        except Exception as error:
            _raise_if_of_the_file(error)
            job.error = our_error(error, self._path)
            if job.error is not error:
                job.error.__cause__ = error
            tx.execute("ROLLBACK TO unit")
        tx.execute("RELEASE unit")

    def _begin_at_once(self, cursor: apsw.Cursor) -> bool:
        try:
            cursor.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            return False
        return True

    def _begin_waiting(self, cursor: apsw.Cursor) -> None:
        connection = cursor.connection
        connection.set_busy_timeout(int(BUSY_SECONDS * 1000))
        try:
            cursor.execute("BEGIN IMMEDIATE")
        finally:
            connection.set_busy_timeout(0)

    def _fail(self, jobs: Sequence[Job[Any]], error: BaseException) -> None:
        ours = our_error(error, self._path)
        if ours is not error:
            ours.__cause__ = error
        for job in jobs:
            job.error = ours if isinstance(ours, Exception) else StoreUnavailable(
                f"the store {self._path} was stopped while it wrote; what became of this write is unknown",
                hint="read the case again before repeating",
            )  # fmt: skip
        self._abandon()

    # -- the connection ------------------------------------------------------------------------------

    @property
    def connection(self) -> apsw.Connection | None:
        """The writer connection, if it is open and no COMMIT is under way."""
        return None if self._busy else self._connection

    def open(self) -> None:
        """Open the writer connection; it waits for nobody until it is told to."""
        self._connection = self._connect()
        self._connection.set_busy_timeout(0)
        self._cursor = self._connection.cursor()

    def _open_cursor(self) -> apsw.Cursor:
        if self._cursor is None:
            self.open()
        assert self._cursor is not None
        return self._cursor

    def _abandon(self) -> None:
        """Close the connection without trusting it; its transaction is rolled back by that."""
        connection, self._connection, self._cursor = self._connection, None, None
        if connection is not None and not self._is_memory:
            with suppress(apsw.Error):  # it is closed all the same; the next transaction opens a new one
                connection.close(True)
        elif connection is not None:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._connection, self._cursor = connection, connection.cursor()

    @property
    def _is_memory(self) -> bool:
        return self._path == ":memory:"

    async def close(self) -> None:
        """Finish what is queued, then close."""
        self._closed = True
        while self._draining is not None:
            await asyncio.wait([self._draining])
        if self._thread is not None:
            self._thread.shutdown()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = self._cursor = None
