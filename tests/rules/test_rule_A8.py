"""A8: dropping a parked coroutine runs its cleanup code; that code changes nothing and makes no noise."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator

import pytest
from tests.rules.support import Order, closed, desk, in_both

from longcase import Case, Next, Workflow, activity, days
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
ran: list[str] = []


@activity(owner=desk)
async def tell(text: str) -> None:
    return None


async def numbers() -> AsyncIterator[int]:
    try:
        yield 1
        yield 2
    finally:
        ran.append("generator")


@wf.stage
async def messy(case: Case[Order]) -> Next:
    try:
        async for _ in numbers():
            await case.pause(days(1), because="wait")
    finally:
        ran.append("finally")
        case.update(note=f"{case.object.note}+")
        case.log("cleanup")
        case.random().random()
    return wf.close("done")


@wf.stage
async def stubborn(case: Case[Order]) -> Next:
    try:
        await case.pause(days(1), because="wait")
    except GeneratorExit:
        ran.append("ignored")
        await tell("ignored GeneratorExit")
    except BaseException:
        await tell("swallowed")
    lonely = asyncio.create_task(case.pause(days(1), because="lonely"))
    await lonely
    return wf.close("done")


def test_rule_A8_eviction_changes_nothing_and_is_silent(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="longcase.case")
    ran.clear()
    with Simulation([wf], live=0) as sim:
        case = sim.start(wf, Order(id="1", note="as it was"))
        gc.collect()
        assert "finally" in ran, "the cleanup did run, at eviction"
        assert sim.state(case).object["note"] == "as it was"
        assert sim.types(case) == ["case_started", "stage_entered", "timer_set"]
        said = [record for record in caplog.records if record.name == "longcase.case"]
        assert not said, "case.log is silent in a dead visit"
        sim.move(case, stubborn)
        sim.crash()
        gc.collect()
        assert sim.performed == []
        assert "ignored" in ran
        sim.advance(days(2))
        assert closed(sim, case) == "done"
    gc.collect()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_rule_A8_the_cleanup_of_a_live_visit_does_count() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", note="n"))
        sim.advance(days(2))
        assert closed(sim, case) == "done"
        assert sim.state(case).object["note"] == "n+"

    in_both(scenario, wf)


class Kept:
    """What somebody else keeps in a WeakSet: its end calls a function of the standard library."""


kept: weakref.WeakSet[Kept] = weakref.WeakSet()


def keep_and_forget() -> None:
    thing = Kept()
    kept.add(thing)
    del thing


holder = Workflow("holder", object=Order, key="id", owner=desk, expect=days(5))


@holder.stage
async def holding(case: Case[Order]) -> Next:
    while True:
        try:
            try:
                await case.pause(days(1), because="wait")
            except BaseException:
                keep_and_forget()
                raise
        except BaseException:  # noqa: S112 - it does not let go, and that is the point
            continue


def test_rule_A8_breaking_off_a_visit_that_refuses_to_end_breaks_off_no_finalizer(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It is broken off at one line after the other; those of finalizers were among them, which was told on stderr."""
    with Simulation([holder], live=0) as sim:
        for number in range(3):
            sim.start(holder, Order(id=str(number)))
        sim.crash()
    assert len(kept.data) == 0, "what had ended was taken out of the set"
    assert capfd.readouterr() == ("", "")
