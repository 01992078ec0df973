"""What can be asked of a fleet: who lives, what each runs and holds, and which queues wait for nobody."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from longcase.history.event import instant_of
from longcase.model.queue import DEFAULT_QUEUE
from longcase.store.port import Store
from longcase.store.records import CaseRow
from longcase.store.serving import why_unserved
from longcase.store.settings import clock_from

_RUNNING: Final = "SELECT worker, count(*) AS n FROM running_attempts GROUP BY worker"
_QUEUES: Final = "SELECT queue, waiting, running, waiting_since FROM queues ORDER BY queue"
_NOW: Final = "SELECT now FROM clock"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue in which calls wait or run, or that a living worker serves."""

    queue: str
    waiting: int
    running: int
    waiting_since: str | None
    workers: list[int]  # the living ones that serve it

    @property
    def unserved(self) -> bool:
        """Whether calls wait and nobody will take them."""
        return self.waiting > 0 and not self.workers


@dataclass(frozen=True, slots=True)
class FleetView:
    """All workers, oldest first, and all queues by name."""

    workers: list[WorkerView]
    queues: list[QueueView]


async def fleet(store: Store) -> FleetView:
    """Return the registered workers and the queues, as of now."""
    now = instant_of((await store.query(_NOW))[0]["now"])
    scaled = clock_from(await store.setting("clock"))
    pace = scaled.factor if scaled is not None else 1.0
    attempts = {row["worker"]: row["n"] for row in await store.query(_RUNNING)}
    workers = [
        WorkerView(
            row.no, row.alive, row.host, row.pid, row.started_at, row.beat_at,
            max(0.0, round((now - instant_of(row.beat_at)).total_seconds() / pace, 1)), _short(dict(row.codes)),
            dict(row.codes), list(row.queues), row.leases, attempts.get(row.no, 0),
        )
        for row in await store.workers()
    ]  # fmt: skip
    serving: dict[str, list[int]] = {}
    for worker in workers:
        for queue in worker.queues if worker.alive else ():
            if queue != DEFAULT_QUEUE:
                serving.setdefault(queue, []).append(worker.worker)
    waiting = {row["queue"]: row for row in await store.query(_QUEUES)}
    empty = {"waiting": 0, "running": 0, "waiting_since": None}
    queues = [
        QueueView(name, found["waiting"], found["running"], found["waiting_since"], serving.get(name, []))
        for name in sorted(waiting.keys() | serving.keys())
        for found in [waiting.get(name, empty)]
    ]
    return FleetView(workers, queues)


async def untaken(store: Store, row: CaseRow) -> dict[str, str]:
    """Return the queues in which calls of a case wait although no living worker will take them, and why."""
    state = row.state
    queues = {call.get("queue", "") for call in state.calls.values() if call["status"] in ("ready", "backoff")} - {""}
    if not queues:
        return {}
    living = [worker for worker in await store.workers() if worker.alive]
    declined = await store.declined(row.case_no, state.visit)
    found = {queue: why_unserved(queue, state.workflow, declined, living) for queue in sorted(queues)}
    return {queue: why for queue, why in found.items() if why}


def _short(codes: dict[str, str]) -> str:
    prints = sorted(set(codes.values()))
    return sha256("".join(prints).encode()).hexdigest()[:8] if prints else ""
