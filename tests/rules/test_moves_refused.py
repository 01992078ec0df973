"""A move whose stage fails as it begins: the case stands at one incident, and what ends meanwhile is kept."""

from __future__ import annotations

import pytest
from tests.rules.support import Go, Order, VendorDown, banking, closed, desk, every, fails, in_both, incident

from longcase import Case, Next, Retry, Workflow, activity, days, seconds
from longcase.testing import Simulation

wf = Workflow("onward", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)


@activity(owner=banking, retry=Retry(max_attempts=2, initial=seconds(5), jitter="none", non_retryable=(ValueError,)))
async def ring(order: str) -> str:
    return "answered"


@wf.stage
async def ringing(case: Case[Order]) -> Next:
    await ring(case.key)
    return wf.close("rung")


@wf.stage
async def writing(case: Case[Order]) -> Next:
    if case.object.note is None:
        raise KeyError("note")
    return wf.close("written")


@wf.stage
async def waiting(case: Case[Order]) -> Next:
    heard = [await case.receive(go), await case.receive(go)]
    return wf.close("heard", result=[body.n for body in heard])


@pytest.mark.parametrize("ends", ["well", "badly", "for good"])
def test_rule_B12_an_attempt_that_ends_while_a_move_cannot_be_carried_out_opens_no_second_incident(ends: str) -> None:
    def scenario(sim: Simulation) -> None:
        asked: list[str] = []

        async def meanwhile(order: str) -> str:
            if not asked:
                await sim.service.move(f"onward/{order}", "writing", reason="nobody answers anyway")
            asked.append(order)
            if ends == "well":
                return "answered"
            raise VendorDown("nobody answers") if ends == "badly" else ValueError("no such number")

        sim.fake(ring, meanwhile)
        case = sim.start(wf, Order(id="o1"))
        opened = incident(sim, case)
        assert (opened["kind"], opened["blocks"]) == ("stage_failed", True)
        sim.advance(days(1))
        assert len(every(sim, case, "incident_opened")) == 1
        assert sim.state(case).stage == "ringing"
        assert len(asked) == 1 + (ends == "badly")  # tried again, as beside any incident

        sim.correct(case, note="here it is")
        sim.retry(case)
        assert closed(sim, case) == "written"
        assert len(every(sim, case, "incident_opened")) == 1

    in_both(scenario, wf)


@pytest.mark.parametrize("way", ["cancel", "move"])
def test_rule_B12_beside_a_move_that_cannot_be_carried_out_signals_wait_and_a_way_out_is_taken(way: str) -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(ring, fails(1))
        case = sim.start(wf, Order(id="o1"))
        sim.move(case, "writing")
        sim.signal(case, go, Go(n=1))
        sim.signal(case, go, Go(n=2))
        assert incident(sim, case)["kind"] == "stage_failed"
        assert len(every(sim, case, "incident_opened")) == 1
        sim.cancel(case) if way == "cancel" else sim.move(case, waiting)
        assert closed(sim, case) == ("cancelled" if way == "cancel" else "heard")
        assert len(every(sim, case, "incident_opened")) == 1

    in_both(scenario, wf)
