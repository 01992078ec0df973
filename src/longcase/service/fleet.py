"""What can be asked of a fleet: who lives, what each runs and holds, and which queues wait for nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final

from longcase.history.event import instant_of
from longcase.history.redoing import is_held
from longcase.history.state import CaseState
from longcase.model.queue import DEFAULT_QUEUE
from longcase.record import record
from longcase.store.kept import beside_damage, kept, names
from longcase.store.port import Store
from longcase.store.records import CaseRow, QueueLimits, WorkerRow
from longcase.store.serving import Due, why_held, why_silent, why_unserved
from longcase.store.settings import clock_from

_RUNNING: Final = "SELECT worker, count(*) AS n FROM running_attempts GROUP BY worker"
_QUEUES: Final = "SELECT queue, waiting, running, waiting_since FROM queues ORDER BY queue"
_NOW: Final = "SELECT now FROM clock"
# Calls that wait, and may begin now; and the codes that do not replay the visits of some of them.
_DUE: Final = """
SELECT queue, workflow, count(*) AS calls FROM queued_calls
WHERE status = 'waiting' AND (due IS NULL OR due <= :now) GROUP BY queue, workflow ORDER BY queue, workflow
"""
_DECLINED: Final = """
SELECT q.queue, q.workflow, q.case_no, q.call, d.code
FROM queued_calls AS q JOIN cases AS c ON c.case_no = q.case_no
JOIN declined AS d ON d.case_no = c.case_no AND d.visit = c.visit
WHERE q.status = 'waiting' AND (q.due IS NULL OR q.due <= :now)
"""
# Cases that are due; whether a worker will move them is asked of those that live.
_STANDING: Final = """
SELECT workflow, lease, count(*) AS cases FROM cases
WHERE status = 'open' AND wake_at <> '' AND wake_at <= :now GROUP BY workflow, lease ORDER BY workflow
"""
_LATER: Final = "SELECT queue, min(due) AS due FROM queued_calls WHERE status = 'waiting' AND due > :now GROUP BY queue"
_RATES: Final = "SELECT queue, CAST(begun AS text) AS begun FROM queue_rates"


@record
class WorkerView:
    """A worker incarnation, as `longcase workers` shows it.

    `code` is short for the fingerprints in `codes` (by workflow): two workers of one release show the same.
    `silent` is for how many seconds it has given no sign of life: real ones, also on a scaled clock.
    """

    worker: int
    alive: bool
    host: str
    pid: int
    since: str
    last_heartbeat: str
    silent: float
    code: str
    codes: dict[str, str]
    queues: list[str]
    cases: int
    attempts: int


@record
class Held:
    """Calls of one workflow that wait in a queue, and why nobody takes them."""

    workflow: str
    calls: int
    why: str
    unserved: bool  # no living worker will take them, however long they wait


@record
class QueueView:
    """A queue in which calls wait or run, or that a living worker serves."""

    queue: str
    waiting: int
    running: int
    waiting_since: str | None
    workers: list[int]  # the living ones that serve it
    next_due: str | None  # when the next of those that are not due yet will be
    held: list[Held]  # of those that are due, what nobody takes now


@record
class Unmoved:
    """Cases of one workflow that are due, and why no living worker moves them, however long they wait."""

    workflow: str
    cases: int
    why: str


@record
class FleetView:
    """All workers, oldest first, all queues by name, and the cases that wait for a worker that is not there."""

    workers: list[WorkerView]
    queues: list[QueueView]
    unmoved: list[Unmoved]


async def fleet(store: Store, limits: Mapping[str, QueueLimits]) -> FleetView:
    """Return the registered workers and the queues, as of now.

    Args:
        limits: of the queues, as the loaded code declares them; the store does not know them.
    """
    stamp = (await store.query(_NOW))[0]["now"]
    now = instant_of(stamp)
    scaled = clock_from(await store.setting("clock"))
    pace = scaled.factor if scaled is not None else 1.0
    attempts: dict[int, int] = {}
    with beside_damage():
        attempts = {row["worker"]: row["n"] for row in await store.query(_RUNNING)}
    rows = await store.workers()
    workers = [
        WorkerView(
            row.no, row.alive, row.host, row.pid, row.started_at, row.beat_at,
            max(0.0, round((now - instant_of(row.beat_at)).total_seconds() / pace, 1)), _short(dict(row.codes)),
            dict(row.codes), list(row.queues), row.leases, attempts.get(row.no, 0),
        )
        for row in rows
    ]  # fmt: skip
    living = [row for row in rows if row.alive]
    queues = await _queues(store, limits, stamp, living, workers)
    return FleetView(workers, queues, await _unmoved(store, stamp, living))


async def _queues(
    store: Store,
    limits: Mapping[str, QueueLimits],
    now: str,
    living: Sequence[WorkerRow],
    workers: Sequence[WorkerView],
) -> list[QueueView]:
    serving: dict[str, dict[int, float]] = {}  # by queue: the living workers, and how long each has been silent
    for worker in workers:
        for queue in worker.queues if worker.alive else ():
            if queue != DEFAULT_QUEUE:
                serving.setdefault(queue, {})[worker.worker] = worker.silent
    waiting = {row["queue"]: row for row in await store.query(_QUEUES)}
    empty = {"waiting": 0, "running": 0, "waiting_since": None}
    later = {row["queue"]: row["due"] for row in await store.query(_LATER, {"now": now})}
    rates: dict[str, list[str]] = {}
    for row in await store.query(_RATES) if limits else ():
        with beside_damage():
            rates[row["queue"]] = kept(row["begun"], f"the rate of queue {row['queue']}", names)
    due = await _due(store, now)
    found = []
    for name in sorted(waiting.keys() | serving.keys()):
        counts, those = waiting.get(name, empty), serving.get(name, {})
        limit = why_held(limits.get(name) or QueueLimits(name), counts["running"], rates.get(name, []), now)
        held = [_held(one, living, why_silent(those) or limit) for one in due if one.queue == name]
        found.append(
            QueueView(
                name, counts["waiting"], counts["running"], counts["waiting_since"], list(those), later.get(name),
                [one for one in held if one.why],
            )
        )  # fmt: skip
    return found


async def _unmoved(store: Store, now: str, living: Sequence[WorkerRow]) -> list[Unmoved]:
    moving = {row.no for row in living}
    due: Counter[str] = Counter()
    for row in await store.query(_STANDING, {"now": now}):
        due[row["workflow"]] += row["cases"] if row["lease"] not in moving else 0
    found = [Unmoved(name, cases, why_unserved(DEFAULT_QUEUE, name, (), living)) for name, cases in due.items()]
    return [one for one in found if one.why and one.cases]


async def _due(store: Store, now: str) -> list[Due]:
    """Return the calls that wait in queues and are due, those apart whose visits some code has declined."""
    declined: dict[tuple[str, str, int, str], set[str]] = {}
    for row in await store.query(_DECLINED, {"now": now}):
        call = (row["queue"], row["workflow"], row["case_no"], row["call"])
        declined.setdefault(call, set()).add(row["code"])
    groups = Counter((queue, workflow, " ".join(sorted(codes))) for (queue, workflow, *_), codes in declined.items())
    apart: Counter[tuple[str, str]] = Counter()
    for (queue, workflow, _), calls in groups.items():
        apart[queue, workflow] += calls
    for row in await store.query(_DUE, {"now": now}):
        groups[row["queue"], row["workflow"], ""] = row["calls"] - apart[row["queue"], row["workflow"]]
    return [Due(workflow, calls, "", queue, codes) for (queue, workflow, codes), calls in groups.items() if calls > 0]


def _held(due: Due, living: Sequence[WorkerRow], limit: str) -> Held:
    why = why_unserved(due.queue, due.workflow, due.declined.split(), living)
    return Held(due.workflow, due.count, why or limit, bool(why))


def waiting_in(state: CaseState) -> set[str]:
    """Return the queues in which calls of a case wait for a worker."""
    waiting = [call for call in state.calls.values() if call["status"] in ("ready", "backoff")]
    return {call["queue"] for call in waiting if call.get("queue") and not is_held(state, call)}


async def untaken(store: Store, row: CaseRow, living: Sequence[WorkerRow]) -> dict[str, str]:
    """Return the queues in which calls of a case wait although no living worker will take them, and why."""
    queues = waiting_in(row.state)
    if not queues:
        return {}
    declined = await store.declined(row.case_no, row.state.visit)
    found = {queue: why_unserved(queue, row.state.workflow, declined, living) for queue in sorted(queues)}
    return {queue: why for queue, why in found.items() if why}


def _short(codes: dict[str, str]) -> str:
    prints = sorted(set(codes.values()))
    return sha256("".join(prints).encode()).hexdigest()[:8] if prints else ""
