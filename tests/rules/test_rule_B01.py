"""B1: before an input with instant t is applied, every timer of the case due by t takes effect."""

from __future__ import annotations

import asyncio

import pytest
from tests.rules.support import Go, Order, closed, credit, desk, director, do, every, in_both, later

from longcase import Case, Next, Workflow, days, hours
from longcase.engine.tasks import Actor
from longcase.errors import AlreadyExpired
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)
stop = wf.signal("stop", Go)
HOUR = 3600.0


@wf.stage
async def wait(case: Case[Order]) -> Next:
    try:
        async with asyncio.timeout(HOUR):
            got = await case.receive(go)
    except TimeoutError:
        return wf.close("timeout")
    return wf.close("signal", result=got.n)


@wf.stage
async def sign(case: Case[Order]) -> Next:
    verdict = await case.approval(
        "Sign?",
        label="sign",
        of=credit,
        remind=hours(5),
        escalate=[(hours(8), director)],
        expires=(hours(10), "rejected"),
    )
    return wf.close(verdict.answer, result=verdict.expired)


@wf.on(stop, owner=desk)
async def stopped(case: Case[Order], why: Go) -> Next:
    return wf.close("stopped")


@pytest.mark.parametrize(("sent_at", "ends"), [(HOUR - 1, "signal"), (HOUR, "timeout"), (HOUR + 1, "timeout")])
@pytest.mark.parametrize("service_is_down", [False, True])
def test_rule_B1_timer_against_input(sent_at: float, ends: str, service_is_down: bool) -> None:
    """Who wins goes by the instants alone, also when every worker was down over the deadline."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        later(sim, sent_at)
        if service_is_down:
            do(sim, sim.service.signal(case, go, Go(n=1)))
            later(sim, 5 * HOUR)
            sim.run()
        else:
            sim.signal(case, go, Go(n=1))
            sim.advance(hours(5))
        assert closed(sim, case) == ends

    in_both(scenario, wf)


def test_rule_B1_an_exception_path_does_not_overtake_a_timer_that_was_due() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        later(sim, HOUR + 1)
        do(sim, sim.service.signal(case, stop, Go()))
        sim.run()
        assert closed(sim, case) == "timeout"
        assert every(sim, case, "signal_unhandled")[0].data["why"] == "case closed: timeout"

    in_both(scenario, wf)


def test_rule_B1_a_decision_after_the_expiry_gets_already_expired_without_any_worker() -> None:
    """The accepting process lets the task's own clock take effect first, in due order."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, sign)
        later(sim, 10 * HOUR + 1)
        with pytest.raises(AlreadyExpired, match="expired"):
            do(sim, sim.service.decide(case, "approved", actor=Actor("person:ann")))
        clocks = [e.type for e in sim.history(case) if e.type.startswith("task_") and e.type != "task_opened"]
        assert clocks == ["task_reminded", "task_escalated", "task_expired"]
        assert every(sim, case, "vote_refused")[0].data["refused"] == "already_expired"
        sim.run()
        assert closed(sim, case) == "rejected"
        assert (sim.state(case).close or {})["result"] is True
        with pytest.raises(AlreadyExpired):
            sim.decide(case, "approved", by="ann")

    in_both(scenario, wf)


def test_rule_B1_a_decision_before_the_expiry_stands_although_the_worker_comes_later() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, sign)
        later(sim, 10 * HOUR - 1)
        do(sim, sim.service.decide(case, "approved", actor=Actor("person:ann")))
        later(sim, 10 * HOUR)
        sim.run()
        assert closed(sim, case) == "approved"
        assert "task_expired" not in sim.types(case)

    in_both(scenario, wf)


def test_rule_B1_a_timer_says_how_late_it_fired() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        later(sim, HOUR + 90)
        sim.run()
        assert every(sim, case, "timer_fired")[0].data["late_s"] == 90

    in_both(scenario, wf)
