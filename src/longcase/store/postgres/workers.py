"""Worker incarnations: a lease renewed by heartbeats on the database's clock says who is alive.

    joined --beat--> alive --no beat for a lease--> dead --recover--> lapsed, its cases freed, forgotten
                                                                        `--beat--> WorkerForgotten

Guarantees. Only `recover` and `leave` make a row `lapsed`, and not beside a write that has locked the row as
alive: `leave` waits for it, `recover` comes again later, so that a process that stands still inside a
transaction keeps no other waiting. A write that comes later finds the row lapsed and is refused. So when the
leases of a worker are voided, none of its writes is under way any more. Several processes may recover one
worker at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import asyncpg

from longcase.errors import UnavailableError, WorkerForgotten
from longcase.store.kept import in_log, said_by
from longcase.store.postgres import queues
from longcase.store.postgres.connection import Address, connect, our_error
from longcase.store.records import WorkerRow
from longcase.store.rows import text_of

LEASE_SECONDS: Final = 10.0
RECOVERY_CHUNK: Final = 500  # cases set free in one transaction, so that others get their turn
BEAT_SECONDS: Final = 5.0  # a beat that gets no answer in this time counts as not given

_JOIN: Final = """
INSERT INTO workers (host, pid, started_at, beat_at, beat, lease, codes, queues)
VALUES ($1, $2, $3, $3, clock_timestamp(), make_interval(secs => $4::float8), $5, $6) RETURNING no
"""
_BEAT: Final = """
UPDATE workers SET beat = clock_timestamp(), beat_at = $2 WHERE no = $1 AND NOT lapsed RETURNING no
"""
_ALIVE: Final = "NOT lapsed AND beat + lease >= clock_timestamp()"
_WORKERS: Final = f"""
SELECT no, lapsed, host, pid, started_at, beat_at, {_ALIVE},
       (SELECT count(*) FROM cases WHERE cases.lease = workers.no AND cases.lease <> 0), codes, queues
FROM workers ORDER BY no
"""
_STANDING: Final = f"SELECT no, lapsed, NOT ({_ALIVE}) FROM workers ORDER BY no"
_LAPSE: Final = f"""
UPDATE workers SET lapsed = true WHERE no IN (
    SELECT no FROM workers WHERE no = $1 AND NOT ({_ALIVE}) FOR NO KEY UPDATE SKIP LOCKED
) RETURNING no
"""
_REGISTERED: Final = "SELECT no FROM workers WHERE no = $1 AND NOT lapsed FOR SHARE"
_CHANGE: Final = "lease = 0, revision = revision + 1, wake_at = CASE status WHEN 'open' THEN $2 ELSE wake_at END"
# Each workflow gets its share of every step: one with many cases does not keep the others waiting.
_FREE_SOME: Final = f"""
WITH RECURSIVE names (workflow) AS (
    (SELECT workflow FROM cases WHERE lease = $1 AND lease <> 0 ORDER BY workflow LIMIT 1)
    UNION ALL
    SELECT (
        SELECT c.workflow FROM cases AS c
        WHERE c.lease = $1 AND c.lease <> 0 AND c.workflow > names.workflow ORDER BY c.workflow LIMIT 1
    ) FROM names WHERE names.workflow IS NOT NULL
),
few AS MATERIALIZED (
    SELECT picked.case_no FROM names CROSS JOIN LATERAL (
        SELECT c.case_no FROM cases AS c WHERE c.lease = $1 AND c.lease <> 0 AND c.workflow = names.workflow
        LIMIT greatest(1, $3 / (SELECT count(*) FROM names))
    ) AS picked
),
locked AS MATERIALIZED (
    SELECT c.case_no FROM cases AS c WHERE c.case_no IN (SELECT case_no FROM few) AND c.lease = $1
    ORDER BY c.case_no FOR NO KEY UPDATE SKIP LOCKED -- whoever has one locked may stand still: later
)
UPDATE cases SET {_CHANGE} FROM locked WHERE cases.case_no = locked.case_no RETURNING cases.case_no
"""
_FREE_ALL: Final = f"UPDATE cases SET {_CHANGE} WHERE lease = $1 AND lease <> 0"
DECLINED: Final = "SELECT code FROM declined WHERE case_no = $1 AND visit = $2"
_FORGET: Final = """
DELETE FROM workers WHERE no = $1 AND NOT EXISTS (SELECT 1 FROM cases WHERE lease = $1 AND lease <> 0)
"""


class Standing:
    """Who lives, as this process last read it: asked for at every turn, so it must cost nothing.

    Dead is who has lapsed or is gone, which is final. Who is only late may still give a beat.
    """

    def __init__(self) -> None:
        self._alive: set[int] = set()
        self._newest = 0  # whoever joined after the last reading is alive as far as is known
        self._dead: set[int] = set()
        self._begun = 0  # readings
        self._applied = 0  # what was read before this one is out of date

    def begin(self) -> int:
        """Return the number of a reading that is about to begin."""
        self._begun += 1
        return self._begun

    def joined(self, worker: int) -> None:
        """Note an incarnation of this process."""
        self._applied = self.begin()  # what is being read may not have it
        self._alive.add(worker)
        self._newest = max(self._newest, worker)

    def dead(self, worker: int) -> None:
        """Note that an incarnation is forgotten, or gone."""
        self._alive.discard(worker)
        self._dead.add(worker)

    def read(self, reading: int, found: Sequence[Sequence[Any]]) -> None:
        """Take over what the table says (number, lapsed, ...), unless a later reading was faster."""
        self._dead |= {no for no, lapsed, *_ in found if lapsed}
        if reading < self._applied:
            return
        self._applied = reading
        self._alive = {no for no, lapsed, *_ in found if not lapsed}
        self._newest = max([self._newest, *(no for no, *_ in found)])

    def is_dead(self, worker: int) -> bool:
        return worker in self._dead or (worker <= self._newest and worker not in self._alive)


async def join(
    connection: Any, now: str, lease: float, host: str, pid: int, codes: Mapping[str, str], serves: Sequence[str]
) -> int:
    """Register an incarnation."""
    number: int = await connection.fetchval(
        _JOIN, host, pid, now, lease, text_of(dict(codes), "codes"), text_of(list(serves), "queues")
    )
    return number


async def leave(connection: Any, worker: int, now: str) -> None:
    """Give back every lease and remove the incarnation's row."""
    async with connection.transaction():
        # First: no write of it comes after its leases were given back. Those under way are waited for.
        await connection.execute("UPDATE workers SET lapsed = true WHERE no = $1", worker)
        # Whoever takes such a case over settles what it was leased for, so it wants a turn now.
        await connection.execute(_FREE_ALL, worker, now)
        await _gone(connection, worker, now)
        await connection.execute("DELETE FROM workers WHERE no = $1", worker)


async def beat(connection: Any, worker: int, now: str) -> None:
    """Renew the lease.

    Raises:
        WorkerForgotten: it has lapsed, and others have taken over or are about to.
    """
    if await connection.fetchval(_BEAT, worker, now) is None:
        raise forgotten(worker)


def forgotten(worker: int) -> WorkerForgotten:
    """Return the error for an incarnation that was taken for dead."""
    return WorkerForgotten(
        f"worker {worker} was silent for longer than its lease: others go on with its cases",
        hint="it joins anew by itself; if that comes often, look for a stalled machine or raise LONGCASE_LEASE_SECONDS",
    )


async def standing(connection: Any, known: Standing) -> list[int]:
    """Read who lives; returns those who are dead, or late: `lapse` decides about them."""
    reading = known.begin()
    found = await connection.fetch(_STANDING)
    known.read(reading, found)
    return [no for no, lapsed, late in found if lapsed or late]


async def registered(connection: Any, worker: int) -> None:
    """Have an incarnation stay what it is until the transaction ends.

    Raises:
        WorkerForgotten: it has lapsed, or is gone.
    """
    if await connection.fetchval(_REGISTERED, worker) is None:
        raise forgotten(worker)


async def rows_of(connection: Any, known: Standing) -> list[WorkerRow]:
    """Return every registered incarnation, oldest first."""
    reading = known.begin()
    found = await connection.fetch(_WORKERS)
    known.read(reading, found)
    return [
        WorkerRow(no, host, pid, started, beat_at, alive, leases, *said_by(no, codes, serves, in_log))
        for no, _, host, pid, started, beat_at, alive, leases, codes, serves in found
    ]


async def lapse(connection: Any, worker: int) -> bool:
    """Refuse a dead incarnation's writes from now on; False if it lives, is writing, or was forgotten already."""
    if await connection.fetchval(_LAPSE, worker) is not None:
        return True
    return bool(await connection.fetchval("SELECT lapsed FROM workers WHERE no = $1", worker))


async def free_some(connection: Any, worker: int, now: str) -> int:
    """Void leases of a dead incarnation, some cases at a time; returns how many."""
    return len(await connection.fetch(_FREE_SOME, worker, now, RECOVERY_CHUNK))


async def forget(connection: Any, worker: int, now: str) -> None:
    """Remove a dead incarnation, unless it still holds leases, or somebody has locked what must change: then later."""
    with suppress(asyncpg.LockNotAvailableError):
        async with connection.transaction():
            await connection.execute(queues.PATIENT)
            await _gone(connection, worker, now)
            await connection.execute(_FORGET, worker)


async def _gone(connection: Any, worker: int, now: str) -> None:
    """Free what the incarnation had besides leases."""
    await queues.left(connection, worker, now)
    # Its code may have been the last one that others could leave cases to: they find out again.
    await connection.execute("DELETE FROM declined")


# -- declined --------------------------------------------------------------------------------------------


async def decline(connection: Any, case_no: int, visit: int, code: str, worker: int) -> frozenset[str]:
    """Note that a code does not replay a visit, and give the case back."""
    async with connection.transaction():
        # Under the row's lock: of two that decline at once, the later one must see both.
        await connection.execute("SELECT FROM cases WHERE case_no = $1 FOR NO KEY UPDATE", case_no)
        await connection.execute(
            "UPDATE cases SET lease = 0, revision = revision + 1 WHERE case_no = $1 AND lease = $2", case_no, worker
        )
        await connection.execute(
            "INSERT INTO declined VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", case_no, visit, code
        )
        found = await connection.fetch(DECLINED, case_no, visit)
    return frozenset(row[0] for row in found)


async def undecline(connection: Any, case_no: int) -> None:
    """Forget who declined a case."""
    await connection.execute("DELETE FROM declined WHERE case_no = $1", case_no)


# -- a heart of its own ------------------------------------------------------------------------------------


class PostgresHeart:
    """Beats from a thread: over a connection and an event loop of its own, whatever the worker's loop does."""

    def __init__(
        self, address: Address, worker: int, lease: float, now: Callable[[], str],
        measure: Callable[[Any], Awaitable[None]],
    ) -> None:  # fmt: skip
        self.every = lease / 4
        self.lease = lease
        self._measure = measure
        self._address = address
        self._worker = worker
        self._now = now
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None

    def beat(self) -> None:
        """Renew the lease; waits for the answer."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        try:
            self._loop.run_until_complete(asyncio.wait_for(self._beat(), BEAT_SECONDS))
        except TimeoutError as error:
            self._drop()
            raise our_error(error, self._address) from error

    async def _beat(self) -> None:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect(self._address)
            await beat(self._connection, self._worker, self._now())
            await self._measure(self._connection)
        except UnavailableError:
            raise
        except Exception as error:
            self._drop()
            raise our_error(error, self._address) from error

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def close(self) -> None:
        """Close the connection; called from the thread that beats, or when it has ended."""
        self._drop()
        if self._loop is not None:
            self._loop.run_until_complete(asyncio.sleep(0))  # lets the transport go
            self._loop.close()
            self._loop = None
