"""Who moves which case: claims, incarnations and their leases, queues, kept heartbeats, the clock all go by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any, Final

from longcase.env import Env, RealClock
from longcase.model.codec import Json
from longcase.store.port import Heart
from longcase.store.postgres import queues, workers
from longcase.store.postgres.base import Base
from longcase.store.postgres.connection import Address, setting_of
from longcase.store.postgres.hints import Hints
from longcase.store.records import QueueLimits, Taken, WorkerRow
from longcase.store.rows import text_of

CLOCK_SLACK: Final = 0.05  # seconds this machine's clock may differ from the database's before it is corrected
MEASURE: Final = 5.0  # seconds for which a reading of the database's clock is good, carried on by the steady one

_DUE: Final = """
SELECT case_no FROM cases
WHERE wake_at <> '' AND wake_at <= $1
  AND (lease = 0 OR lease = $2 OR NOT EXISTS (SELECT FROM workers WHERE workers.no = cases.lease)) {only}
ORDER BY wake_at, case_no LIMIT $3 {lock}
"""
# Neither the bare condition nor the bare EXISTS: by another index, or in a join with all that was declined, PostgreSQL
# would read all that is due, and sort it, for the few that are taken. So written, no statistics offer it another way.
_ONLY: Final = f"""
AND (workflow = ANY($4::text[])) IS TRUE AND (SELECT {queues.DECLINED.format(worker="$2")}) IS NOT TRUE
"""
# Two workers never lease one case: what another is about to lease is passed over. By an array, not a join: for that
# PostgreSQL would read all cases, where it takes a tenth of what is due for the few that are taken.
_LEASE: Final = """
WITH alive AS MATERIALIZED (SELECT no FROM workers WHERE no = $2 AND NOT lapsed FOR SHARE),
due AS MATERIALIZED ({due}),
leased AS (
    UPDATE cases SET lease = $2, revision = revision + 1
    WHERE case_no = ANY(ARRAY(SELECT case_no FROM due)) AND EXISTS (SELECT FROM alive) RETURNING case_no, wake_at
)
SELECT case_no, wake_at FROM leased UNION ALL SELECT 0, '' FROM alive
"""
_NEXT_WAKE: Final = "SELECT min(wake_at) FROM cases WHERE wake_at <> '' AND wake_at > $1"
_HEARTBEAT: Final = """
INSERT INTO heartbeats (case_no, call, attempt, details, at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (case_no, call) DO UPDATE SET attempt = excluded.attempt, details = excluded.details, at = excluded.at
WHERE excluded.attempt >= heartbeats.attempt
"""


class Fleet(Base):
    """The part of the store that workers share."""

    def __init__(self, address: Address, env: Env) -> None:
        super().__init__(address, env)
        self._lease = setting_of("LONGCASE_LEASE_SECONDS", workers.LEASE_SECONDS)
        self._hints = Hints(address, self._loose, env.new_id(), env)
        self._standing = workers.Standing()
        self._takings = count(1)
        self._measured = -MEASURE  # when the database's clock was last read, by the steady one
        self._joined: set[int] = set()
        self._own: set[int] = set()  # incarnations that joined here, those that are gone too

    async def ready(self, now: str, worker: int, limit: int, workflows: Sequence[str] | None = None) -> list[int]:
        values: list[Any] = [now, worker, limit]
        only = ""
        if workflows is not None:
            only = _ONLY
            values.append(list(workflows))
        if not worker:
            return [row[0] for row in await self._read(_DUE.format(only=only, lock=""), *values)]
        due = _DUE.format(only=only, lock="FOR NO KEY UPDATE SKIP LOCKED")
        async with self._using(self._loose) as connection:
            found = await connection.fetch(_LEASE.format(due=due), *values)
        if not found:  # not even the row that says it is registered
            raise workers.forgotten(worker)
        return [case_no for _, case_no in sorted((wake_at, case_no) for case_no, wake_at in found) if case_no]

    async def next_wake(self, after: str) -> str:
        return (await self._read(_NEXT_WAKE, after))[0][0] or ""

    async def join(
        self, host: str, pid: int, *, codes: Mapping[str, str] | None = None, serves: Sequence[str] = ()
    ) -> int:
        worker = await self._change(
            lambda connection: workers.join(connection, self._now(), self._lease, host, pid, codes or {}, serves)
        )
        self._joined.add(worker)
        self._own.add(worker)
        self._standing.joined(worker)
        return worker

    async def leave(self, worker: int) -> None:
        await self._change(lambda connection: workers.leave(connection, worker, self._now()))
        self._joined.discard(worker)
        self._standing.dead(worker)
        self._hints.send()

    def heart(self, worker: int) -> Heart | None:
        return workers.PostgresHeart(self.address, worker, self._lease, self._now, self._measure_clock)

    async def beat(self, worker: int) -> None:
        async def work(connection: Any) -> None:
            await workers.beat(connection, worker, self._now())
            await self._measure_clock(connection)

        await self._change(work, self._loose)

    async def workers(self) -> list[WorkerRow]:
        """Return every registered incarnation, oldest first."""
        return await self._change(lambda connection: workers.rows_of(connection, self._standing))

    async def dead_workers(self) -> list[int]:
        return await self._change(lambda connection: workers.standing(connection, self._standing))

    def is_dead(self, worker: int) -> bool:
        return self._standing.is_dead(worker)

    async def recover(self, worker: int) -> int:
        if not await self._change(lambda connection: workers.lapse(connection, worker)):
            await self.dead_workers()  # another process was first, or it has given a beat meanwhile: now it is known
            return 0
        freed = 0
        while some := await self._change(lambda connection: workers.free_some(connection, worker, self._now())):
            freed += some
        await self._change(lambda connection: workers.forget(connection, worker, self._now()))
        self._standing.dead(worker)
        self._joined.discard(worker)
        self._hints.send()
        return freed

    async def abandon(self, worker: int) -> None:
        """Let an incarnation be dead at once, as after a lease without a beat; what it holds stays. For tests."""
        await self._change(
            lambda connection: connection.execute("UPDATE workers SET lapsed = true WHERE no = $1", worker)
        )
        self._joined.discard(worker)
        self._standing.dead(worker)

    async def _keep_time(self, connection: Any) -> None:
        """Read the database's clock unless that was a moment ago: a heart does it too, where there is a worker."""
        if self._env.monotonic() - self._measured >= MEASURE:
            await self._measure_clock(connection)

    async def _measure_clock(self, connection: Any) -> None:
        clock, before = self._env.clock, self._env.monotonic()
        if not isinstance(clock, RealClock):
            self._measured = before
            return
        there = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        after = self._measured = self._env.monotonic()
        trip = (after - before) / 2  # as exactly as a round trip tells
        ahead = there - clock.now().timestamp() + trip
        if abs(ahead) > max(CLOCK_SLACK, trip):
            clock.go_by(datetime.fromtimestamp(there, UTC), before + trip)
        elif not clock.corrected:  # they agree: what is written next is not before what this machine wrote last
            clock.go_by(clock.now(), self._env.monotonic())

    async def decline(self, case_no: int, visit: int, code: str, worker: int) -> frozenset[str]:
        return await self._change(lambda connection: workers.decline(connection, case_no, visit, code, worker))

    async def declined(self, case_no: int, visit: int) -> frozenset[str]:
        return frozenset(row[0] for row in await self._read(workers.DECLINED, case_no, visit))

    async def undecline(self, case_no: int) -> None:
        await self._change(lambda connection: workers.undecline(connection, case_no))

    async def take(
        self, worker: int, served: Sequence[QueueLimits], now: str, limit: int,
        workflows: Sequence[str] | None = None, granted: Sequence[tuple[int, str]] | None = None,
    ) -> Taken:  # fmt: skip
        alive, claim = partial(workers.registered, worker=worker), next(self._takings)
        return await self._change(
            lambda connection: queues.take(connection, alive, worker, claim, served, now, limit, workflows, granted)
        )

    async def give_back(self, worker: int, calls: Sequence[tuple[int, str, int]]) -> None:
        if calls:
            await self._change(lambda connection: queues.give_back(connection, worker, calls))

    async def stops(self, worker: int) -> list[tuple[int, str, int]]:
        return await self._change(lambda connection: queues.stops(connection, worker))

    async def keep_heartbeat(self, case_no: int, call: str, attempt: int, details: Json) -> None:
        values = (case_no, call, attempt, text_of(details, "heartbeat details"), self._now())
        await self._change(lambda connection: connection.execute(_HEARTBEAT, *values))

    async def last_heartbeat(self, case_no: int, call: str) -> tuple[int, Json] | None:
        found = await self._read(
            "SELECT attempt, details FROM heartbeats WHERE case_no = $1 AND call = $2", case_no, call
        )
        return (found[0][0], json.loads(found[0][1])) if found else None

    async def forget_heartbeats(self, case_no: int, calls: Sequence[str]) -> None:
        sql = "DELETE FROM heartbeats WHERE case_no = $1 AND call = ANY($2::text[])"
        await self._change(lambda connection: connection.execute(sql, case_no, list(calls)))

    def changed(self) -> bool:
        return self._hints.changed()

    def gone(self) -> bool:
        return False  # a database that was dropped answers no more, and that is told by every call
