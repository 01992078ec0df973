"""Old and new code beside each other: each case runs only on code that replays it (I34), and none is held for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pydantic import BaseModel

from longcase import Case, Longcase, Next, Team, Workflow, activity, days
from longcase.model.signal import Signal

desk = Team("desk")
BOUND = 30.0


class Thing(BaseModel):
    id: str


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
        workflow, _ = release(name, *steps)
        longcase = Longcase([workflow], url=self.url)
        await longcase.open()
        longcase.codes["letters"].fingerprint = name
        working = longcase.working()
        worker = await working.__aenter__()
        self.running[name] = (longcase, working)
        await until(lambda: _truth(worker.number))
        return longcase

    async def leave(self, name: str) -> None:
        longcase, working = self.running.pop(name)
        await working.__aexit__(None, None, None)
        await longcase.close()


async def _truth(value: Any) -> bool:
    return bool(value)


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    """Look until there is something to see, or the bound is over."""
    async with asyncio.timeout(BOUND):
        while not (seen := await look()):
            await asyncio.sleep(0.01)
    return seen


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
