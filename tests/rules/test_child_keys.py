"""The key of a child is looked at where the stage names it: a wrong one is an incident, not a failed write."""

from __future__ import annotations

import pytest
from tests.rules.support import Order, desk

from longcase import Case, Next, Workflow, days
from longcase.testing import Simulation

checks = Workflow("checks", object=Order, key="id", owner=desk, expect=days(1))


@checks.stage(expect=days(1))
async def looking(case: Case[Order]) -> Next:
    return checks.close("seen")


awaiting = Workflow("awaiting", object=Order, key="id", owner=desk, expect=days(5))
spawning = Workflow("spawning", object=Order, key="id", owner=desk, expect=days(5))


@awaiting.stage(expect=days(5))
async def ask(case: Case[Order]) -> Next:
    seen = await case.child(checks, Order(id=case.object.note or ""))
    return awaiting.close(seen.name)


@spawning.stage(expect=days(5))
async def send(case: Case[Order]) -> Next:
    case.spawn(checks, Order(id=case.object.note or ""))
    return spawning.close("sent")


@pytest.mark.parametrize("workflow", [awaiting, spawning], ids=lambda workflow: workflow.name)
@pytest.mark.parametrize("key", ["", "   ", "a/b", "x" * 129], ids=["empty", "blank", "slash", "long"])
def test_a_key_that_addresses_nothing_is_an_incident_that_a_correction_mends(
    workflow: Workflow[Order], key: str
) -> None:
    with Simulation([workflow, checks]) as sim:
        case = sim.start(workflow, Order(id="p1", note=key))
        (incident,) = sim.state(case).incidents.values()
        assert incident["kind"] == "stage_failed"
        assert "child of p1, a case of checks: id: business key" in incident["message"]
        assert [event.type for event in sim.history(case)] == ["case_started", "incident_opened"]
        sim.correct(case, note="c1", reason="the number was missing")
        sim.retry(case)
        assert sim.state(case).status == "closed"
        assert sim.state("checks/c1").close == {"name": "seen", "result": None, "reason": ""}
