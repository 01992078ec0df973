"""Attempts on a real worker: their time runs out, they beat, they are stopped, their worker is killed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from tests.runtime.attempts import (
    NEVER,
    Cases,
    Word,
    at_once,
    at_work,
    calling,
    giving_up_on,
    ms,
    once_only,
    resuming,
    world,
)
from tests.runtime.common import Thing, desk
from tests.support.waiting import BOUND, until, until_true

from longcase import (
    Case,
    Longcase,
    Next,
    Workflow,
    activity,
    attempt,
    days,
    hours,
)
from longcase.model.activity import Activity
from longcase.runtime.performing import AttemptStopped

# -- start-to-close -----------------------------------------------------------------------------------


@activity(owner=desk, timeout=ms(50), retry=once_only)
async def hangs(key: str) -> str:
    try:
        await world.at_the_door()
    except asyncio.CancelledError:
        world.notes["hangs"].append("cancelled")
        raise
    return "too late"


@activity(owner=desk, timeout=ms(50), retry=once_only)
def hangs_in_a_thread(key: str) -> str:
    world.door.wait(BOUND)
    return "too late"


async def test_start_to_close_ends_an_async_attempt_and_cancels_it(url: str) -> None:
    flow = calling(hangs)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert await cases.closed(flow) == ("lost", 1, "AttemptTimeout: not done within 0.05 s")
        assert [error["kind"] for error in await cases.errors(flow)] == ["timeout"]
        assert world.notes["hangs"] == ["cancelled"]


async def test_inv_14_start_to_close_gives_a_thread_up_and_its_late_end_is_refused(url: str) -> None:
    flow = calling(hangs_in_a_thread)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert await cases.closed(flow) == ("lost", 1, "AttemptTimeout: not done within 0.05 s")
        assert await cases.events(flow, "attempt_refused") == []
        world.door.set()
        refused = (await cases.seen(flow, "attempt_refused")).data
        assert (refused["attempt"], refused["outcome"], refused["result"], refused["why"]) == (
            1,
            "success",
            "too late",
            "lost_lease",
        )


@activity(owner=desk, timeout=ms(1_000), retry=at_once)
def second_is_faster(key: str) -> str:
    number = attempt().number
    if number == 1:
        world.door.wait(BOUND)
    return f"by {number}"


async def test_inv_14_a_zombie_thread_does_not_replace_the_result_of_the_next_attempt(url: str) -> None:
    flow = calling(second_is_faster)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert (await cases.closed(flow))[:2] == ("done", "by 2")
        world.door.set()
        refused = (await cases.seen(flow, "attempt_refused")).data
        assert (refused["attempt"], refused["result"]) == (1, "by 1")
        assert [event.data["result"] for event in await cases.events(flow, "activity_completed")] == ["by 2"]


@activity(owner=desk, timeout=ms(50), retry=once_only)
def asks_now_and_then(key: str) -> str:
    end = time.monotonic() + BOUND
    try:
        while time.monotonic() < end:
            attempt().heartbeat()
            world.door.wait(0.005)
    except AttemptStopped as stopped:
        world.notes["stopped"].append((str(stopped), attempt().cancelled()))
        raise
    return "never stopped"


async def test_a_thread_whose_time_is_up_hears_so_at_its_next_heartbeat(url: str) -> None:
    flow = calling(asks_now_and_then)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert (await cases.closed(flow))[0] == "lost"
        ((message, cancelled),) = await until_true(lambda: world.notes["stopped"])
        assert "attempt 1 was given up" in message
        assert cancelled
        assert (await cases.seen(flow, "attempt_refused")).data["outcome"] == "failure"


# -- heartbeats ---------------------------------------------------------------------------------------


@activity(owner=desk, timeout=NEVER, heartbeat=ms(60), retry=once_only)
async def falls_silent(key: str) -> str:
    attempt().heartbeat()
    await world.at_the_door()
    return "late"


@activity(owner=desk, timeout=NEVER, heartbeat=ms(60), retry=once_only)
def falls_silent_in_a_thread(key: str) -> str:
    attempt().heartbeat()
    world.door.wait(BOUND)
    return "late"


@pytest.mark.parametrize("silent", [falls_silent, falls_silent_in_a_thread], ids=["async", "thread"])
async def test_an_attempt_that_stops_beating_is_lost(url: str, silent: Activity[..., Any]) -> None:
    flow = calling(silent)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert await cases.closed(flow) == ("lost", 1, "AttemptTimeout: no heartbeat for 0.06 s")
        assert [error["kind"] for error in await cases.errors(flow)] == ["heartbeat"]


@activity(owner=desk, timeout=NEVER, heartbeat=ms(800), retry=once_only)
async def beats(key: str) -> int:
    end = time.monotonic() + 1.7
    while time.monotonic() < end:
        attempt().heartbeat()
        await asyncio.sleep(0.01)
    return attempt().number


@activity(owner=desk, timeout=NEVER, heartbeat=ms(800), retry=once_only)
def beats_in_a_thread(key: str) -> int:
    end = time.monotonic() + 1.7
    while time.monotonic() < end:
        attempt().heartbeat()
        world.door.wait(0.01)
    return attempt().number


@pytest.mark.parametrize("beating", [beats, beats_in_a_thread], ids=["async", "thread"])
async def test_heartbeats_keep_an_attempt_alive_beyond_the_heartbeat_timeout(
    url: str, beating: Activity[..., Any]
) -> None:
    flow = calling(beating)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert (await cases.closed(flow))[:2] == ("done", 1)


@activity(owner=desk, timeout=NEVER, heartbeat=NEVER, retry=at_once)
async def resumes(key: str) -> int:
    """Attempts 1 and 2 leave word and fail; the third waits at the door."""
    number = attempt().number
    world.notes["previous"].append(attempt().previous_details)
    left = {"row": number}
    attempt().heartbeat(left)
    left["row"] = -1  # what happens to the object afterwards is the attempt's own affair
    if number < 3:
        raise OSError("the line is down")
    await world.at_the_door()
    return number


async def test_heartbeat_details_are_handed_to_the_next_attempt_and_forgotten_at_the_end(url: str) -> None:
    flow = calling(resumes)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert await until(lambda: cases.beats(attempt=3)) == [(3, {"row": 3})]
        assert world.notes["previous"] == [None, {"row": 1}, {"row": 2}]
        world.door.set()
        assert (await cases.closed(flow))[:2] == ("done", 3)
        await until(lambda: cases.no_beats())


@activity(owner=desk, retry=at_once, timeout=NEVER, heartbeat=NEVER)
async def beats_an_object(key: str) -> str:
    attempt().heartbeat({"at": object()})
    return "unreachable"


async def test_heartbeat_details_that_are_no_json_fail_the_attempt_and_not_the_case(url: str) -> None:
    flow = calling(beats_an_object)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        name, attempts, reason = await cases.closed(flow)
        assert (name, attempts) == ("lost", 4)
        assert "heartbeat details" in reason


async def test_after_a_kill_the_next_attempt_gets_the_details_of_the_lost_one_not_older_ones(url: str) -> None:
    async with Longcase([resuming], url=url) as longcase:
        cases = Cases(longcase)
        await cases.start(resuming)
        worker = [sys.executable, "-m", "tests.runtime.attempts", url]
        with subprocess.Popen(worker) as child:  # noqa: ASYNC220 - it is told nothing and asked nothing
            try:
                assert await until(lambda: cases.beats(attempt=2)) == [(2, {"row": 2})]
            finally:
                child.send_signal(signal.SIGKILL)
        async with longcase.working():
            assert (await cases.closed(resuming))[:2] == ("done", [3, {"row": 2}])
        failed = (await cases.events(resuming, "attempt_failed"))[0].data
        assert failed["details"] == {"row": 1}, "the older details were there to be taken by mistake"
        assert len(await cases.events(resuming, "attempt_lost")) == 1


# -- stopping -----------------------------------------------------------------------------------------


@activity(owner=desk, timeout=NEVER, retry=once_only)
async def patient(key: str) -> str:
    world.notes["began"].append(key)
    end = time.monotonic() + BOUND
    try:
        while time.monotonic() < end:
            attempt().heartbeat()
            await asyncio.sleep(0.005)
    except AttemptStopped:
        world.notes["stopped"].append(attempt().cancelled())
        raise
    return "never stopped"


impatient = Workflow("impatient", object=Thing, key="id", owner=desk, expect=days(1))


@impatient.stage(expect=days(1))
async def hurry(case: Case[Thing]) -> Next:
    try:
        async with asyncio.timeout(1):
            await patient(case.key)
    except TimeoutError:
        await case.pause(hours(1), because="cooling-off")
    return impatient.close("done")


async def test_rule_B04_an_await_that_timed_out_stops_its_attempt_at_the_next_heartbeat(url: str) -> None:
    async with at_work(url, impatient) as cases:
        await cases.start(impatient)
        assert await until_true(lambda: world.notes["stopped"]) == [True]
        assert (await cases.seen(impatient, "activity_cancelled")).data["waits"] is False
        assert await cases.events(impatient, "activity_completed") == []
        assert (await cases.longcase.service.show("impatient/1")).state.status == "open"


withdrawing = Workflow("withdrawing", object=Thing, key="id", owner=desk, expect=days(1))
withdrawn = withdrawing.signal("withdrawn", Word)


@withdrawing.stage(expect=days(1))
async def wait_for_it(case: Case[Thing]) -> Next:
    await patient(case.key)
    return withdrawing.close("done")


@withdrawing.on(withdrawn)
async def withdraw(case: Case[Thing], word: Word) -> Next:
    await case.pause(hours(1), because="telling the people")
    return withdrawing.close("withdrawn")


async def test_rule_B04_a_withdrawal_stops_the_running_attempt_at_its_next_heartbeat(url: str) -> None:
    async with at_work(url, withdrawing) as cases:
        await cases.start(withdrawing)
        await until_true(lambda: world.notes["began"])
        await cases.longcase.service.signal("withdrawing/1", "withdrawn", {"n": 1})
        assert await until_true(lambda: world.notes["stopped"]) == [True]
        assert (await cases.longcase.service.show("withdrawing/1")).state.kind == "path"


@activity(owner=desk, timeout=NEVER, retry=once_only, cancel="wait")
async def must_end(key: str) -> str:
    await world.at_the_door()
    return "ended by itself"


waiting = giving_up_on(must_end)


async def test_rule_B04_cancel_wait_lets_the_attempt_end_before_the_stage_goes_on(url: str) -> None:
    async with at_work(url, waiting) as cases:
        await cases.start(waiting)
        assert (await cases.seen(waiting, "activity_cancelled")).data["waits"] is True
        assert (await cases.longcase.service.show(f"{waiting.name}/1")).state.status == "open"
        world.door.set()
        assert (await cases.closed(waiting))[0] == "gave-up"
        types = [event.type for event in await cases.events(waiting)]
        assert (
            types.index("timer_fired")
            < types.index("activity_cancelled")
            < types.index("activity_completed")
            < types.index("case_closed")
        )


@activity(owner=desk, timeout=NEVER, retry=at_once, cancel="wait")
async def stops_when_asked(key: str) -> str:
    world.notes["began"].append(attempt().number)
    end = time.monotonic() + BOUND
    while time.monotonic() < end:
        attempt().heartbeat()
        await asyncio.sleep(0.005)
    return "never stopped"


waiting_for_the_stop = giving_up_on(stops_when_asked)


async def test_rule_B04_an_attempt_that_stopped_as_asked_is_not_tried_again(url: str) -> None:
    async with at_work(url, waiting_for_the_stop) as cases:
        await cases.start(waiting_for_the_stop)
        assert (await cases.closed(waiting_for_the_stop))[0] == "gave-up"
        assert [error["kind"] for error in await cases.errors(waiting_for_the_stop)] == ["cancelled"]
        assert world.notes["began"] == [1]


@activity(owner=desk, timeout=NEVER, retry=at_once, cancel="wait")
async def fails_while_waited_for(key: str) -> str:
    world.notes["began"].append(attempt().number)
    await world.at_the_door()
    raise RuntimeError("the vendor is down")


waiting_for_a_failure = giving_up_on(fails_while_waited_for)


async def test_rule_B04_an_attempt_that_fails_while_its_end_is_waited_for_is_not_tried_again(url: str) -> None:
    async with at_work(url, waiting_for_a_failure) as cases:
        await cases.start(waiting_for_a_failure)
        await cases.seen(waiting_for_a_failure, "activity_cancelled")
        world.door.set()
        assert (await cases.closed(waiting_for_a_failure))[0] == "gave-up"
        assert world.notes["began"] == [1]


@activity(owner=desk, timeout=ms(2_000), retry=once_only, effect="repeatable")
async def book(key: str) -> str:
    await world.at_the_door()
    return "booked"


@book.undo
async def unbook(booked: str, key: str) -> None:
    world.notes["undone"].append(booked)


booking = Workflow("booking", object=Thing, key="id", owner=desk, expect=days(1))


@booking.stage(expect=days(1))
async def book_or_not(case: Case[Thing]) -> Next:
    try:
        async with asyncio.timeout(0.5):
            await book(case.key)
    except TimeoutError:
        await case.undo()
    return booking.close("done")


async def test_rule_A04_undo_does_not_pass_over_a_last_attempt_whose_outcome_is_unknown(url: str) -> None:
    async with at_work(url, booking) as cases:
        await cases.start(booking)
        assert (await cases.incident(booking))["kind"] == "outcome_unknown"
        assert [error["kind"] for error in await cases.errors(booking)] == ["timeout"]
        assert await cases.events(booking, "undo_finished") == []


@activity(owner=desk, timeout=NEVER, effect="once")
async def deaf(key: str) -> str:
    world.notes["began"].append(key)
    await world.at_the_door()
    return "done"


cutting = Workflow("cutting", object=Thing, key="id", owner=desk, expect=days(1))


@cutting.stage(expect=days(1))
async def cut(case: Case[Thing]) -> Next:
    try:
        async with asyncio.timeout(0.5):
            await deaf(case.key)
    except TimeoutError:
        await case.pause(hours(1), because="cooling-off")
    return cutting.close("done")


async def test_rule_A04_an_attempt_that_is_cut_off_leaves_its_outcome_unknown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longcase.runtime.carrying.STOP_GRACE", 0.05)
    async with at_work(url, cutting) as cases:
        await cases.start(cutting)
        opened = await cases.incident(cutting)
        assert opened["kind"] == "outcome_unknown"
        assert "cut off" in opened["message"]
        assert world.notes["began"] == ["1"]
