"""Queues of calls: who may begin which attempt next, over all workers of the store.

A row of `queued` follows from the case's state and is written with its turn; only the claim (a worker,
and not yet begun) is made here, under the lock of the queue's row, so that two workers never count the
same room twice: what runs and what is claimed never exceeds a queue's limits (I19).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final

import asyncpg

from longcase.history.event import instant_of, instant_text
from longcase.store.queue_limits import counted, in_turn, room_of, uncounted
from longcase.store.records import QueueLimits, Taken
from longcase.store.rows import text_of

PATIENCE: Final = 0.2  # seconds for a lock: whoever holds one for longer stands still inside its transaction
LATER: Final = 1.0  # seconds before a queue is tried again that somebody has locked
PATIENT: Final = f"SET LOCAL lock_timeout = {int(PATIENCE * 1000)}"
# Whether the code of a worker has declined a case's visit.
DECLINED: Final = """EXISTS (
    SELECT FROM declined WHERE declined.case_no = cases.case_no AND declined.visit = cases.visit AND declined.code IN (
        SELECT codes.value FROM workers CROSS JOIN LATERAL json_each_text(workers.codes) AS codes
        WHERE workers.no = {worker}
    )
)"""
# Whether anything waits in the queues, or stands claimed by the worker, perhaps without its knowledge.
_ANY: Final = """
SELECT EXISTS (SELECT FROM queued WHERE worker = 0 AND queue = ANY($1::text[]))
    OR $3 AND EXISTS (SELECT FROM queued WHERE worker = $2 AND worker <> 0 AND NOT begun)
"""
# Claims whose answer was lost, or that could not be given back: nobody else may have them.
_FORGOTTEN: Final = """
SELECT case_no, call, attempt FROM queued
WHERE worker = $1 AND worker <> 0 AND NOT begun AND queue = ANY($2::text[])
  AND (case_no, call) NOT IN (SELECT * FROM unnest($3::bigint[], $4::text[]))
ORDER BY due, case_no LIMIT $5
FOR UPDATE
"""
_MAKE: Final = "INSERT INTO queue_rates VALUES ($1, '[]') ON CONFLICT DO NOTHING"
_LOCK: Final = "SELECT begun FROM queue_rates WHERE queue = $1 FOR UPDATE"
_RUNNING: Final = "SELECT count(*) FROM queued WHERE queue = $1 AND worker <> 0"
# Priority by priority and tenant by tenant, each step one look into the index, however many calls wait.
_PLACES: Final = """
WITH RECURSIVE places (rank, tenant) AS (
    (SELECT rank, tenant FROM queued WHERE queue = $1 AND worker = 0 ORDER BY rank, tenant LIMIT 1)
    UNION ALL
    SELECT next.rank, next.tenant FROM places CROSS JOIN LATERAL (
        SELECT q.rank, q.tenant FROM queued AS q
        WHERE q.queue = $1 AND q.worker = 0 AND (q.rank, q.tenant) > (places.rank, places.tenant)
        ORDER BY q.rank, q.tenant LIMIT 1
    ) AS next
)
SELECT p.rank, p.tenant, coalesce(t.served, 0),
       (SELECT min(q.due) FROM queued AS q
        WHERE q.queue = $1 AND q.worker = 0 AND q.rank = p.rank AND q.tenant = p.tenant AND q.due > $2)
FROM places AS p LEFT JOIN queue_tenants AS t ON t.queue = $1 AND t.tenant = p.tenant
ORDER BY p.rank, 3, p.tenant
"""
_WAITING: Final = f"""
SELECT case_no, call, attempt FROM queued
WHERE queue = $1 AND worker = 0 AND rank = $2 AND tenant = $3 AND due <= $4 AND EXISTS (
    SELECT FROM cases WHERE cases.case_no = queued.case_no
      AND ($6::text[] IS NULL OR cases.workflow = ANY($6::text[])) AND NOT {DECLINED.format(worker="$7")}
)
ORDER BY due, case_no LIMIT $5
FOR UPDATE
"""
_CLAIM: Final = """
UPDATE queued SET worker = $1, claim = $4 FROM unnest($2::bigint[], $3::text[]) AS t (case_no, call)
WHERE queued.case_no = t.case_no AND queued.call = t.call
"""
_SERVE: Final = """
INSERT INTO queue_tenants VALUES ($1, $2, (SELECT coalesce(max(served), 0) + 1 FROM queue_tenants WHERE queue = $1))
ON CONFLICT (queue, tenant) DO UPDATE SET served = excluded.served
"""
_KEEP_BEGUN: Final = "UPDATE queue_rates SET begun = $2 WHERE queue = $1"
_CLAIMED: Final = "SELECT case_no, call, claim FROM queued WHERE worker = $1 AND worker <> 0 AND NOT begun"
_GIVE_BACK: Final = """
UPDATE queued SET worker = 0 FROM unnest($2::bigint[], $3::text[], $4::bigint[]) AS t (case_no, call, claim)
WHERE queued.worker = $1 AND NOT queued.begun AND queued.case_no = t.case_no AND queued.call = t.call
  AND queued.claim = t.claim
RETURNING queued.queue, queued.case_no, queued.call
"""
_LOCK_RATES: Final = """
SELECT queue, begun FROM queue_rates WHERE queue IN (
    SELECT q.queue FROM queued AS q JOIN unnest($1::bigint[], $2::text[]) AS t (case_no, call)
      ON q.case_no = t.case_no AND q.call = t.call
) ORDER BY queue FOR UPDATE
"""
# Whoever moves these settles the attempts that ran on the worker: their rows count as running until then.
_WAKE_RUNNING: Final = """
UPDATE cases SET wake_at = $2, revision = revision + 1 WHERE status = 'open'
  AND case_no IN (SELECT case_no FROM queued WHERE worker = $1 AND worker <> 0 AND begun)
"""
_DROP_CLOSED: Final = """
DELETE FROM queued WHERE worker = $1 AND worker <> 0
  AND EXISTS (SELECT FROM cases WHERE cases.case_no = queued.case_no AND status <> 'open')
"""
_STOPS: Final = "SELECT case_no, call, attempt FROM queued WHERE worker = $1 AND worker <> 0 AND stop"

Pick = Callable[[str, str, int], Awaitable[tuple[list[tuple[int, str, int]], list[str]]]]


async def take(
    connection: Any, alive: Callable[[Any], Awaitable[None]], worker: int, claim: int, queues: Sequence[QueueLimits],
    now: str, limit: int, workflows: Sequence[str] | None = None, granted: Sequence[tuple[int, str]] | None = None,
) -> Taken:  # fmt: skip
    """Claim calls of several queues, one queue after the other; one that somebody has locked is left for later.

    Args:
        alive: holds the worker's registration for the transaction, or raises.
        claim: number of this taking.
        workflows: only calls of cases of these.
        granted: the claims the worker knows it has; the others are given to it once more, first of all.
    """
    pick = partial(_pick, connection, worker, None if workflows is None else list(workflows))
    left = sorted(queues, key=lambda queue: queue.name)  # in one order: two takers never wait crosswise
    names = [queue.name for queue in left]
    if not await connection.fetchval(_ANY, names, worker, granted is not None):
        return Taken((), "")
    later: list[str] = []
    while True:
        at: list[QueueLimits] = []  # the queue it has come to
        try:
            async with connection.transaction():
                await connection.execute(PATIENT)
                await alive(connection)
                forgotten = [] if granted is None else await _forgotten(connection, worker, names, granted, limit)
                await _claim(connection, worker, claim, forgotten)
                taken = await _take(connection, worker, claim, left, now, limit - len(forgotten), pick, at)
        except asyncpg.LockNotAvailableError:
            later.append(instant_text(instant_of(now) + timedelta(seconds=LATER)))
            left = [queue for queue in left if queue not in at]
            if not at or not left:
                return Taken((), later[0])
            continue
        again = min([taken.again, *later] if taken.again else later, default="")
        return Taken((*forgotten, *taken.calls), again, claim)


async def _forgotten(
    connection: Any, worker: int, queues: Sequence[str], granted: Sequence[tuple[int, str]], limit: int
) -> list[tuple[int, str, int]]:
    known = [one[0] for one in granted], [one[1] for one in granted]
    return [tuple(row) for row in await connection.fetch(_FORGOTTEN, worker, queues, *known, limit)]


async def _claim(connection: Any, worker: int, claim: int, calls: Sequence[tuple[int, str, int]]) -> None:
    if calls:
        await connection.execute(_CLAIM, worker, [one[0] for one in calls], [one[1] for one in calls], claim)


async def _take(
    connection: Any, worker: int, claim: int, queues: Sequence[QueueLimits], now: str, limit: int, pick: Pick,
    at: list[QueueLimits],
) -> Taken:  # fmt: skip
    taken: list[tuple[int, str, int]] = []
    again: list[str] = []
    for queue in queues:
        at[:] = [queue]
        begun = await _locked(connection, queue.name)
        running = await connection.fetchval(_RUNNING, queue.name) if queue.concurrency is not None else 0
        room, opens = room_of(queue, running, begun, now, limit - len(taken))
        if opens:
            again.append(opens)
        if room <= 0:
            continue
        found, later = await pick(queue.name, now, room)
        again += later
        if not found:
            continue
        await _claim(connection, worker, claim, found)
        taken += found
        if queue.rate is not None:
            kept = counted(begun, now, [one[:2] for one in found], queue.rate[0])
            await connection.execute(_KEEP_BEGUN, queue.name, text_of(kept, "a queue's rate"))
    return Taken(tuple(taken), min(again, default=""))


async def _locked(connection: Any, queue: str) -> list[str]:
    """Take the queue's lock; returns the instants its rate counts."""
    begun = await connection.fetchval(_LOCK, queue)
    if begun is None:
        await connection.execute(_MAKE, queue)
        begun = await connection.fetchval(_LOCK, queue)
    found: list[str] = json.loads(begun)
    return found


async def _pick(
    connection: Any, worker: int, only: list[str] | None, queue: str, now: str, room: int
) -> tuple[list[tuple[int, str, int]], list[str]]:
    """Choose calls: highest priority first, among equals tenant by tenant; and instants when others are due."""
    found: list[tuple[int, str, int]] = []
    later: list[str] = []
    by_rank: dict[int, list[str]] = {}
    for rank, tenant, _, due in await connection.fetch(_PLACES, queue, now):
        by_rank.setdefault(rank, []).append(tenant)
        if due:
            later.append(due)
    for rank, tenants in by_rank.items():
        waiting = []
        for tenant in tenants:
            calls = await connection.fetch(_WAITING, queue, rank, tenant, now, room - len(found), only, worker)
            if calls:
                waiting.append((tenant, [tuple(call) for call in calls]))
        for tenant, call in in_turn(waiting, room - len(found)):
            found.append(call)
            await connection.execute(_SERVE, queue, tenant)
        if len(found) >= room:
            break
    return found, later


async def give_back(connection: Any, worker: int, calls: Sequence[tuple[int, str, int]]) -> None:
    """End claims that were not begun; what a rate has counted for them is free again."""
    async with connection.transaction():
        await connection.execute(PATIENT)
        await _give_back(connection, worker, calls)


async def _give_back(connection: Any, worker: int, calls: Sequence[tuple[int, str, int]]) -> None:
    cases, names, claims = [one[0] for one in calls], [one[1] for one in calls], [one[2] for one in calls]
    rates = {queue: json.loads(begun) for queue, begun in await connection.fetch(_LOCK_RATES, cases, names)}
    back: dict[str, list[tuple[int, str]]] = {}
    for queue, case_no, call in await connection.fetch(_GIVE_BACK, worker, cases, names, claims):
        back.setdefault(queue, []).append((case_no, call))
    for queue, ended in back.items():
        if begun := rates.get(queue):
            await connection.execute(_KEEP_BEGUN, queue, text_of(uncounted(begun, ended), "a queue's rate"))


async def stops(connection: Any, worker: int) -> list[tuple[int, str, int]]:
    """Return the queued attempts running on `worker` that are asked to stop."""
    return [tuple(row) for row in await connection.fetch(_STOPS, worker)]


async def left(connection: Any, worker: int, now: str) -> None:
    """Free what an incarnation that is gone had claimed, and have its attempts settled."""
    if claimed := [tuple(row) for row in await connection.fetch(_CLAIMED, worker)]:
        await _give_back(connection, worker, claimed)
    await connection.execute(_DROP_CLOSED, worker)
    await connection.execute(_WAKE_RUNNING, worker, now)
