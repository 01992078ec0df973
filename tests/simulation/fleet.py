"""One seed, one life of a fleet: workers, servers, clients and people as processes of their own, over one store.

Phase one does harm: processes are killed at any call of the store and at named points, paused beyond
their lease, drained and started anew; calls fail, are slow, are committed although the answer is lost,
or only after the caller has given up; the store restarts, its disk is full, its clock jumps, machines'
clocks are off; requests are lost, doubled and late; vendors fail. In phase two nothing fails any more
and operators do their work: every case must close.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta
from random import Random
from typing import Any, cast

from tests.simulation.chaos import Chaos
from tests.simulation.faults import Faults
from tests.simulation.life import Broken, Life, Sent, Sim, memory_store
from tests.simulation.processes import Killed, Process, SharedStore, SimEnv, StoreClock, storage_full
from tests.simulation.queues import QUEUES, QueueWitness
from tests.simulation.simloop import SimLoop, Stuck
from tests.simulation.witness import Witness
from tests.simulation.world import FleetWorld, enter

from longcase.engine.tasks import Actor
from longcase.errors import LongcaseError, StoreUnavailable, UnavailableError
from longcase.history.event import instant_of, instant_text
from longcase.model.queue import DEFAULT_QUEUE
from longcase.runtime import worker as runtime
from longcase.runtime.worker import Worker
from longcase.service.service import Service
from longcase.store.records import NewCase, Started

PATIENCE = 6.0  # seconds a client waits for an answer
SLEEPS = 400  # looks at whether the fleet has come to rest
REQUEST = {"request lost": 0.03, "request doubled": 0.04, "request late": 0.04, "answer late": 0.03}
QUEUED_LIVES = 0.2  # the share of lives whose plans name activities that are bound to queues
POINTS = {"crash at a point": 0.004}


class Fleet(Sim):
    """The life of one seed in a fleet."""

    def __init__(self, seed: int, without: frozenset[str] = frozenset(), trace: bool = False) -> None:
        drawn = Random(f"fleet {seed}")
        self.loop = SimLoop(Random(f"order {seed}"))
        self.clock = StoreClock(self.loop)
        self.faults = Faults(seed, drawn.choice([0.0, 0.4, 1.0, 1.0, 2.0]), without)
        world = FleetWorld(Random(seed + 1), drawn.choice([0.0, 0.1, 0.3, 0.6]), loop=self.loop, faults=self.faults)
        env = SimEnv(self.clock, f"store {seed}", self.loop, lambda name: None)
        super().__init__(seed, env, world, memory_store(env))
        self.random = drawn
        self.lapse = drawn.random() < 0.6  # leases as on PostgreSQL; else as on one machine
        self.lease_jump = 0.0
        self.shared = SharedStore(self, self.store)
        self.outside = copy_context()  # who acts here belongs to no process
        self.down = self.full = False
        self.processes: list[Process] = []
        self.workers: dict[str, Worker] = {}  # by process name
        self.wanted = [f"worker{n}" for n in range(drawn.choice([1, 2, 2, 3, 4]))]
        self.servers = [f"server{n}" for n in range(drawn.choice([1, 1, 2]))]
        self.doors: dict[str, Service] = {}
        self.service = cast(Service, Door(self))
        self.log: list[str] = []
        self.trace = trace
        self.faults.tell = lambda text: self.tell(f"FAULT {text}")
        self.counts = self.faults.counts
        self.witness = Witness(self)
        self.queues = QueueWitness(self)
        drawn = Random(f"queues {seed}")
        self.queued = drawn.random() < QUEUED_LIVES
        self.serves = shares(drawn, self.wanted) if self.queued else dict.fromkeys(self.wanted, (DEFAULT_QUEUE,))
        world.watched = self.queues.watched

    def tell(self, text: str) -> None:
        if self.trace:
            self.log.append(f"{instant_text(self.clock.now())[5:-4]} {text}")

    # -- processes -------------------------------------------------------------------------------------

    def start_worker(self, name: str) -> None:
        """Start a process that moves cases; some of them take requests too, as an application does."""
        process = self._process(name)
        live = self.random.choice([1, 512])
        worker = Worker(cast(Any, process.wire), process.env, self.codes, live=live, queues=self.serves[name])
        process.worker = worker
        self.workers[process.name] = worker
        self.loop.create_task(self._work(process, worker), context=process.context)
        if self.random.random() < 0.4:
            door = Service(cast(Any, process.wire), process.env, self.codes, on_change=worker.wake)

            async def starter(new: Sequence[NewCase]) -> list[Started]:
                return await (worker.start(new) if worker.accepts else process.wire.start(new))

            door.starter = starter
            self.doors[process.name] = door

    async def _work(self, process: Process, worker: Worker) -> None:
        try:
            await worker.run()
            self.counts["left"] += 1
        except UnavailableError as error:
            self.tell(f"{process.name} ends: {error.message}")
        except Exception as error:
            if process.dead:
                return
            self.witness.accuse(f"{process.name} fell: {type(error).__name__}: {error}")
        self.loop.call_soon(self._gone, process, context=self.outside)

    def start_server(self, name: str) -> None:
        """Start a process that only takes requests; it may tell a worker of what it has accepted, or not."""
        process = self._process(name)
        self.doors[process.name] = Service(cast(Any, process.wire), process.env, self.codes, on_change=self._hint)

    def _hint(self, case_no: int) -> None:
        if self.faults.draw("hint", {"wake-up lost": 0.2}):
            return
        names = sorted(self.workers)
        if names and self.faults.on:
            worker = self.workers[self.random.choice(names)]
            for _ in range(2 if self.faults.draw("hint", {"wake-up doubled": 0.2}) else 1):
                delay = self.faults.amount("hint", 0.0, 1.0)
                self.loop.call_later(delay, worker.wake, case_no, context=self.process_of(worker).context)

    def _process(self, name: str) -> Process:
        incarnation = 1 + sum(process.short == name for process in self.processes)
        process = Process(self, name, incarnation)
        self.processes.append(process)
        if self.lapse and self.faults.draw(f"{name} clock", {"machine clock off": 0.3}):
            process.clock.skew = timedelta(seconds=self.faults.amount(f"{name} clock", -300, 300))
            process.clock.measure()
        self.tell(f"{process.name} starts")
        return process

    def process_of(self, worker: Worker) -> Process:
        return next(process for process in self.processes if self.workers.get(process.name) is worker)

    def living(self, kind: str = "") -> list[Process]:
        return [process for process in self.processes if not process.dead and process.short.startswith(kind)]

    def at_point(self, process: Process, point: str) -> None:
        if not process.dead and self.faults.draw(f"{process.short} {point}", POINTS):
            self.kill(process)
            raise Killed

    def pause(self, process: Process, seconds: float) -> None:
        """Stop a process for a while, as SIGSTOP and SIGCONT do."""
        self.loop.pause(process)
        self.loop.call_later(seconds, self.loop.resume, process, context=self.outside)

    def kill(self, process: Process) -> None:
        """Kill a process as SIGKILL does. What it has sent into the world arrives all the same."""
        if not process.dead:
            self.tell(f"{process.name} is killed")
            self.counts["killed"] += 1
            self._gone(process)

    def _gone(self, process: Process) -> None:
        """Take a process away, and start another one in its place after a while."""
        if process.dead:
            return
        self.loop.kill(process)
        self.doors.pop(process.name, None)
        self.workers.pop(process.name, None)
        if not self.lapse:
            for number in process.numbers:
                self.store.abandon(number)
            self.witness.gone.update(process.numbers)
        self.loop.call_soon(self._bury, process, context=self.outside)
        delay = self.faults.amount("restart", 0.1, 20.0) if self.faults.on else 0.1
        again = self.start_worker if process.short.startswith("worker") else self.start_server
        self.loop.call_later(delay, again, process.short, context=self.outside)

    def _bury(self, process: Process) -> None:
        self.loop.bury(process)
        if process.worker is not None and process.worker._turns is not None:
            process.worker.turns.evict_all()

    # -- what the connections ask ------------------------------------------------------------------------

    def reachable(self, name: str, writes: bool) -> None:
        if self.down:
            raise StoreUnavailable(f"{name}: the store is not there", hint="it is being restarted")
        if self.full and writes:
            raise storage_full(name)

    def later(self, name: str, method: Callable[..., Awaitable[Any]], *args: Any, by: Process, **kwargs: Any) -> None:
        """Let a call take effect after its caller has given up; turns only until that has had them refused."""
        fence = by.fence

        async def arrive() -> None:
            if name == "write" and by.fence > fence:  # starts and edits name no worker: PostgreSQL writes them late too
                self.counts["late refused"] += 1
            elif not self.down and not self.full:
                self.shared.caller = by
                try:
                    result = await method(*args, **kwargs)
                except LongcaseError:
                    return
                self.witness.committed(name, args, result)

        delay = self.faults.amount("late", 0.0, 1.5)
        self.loop.call_later(delay, lambda: self.loop.create_task(arrive()), context=self.outside)

    # -- clients -----------------------------------------------------------------------------------------

    def mischief(self) -> float:
        return 1.0  # what befalls requests is drawn on their way

    def client(self) -> str:
        task = asyncio.current_task()
        return task.get_name() if task is not None else ""

    async def wait_a_little(self) -> None:
        await asyncio.sleep(self.random.uniform(0.05, 1.0))

    async def through(self, name: str, args: Any, kwargs: Any) -> Any:
        """Send a request to some server and wait for its answer, not for ever."""
        fate = self.faults.draw("request", REQUEST)
        names = [process.name for process in self.living() if process.name in self.doors]
        if fate == "request lost" or not names:
            await asyncio.sleep(self.random.uniform(0.1, 1.0))
            raise StoreUnavailable("no server answered")
        chosen = self.random.choice(names)
        process = next(process for process in self.processes if process.name == chosen)
        if fate == "request late":
            await asyncio.sleep(self.faults.amount("request", 0.1, 5.0))
        tasks = [self._ask(process, name, args, kwargs)]
        if fate == "request doubled":
            delay = self.faults.amount("request", 0.0, 8.0)
            self.loop.call_later(delay, self._ask, process, name, args, kwargs, context=self.outside)
        done, _ = await asyncio.wait(tasks, timeout=0.01 if fate == "answer late" else PATIENCE)
        if not done or isinstance(tasks[0].exception(), Killed):
            raise StoreUnavailable("no answer in time")
        return tasks[0].result()

    def _ask(self, process: Process, name: str, args: Any, kwargs: Any) -> asyncio.Task[Any]:
        door = self.doors.get(process.name)

        async def serve() -> Any:
            if door is None:
                raise StoreUnavailable("the server has gone")
            try:
                return await getattr(door, name)(*args, **kwargs)
            except (LongcaseError, asyncio.CancelledError):
                raise
            except Exception as error:
                if process.dead:
                    raise
                self.witness.accuse(f"{process.name}: {name}{args}: {type(error).__name__}: {error}")
                raise StoreUnavailable("500") from error

        task = self.loop.create_task(serve(), context=process.context)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return cast("asyncio.Task[Any]", task)

    async def _tell_two(self) -> None:
        """Send the same message under the same key to two cases: both must get it (I9)."""
        key = f"two{len(self.sent)}"
        for case in self.random.sample(sorted(self.there), 2):
            await self.signal_as(case, "ping", key, f"{key} for both")

    async def wrong(self) -> None:
        """Ask for what must be refused, and change nothing by it."""
        started = [sent.case for sent in self.sent if sent.kind == "start" and sent.told == "ack"]
        if not started:
            return
        case = self.random.choice(started)
        asked: list[Callable[[], Awaitable[Any]]] = [
            lambda: self.service.signal(case, "nobody", {"text": "x"}),
            lambda: self.service.signal(case, "ping", {"txt": 1}),
            lambda: self.service.signal("main/none", "ping", {"text": "x"}),
            lambda: self.service.decide(case, "approved", task="9.9", actor=Actor("person:ann")),
            lambda: self.service.correct(case, {"amount": "much"}, reason="typo"),
            lambda: self.service.retry(case, incident="i999", reason="again"),
            lambda: self.service.start("main", {"id": case[5:], "plan": {}}, idempotency_key=f"start-{case[5:]}"),
            lambda: self.service.start("main", {"id": " ", "plan": {}}),
        ]
        sent = Sent("wrong", case, {})
        await self.ask(sent, self.random.choice(asked))
        if sent.told == "ack":
            self.witness.accuse("a request that must be refused was accepted")
        self.counts["wrong refused"] += sent.told == "refused"

    # -- phases ------------------------------------------------------------------------------------------

    async def run_life(self) -> None:
        for name in self.servers:
            self.start_server(name)
        for name in self.wanted:
            self.start_worker(name)
        await self.harm()
        await self.calm()

    async def harm(self) -> None:
        many = self.random.choice([1, 1, 2, 2, 3])
        clients = [self.loop.create_task(self._client(), name=f"client{n}") for n in range(many)]
        chaos = self.loop.create_task(Chaos(self).run())
        time = self.loop.create_task(self._time())
        for client in clients:
            await client
        for task in (chaos, time):
            task.cancel()

    async def _client(self) -> None:
        wanted = self.random.choice([1, 1, 1, 2])
        for number in range(self.random.randint(5, 12)):
            if wanted and (number == 0 or self.random.random() < 0.3):
                wanted -= 1
                await self.start()
            elif self.random.random() < 0.06 and self.cases:
                await self.wrong()
            elif self.random.random() < 0.05 and len(self.there) > 1:
                await self._tell_two()
            else:
                await self.act()
            await asyncio.sleep(self.random.choice([0.0, 0.05, 0.5, 1.0]))
            if number % 5 == 4:
                await self.note_prefixes()

    async def _time(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(0.2, 3.0))
            now = self.clock.now()
            wake = await self.next_wake(instant_text(now))
            if wake and instant_of(wake) - now <= timedelta(hours=2) and self.random.random() < 0.7:
                self.set_clock(wake)
            elif self.random.random() < 0.3:
                self.set_clock(instant_text(now + timedelta(seconds=self.random.randint(1, 900))))

    async def next_wake(self, after: str) -> str:
        wake = await self.store.next_wake(after)
        return min(filter(None, (wake, self.queues.next_due(after))), default="") if self.queued else wake

    def set_clock(self, instant: str) -> None:
        self.latest = max(self.latest, instant_text(self.clock.now()))
        self.clock.offset += max(instant_of(instant) - self.clock.now(), timedelta(0))

    async def heal(self) -> None:
        self.faults.on = False
        self.tell("CALM: no more faults")
        self.witness.calm_since = self.loop.time()
        self.down = self.full = False
        for process in self.living():
            self.loop.resume(process)

    async def come_to_rest(self) -> None:
        """Wait until nobody works and nothing wants to be done; with leases that may take as long as one lasts."""
        at_rest = 0
        for _ in range(SLEEPS):
            await asyncio.sleep(0.2)
            # Twice in a row: at the first look a commit may be under way.
            at_rest = at_rest + 1 if len(self.workers) == len(self.wanted) and self._at_rest() else 0
            if at_rest == 2:
                return

    def _at_rest(self) -> bool:
        if any(process.asking for process in self.living("worker")):
            return False
        if any(not worker._drained or worker.agenda.busy or not joined(worker) for worker in self.workers.values()):
            return False
        numbers = {worker.number for worker in self.workers.values()}
        if self.queued and not self.queues.at_rest(instant_text(self.clock.now()), numbers):
            return False
        for wake, lease in self.store._read("SELECT wake_at, lease FROM cases WHERE lease <> 0 OR wake_at <> ''"):
            if (lease and lease not in numbers) or (wake and wake <= instant_text(self.clock.now())):
                return False
        return True

    # -- the life ----------------------------------------------------------------------------------------

    def live(self) -> Life:
        life = Life(self.seed)
        enter(self.world)
        try:
            with slower_looks():
                self.loop.run(self.run_life())
        except (Exception, Stuck) as error:
            life.problems.append(f"{type(error).__name__}: {error}")
        for process in self.processes:
            self.loop.kill(process)
            self._bury(process)
        self.loop.bury(self.loop.outside)
        drive(self._end(life))
        return life

    async def _end(self, life: Life) -> None:
        self.latest = max(self.latest, instant_text(self.clock.now()))
        try:
            self.witness.lost_attempts()
            await self.judge(life)
        except (Exception, Broken) as error:
            life.problems.append(f"{type(error).__name__}: {error}")
        life.problems += self.witness.found + self.loop.errors
        life.counts |= self.counts
        life.counts["steps"] = self.loop.steps
        life.faults = list(self.faults.injected)
        life.timeline += self.log
        if life.problems:
            await self.describe(life)
        await self.store.close()


def joined(worker: Worker) -> bool:
    """Tell whether a worker is registered, and stays."""
    return worker._turns is not None and not worker._membership.forgotten and not worker._draining


def shares(random: Random, workers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Draw who serves what: each queue by somebody, what is bound to none by the first at least."""
    served = {name: [DEFAULT_QUEUE] if name == workers[0] or random.random() < 0.7 else [] for name in workers}
    for queue in sorted(QUEUES):
        for name in random.sample(list(workers), random.randint(1, len(workers))):
            served[name].append(queue)
    return {name: tuple(names) or (DEFAULT_QUEUE,) for name, names in served.items()}


@contextmanager
def slower_looks() -> Iterator[None]:
    """Let workers look for others' commits less often: a life is mostly idle, and looks are what it costs."""
    before, runtime.POLL = runtime.POLL, 0.5
    try:
        yield
    finally:
        runtime.POLL = before


class Door:
    """The service as clients see it: each call goes to some server of the fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return lambda *args, **kwargs: self._fleet.through(name, args, kwargs)


def drive(coroutine: Any) -> Any:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise Broken("the store suspended")


def live(seed: int, without: frozenset[str] = frozenset(), *, trace: bool = False) -> Life:
    """Run one seed in a fleet."""
    return Fleet(seed, without, trace).live()
