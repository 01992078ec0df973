"""A slot that comes free while nobody waits for it yet, and one in which nothing has run, are not lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.runtime.common import Thing, desk
from tests.support.waiting import until, until_true

from longcase import Case, Longcase, Next, System, Workflow, activity, days
from longcase.errors import StoreUnavailable
from longcase.store.records import CaseWrite, Written

begun: list[str] = []
door = asyncio.Event()
bench = System("bench", desk, concurrency=1)


@activity(owner=desk, effect="repeatable", concurrency=1)
async def press(name: str) -> str:
    begun.append(name)
    await door.wait()
    return name


@activity(owner=desk, effect="repeatable", queue="lab", system=bench)
async def scan(name: str) -> str:
    begun.append(name)
    return name


lane = Workflow("lane", object=Thing, key="id", owner=desk, expect=days(1))
scans = Workflow("scans", object=Thing, key="id", owner=desk, expect=days(1))


@lane.stage(expect=days(1))
async def pressing(case: Case[Thing]) -> Next:
    return lane.close("pressed", result=await press(case.key))


@scans.stage(expect=days(1))
async def scanning(case: Case[Thing]) -> Next:
    return scans.close("scanned", result=await scan(case.key))


@pytest.fixture(autouse=True)
def fresh() -> None:
    global door
    begun.clear()
    door = asyncio.Event()


async def closed(longcase: Longcase, key: str) -> None:
    async def look() -> bool:
        return bool(
            await longcase.service.query(f"SELECT key FROM case_overview WHERE status = 'closed' AND key = '{key}'")
        )

    await until(look)


async def test_a_slot_that_comes_free_while_a_refused_turn_is_written_goes_to_that_case(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        Longcase([lane], url=store_url) as longcase,
        Longcase([lane], url=store_url) as client,
        longcase.working() as worker,
    ):
        write = longcase.store.write

        async def writing(writes: Sequence[CaseWrite], **how: Any) -> list[Written]:
            if any(one.state.key == "b" for one in writes) and not door.is_set():
                door.set()
                await until_true(lambda: worker._slots.running == 0)
            return await write(writes, **how)

        monkeypatch.setattr(longcase.store, "write", writing)
        await client.service.start(lane, Thing(id="a"))
        await until_true(lambda: begun == ["a"])
        await client.service.start(lane, Thing(id="b"))
        await closed(longcase, "b")
        assert begun == ["a", "b"]


async def test_a_queue_is_asked_again_when_the_slot_of_a_lost_write_is_given_up(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Longcase([scans], url=store_url) as longcase:
        write, lost = longcase.store.write, 0

        async def writing(writes: Sequence[CaseWrite], **how: Any) -> list[Written]:
            nonlocal lost
            if not lost and any(event.type == "attempt_started" for one in writes for event in one.events):
                lost += 1
                raise StoreUnavailable("the store was not reached")
            return await write(writes, **how)

        monkeypatch.setattr(longcase.store, "write", writing)
        async with longcase.working(queues=("default", "lab")) as worker:
            await longcase.service.start(scans, Thing(id="a"))
            await closed(longcase, "a")
            assert lost == 1
            assert begun == ["a"]
            assert worker._slots.running == 0
