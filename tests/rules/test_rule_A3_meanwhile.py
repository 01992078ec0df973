"""A3, A4, B1, I8: what ends or falls due while an incident blocks a case is neither lost nor applied before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.rules.redone import hangs
from tests.rules.support import Go, Order, banking, closed, credit, desk, every, fails, in_both, incident

from longcase import Case, Next, Retry, Workflow, activity, days, hours
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
stop = wf.signal("stop", Go)
once = Retry(max_attempts=1)


@activity(owner=desk, retry=once)
async def breaks(amount: int) -> int:
    return amount


@activity(owner=banking, retry=once, effect="once")
async def pay(amount: int) -> str:
    return f"paid {amount}"


@pay.verify
async def was_paid(amount: int) -> str:
    return f"paid {amount}, said the bank"


@wf.stage
async def work(case: Case[Order]) -> Next:
    async def bug() -> None:
        await breaks(case.object.amount)
        if case.object.note != "mended":
            raise KeyError("a bug of the stage")

    async def pays() -> str:
        got = await pay(7)
        case.update(extra=got)
        return got

    async with asyncio.TaskGroup() as group:
        group.create_task(bug())
        paid = group.create_task(pays())
    return wf.close("done", result=paid.result())


@wf.stage
async def waits(case: Case[Order]) -> Next:
    asked = asyncio.create_task(case.approval("Go on?", of=credit, within=days(1), expires=(hours(2), "rejected")))
    pause = asyncio.create_task(case.pause(hours(1), because="cooling off"))
    await breaks(case.object.amount)
    if case.object.note != "mended":
        raise KeyError("a bug of the stage")
    await pause
    return wf.close((await asked).answer)


@wf.on(stop)
async def stopped(case: Case[Order], body: Go) -> Next:
    await case.pause(hours(1), because="winding down")
    return wf.close("stopped")


@pytest.mark.parametrize(
    ("ends", "result"),
    [(lambda amount: f"paid {amount}", "paid 7"), (hangs, "paid 7, said the bank"), (fails(9), "by hand")],
    ids=["returns", "verified", "fails"],
)
def test_rule_A3_what_ends_while_an_incident_blocks_is_kept_for_the_stage(
    ends: Callable[..., Any], result: str
) -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(pay, ends)
        case = sim.start(wf, Order(id="1"))
        assert incident(sim, case)["kind"] == "stage_failed"
        sim.correct(case, note="mended")
        sim.retry(case)
        if result == "by hand":
            assert incident(sim, case)["kind"] == "activity_failed"
            sim.set_result(case, result)
        assert closed(sim, case) == "done"
        assert (sim.state(case).close or {})["result"] == result
        assert [name for _, name, _ in sim.performed] == ["breaks", "pay"], "nothing is done twice"

    in_both(scenario, wf)


def test_rule_A3_what_falls_due_while_an_incident_blocks_takes_effect_with_its_repair() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(breaks, fails(1, then=1))
        case = sim.start(wf, Order(id="1"))
        sim.move(case, waits)
        assert incident(sim, case)["kind"] == "stage_failed"
        sim.advance(hours(3))
        assert not {"timer_fired", "task_expired"} & set(sim.types(case)), "nothing is applied before the repair"
        sim.correct(case, note="mended")
        sim.retry(case)
        assert closed(sim, case) == "rejected"
        assert [event.data["due"][:13] for event in every(sim, case, "timer_fired")] == ["2026-01-05T10"]

    in_both(scenario, wf)


def test_rule_B17_what_a_person_gave_to_what_has_ended_meanwhile_is_listed() -> None:
    def decided(sim: Simulation) -> None:
        sim.fake(breaks, fails(9))
        case = sim.start(wf, Order(id="1"))
        sim.move(case, waits)
        with sim.together():
            sim.signal(case, stop, Go())
            sim.decide(case, "approved", by="ann")
        assert every(sim, case, "signal_unhandled")[0].data["why"] == "the task is no longer open"
        assert "task_decided" not in sim.types(case)

    def supplied(sim: Simulation) -> None:
        sim.fake(breaks, fails(9))
        case = sim.start(wf, Order(id="1"))
        with sim.together():
            sim.signal(case, stop, Go())
            sim.set_result(case, 7)
        (event,) = every(sim, case, "signal_unhandled")
        assert (event.data["why"], event.data["body"]["result"]) == ("the call is no longer open", 7)

    in_both(decided, wf)
    in_both(supplied, wf)
