"""Limits of activities in a simulation: what found no slot begins when there is one."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from longcase import Case, Next, Team, Workflow, activity, days, minutes
from longcase.testing import Simulation

desk = Team("desk")


class Order(BaseModel):
    id: str


paced = Workflow("paced", object=Order, key="id", owner=desk, expect=days(5))


@activity(owner=desk, rate=(1, timedelta(minutes=1)))
async def call_in_turn(order: str) -> str:
    return order


@paced.stage
async def pacing(case: Case[Order]) -> Next:
    return paced.close("done", result=await call_in_turn(case.key))


def test_a_rate_limit_holds_attempts_back_until_its_time_has_come() -> None:
    """Nothing in the store wakes such a case: whoever moves it must come back when the limit lets it."""
    with Simulation([paced]) as sim:
        for number in range(3):
            sim.start(paced, Order(id=f"{number}"))
        assert len(sim.performed) == 1
        sim.advance(minutes(1))
        assert len(sim.performed) == 2
        sim.advance(minutes(1))
        assert [sim.state(f"paced/{number}").status for number in range(3)] == ["closed"] * 3
