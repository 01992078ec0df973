"""Old and new code beside each other: each case runs only on code that replays it (I34), and none is held for it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.runtime.common import Thing, desk
from tests.support.waiting import until

from longcase import Case, Longcase, Next, Queue, Retry, Workflow, activity, days, seconds
from longcase.model.signal import Signal
from longcase.runtime.performing import TimedOut
from longcase.service.fleet import Held

moved: list[tuple[str, str]] = []  # (release, case) in the order of the last step


def release(name: str, *steps: str) -> tuple[Workflow[Thing], Signal[Thing]]:
    """Return a release of the workflow `letters` whose stage takes these steps before it waits."""
    letters = Workflow("letters", object=Thing, key="id", owner=desk, expect=days(1))
    go = letters.signal("go", Thing, owner=desk)

    @activity(owner=desk, name="step")
    async def step(what: str) -> str:
        return what

    @activity(owner=desk, name="post")
    async def post(key: str) -> str:
        moved.append((name, key))
        return key

    @letters.stage(expect=days(1))
    async def writing(case: Case[Thing]) -> Next:
        for what in steps:
            await step(what)
        await case.receive(go, within=days(1))
        await post(case.key)
        return letters.close("sent")

    return letters, go


gpu = Queue("gpu")
door: dict[str, asyncio.Future[None]] = {}  # what each release's attempt waits for, once it has begun


def jobs_release(name: str, *, audits: bool) -> tuple[Workflow[Thing], Signal[Thing], Signal[Thing]]:
    """Return a release of `jobs`: a call in a queue beside a conversation that a later release has a step more in."""
    jobs = Workflow("jobs", object=Thing, key="id", owner=desk, expect=days(1))
    go, on = jobs.signal("go", Thing, owner=desk), jobs.signal("on", Thing, owner=desk)

    @activity(owner=desk, name="render", queue=gpu, effect="once", retry=Retry(max_attempts=3, initial=seconds(0.01)))
    async def render(key: str) -> str:
        moved.append((name, key))
        await door.setdefault(name, asyncio.get_running_loop().create_future())
        return "picture"

    @activity(owner=desk, name="audit")
    async def audit(key: str) -> str:
        return key

    @jobs.stage(expect=days(1))
    async def working(case: Case[Thing]) -> Next:
        async with asyncio.TaskGroup() as group:
            group.create_task(render(case.key))
            await case.receive(go, within=days(1))
            if audits:
                await audit(case.key)
            await case.receive(on, within=days(1))
        return jobs.close("done")

    return jobs, go, on


@activity(owner=desk, queue="gpu")
async def idle() -> None:
    return None


class Releases:
    """Workers of several releases over one store."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stack = AsyncExitStack()
        self.running: dict[str, tuple[Longcase, Any]] = {}

    async def __aenter__(self) -> Releases:
        return self

    async def __aexit__(self, *error: Any) -> None:
        for name in list(self.running):
            await self.leave(name)

    async def add(self, name: str, *steps: str) -> Longcase:
        return await self.run(name, release(name, *steps)[0])

    async def run(self, name: str, workflow: Workflow[Thing], *queues: str, code: str = "") -> Longcase:
        """Run a worker; `code` is its release, if it has another name."""
        longcase = Longcase([workflow], url=self.url)
        await longcase.open()
        longcase.codes[workflow.name].fingerprint = code or name
        if queues:  # it must have something to serve
            own = longcase.codes[workflow.name]
            own.activities = {**own.activities, "idle": idle}
        working = longcase.working(queues or ("default",))
        worker = await working.__aenter__()
        self.running[name] = (longcase, working)
        await until(lambda: _truth(worker.number))
        return longcase

    def number(self, name: str) -> int:
        worker = self.running[name][0].worker
        assert worker is not None
        return worker.number

    async def leave(self, name: str) -> None:
        longcase, working = self.running.pop(name)
        await working.__aexit__(None, None, None)
        await longcase.close()


async def _truth(value: Any) -> bool:
    return bool(value)


async def count(longcase: Longcase, sql: str) -> int:
    (row,) = await longcase.service.query(f"SELECT count(*) AS n FROM {sql}")
    return int(row["n"])


async def parked(longcase: Longcase, *names: str) -> None:
    """Start cases and wait until each waits for its signal."""
    service = longcase.service
    await service.start_prepared([service.new_case("letters", {"id": name}) for name in names])
    keys = ", ".join(f"'{name}'" for name in names)

    async def all_wait() -> bool:
        return await count(longcase, f"waiting WHERE kind = 'signal' AND key IN ({keys})") == len(names)

    await until(all_wait)


@pytest.fixture(autouse=True)
def fresh() -> None:
    moved.clear()
    door.clear()


async def test_inv_34_each_case_runs_on_the_release_that_replays_it(store_url: str) -> None:
    old_cases, new_cases = [f"o{n}" for n in range(12)], [f"n{n}" for n in range(12)]
    async with Releases(store_url) as fleet:
        old = await fleet.add("old", "greet")
        await parked(old, *old_cases)
        await fleet.leave("old")
        new = await fleet.add("new", "greet", "ask")
        await parked(new, *new_cases)
        await fleet.add("old", "greet")
        for name in old_cases + new_cases:
            await new.service.signal(f"letters/{name}", "go", {"id": name})

        async def all_sent() -> bool:
            return await count(new, "case_overview WHERE status = 'closed'") == 24

        await until(all_sent)
        assert await count(new, "incidents") == 0
        assert sorted(moved) == sorted([("old", name) for name in old_cases] + [("new", name) for name in new_cases])


async def test_a_case_is_held_when_the_last_release_that_might_run_it_has_left(store_url: str) -> None:
    async with Releases(store_url) as fleet:
        old = await fleet.add("old", "greet")
        await parked(old, "a")
        new = await fleet.add("new", "greet", "ask")
        await fleet.leave("old")
        await new.service.signal("letters/a", "go", {"id": "a"})

        async def held() -> bool:
            return await count(new, "incidents WHERE kind = 'code_changed'") == 1

        await until(held)
        assert moved == []
        # An older release that comes back takes it up again.
        await fleet.leave("new")
        old = await fleet.add("old", "greet")
        await old.service.retry("letters/a", reason="the old release is back")

        async def sent() -> bool:
            return await count(old, "case_overview WHERE status = 'closed'") == 1

        await until(sent)
        assert moved == [("old", "a")]


async def test_a_case_that_no_living_release_replays_is_held_once_each_has_tried(store_url: str) -> None:
    async with Releases(store_url) as fleet:
        first = await fleet.add("first", "greet")
        await parked(first, "a")
        await fleet.leave("first")
        second = await fleet.add("second", "greet", "ask")
        await fleet.add("third", "greet", "tell")
        await second.service.signal("letters/a", "go", {"id": "a"})

        async def held() -> bool:
            return await count(second, "incidents WHERE kind = 'code_changed'") == 1

        await until(held)
        assert await count(second, "incidents") == 1
        assert moved == []


async def test_inv_31_a_case_is_not_left_to_a_worker_that_serves_only_queues(store_url: str) -> None:
    async with Releases(store_url) as fleet:
        old = await fleet.add("old", "greet")
        await parked(old, "a")
        await fleet.leave("old")
        await fleet.run("old in gpu", release("old", "greet")[0], "gpu", code="old")
        new = await fleet.add("new", "greet", "ask")
        await new.service.signal("letters/a", "go", {"id": "a"})

        async def held() -> bool:
            return await count(new, "incidents WHERE kind = 'code_changed'") == 1

        await until(held)


async def begun_by_the_old_moved_by_the_new(fleet: Releases) -> Longcase:
    """Let an attempt run on a worker of the old release while the new one moves its case on."""
    new = await fleet.run("new", jobs_release("new", audits=True)[0])
    await fleet.run("old", jobs_release("old", audits=False)[0], "gpu")
    await new.service.start_prepared([new.service.new_case("jobs", {"id": "j"})])
    await until(lambda: _truth("old" in door))
    await new.service.signal("jobs/j", "go", {"id": "j"})

    async def audited() -> bool:
        return await count(new, "attempts WHERE activity = 'audit' AND outcome = 'completed'") == 1

    await until(audited)
    return new


async def test_inv_17_a_once_call_that_fails_on_an_older_release_is_not_repeated_by_the_newer(store_url: str) -> None:
    async with Releases(store_url) as fleet:
        new = await begun_by_the_old_moved_by_the_new(fleet)
        await fleet.run("new in gpu", jobs_release("new", audits=True)[0], "gpu", code="new")
        door["old"].set_exception(TimedOut("timeout", "no answer"))

        async def settled() -> bool:
            (call,) = (await new.service.show("jobs/j")).state.calls.values()
            return not call["worker"]

        await until(settled)
        assert await count(new, "incidents WHERE kind = 'outcome_unknown'") == 1
        assert moved == [("old", "j")]


async def test_inv_13_a_result_on_an_older_release_outlives_a_turn_of_the_newer_in_between(store_url: str) -> None:
    async with Releases(store_url) as fleet:
        new = await begun_by_the_old_moved_by_the_new(fleet)
        old, _ = fleet.running["old"]
        writing, load_many = old.store.write, old.store.load_many
        met = 0

        async def write(writes: Any, **how: Any) -> Any:
            nonlocal met
            if not met and any(one.notify for one in writes):
                met += 1  # somebody else's turn lands between what was read and what is written
                await new.service.signal("jobs/j", "on", {"id": "j"})

                async def applied() -> bool:
                    row = (await load_many([writes[0].case_no]))[writes[0].case_no]
                    return not row.state.receives and not row.pending

                await until(applied)
            return await writing(writes, **how)

        old.store.write = write  # type: ignore[method-assign]
        door["old"].set_result(None)

        async def closed() -> bool:
            return await count(new, "case_overview WHERE status = 'closed'") == 1

        await until(closed)
        assert met == 1
        assert moved == [("old", "j")]
        assert await count(new, "incidents") == 0


async def test_a_worker_that_declines_a_case_gives_back_the_call_it_took_from_a_queue(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Releases(store_url) as fleet:
        new = await fleet.run("new", jobs_release("new", audits=True)[0])
        await new.service.start_prepared([new.service.new_case("jobs", {"id": "j"})])
        await new.service.signal("jobs/j", "go", {"id": "j"})

        async def audited() -> bool:
            return await count(new, "attempts WHERE activity = 'audit' AND outcome = 'completed'") == 1

        await until(audited)
        caplog.set_level("INFO", "longcase.runtime")

        def declined() -> int:
            return sum("left to another release" in record.getMessage() for record in caplog.records)

        await fleet.run("old", jobs_release("old", audits=False)[0], "gpu")

        async def waiting() -> bool:
            return declined() > 0 and await count(new, "queued_calls WHERE status = 'waiting'") == 1

        await until(waiting)
        why = f"worker {fleet.number('old')} serves it, but its code does not replay the visit"
        assert (await new.service.show("jobs/j")).untaken == {"gpu": f"{why}: one of another release is missing"}
        (queue,) = (await new.service.workers()).queues
        assert queue.held == [Held("jobs", 1, f"{why}: one of another release is missing", True)]
        await fleet.run("new in gpu", jobs_release("new", audits=True)[0], "gpu", code="new")
        await until(lambda: _truth("new" in door))
        assert (await new.service.show("jobs/j")).untaken == {}
        assert moved == [("new", "j")]
        assert declined() == 1, "it does not take again what it has declined"
        door["new"].set_result(None)
