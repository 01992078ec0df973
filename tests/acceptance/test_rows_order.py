"""ACCEPTANCE row G1: after an outage, what was due takes effect in due order over all cases."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from tests.rules.support import Order, closed, desk

from longcase import Case, Next, Workflow, activity, days, minutes
from longcase.testing import Simulation

wf = Workflow("naps", object=Order, key="id", owner=desk, expect=days(1))


@activity(owner=desk)
async def ring(n: int) -> int:
    return n


@wf.stage
async def naps(case: Case[Order]) -> Next:
    await case.pause(minutes(case.object.amount), because="cooling off")
    await ring(case.object.amount)
    return wf.close("done")


@pytest.mark.parametrize("seed", range(3))
def test_row_G1_timers_of_an_outage_take_effect_in_due_order_over_all_cases(seed: int) -> None:
    order = list(range(1, 51))
    random.Random(seed).shuffle(order)
    with Simulation([wf], seed=seed) as sim:
        for n in order:
            sim.start(wf, Order(id=f"{n}", amount=n))
        sim.clock.advance(timedelta(hours=3))
        sim.crash()
        sim.run()
        assert [case for case, _, _ in sim.performed] == [f"naps/{n}" for n in range(1, 51)]
        assert {closed(sim, f"naps/{n}") for n in order} == {"done"}
        before = len(sim.performed)
        sim.advance(days(1))
        assert len(sim.performed) == before, "once"
