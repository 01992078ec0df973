"""What a worker's incarnation held, and who is taken for dead: nothing leaks, and no error of one stops the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.runtime.common import CountedRounds, Thing, desk
from tests.support.waiting import BOUND, until
from tests.support.workers import joined, lapse, taken_over

from longcase import Case, Longcase, Next, Workflow, activity, days, seconds
from longcase.env import Env
from longcase.errors import StoreUnavailable, UsageError, WorkerForgotten
from longcase.history.event import instant_text
from longcase.model.activity import Activity
from longcase.runtime.limits import Slots
from longcase.runtime.residents import Residents


@activity(owner=desk, concurrency=1, timeout=seconds(60))
async def narrow(name: str) -> str:
    return name


@activity(owner=desk, concurrency=2, timeout=seconds(60))
async def wider(name: str) -> str:
    return name


def twice(called: Activity[..., Any]) -> Workflow[Thing]:
    """Return a workflow that calls the activity at its start, and once more in a turn of the worker's."""
    flow = Workflow(f"twice-{called.name}", object=Thing, key="id", owner=desk, expect=days(1))

    @flow.stage(expect=days(1))
    async def calling(case: Case[Thing]) -> Next:
        return flow.close("done", result=[await called(case.key), await called(case.key)])

    calling.fn.__globals__.setdefault(called.name, called)
    return flow


flows = {1: twice(narrow), 2: twice(wider)}


async def closed(longcase: Longcase, flow: Workflow[Thing], key: str = "a") -> Any:
    """Wait for a case's end; returns its result."""

    async def look() -> Any:
        return (await longcase.service.show(f"{flow.name}/{key}")).state.close

    return (await until(look))["result"]


@pytest.mark.parametrize("room", flows)
@pytest.mark.parametrize("refused", [1, 2], ids=["start", "turn"])
@pytest.mark.parametrize("forgotten", [True, False], ids=["forgotten", "unavailable"])
async def test_no_slot_is_lost_with_a_commit_that_did_not_happen(
    store_url: str, monkeypatch: pytest.MonkeyPatch, room: int, refused: int, forgotten: bool
) -> None:
    flow = flows[room]
    async with Longcase([flow], url=store_url) as longcase, longcase.working() as worker:
        await joined(worker)
        first, write, begun = worker.number, longcase.store.write, 0

        async def writing(writes: Sequence[Any], **how: Any) -> Any:
            nonlocal begun
            if any(event.data.get("worker") for one in writes for event in one.events):
                begun += 1
                if begun == refused and forgotten:
                    await taken_over(longcase, store_url, first)
                    raise WorkerForgotten(f"worker {first} is not registered any more")
                if begun == refused:
                    raise StoreUnavailable("the answer is lost")
            return await write(writes, **how)

        monkeypatch.setattr(longcase.store, "write", writing)
        if refused == 1:
            with pytest.raises(StoreUnavailable):
                await longcase.service.start(flow, Thing(id="a"))
        await longcase.service.start(flow, Thing(id="a"))
        assert await closed(longcase, flow) == ["a", "a"]
        assert begun >= refused

        async def free() -> bool:
            return worker._slots.running == 0

        await until(free)
        assert (worker.number != first) == forgotten


async def test_a_late_answer_to_an_earlier_incarnations_beat_does_not_forget_the_present_one(store_url: str) -> None:
    async with Longcase([flows[1]], url=store_url) as longcase, longcase.working() as worker:
        await joined(worker)
        first, pulse = worker.number, worker._membership._pulse
        assert pulse is not None
        await taken_over(longcase, store_url, first)
        worker._membership._beat_at = 0.0

        async def anew() -> bool:
            return worker.number != first and worker.accepts

        await until(anew)
        second = worker.number
        pulse._forgotten()
        assert worker.accepts
        await longcase.service.start(flows[1], Thing(id="a"))
        await closed(longcase, flows[1])
        assert worker.number == second


@pytest.mark.parametrize("error", [UsageError("worker 1 is alive"), StoreUnavailable("locked"), ValueError("a bug")])
async def test_what_the_recovery_of_one_worker_raises_stops_neither_the_others_nor_the_worker(
    store_url: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with Longcase([flows[1]], url=store_url) as longcase:
        store: Any = longcase.store
        late, dead = await store.join("here", 1), await store.join("here", 2)
        recover = store.recover

        async def recovering(worker: int) -> int:
            if worker == late:  # it was dead when the dead were listed, and has beaten since
                raise error
            return int(await recover(worker))

        monkeypatch.setattr(store, "recover", recovering)
        for number in (late, dead):
            await lapse(store, number)
        async with longcase.working() as worker:
            await joined(worker)

            async def gone() -> bool:
                return dead not in [row.no for row in await store.workers()]

            await until(gone)
            assert late in [row.no for row in await store.workers()]
            await longcase.service.start(flows[1], Thing(id="a"))
            await closed(longcase, flows[1])


async def test_a_worker_that_frees_the_cases_of_another_workflow_does_not_say_that_it_goes_on_with_them(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Longcase([flows[1]], url=store_url) as longcase:
        store: Any = longcase.store
        dead, _ = await store.join("here", 1), await store.join("here", 2)
        await longcase.service.start(flows[1], Thing(id="a"))
        assert await store.ready(instant_text(longcase.env.now()), dead, 1) == [1]
        await lapse(store, dead)
        async with Longcase([flows[2]], url=store_url) as other, other.working() as worker:
            await joined(worker)

            async def gone() -> bool:
                return dead not in [row.no for row in await store.workers()]

            await until(gone)
            told = [record.getMessage() for record in caplog.records if f"worker {dead} is dead" in record.getMessage()]
            assert told == [f"worker {dead} is dead; cases set free for the workers of their workflows: 1"]
            assert (await other.service.show(f"{flows[1].name}/a")).state.visit == 0


async def test_a_worker_that_was_taken_for_dead_and_lives_is_asked_about_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Longcase([flows[1]], url="sqlite:///:memory:") as longcase:
        env, dead = Env(), {7}
        monkeypatch.setattr(longcase.store, "is_dead", dead.__contains__)
        residents = Residents(longcase.store, env, 1, Slots(env.now), 10, None)
        assert residents._is_dead(7)
        dead.clear()
        assert not residents._is_dead(7)


async def test_a_draining_worker_does_not_leave_while_a_start_of_its_own_is_being_written(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Longcase([flows[1]], url=store_url) as longcase:
        worker = CountedRounds(longcase.store, longcase.env, longcase.codes)
        running = asyncio.create_task(worker.run())
        await joined(worker)
        write, under_way, door = longcase.store.write, asyncio.Event(), asyncio.Event()

        async def writing(writes: Sequence[Any], **how: Any) -> Any:
            if any(one.new is not None for one in writes):
                under_way.set()
                await door.wait()
            return await write(writes, **how)

        monkeypatch.setattr(longcase.store, "write", writing)
        starting = asyncio.create_task(worker.start([longcase.service.new_case(flows[1], Thing(id="a"))]))
        async with asyncio.timeout(BOUND):
            await under_way.wait()
            worker.stop()
            enough = worker.rounds + 3
            while worker.rounds < enough and not running.done():
                await asyncio.sleep(0.01)
            assert not running.done()
            door.set()
            await starting
            await running
        rows = await longcase.service.query("SELECT lease FROM cases")
        assert [row["lease"] for row in rows] == [0]
