"""A1: a turn applies exactly one input and runs until nothing is ready; then the next."""

from __future__ import annotations

import asyncio

from tests.rules.support import Go, Order, closed, desk, do, every, first, in_both, later

from longcase import Case, Next, Workflow, activity, days, minutes
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)


@activity(owner=desk)
async def left() -> str:
    return "left"


@activity(owner=desk)
async def right() -> str:
    return "right"


@wf.stage
async def choose(case: Case[Order]) -> Next:
    if case.object.note == "timeout":
        return await_timeout
    if case.object.note == "signal":
        return race_signal
    a = asyncio.create_task(left())
    b = asyncio.create_task(right())
    done, _ = await asyncio.wait({a, b}, return_when=asyncio.FIRST_COMPLETED)
    case.update(amount=len(done))
    await asyncio.gather(a, b)
    return wf.close("done")


@wf.stage
async def await_timeout(case: Case[Order]) -> Next:
    try:
        async with asyncio.timeout(60):
            got = await case.receive(go, within=minutes(1))
    except TimeoutError:
        return fallback
    return wf.close("in-time", result=got.n)


@wf.stage
async def fallback(case: Case[Order]) -> Next:
    got = await case.receive(go, within=minutes(1))
    return wf.close("late", result=got.n)


@wf.stage
async def race_signal(case: Case[Order]) -> Next:
    result = asyncio.create_task(left())
    signal = asyncio.create_task(case.receive(go, within=minutes(1)))
    done, _ = await asyncio.wait({result, signal}, return_when=asyncio.FIRST_COMPLETED)
    case.update(extra="both" if len(done) == 2 else "result" if result in done else "signal")
    for task in (result, signal):
        task.cancel()
    await asyncio.gather(result, signal, return_exceptions=True)
    return fallback


def test_rule_A1_one_input_per_turn() -> None:
    """Two results that arrive together are two turns: FIRST_COMPLETED sees one of them."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        assert closed(sim, case) == "done"
        assert sim.state(case).object["amount"] == 1
        order = [e.type for e in sim.history(case) if e.type in ("activity_completed", "object_changed")]
        assert order == ["activity_completed", "object_changed", "activity_completed"]

    in_both(scenario, wf)


def test_rule_A1_a_result_and_a_timeout_of_one_batch_are_applied_in_their_order() -> None:
    """The signal came before the deadline although nobody moved the case until after it."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", note="timeout"))
        later(sim, 59)
        do(sim, sim.service.signal(case, go, Go(n=7)))
        later(sim, 59)
        sim.run()
        assert closed(sim, case) == "in-time"
        assert (sim.state(case).close or {})["result"] == 7
        assert "timer_fired" not in sim.types(case)
        assert first(sim, case, "timer_cancelled")

    in_both(scenario, wf)


def test_rule_A1_a_timer_and_a_later_signal_of_one_batch_lose_nothing() -> None:
    """The deadline passed first, so the timeout wins; the signal is kept and consumed afterwards."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", note="timeout"))
        later(sim, 61)
        do(sim, sim.service.signal(case, go, Go(n=7)))
        sim.run()
        assert closed(sim, case) == "late"
        assert (sim.state(case).close or {})["result"] == 7

    in_both(scenario, wf)


def test_rule_A1_a_result_and_a_signal_of_one_batch_lose_nothing() -> None:
    """The stage cancels its receive in the turn of the result; the signal behind it is kept."""

    def scenario(sim: Simulation) -> None:
        async def and_a_signal() -> str:
            await sim.service.signal("order/1", go, Go(n=3))
            return "left"

        sim.fake(left, and_a_signal)
        case = sim.start(wf, Order(id="1", note="signal"))
        assert sim.state(case).object["extra"] == "result"
        assert closed(sim, case) == "late"
        assert (sim.state(case).close or {})["result"] == 3
        assert len(every(sim, case, "signal_consumed")) == 1

    in_both(scenario, wf)
