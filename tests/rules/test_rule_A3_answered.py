"""A3, I8: an incident whose call has been given its result ends, also where that has to wait for another incident.

It would else ask its owner for what he has given, and every further `set-result` would be accepted and do nothing.
"""

from __future__ import annotations

import asyncio

import pytest
from tests.rules.support import Go, Order, VendorDown, banking, closed, desk, every, in_both, incident

from longcase import Case, Next, Retry, Workflow, activity, days
from longcase.errors import RepairRefused
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)


@activity(owner=banking, retry=Retry(max_attempts=1), effect="once")
async def pay(order: str) -> str | None:
    raise VendorDown("nobody answers")


@pay.undo
async def refund(paid: str | None, order: str) -> None:
    return None


@wf.stage
async def paying(case: Case[Order]) -> Next:
    receipt = await pay(case.key)
    if case.object.extra is None:
        raise KeyError("a bug of the stage")
    return wf.close("done", result=receipt)


beside = Workflow("beside", object=Order, key="id", owner=desk, expect=days(5))
told = beside.signal("told", Go)


@beside.stage
async def both(case: Case[Order]) -> Next:
    async def listen() -> None:
        await case.receive(told)
        if case.object.extra is None:
            raise KeyError("a bug of the stage")

    async with asyncio.TaskGroup() as group:
        paid = group.create_task(pay(case.key))
        group.create_task(listen())
    return beside.close("done", result=paid.result())


def refused_turn(sim: Simulation) -> str:
    """Return a case whose stage failed over the result that an operator gave its call."""
    case = sim.start(wf, Order(id="1"))
    assert incident(sim, case)["kind"] == "activity_failed"
    sim.set_result(case, "R-7", reason="looked up")
    return case


def test_rule_A3_a_result_whose_turn_is_refused_ends_the_incident_of_its_call() -> None:
    def scenario(sim: Simulation) -> None:
        case = refused_turn(sim)
        opened = incident(sim, case)
        assert (opened["kind"], opened["call"]) == ("stage_failed", "")
        assert [wait.what.partition(":")[0] for wait in sim.waits(case)] == ["stage_failed"]
        (ended,) = every(sim, case, "incident_closed")
        assert (ended.data["how"], ended.data["reason"]) == ("answered", "looked up")
        number = ended.data["incident"]
        for repair in (lambda: sim.set_result(case, "R-7", incident=number), lambda: sim.retry(case, incident=number)):
            with pytest.raises(RepairRefused, match=rf"has no incident {number} \(open: i"):
                repair()
        sim.correct(case, extra="mended")
        sim.retry(case)
        assert closed(sim, case) == "done"
        assert (sim.state(case).close or {})["result"] == "R-7"
        assert every(sim, case, "activity_completed")[0].actor == ended.actor

    in_both(scenario, wf)


@pytest.mark.parametrize("way", ["set-result", "skip"])
def test_rule_A3_a_result_given_while_another_incident_holds_the_case_ends_the_one_of_its_call(way: str) -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(beside, Order(id="1"))
        (number,) = sim.state(case).incidents
        sim.signal(case, told, Go())
        assert [opened["kind"] for opened in sim.state(case).incidents.values()] == ["activity_failed", "stage_failed"]
        if way == "skip":
            sim.skip(case, incident=number)
        else:
            sim.set_result(case, "R-7", incident=number)
        assert incident(sim, case)["kind"] == "stage_failed"
        assert sim.show(case).pending == 2
        sim.correct(case, extra="mended")
        sim.retry(case)
        assert closed(sim, case) == "done"
        assert (sim.state(case).close or {})["result"] == (None if way == "skip" else "R-7")

    in_both(scenario, beside)


def test_rule_A3_a_cancel_undoes_what_an_operator_said_had_happened_and_asks_nobody_again() -> None:
    def scenario(sim: Simulation) -> None:
        refunded: list[str] = []
        sim.fake(refund, lambda paid, order: refunded.append(paid))
        case = refused_turn(sim)
        sim.cancel(case)
        assert closed(sim, case) == "cancelled"
        assert refunded == ["R-7"]
        kinds = [event.data["kind"] for event in every(sim, case, "incident_opened")]
        assert kinds == ["activity_failed", "stage_failed"]
        assert "signal_unhandled" not in sim.types(case)

    in_both(scenario, wf)


def test_rule_A3_a_move_keeps_the_result_that_waited() -> None:
    def scenario(sim: Simulation) -> None:
        case = refused_turn(sim)
        sim.correct(case, extra="mended")
        sim.move(case, paying, repeat=True)
        assert every(sim, case, "result_late")[0].data["result"] == "R-7"
        assert "signal_unhandled" not in sim.types(case)

    in_both(scenario, wf)


def test_rule_A3_a_restart_says_that_the_result_it_wants_is_there() -> None:
    def scenario(sim: Simulation) -> None:
        case = refused_turn(sim)
        with pytest.raises(RepairRefused, match="must not be repeated") as refused:
            sim.restart(case)
        assert refused.value.hint == f"its result was accepted, and waits for the other incident: longcase show {case}"

    in_both(scenario, wf)
