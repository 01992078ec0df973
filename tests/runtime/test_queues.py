"""Queues: a call bound to one runs only where it is served, in order of priority, fairly, within its limits."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from tests.runtime.common import desk
from tests.support.waiting import until, until_true
from tests.support.workers import killed

from longcase import Case, Longcase, Next, Queue, Retry, Workflow, activity, days, hours, seconds
from longcase.history.event import instant_of
from longcase.runtime.worker import Worker
from longcase.service.fleet import Held
from longcase.store.records import WorkerRow

gpu = Queue("gpu")
narrow = Queue("narrow", concurrency=2)
slow = Queue("slow", rate=(1, hours(1)))
single = Queue("single", concurrency=1)


class Thing(BaseModel):
    id: str
    trouble: int = 0


class World:
    """What happened outside, and a door that attempts wait at."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.begun: list[str] = []
        self.stopped: list[str] = []
        self.inside = self.most = 0
        self.door = asyncio.Event()
        self.failing: dict[str, int] = {}


world = World()


@activity(owner=desk, queue=gpu, retry=Retry(max_attempts=4, initial=seconds(0.01), jitter="none"))
async def render(name: str, trouble: int) -> str:
    world.begun.append(name)
    if world.failing.get(name, 0) < trouble:
        world.failing[name] = world.failing.get(name, 0) + 1
        raise RuntimeError("the card is hot")
    return f"picture of {name}"


@activity(owner=desk)
async def deliver(picture: str) -> str:
    world.begun.append(f"deliver {picture}")
    return picture


pictures = Workflow("pictures", object=Thing, key="id", owner=desk, expect=days(1))
stop = pictures.signal("stop", Thing, owner=desk)


@pictures.stage(expect=days(1))
async def drawing(case: Case[Thing]) -> Next:
    picture = await render(case.key, case.object.trouble)
    return pictures.close("drawn", result=await deliver(picture))


@activity(owner=desk, queue=narrow, timeout=seconds(60))
async def squeeze(name: str) -> str:
    world.begun.append(name)
    world.inside += 1
    world.most = max(world.most, world.inside)
    try:
        await world.door.wait()
    except asyncio.CancelledError:
        world.stopped.append(name)
        raise
    finally:
        world.inside -= 1
    return name


crowd = Workflow("crowd", object=Thing, key="id", owner=desk, expect=days(1))
away = crowd.signal("away", Thing, owner=desk)


@crowd.stage(expect=days(1))
async def passing(case: Case[Thing]) -> Next:
    return crowd.close("through", result=await squeeze(case.key))


@crowd.on(away)
async def leaving(case: Case[Thing], thing: Thing) -> Next:
    return crowd.close("away")


@activity(owner=desk, queue=slow)
async def stamp(name: str) -> str:
    return name


post = Workflow("post", object=Thing, key="id", owner=desk, expect=days(1))


@post.stage(expect=days(1))
async def stamping(case: Case[Thing]) -> Next:
    return post.close("stamped", result=await stamp(case.key))


@activity(owner=desk, queue="warm", retry=Retry(initial=hours(1), cap=hours(1), jitter="none"))
async def heat(name: str) -> str:
    raise RuntimeError("no gas")


warming = Workflow("heating", object=Thing, key="id", owner=desk, expect=days(1))


@warming.stage(expect=days(1))
async def kettle(case: Case[Thing]) -> Next:
    return warming.close("hot", result=await heat(case.key))


@activity(owner=desk, queue=single)
async def weigh(name: str) -> str:
    world.begun.append(name)
    world.inside += 1
    await world.door.wait()
    world.inside -= 1
    return name


scales = Workflow("scales", object=Thing, key="id", owner=desk, expect=days(1))
jolt = scales.signal("jolt", Thing, owner=desk)


@scales.stage(expect=days(1))
async def weighing(case: Case[Thing]) -> Next:
    weight = await weigh(case.key)
    if case.object.trouble:
        raise RuntimeError("no such weight")
    return scales.close("weighed", result=weight)


@scales.on(jolt, interrupts=False)
async def jolted(case: Case[Thing], thing: Thing) -> None:
    if case.object.trouble:
        raise RuntimeError("it fell off")


ALL = [pictures, crowd, post, warming, scales]
SPENT = "its rate, 1 in 3600 s, is spent until "


class Fleet:
    """Several workers of one store, each with its own connection, in one process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.workers: list[Worker] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Fleet:
        self.door = await self._stack.enter_async_context(Longcase(ALL, url=self.url))
        return self

    async def __aexit__(self, *error: Any) -> None:
        world.door.set()
        await self._stack.aclose()

    async def add(self, *queues: str, attempts: int = 2_000, only: Workflow[Thing] | None = None) -> Worker:
        longcase = await self._stack.enter_async_context(Longcase([only] if only else ALL, url=self.url))
        worker = await self._stack.enter_async_context(longcase.working(queues, attempts=attempts))
        await until_true(lambda: worker.number)
        self.workers.append(worker)
        return worker

    async def start(self, workflow: Any, *names: str, **fields: Any) -> None:
        service = self.door.service
        await service.start_prepared([service.new_case(workflow, Thing(id=name, **fields)) for name in names])

    async def closed(self, workflow: str) -> int:
        rows = await self.door.service.query(
            "SELECT count(*) AS n FROM case_overview WHERE status = 'closed' AND workflow = ?", (workflow,)
        )
        return int(rows[0]["n"])

    async def has_closed(self, workflow: str, count: int) -> bool:
        return await self.closed(workflow) == count

    async def held(self, case: str) -> bool:
        return bool((await self.door.service.show(case)).state.incidents)

    async def mend(self, case: str) -> None:
        """Correct what a stage or a handler stumbled over, and have it run once more."""
        await self.door.service.correct(case, {"trouble": 0}, reason="typo")
        await self.door.service.retry(case, reason="mended")

    async def queued(self) -> dict[str, str]:
        rows = await self.door.service.query("SELECT key, status FROM queued_calls")
        return {row["key"]: row["status"] for row in rows}


@pytest.fixture(autouse=True)
def fresh() -> None:
    world.reset()


async def test_a_call_waits_for_a_worker_of_its_queue_and_everything_else_goes_on(store_url: str) -> None:
    async with Fleet(store_url) as fleet:
        await fleet.add("default")
        await fleet.start(pictures, "a", "b")

        async def waiting() -> bool:
            return await fleet.queued() == {"a": "waiting", "b": "waiting"}

        await until(waiting)
        view = await fleet.door.service.show("pictures/a")
        assert [wait.what for wait in view.waits] == ["render, for a worker of queue gpu"]
        assert world.begun == []
        (row,) = await fleet.door.service.query("SELECT * FROM queues")
        assert (row["queue"], row["waiting"], row["running"], row["workers"]) == ("gpu", 2, 0, 0)

        await fleet.add("gpu")

        async def both() -> bool:
            return await fleet.closed("pictures") == 2

        await until(both)
        assert sorted(world.begun) == ["a", "b", "deliver picture of a", "deliver picture of b"]
        assert await fleet.queued() == {}
        ran = await fleet.door.service.query("SELECT DISTINCT activity, worker FROM attempts ORDER BY activity")
        assert [(row["activity"], row["worker"]) for row in ran] == [
            ("deliver", fleet.workers[0].number),
            ("render", fleet.workers[1].number),
        ]


async def test_a_worker_of_both_serves_both_and_retries_in_the_queue(store_url: str) -> None:
    async with Fleet(store_url) as fleet:
        await fleet.add("default", "gpu")
        await fleet.start(pictures, "a", trouble=2)

        async def done() -> bool:
            return await fleet.closed("pictures") == 1

        await until(done)
        assert world.begun == ["a", "a", "a", "deliver picture of a"]


async def test_inv_19_a_queue_runs_no_more_at_once_than_it_allows_over_all_workers(store_url: str) -> None:
    async with Fleet(store_url) as fleet:
        await fleet.add("default")
        for _ in range(3):
            await fleet.add("narrow")
        await fleet.start(crowd, *(f"c{n}" for n in range(7)))

        async def full() -> bool:
            return world.inside == 2

        await until(full)
        rows = await fleet.door.service.query("SELECT waiting, running FROM queues WHERE queue = 'narrow'")
        assert [(row["waiting"], row["running"]) for row in rows] == [(5, 2)]
        world.door.set()

        async def through() -> bool:
            return await fleet.closed("crowd") == 7

        await until(through)
        assert world.most == 2
        assert sorted(world.begun) == [f"c{n}" for n in range(7)]


async def test_an_attempt_is_asked_to_stop_by_the_worker_that_interrupts_its_case(store_url: str) -> None:
    async with Fleet(store_url) as fleet:
        await fleet.add("default")
        await fleet.add("narrow")
        await fleet.start(crowd, "c")

        async def inside() -> bool:
            return world.inside == 1

        await until(inside)
        await fleet.door.service.signal("crowd/c", away, Thing(id="c"))

        async def stopping() -> bool:
            return any(running.stopping for running in fleet.workers[1]._carrier.running.values())

        await until(stopping)
        assert (await fleet.door.service.show("crowd/c")).state.status == "closed"
        world.door.set()

        async def settled() -> bool:
            return not await fleet.queued()

        await until(settled)


async def test_a_worker_without_room_leaves_queued_calls_to_others(store_url: str) -> None:
    async with Fleet(store_url) as fleet:
        await fleet.add("default")
        busy = await fleet.add("narrow", attempts=1)
        await fleet.start(crowd, "c0", "c1")

        async def one() -> bool:
            return world.inside == 1

        await until(one)
        await fleet.add("narrow", attempts=1)

        async def two() -> bool:
            return world.inside == 2

        await until(two)
        assert busy.running_attempts == 1


async def test_an_outcome_that_an_incident_keeps_leaves_the_queues_room_to_others(store_url: str) -> None:
    world.door.set()
    async with Fleet(store_url) as fleet:
        await fleet.add("default", "single")
        await fleet.start(scales, "bad", trouble=1)
        await until(lambda: fleet.held("scales/bad"))
        await fleet.start(scales, "good")
        await until(lambda: fleet.has_closed("scales", 1))
        await fleet.mend("scales/bad")
        await until(lambda: fleet.has_closed("scales", 2))
        assert world.begun == ["bad", "good"]


async def test_an_attempt_that_ends_while_its_case_is_held_leaves_the_queues_room_to_others(store_url: str) -> None:
    async with Fleet(store_url) as fleet:
        await fleet.add("default", "single")
        await fleet.start(scales, "bad", trouble=1)
        await until_true(lambda: world.inside)
        await fleet.door.service.signal("scales/bad", jolt, Thing(id="bad"))
        await until(lambda: fleet.held("scales/bad"))
        await fleet.start(scales, "good")
        world.door.set()
        await until(lambda: fleet.has_closed("scales", 1))
        await fleet.mend("scales/bad")
        await until(lambda: fleet.has_closed("scales", 2))
        assert world.begun == ["bad", "good"]


async def test_what_a_dead_worker_had_claimed_or_run_is_taken_over(store_url: str) -> None:
    async with Fleet(store_url) as fleet:
        await fleet.add("default")
        first = await fleet.add("narrow")
        await fleet.start(crowd, "c0", "c1")

        async def two() -> bool:
            return world.inside == 2

        await until(two)
        await killed(first)
        await fleet.add("narrow")

        async def again() -> bool:
            return len(world.begun) == 4

        await until(again)
        world.door.set()

        async def through() -> bool:
            return await fleet.closed("crowd") == 2

        await until(through)


async def test_a_worker_leaves_the_calls_of_workflows_it_has_not_loaded_to_others(store_url: str) -> None:
    async with Fleet(store_url) as fleet:
        await fleet.add("default")
        stranger = await fleet.add("gpu", only=crowd)
        await fleet.start(pictures, "a")

        async def looked() -> bool:
            return stranger.agenda.queues_at == "" and await fleet.queued() == {"a": "waiting"}

        await until(looked)
        await fleet.add("gpu", only=pictures)

        async def drawn() -> bool:
            return await fleet.closed("pictures") == 1

        await until(drawn)


async def test_why_nobody_takes_a_call_is_told_while_its_queues_limits_are_reached(store_url: str) -> None:
    async with Fleet(store_url) as fleet:
        await fleet.add("default")
        await fleet.add("narrow", "slow")

        async def held() -> dict[str, list[Held]]:
            return {queue.queue: queue.held for queue in (await fleet.door.service.workers()).queues}

        assert await held() == {"narrow": [], "slow": []}
        await fleet.start(crowd, "a", "b", "c")
        await fleet.start(post, "p", "q")

        async def full() -> bool:
            states = list((await fleet.queued()).values())
            return (states.count("running"), states.count("waiting")) == (2, 2)

        await until(full)
        told = await held()
        assert told["narrow"] == [Held("crowd", 1, "as many run as may at once: 2", False)]
        (why,) = told["slow"]
        assert (why.workflow, why.calls, why.unserved) == ("post", 1, False)
        (row,) = await fleet.door.service.query("SELECT started_at FROM attempts WHERE activity = 'stamp'")
        claimed, opens = instant_of(row["started_at"]), instant_of(why.why.removeprefix(SPENT))
        assert timedelta(minutes=59) < opens - claimed <= timedelta(hours=1)
        async with Longcase([], url=store_url) as without_code:
            assert [queue.held for queue in (await without_code.service.workers()).queues] == [[], []]
        world.door.set()

        async def through() -> bool:
            return await fleet.closed("crowd") == 3

        await until(through)
        assert (await held())["narrow"] == []


async def test_a_call_that_is_tried_later_is_not_said_to_be_left_waiting(store_url: str) -> None:
    async with Fleet(store_url) as fleet:
        await fleet.add("default")
        await fleet.add("warm")
        await fleet.start(warming, "a")

        async def later() -> bool:
            return (await fleet.door.service.show("heating/a")).waits[0].what.startswith("heat, attempt 2 at ")

        await until(later)
        (queue,) = (await fleet.door.service.workers()).queues
        (row,) = await fleet.door.service.query("SELECT due FROM queued_calls")
        assert (queue.waiting, queue.held, queue.next_due) == (1, [], row["due"])


async def test_show_reads_the_workers_once_whatever_it_says_of_them(store_url: str) -> None:
    async with Longcase(ALL, url=store_url) as longcase:
        async with longcase.working():
            await longcase.service.start(pictures, Thing(id="a"))

            async def waiting() -> bool:
                return bool(await longcase.service.query("SELECT key FROM queued_calls"))

            await until(waiting)
        await longcase.service.signal("pictures/a", stop, Thing(id="a"))
        read, looks = longcase.store.workers, 0

        async def counted() -> list[WorkerRow]:
            nonlocal looks
            looks += 1
            return await read()

        longcase.store.workers = counted  # type: ignore[method-assign]
        view = await longcase.service.show("pictures/a")
        assert (view.unserved, dict(view.untaken)) == (True, {"gpu": "no worker is alive"})
        assert looks == 1


async def test_a_tenant_with_few_calls_is_served_beside_one_with_many(store_url: str) -> None:
    async with Fleet(store_url) as fleet, Longcase(ALL, url=store_url, tenant="small") as small:
        await fleet.add("default")
        await fleet.start(pictures, *(f"main-{n}" for n in range(6)))

        async def queued(count: int) -> bool:
            return len(await fleet.queued()) == count

        await until(lambda: queued(6))
        await small.service.start_prepared([small.service.new_case(pictures, Thing(id=f"small-{n}")) for n in range(2)])
        await until(lambda: queued(8))
        await fleet.add("gpu", attempts=1)

        async def done() -> bool:
            return await fleet.closed("pictures") == 8

        await until(done)
        begun = [name.partition("-")[0] for name in world.begun if not name.startswith("deliver ")]
        assert begun == ["main", "small", "main", "small", "main", "main", "main", "main"]
