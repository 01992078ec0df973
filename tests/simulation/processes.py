"""The processes of a simulated fleet, their connections to the store, and the store as a fleet shares it.

The store is the SQLite store in memory, with its own SQL; every call of it is a place where other
processes go on, where it may fail, or where the caller dies. In `lapse` mode it treats incarnations as
PostgreSQL does: leases lapse by the store's clock, ready cases are claimed, and who was forgotten is
told so. Otherwise death is certain, as with the locks of one machine.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.simulation.simloop import Place, SimLoop, here

from longcase.env import Env
from longcase.errors import StorageFull, StoreUnavailable, WorkerForgotten
from longcase.runtime.worker import Worker
from longcase.store.records import CaseWrite, QueueLimits, Taken, Written
from longcase.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from tests.simulation.fleet import Fleet

LEASE = 12.0  # seconds of the store's clock without a beat after which an incarnation may be forgotten
WRITES = frozenset(
    {"start", "write", "edit", "join", "leave", "beat", "recover", "keep_heartbeat", "forget_heartbeats"}
    | {"decline", "undecline", "take", "give_back"}
)
READING = {"fail": 0.004, "crash": 0.003, "slow": 0.01}
WRITING = {
    "fail": 0.01, "crash": 0.006, "crash after": 0.006, "unknown": 0.02, "late": 0.012, "slow": 0.02,
}  # fmt: skip
TAKING = {**WRITING, "crash after": 0.02, "unknown": 0.05, "late": 0.03}  # what was taken must be found again
# Long enough for a worker that is taken for dead to beat meanwhile.
RECOVERING = {**WRITING, "slow": 0.3}
CHANCES = {"take": TAKING, "give_back": TAKING, "recover": RECOVERING}
STANDING = {"pause at a write": 0.1}  # in `lapse` mode: it writes as one that others have taken for dead


class Killed(BaseException):
    """The process died here. No `except Exception` of ours may go on after that."""


class StoreClock:
    """The store's clock: it goes on with the loop's time, and can be set."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._start = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
        self.offset = timedelta(0)

    def now(self) -> datetime:
        return self._start + self.offset + timedelta(seconds=self._loop.time())

    def seconds_until(self, instant: datetime) -> float:
        return max(0.0, (instant - self.now()).total_seconds())


class MachineClock(StoreClock):
    """A machine's clock: off by `skew`, and corrected by what was last measured against the store's."""

    def __init__(self, loop: SimLoop, store: StoreClock) -> None:
        super().__init__(loop)
        self._store = store
        self.skew = timedelta(0)
        self.correction = timedelta(0)

    def now(self) -> datetime:
        return self._store.now() + self.skew + self.correction

    def measure(self) -> None:
        """Set it right by the store's, as a connection does at its opening and at each beat."""
        self.correction = -self.skew


class SimEnv(Env):
    """A process's environment: its clock, its chance, and points at which it may die."""

    def __init__(self, clock: StoreClock, seed: str, loop: SimLoop, point: Callable[[str], None]) -> None:
        super().__init__(clock)
        self.random.seed(seed)
        self._loop = loop
        self._point = point

    def monotonic(self) -> float:
        return self._loop.time()

    def signal_point(self, name: str) -> None:
        self._point(name)

    def thread(self, name: str, run: Callable[[], None]) -> bool:
        return False


class Process(Place):
    """A process of the fleet. Everything it knows is lost with it."""

    def __init__(self, fleet: Fleet, name: str, incarnation: int) -> None:
        super().__init__(f"{name}.{incarnation}")
        self.short = name
        self.incarnation = incarnation
        self.context: Context = copy_context()
        self.context.run(here.set, self)
        self.clock = MachineClock(fleet.loop, fleet.clock)
        self.env = SimEnv(
            self.clock, f"{fleet.seed} {self.name}", fleet.loop, lambda point: fleet.at_point(self, point)
        )
        self.wire = Wire(fleet, self)
        self.worker: Worker | None = None
        self.asking = 0  # calls of the store under way
        self.numbers: list[int] = []  # the worker incarnations it has joined as
        self.fence = 0  # how often it had the turns refused that it had sent and heard nothing of


class Wire:
    """The store as one process reaches it."""

    def __init__(self, fleet: Fleet, process: Process) -> None:
        self._fleet = fleet
        self._process = process
        self._known = 0
        self._look_at = 0.0
        self._deaf_until = 0.0

    def changed(self) -> bool:
        """Tell of others' commits, as a hint that may be late or lost; every so often it is the truth."""
        fleet, now = self._fleet, self._fleet.loop.time()
        if now < self._deaf_until or fleet.witness.commits == self._known:
            return False
        if fleet.faults.draw(f"{self._process.short} hint", {"hint lost": 0.05}):
            self._deaf_until = now + fleet.faults.amount(f"{self._process.short} hint", 0.5, 3.0)
            return False
        self._known = fleet.witness.commits
        return True

    def gone(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._fleet.shared, name)
        if not inspect.iscoroutinefunction(method):
            return method
        call = self._wrapped(name, method)
        setattr(self, name, call)
        return call

    def _wrapped(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        fleet, process = self._fleet, self._process
        place = f"{process.short} {name}"
        writes = name in WRITES
        chances = CHANCES.get(name, WRITING if writes else READING)
        shared = fleet.shared

        async def call(*args: Any, **kwargs: Any) -> Any:
            if process.dead:
                raise Killed
            process.asking += 1
            try:
                return await travel(*args, **kwargs)
            finally:
                process.asking -= 1

        async def travel(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            fault = fleet.faults.draw(place, chances)
            if fault == "slow":
                await asyncio.sleep(fleet.faults.amount(place, 0.01, 4.0))
            elif fault == "crash":
                fleet.kill(process)
                raise Killed
            elif fault == "fail":
                raise StoreUnavailable(f"{name}: the store was not reached", hint="nothing was done")
            elif fault == "late":
                fleet.later(name, method, *deepcopy(args) if name != "edit" else args, by=process, **kwargs)
                raise StoreUnavailable(f"{name}: no answer", hint="it may have been written, or may yet be")
            if name == "write" and fleet.lapse and fleet.faults.draw(f"{place} stands", STANDING):
                fleet.pause(process, fleet.faults.amount(f"{place} stands", 13.0, 25.0))
                await asyncio.sleep(0)
            fleet.reachable(name, writes)
            shared.caller = process
            result = await method(*args, **kwargs)
            if writes:
                fleet.witness.committed(name, args, result)
            if fault == "crash after":
                fleet.kill(process)
                raise Killed
            if fault == "unknown":
                raise StoreUnavailable(f"{name}: the answer was lost", hint="it may have been written")
            return result

        return call


class SharedStore:
    """What all connections reach: the store itself, and what it says of incarnations."""

    caller: Process

    def __init__(self, fleet: Fleet, store: SqliteStore) -> None:
        self._fleet = fleet
        self._store = store
        self.beats: dict[int, int] = {}  # registered incarnation -> the store's time of its last beat

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        setattr(self, name, method)
        return method

    def time(self) -> int:
        """Return the store's time in whole seconds: so coarse that `<` and `<=` make a difference."""
        return int(self._fleet.loop.time() + self._fleet.lease_jump)

    def lapsed(self, worker: int) -> bool:
        return self.time() - self.beats[worker] > LEASE

    async def join(self, *args: Any, **kwargs: Any) -> int:
        worker = await self._store.join(*args, **kwargs)
        self.caller.numbers.append(worker)
        self.caller.clock.measure()
        self.beats[worker] = self.time()
        return worker

    async def leave(self, worker: int) -> None:
        standing = self._fleet.queues.standing(worker)
        await self._store.leave(worker)
        self.beats.pop(worker, None)
        self._fleet.queues.gone(worker, standing)

    async def beat(self, worker: int) -> None:
        if self._fleet.lapse:
            if worker not in self.beats:
                raise WorkerForgotten(f"worker {worker} has been forgotten", hint="join again")
            self.beats[worker] = self.time()
            self.caller.clock.measure()
        await self._store.beat(worker)

    async def dead_workers(self) -> list[int]:
        if not self._fleet.lapse:
            return await self._store.dead_workers()
        return [worker for worker in self.beats if self.lapsed(worker)]

    def is_dead(self, worker: int) -> bool:
        return worker not in self.beats if self._fleet.lapse else self._store.is_dead(worker)

    async def recover(self, worker: int) -> int:
        if self._fleet.lapse:
            if worker not in self.beats or not self.lapsed(worker):
                return 0  # it has beaten since, or another was faster
            self._store.abandon(worker)
        standing = self._fleet.queues.standing(worker)
        freed = await self._store.recover(worker)
        self._fleet.witness.forgotten(worker)
        self.beats.pop(worker, None)
        self._fleet.queues.gone(worker, standing)
        return freed

    async def settle(self) -> None:
        """Refuse the caller's turns that are on their way; in a file of SQLite's there are none, here there are."""
        self.caller.fence += 1

    async def take(
        self, worker: int, served: Sequence[QueueLimits], now: str, limit: int,
        workflows: Sequence[str] | None = None, granted: Sequence[tuple[int, str]] | None = None,
    ) -> Taken:  # fmt: skip
        if worker not in self.beats:  # on one machine: what a process that has died sent late reaches no file
            raise WorkerForgotten(f"worker {worker} has been forgotten", hint="join again")
        waiting = self._fleet.queues.waiting()
        taken = await self._store.take(worker, served, now, limit, workflows, granted)
        self._fleet.queues.taken(self.caller, worker, served, now, limit, taken, waiting)
        return taken

    async def give_back(self, worker: int, calls: Sequence[tuple[int, str, int]]) -> None:
        standing = self._fleet.queues.standing(worker)
        await self._store.give_back(worker, calls)
        self._fleet.queues.given_back(worker, calls, standing)

    async def ready(self, now: str, worker: int, limit: int, workflows: Sequence[str] | None = None) -> list[int]:
        if self._fleet.lapse and worker and worker not in self.beats:
            return []  # before the store leases anything to it
        held = self._fleet.witness.held() if self._fleet.lapse and worker else {}
        found = await self._store.ready(now, worker, limit, workflows)
        if self._fleet.lapse and worker and found:
            self._fleet.witness.claimed(worker, found, held)
            await self._store._committer.run(
                lambda tx: tx.cursor.executemany(
                    "UPDATE cases SET lease = ? WHERE case_no = ?", [(worker, case_no) for case_no in found]
                )
            )
        if found:
            self._fleet.witness.look()
        return found

    async def write(self, writes: Sequence[CaseWrite], *, partial: bool = False) -> list[Written]:
        """Write; what a forgotten incarnation writes, or is to hold, is refused as stale."""
        if not self._fleet.lapse:
            return await self._store.write(writes, partial=partial)
        fenced = {place for place, write in enumerate(writes) if {write.lease, write.worker} - {0, *self.beats}}
        if not fenced:
            return await self._store.write(writes, partial=partial)
        self._fleet.faults.counts["fenced"] += len(fenced)
        passed = await self._store.write([w for n, w in enumerate(writes) if n not in fenced], partial=partial)
        answers = iter(passed)
        return [
            Written("stale", write.case_no) if place in fenced else next(answers) for place, write in enumerate(writes)
        ]


def storage_full(name: str) -> StorageFull:
    return StorageFull(f"{name}: the disk is full", hint="make room; nothing was written")
