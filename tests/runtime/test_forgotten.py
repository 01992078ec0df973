"""A worker that the store has forgotten gives up what it held and joins anew; a blocked loop does not beat for ever."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import pytest
from tests.runtime.common import Thing, desk
from tests.support.waiting import BOUND, until, until_true
from tests.support.workers import taken_over

from longcase import Case, Longcase, Next, Retry, Workflow, activity, attempt, days, seconds
from longcase.env import Env
from longcase.errors import StoreUnavailable, WorkerForgotten
from longcase.runtime.pulse import PATIENCE, Pulse

begun: list[tuple[str, int]] = []
ended: list[tuple[str, int]] = []
door = threading.Event()


@activity(owner=desk, retry=Retry(max_attempts=3, initial=seconds(0.01)), timeout=seconds(60))
async def wait_here(name: str) -> str:
    number = attempt().number
    begun.append((name, number))
    if number == 1:
        await asyncio.Event().wait()
    return f"{name} by attempt {number}"


@activity(owner=desk, retry=Retry(max_attempts=3, initial=seconds(0.01)), timeout=seconds(60))
def wait_in_thread(name: str) -> str:
    number = attempt().number
    begun.append((name, number))
    if number == 1:
        door.wait(BOUND)
    ended.append((name, number))
    return f"{name} by attempt {number}"


errands = Workflow("errands", object=Thing, key="id", owner=desk, expect=days(1))


@errands.stage(expect=days(1))
async def running(case: Case[Thing]) -> Next:
    if case.key.startswith("thread"):
        return errands.close("done", result=await wait_in_thread(case.key))
    return errands.close("done", result=await wait_here(case.key))


@pytest.fixture(autouse=True)
def fresh() -> None:
    begun.clear()
    ended.clear()
    door.clear()


async def closed(longcase: Longcase, address: str) -> bool:
    return (await longcase.service.show(address)).state.status == "closed"


async def test_a_forgotten_worker_abandons_its_attempts_and_goes_on_as_another_incarnation(store_url: str) -> None:
    async with Longcase([errands], url=store_url) as longcase, longcase.working() as worker:
        await longcase.service.start(errands, Thing(id="a"))
        await until_true(lambda: begun)
        first = worker.number
        await taken_over(longcase, store_url, first)
        worker._membership._beat_at = 0.0
        await until(lambda: closed(longcase, "errands/a"))
        assert worker.number != first
        assert begun == [("a", 1), ("a", 2)]
        state = (await longcase.service.show("errands/a")).state
        assert (state.close or {})["result"] == "a by attempt 2"
        assert worker.running_attempts == 0


async def test_inv_14_what_a_forgotten_workers_thread_reports_later_changes_nothing(store_url: str) -> None:
    async with Longcase([errands], url=store_url) as longcase, longcase.working() as worker:
        await longcase.service.start(errands, Thing(id="thread-a"))
        await until_true(lambda: begun)
        first = worker.number
        await taken_over(longcase, store_url, first)
        worker._membership._beat_at = 0.0
        await until(lambda: closed(longcase, "errands/thread-a"))
        door.set()

        async def refused() -> bool:
            events = await longcase.service.history("errands/thread-a")
            late = [event for event in events if event.type == "attempt_refused" and event.actor == f"worker:{first}"]
            return any(event.data["outcome"] == "success" for event in late)

        await until(refused)
        assert ended == [("thread-a", 2), ("thread-a", 1)]
        state = (await longcase.service.show("errands/thread-a")).state
        assert (state.close or {})["result"] == "thread-a by attempt 2"


class Heart:
    """Beats are counted; it can be told what to answer."""

    every = 0.01
    lease = 10.0

    def __init__(self) -> None:
        self.beats = 0
        self.closed = False
        self.answer: Exception | None = None

    def beat(self) -> None:
        self.beats += 1
        if self.answer is not None:
            raise self.answer

    def close(self) -> None:
        self.closed = True


def _block(until_there: Callable[[], bool]) -> None:
    """Keep the event loop from turning until something is seen, or the bound is over."""
    bound = time.monotonic() + BOUND
    while not until_there() and time.monotonic() < bound:
        pass


async def test_a_loop_that_is_busy_for_a_while_does_not_lose_its_lease() -> None:
    heart = Heart()
    pulse = Pulse(heart, Env(), lambda: None, lambda: None)
    pulse.start(asyncio.get_running_loop())
    try:
        await until_true(lambda: heart.beats > 0)
        before = heart.beats
        _block(lambda: heart.beats > before + 5)  # no tick of the loop can happen meanwhile
        assert heart.beats > before + 5
    finally:
        pulse.stop()
    await until_true(lambda: heart.closed)


async def test_a_loop_blocked_beyond_its_right_is_named_and_beats_no_more(caplog: pytest.LogCaptureFixture) -> None:
    heart = Heart()
    heart.every = PATIENCE / 3  # each look counts for so much; the clock is not asked
    pulse = Pulse(heart, Env(), lambda: ("errands/a: attempt 1 of call 1.c1", 2 * PATIENCE), lambda: None)
    pulse._loop = asyncio.get_running_loop()
    pulse._loop_thread = threading.get_ident()
    with caplog.at_level(logging.WARNING, "longcase.worker"):
        allowed = [pulse._may_beat() for _ in range(9)]
    assert allowed == [True] * 6 + [False] * 3  # its own timeout is twice the patience
    (told,) = [record.getMessage() for record in caplog.records]
    assert "errands/a: attempt 1 of call 1.c1 has blocked the event loop" in told
    assert "test_forgotten.py" in told  # the stack says where
    pulse._ticked = True
    assert pulse._may_beat()


@pytest.mark.parametrize("answer", [StoreUnavailable("no answer"), AttributeError("a driver's own error")])
async def test_a_pulse_outlives_a_store_that_does_not_answer_and_tells_when_it_was_forgotten(
    answer: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    heart, told = Heart(), asyncio.Event()
    heart.answer = answer
    pulse = Pulse(heart, Env(), lambda: None, told.set)
    pulse.start(asyncio.get_running_loop())
    await until_true(lambda: heart.beats > 3)
    assert not told.is_set()
    assert "no sign of life given" in caplog.text
    assert str(answer) in caplog.text
    heart.answer = WorkerForgotten("worker 1 is not registered any more")
    await asyncio.wait_for(told.wait(), BOUND)
    await until_true(lambda: heart.closed)
    pulse.stop()
