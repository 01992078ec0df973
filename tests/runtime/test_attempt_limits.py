"""Calls on a real worker: by when they must begin and end, how many run at once, how often they are tried."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from tests.runtime.attempts import NEVER, at_once, at_work, calling, ms, once_only, world
from tests.runtime.common import Thing, desk
from tests.support.waiting import BOUND, until_true

from longcase import (
    DoNotRetry,
    Retry,
    RetryAfter,
    System,
    Workflow,
    activity,
    attempt,
)
from longcase.history.event import instant_of
from longcase.model.activity import Activity

# -- schedule-to-start, schedule-to-close -------------------------------------------------------------


@activity(owner=desk, timeout=NEVER, retry=once_only, concurrency=1, schedule_to_start=ms(1_000))
async def one_at_a_time(key: str) -> str:
    world.notes["began"].append(key)
    await world.at_the_door()
    return key


async def test_schedule_to_start_ends_a_call_that_found_no_free_slot_in_time(url: str) -> None:
    flow = calling(one_at_a_time)
    async with at_work(url, flow) as cases:
        await cases.start(flow, "first")
        await until_true(lambda: world.notes["began"])
        await cases.start(flow, "second")
        name, attempts, reason = await cases.closed(flow, "second")
        assert (name, attempts) == ("lost", 0)
        assert reason.startswith("ScheduleToStart: no attempt had begun by ")
        world.door.set()
        assert (await cases.closed(flow, "first"))[:2] == ("done", "first")
        assert world.notes["began"] == ["first"]


@activity(
    owner=desk, schedule_to_close=ms(1_500), retry=Retry(max_attempts=1_000, initial=ms(150), factor=1, jitter="none")
)
async def never_answers(key: str) -> str:
    raise OSError("no answer")


async def test_schedule_to_close_bounds_the_retries(url: str) -> None:
    flow = calling(never_answers)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        name, attempts, _ = await cases.closed(flow)
        assert name == "lost"
        assert 2 <= attempts <= 11
        scheduled, closed = [await cases.events(flow, kind) for kind in ("activity_scheduled", "case_closed")]
        deadline = instant_of(scheduled[0].data["deadline"])
        # The last one has none, if the deadline came while it ran.
        tries = [event.data["next_try"] for event in await cases.events(flow, "attempt_failed")]
        assert all(instant_of(next_try) <= deadline for next_try in tries if next_try)
        assert any(tries)
        assert instant_of(closed[0].at) < deadline + timedelta(seconds=30), "a thousand retries would take longer"


@activity(owner=desk, schedule_to_close=ms(1_000), timeout=NEVER, retry=once_only)
async def takes_too_long(key: str) -> str:
    await world.at_the_door()
    return "too late"


async def test_schedule_to_close_ends_a_call_whose_attempt_is_still_running(url: str) -> None:
    flow = calling(takes_too_long)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        name, _, reason = await cases.closed(flow)
        assert name == "lost"
        assert reason.startswith("ScheduleToClose: not done by ")
        world.door.set()
        late = (await cases.seen(flow, "result_late")).data
        assert late["result"] == "too late"


# -- concurrency and rate -----------------------------------------------------------------------------

vendor = System("vendor", owner=desk, concurrency=3)


@activity(owner=desk, timeout=NEVER, retry=once_only, concurrency=2)
async def two_at_once(key: str) -> str:
    with world.crowd("two"):
        await world.at_the_door()
    return key


@activity(owner=desk, system=vendor, timeout=NEVER, retry=once_only)
async def asks_vendor(key: str) -> str:
    with world.crowd("vendor"):
        await world.at_the_door()
    return key


@activity(owner=desk, system=vendor, timeout=NEVER, retry=once_only, concurrency=2)
def tells_vendor(key: str) -> str:
    with world.crowd("vendor", "tells"):
        world.door.wait(BOUND)
    return key


async def crowding(url: str, name: str, most: int, *flows: Workflow[Thing]) -> None:
    keys = [f"{n}" for n in range(8)]
    async with at_work(url, *flows) as cases:
        for flow in flows:
            await cases.start(flow, *keys)
        for flow in flows:
            for key in keys:
                await cases.seen(flow, "activity_scheduled", key)
        await until_true(lambda: world.inside[name] == most)
        world.door.set()
        for flow in flows:
            for key in keys:
                assert (await cases.closed(flow, key))[:2] == ("done", key)
    assert world.most[name] == most


async def test_concurrency_of_an_activity_is_reached_and_never_exceeded(url: str) -> None:
    await crowding(url, "two", 2, calling(two_at_once))


async def test_concurrency_of_a_system_bounds_all_its_activities_together(url: str) -> None:
    await crowding(url, "vendor", 3, calling(asks_vendor), calling(tells_vendor))
    assert world.most["tells"] <= 2


@activity(owner=desk, retry=once_only, rate=(3, ms(1_500)))
async def rated(key: str) -> str:
    world.notes["at"].append(time.monotonic())
    return key


async def test_rate_lets_no_more_than_its_count_begin_in_a_span(url: str) -> None:
    flow = calling(rated)
    keys = [f"{n}" for n in range(8)]
    async with at_work(url, flow) as cases:
        await cases.start(flow, *keys)
        for key in keys:
            assert (await cases.closed(flow, key))[0] == "done"
    at = sorted(world.notes["at"])
    assert len(at) == 8
    # An attempt counts from its slot, a commit before it is seen to begin: hence the tolerance.
    assert all(fourth - first > 0.7 for first, fourth in zip(at, at[3:], strict=False))


# -- retries ------------------------------------------------------------------------------------------


class Gone(Exception):
    """The vendor does not know it."""


class GoneForGood(Gone):
    """A kind of it."""


@activity(owner=desk, retry=at_once)
async def told_to_wait(key: str) -> int:
    if attempt().number == 1:
        raise RetryAfter(0.3, because="the vendor asks for a pause")
    return attempt().number


@activity(owner=desk, retry=at_once)
async def given_up(key: str) -> str:
    raise DoNotRetry("the form is wrong")


@activity(owner=desk, retry=Retry(max_attempts=4, initial=ms(1), non_retryable=(Gone,)))
def gone(key: str) -> str:
    raise GoneForGood("no such thing")


async def test_retry_after_is_honoured_over_the_policy(url: str) -> None:
    flow = calling(told_to_wait)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert (await cases.closed(flow))[:2] == ("done", 2)
        (failed,), (again,) = [await cases.events(flow, kind) for kind in ("attempt_failed", "attempt_started")]
        assert failed.data["error"]["message"] == "the vendor asks for a pause"
        assert instant_of(again.at) >= instant_of(failed.data["next_try"])
        assert instant_of(again.at) - instant_of(failed.at) >= timedelta(seconds=0.29)


@pytest.mark.parametrize("final", [given_up, gone], ids=["DoNotRetry", "a subclass of non_retryable"])
async def test_what_must_not_be_retried_has_exactly_one_attempt(url: str, final: Activity[..., Any]) -> None:
    flow = calling(final)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        name, attempts, _ = await cases.closed(flow)
        assert (name, attempts) == ("lost", 1)
        assert await cases.events(flow, "attempt_started") == []


@activity(owner=desk, retry=Retry(max_attempts=1_000, initial=ms(200), factor=1, jitter="none", budget=ms(1_500)))
async def spends(key: str) -> str:
    raise OSError("no answer")


async def test_no_attempt_is_planned_beyond_the_retry_budget(url: str) -> None:
    flow = calling(spends)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        name, attempts, reason = await cases.closed(flow)
        assert (name, reason) == ("lost", "OSError: no answer")
        assert 2 <= attempts <= 8
        began = instant_of((await cases.events(flow, "activity_scheduled"))[0].at)
        planned = [instant_of(event.data["next_try"]) for event in await cases.events(flow, "attempt_failed")]
        assert len(planned) == attempts - 1
        assert all(instant <= began + ms(1_500) for instant in planned)
