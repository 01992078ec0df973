"""Queues of calls: who may begin which attempt next, over all workers of the store.

A row of `queued` follows from the case's state and is written with its turn; only the claim (a worker,
and not yet begun) is made here. All of it happens inside the writer's transaction, so that two workers
never count the same room twice: what runs and what is claimed never exceeds a queue's limits (I19).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from longcase.store.kept import kept_json
from longcase.store.queue_limits import counted, in_turn, room_of, uncounted
from longcase.store.records import QueuedCall, QueueLimits, Taken
from longcase.store.rows import text_of
from longcase.store.sqlite.transaction import Transaction

# Whether the code of a worker has declined a case's visit.
DECLINED: Final = """EXISTS (
    SELECT 1 FROM declined WHERE declined.case_no = cases.case_no AND declined.visit = cases.visit
      AND code IN (SELECT codes.value FROM workers, json_each(workers.codes) AS codes WHERE workers.no = {worker})
)"""
# A claim is not lost by the turn of another worker: the attempt it is for is still to be begun.
_UPSERT: Final = """
INSERT INTO queued (case_no, call, queue, rank, tenant, attempt, due, since, worker, begun, stop)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (case_no, call) DO UPDATE SET
    queue = excluded.queue, rank = excluded.rank, due = excluded.due, begun = excluded.begun, stop = excluded.stop,
    worker = CASE WHEN excluded.worker = 0 AND queued.begun = 0 AND queued.attempt = excluded.attempt
             THEN queued.worker ELSE excluded.worker END,
    attempt = excluded.attempt
"""
_DROP_OTHERS: Final = "DELETE FROM queued WHERE case_no = ? AND call NOT IN (SELECT value FROM json_each(?))"
_RUNNING: Final = "SELECT count(*) FROM queued WHERE queue = ? AND worker <> 0"
# Priority by priority and tenant by tenant, each step one look into the index, however many calls wait.
_NEXT_PLACE: Final = """
SELECT rank, tenant FROM queued WHERE queue = ? AND worker = 0 AND (rank, tenant) > (?, ?) ORDER BY rank, tenant LIMIT 1
"""
_WAITING: Final = f"""
SELECT case_no, call, attempt, due FROM queued
WHERE queue = ?1 AND worker = 0 AND rank = ?2 AND tenant = ?3 AND due <= ?4 AND EXISTS (
    SELECT 1 FROM cases WHERE cases.case_no = queued.case_no
      AND (?6 IS NULL OR workflow IN (SELECT value FROM json_each(?6))) AND NOT {DECLINED.format(worker="?7")}
)
ORDER BY due, case_no LIMIT ?5
"""
# Claims whose answer was lost, or that could not be given back: nobody else may have them.
_FORGOTTEN: Final = """
SELECT case_no, call, attempt FROM queued
WHERE worker = ?1 AND worker <> 0 AND begun = 0 AND queue IN (SELECT value FROM json_each(?2))
  AND (case_no, call) NOT IN (SELECT value ->> 0, value ->> 1 FROM json_each(?3))
ORDER BY due, case_no LIMIT ?4
"""
_NEXT_DUE: Final = "SELECT min(due) FROM queued WHERE queue = ? AND worker = 0 AND rank = ? AND tenant = ? AND due > ?"
_CLAIM: Final = "UPDATE queued SET worker = ?, claim = ? WHERE case_no = ? AND call = ?"
_SERVED: Final = "SELECT served FROM queue_tenants WHERE queue = ? AND tenant = ?"
_SERVE: Final = """
INSERT INTO queue_tenants VALUES (?1, ?2, (SELECT coalesce(max(served), 0) + 1 FROM queue_tenants WHERE queue = ?1))
ON CONFLICT (queue, tenant) DO UPDATE SET served = excluded.served
"""
_BEGUN: Final = "SELECT begun FROM queue_rates WHERE queue = ?"
_KEEP_BEGUN: Final = "INSERT INTO queue_rates VALUES (?, ?) ON CONFLICT (queue) DO UPDATE SET begun = excluded.begun"
_CLAIMED: Final = "SELECT case_no, call, claim FROM queued WHERE worker = ? AND worker <> 0 AND begun = 0"
# Whoever moves these settles the attempts that ran on the worker: their rows count as running until then.
_WAKE_RUNNING: Final = """
UPDATE cases SET wake_at = ? WHERE status = 'open'
  AND case_no IN (SELECT case_no FROM queued WHERE worker = ? AND worker <> 0 AND begun = 1)
"""
_DROP_CLOSED: Final = """
DELETE FROM queued WHERE worker = ? AND worker <> 0
  AND EXISTS (SELECT 1 FROM cases WHERE cases.case_no = queued.case_no AND status <> 'open')
"""
_GIVE_BACK: Final = """
UPDATE queued SET worker = 0 WHERE worker = ? AND begun = 0 AND case_no = ? AND call = ? AND claim = ? RETURNING queue
"""
# Whether anything waits in the queues, or stands claimed by the worker, perhaps without its knowledge.
ANY: Final = """
SELECT EXISTS (SELECT 1 FROM queued WHERE worker = 0 AND queue IN (SELECT value FROM json_each(?1)))
    OR ?3 AND EXISTS (SELECT 1 FROM queued WHERE worker = ?2 AND worker <> 0 AND begun = 0)
"""
STOPS: Final = "SELECT case_no, call, attempt FROM queued WHERE worker = ? AND worker <> 0 AND stop = 1"
_FIRST: Final = -(2**62)

Waiting = tuple[int, str, int, str]


def replace(tx: Transaction, case_no: int, tenant: str, calls: Sequence[QueuedCall]) -> None:
    """Let the rows of a case be those of its state."""
    tx.execute(_DROP_OTHERS, (case_no, text_of([call.call for call in calls], "calls")))
    if calls:
        tx.cursor.executemany(
            _UPSERT,
            [
                (
                    case_no, call.call, call.queue, -call.priority, tenant, call.attempt, call.due, call.since,
                    call.worker, bool(call.worker), call.stop,
                )
                for call in calls
            ],
        )  # fmt: skip


def take(
    tx: Transaction, worker: int, claim: int, queues: Sequence[QueueLimits], now: str, limit: int,
    workflows: Sequence[str] | None = None, granted: Sequence[tuple[int, str]] | None = None,
) -> Taken:  # fmt: skip
    """Claim calls of several queues, one queue after the other; first what the worker had claimed and knows not of."""
    only = None if workflows is None else text_of(list(workflows), "workflows")
    taken: list[tuple[int, str, int]] = []
    again: list[str] = []
    if granted is not None:
        names = text_of([queue.name for queue in queues], "queues")
        known = text_of([*map(list, granted)], "calls")
        forgotten: list[Any] = tx.execute(_FORGOTTEN, (worker, names, known, limit)).fetchall()
        tx.cursor.executemany(_CLAIM, [(worker, claim, case_no, call) for case_no, call, _ in forgotten])
        taken += forgotten
    for queue in queues:
        running: int = tx.execute(_RUNNING, (queue.name,)).get if queue.concurrency is not None else 0
        begun = _begun(tx, queue.name) if queue.rate is not None else []
        room, opens = room_of(queue, running, begun, now, limit - len(taken))
        if opens:
            again.append(opens)
        if room <= 0:
            continue
        found, later = _pick(tx, worker, queue.name, now, room, only)
        again += later
        tx.cursor.executemany(_CLAIM, [(worker, claim, case_no, call) for case_no, call, _, _ in found])
        taken += [(case_no, call, attempt) for case_no, call, attempt, _ in found]
        if queue.rate is not None and found:
            kept = counted(begun, now, [one[:2] for one in found], queue.rate[0])
            tx.execute(_KEEP_BEGUN, (queue.name, text_of(kept, "a queue's rate")))
    return Taken(tuple(taken), min(again, default=""), claim)


def _begun(tx: Transaction, queue: str) -> list[str]:
    kept = tx.execute(_BEGUN, (queue,)).fetchone()
    return kept_json(kept[0], f"the rate of queue {queue}") if kept else []


def _pick(
    tx: Transaction, worker: int, queue: str, now: str, room: int, only: str | None
) -> tuple[list[Waiting], list[str]]:
    """Choose calls: highest priority first, among equals tenant by tenant; and instants when others are due."""
    found: list[Waiting] = []
    later: list[str] = []
    for rank, tenants in _places(tx, queue):
        waiting: list[tuple[int, str, list[Any]]] = []
        for tenant in tenants:
            due: str | None = tx.execute(_NEXT_DUE, (queue, rank, tenant, now)).get
            if due:
                later.append(due)
            place = (queue, rank, tenant, now, room - len(found), only, worker)
            calls: list[Any] = tx.execute(_WAITING, place).fetchall()
            if calls:
                served: Any = tx.execute(_SERVED, (queue, tenant)).fetchone()
                waiting.append((served[0] if served else 0, tenant, calls))
        waiting.sort(key=lambda entry: entry[:2])
        for tenant, call in in_turn([entry[1:] for entry in waiting], room - len(found)):
            found.append(call)
            tx.execute(_SERVE, (queue, tenant))
        if len(found) >= room:
            break
    return found, later


def _places(tx: Transaction, queue: str) -> Iterable[tuple[int, list[str]]]:
    """Yield the priorities calls wait at, highest first, each with its tenants."""
    rank, tenant = _FIRST, ""
    tenants: list[str] = []
    place: Any
    while (place := tx.execute(_NEXT_PLACE, (queue, rank, tenant)).fetchone()) is not None:
        if place[0] != rank and tenants:
            yield rank, tenants
            tenants = []
        rank, tenant = place
        tenants.append(tenant)
    if tenants:
        yield rank, tenants


def give_back(tx: Transaction, worker: int, calls: Iterable[tuple[int, str, int]]) -> None:
    """End claims that were not begun; what a rate has counted for them is free again."""
    back: dict[str, list[tuple[int, str]]] = {}
    for case_no, call, claim in calls:
        found: Any = tx.execute(_GIVE_BACK, (worker, case_no, call, claim)).fetchone()
        if found is not None:
            back.setdefault(found[0], []).append((case_no, call))
    for queue, ended in back.items():
        if begun := _begun(tx, queue):
            tx.execute(_KEEP_BEGUN, (queue, text_of(uncounted(begun, ended), "a queue's rate")))


def left(tx: Transaction, worker: int) -> None:
    """Free what an incarnation that is gone had claimed, and have its attempts settled."""
    claimed: list[Any] = tx.execute(_CLAIMED, (worker,)).fetchall()
    give_back(tx, worker, claimed)
    tx.execute(_DROP_CLOSED, (worker,))
    tx.execute(_WAKE_RUNNING, (tx.now, worker))
