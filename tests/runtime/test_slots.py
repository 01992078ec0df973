"""Calls that found no slot: they keep their place, and a slot never stays empty while one of them waits."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from tests.runtime.common import Thing, desk
from tests.support.waiting import until

from longcase import Case, Longcase, Next, Workflow, activity, days, hours, seconds
from longcase.runtime.limits import Slots
from longcase.testing import Simulation

begun: list[str] = []
door = asyncio.Event()


@activity(owner=desk, concurrency=1, timeout=seconds(60))
async def narrow(name: str) -> str:
    begun.append(name)
    if name == "a":
        await door.wait()
    return name


@activity(owner=desk, rate=(2, hours(1)))
async def rated(name: str) -> str:
    return name


hourly = Workflow("hourly", object=Thing, key="id", owner=desk, expect=days(1))


@hourly.stage(expect=days(1))
async def asking(case: Case[Thing]) -> Next:
    asked = asyncio.create_task(rated(case.key))
    await asyncio.sleep(0)
    if case.key in ("a", "b"):
        raise KeyError(case.key)
    return hourly.close("asked", result=await asked)


lane = Workflow("lane", object=Thing, key="id", owner=desk, expect=days(1))


@lane.stage(expect=days(1))
async def passing(case: Case[Thing]) -> Next:
    return lane.close("through", result=await narrow(case.key))


@pytest.fixture(autouse=True)
def fresh() -> None:
    global door
    begun.clear()
    door = asyncio.Event()


async def test_a_slot_goes_to_the_next_if_the_first_in_line_has_no_use_for_it_any_more(store_url: str) -> None:
    async with Longcase([lane], url=store_url) as longcase, longcase.working():
        await longcase.service.start(lane, Thing(id="a"))

        async def first() -> bool:
            return begun == ["a"]

        await until(first)
        for name in ("b", "c"):
            await longcase.service.start(lane, Thing(id=name))

        async def held() -> bool:
            rows = await longcase.service.query("SELECT count(*) AS n FROM waiting WHERE kind = 'activity'")
            return bool(rows[0]["n"] == 3 and begun == ["a"])

        await until(held)
        await longcase.service.cancel("lane/b", reason="not needed")

        async def cancelled() -> bool:
            return (await longcase.service.show("lane/b")).state.status == "closed"

        await until(cancelled)
        door.set()

        async def through() -> bool:
            return (await longcase.service.show("lane/c")).state.status == "closed"

        await until(through)
        assert begun == ["a", "c"]


def test_a_case_that_was_named_and_found_no_slot_again_keeps_its_place() -> None:
    slots = Slots(lambda: datetime(2026, 1, 5, tzinfo=UTC))
    for case_no in (1, 2, 3):
        slots.keep_waiting(case_no, ["activity:narrow"])
    assert slots.freed_by(narrow) == [1]
    slots.keep_waiting(4, ["activity:narrow"])  # a newcomer was quicker, and is held back too
    slots.keep_waiting(1, ["activity:narrow"])
    assert [slots.freed_by(narrow) for _ in range(4)] == [[1], [2], [3], [4]]


def test_the_rate_does_not_count_a_slot_in_which_nothing_has_run() -> None:
    at = datetime(2026, 1, 5, tzinfo=UTC)
    slots = Slots(lambda: at)
    first = slots.take(rated)
    at += timedelta(minutes=10)
    second = slots.take(rated)
    assert first is not None
    assert second is not None
    slots.give_back(rated)  # the second has run
    slots.give_up(first)
    assert slots.take(rated) is not None
    assert slots.take(rated) is None
    at += timedelta(minutes=55)
    assert slots.take(rated) is None, "what has run counts for an hour"
    at += timedelta(minutes=5)
    assert slots.take(rated) is not None


def test_a_turn_that_is_thrown_away_spends_nothing_of_its_activitys_rate() -> None:
    with Simulation([hourly]) as sim:
        for name in ("a", "b"):
            case = sim.start(hourly, Thing(id=name))
            assert [opened["kind"] for opened in sim.state(case).incidents.values()] == ["stage_failed"]
        for name in ("c", "d"):
            assert sim.state(sim.start(hourly, Thing(id=name))).status == "closed"
        assert sim.state(sim.start(hourly, Thing(id="e"))).status == "open", "two have run"
