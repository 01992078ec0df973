"""What comes in the moment in which a call fails for good is applied, as the incident of a call blocks nothing else."""

from __future__ import annotations

import asyncio

import pytest
from tests.rules.support import Go, Order, VendorDown, banking, closed, desk, in_both, incident

from longcase import ActivityFailed, Case, Next, Retry, Workflow, activity, days
from longcase.testing import Simulation

wf = Workflow("beside", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)


@activity(owner=banking, retry=Retry(max_attempts=1))
async def ring(order: str) -> str:
    raise VendorDown("nobody answers")


@wf.stage
async def both(case: Case[Order]) -> Next:
    async with asyncio.TaskGroup() as group:
        rung = group.create_task(ring(case.key))
        word = await case.receive(go)
        case.update(amount=word.n)
    return wf.close("done", result=rung.result())


def test_rule_A3_a_signal_that_comes_while_a_call_fails_for_good_does_not_stand_still() -> None:
    def scenario(sim: Simulation) -> None:
        async def meanwhile(order: str) -> str:
            await sim.service.signal(f"beside/{order}", go, Go(n=7))
            raise VendorDown("nobody answers")

        sim.fake(ring, meanwhile)
        case = sim.start(wf, Order(id="o1"))
        assert incident(sim, case)["kind"] == "activity_failed"
        assert sim.show(case).pending == 0
        assert sim.state(case).object["amount"] == 7
        sim.set_result(case, "answered")
        assert closed(sim, case) == "done"

    in_both(scenario, wf)


mended = Workflow("mended", object=Order, key="id", owner=desk, expect=days(5))
later = mended.signal("later", Go)


@mended.stage
async def ringing(case: Case[Order]) -> Next:
    try:
        await ring(case.key)
    except ActivityFailed:
        if case.object.extra is None:
            raise KeyError("a bug of the stage") from None
        raise
    return mended.close("done")


def test_rule_A3_what_a_calls_incident_has_refused_waits_for_its_repair_and_keeps_nobody_busy() -> None:
    """The call's failure is applied anew, from the inbox, and is refused anew; nothing else of the case is blocked."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(mended, Order(id="o1"))
        assert incident(sim, case)["kind"] == "stage_failed"
        sim.correct(case, extra="mended")
        sim.retry(case)
        opened = incident(sim, case)
        assert (opened["kind"], opened["blocks"]) == ("activity_failed", False)
        sim.signal(case, later, Go())  # the mover came to no rest after it
        assert [kept["signal"] for kept in sim.state(case).signals] == ["later"]
        assert (sim.show(case).pending, sim.show(case).wake_at) == (1, "")
        sim.set_result(case, "answered")
        assert closed(sim, case) == "done"
        assert sim.show(case).pending == 0

    in_both(scenario, mended)


broken = Workflow("broken", object=Order, key="id", owner=desk, expect=days(5))
word = broken.signal("word", Go)
withdrawn = broken.signal("withdrawn", Go)


@broken.stage
async def listening(case: Case[Order]) -> Next:
    while True:
        if (await case.receive(word)).n:
            raise ValueError("a bug of the stage")


@broken.on(withdrawn)
async def leaving(case: Case[Order], body: Go) -> Next:
    raise KeyError("a bug of the path")


def test_rule_A3_a_path_that_fails_behind_a_waiting_signal_is_an_incident_and_keeps_nobody_busy() -> None:
    """What waits behind the first incident was counted as applied: the path's turn was never the first, and came to
    no incident, but again and again."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(broken, Order(id="o1"))
        sim.signal(case, word, Go(n=1))
        sim.signal(case, word, Go(n=0))
        sim.signal(case, withdrawn, Go())  # the mover came to no rest after it
        told = [opened["message"] for opened in sim.state(case).incidents.values()]
        assert told == ["ValueError: a bug of the stage", "KeyError: 'a bug of the path'"]
        assert (sim.show(case).pending, sim.show(case).wake_at) == (3, "")
        sim.cancel(case, reason="given up")
        assert closed(sim, case) == "cancelled"
        assert sim.show(case).pending == 0

    in_both(scenario, broken)


dialled = Workflow("dialled", object=Order, key="id", owner=desk, expect=days(5))


@activity(owner=banking, retry=Retry(max_attempts=1))
async def dial(number: str) -> str:
    if not number.isdecimal():
        raise ValueError(f"{number} is no number")
    return number


@dialled.stage
async def dialling(case: Case[Order]) -> Next:
    return dialled.close("done", result=await dial(case.object.note or ""))


@pytest.mark.parametrize("way", ["restart", "redo"])
def test_rule_A3_a_call_that_failed_by_wrong_data_lists_the_correction_and_what_takes_it_up(way: str) -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(dialled, Order(id="o1", note="x5"))
        opened = incident(sim, case)
        assert (opened["kind"], opened["repairs"]) == (
            "activity_failed", ["retry", "set-result", "correct", "restart", "move", "cancel"],
        )  # fmt: skip
        sim.correct(case, note="55")
        if way == "restart":
            sim.restart(case)
        else:
            sim.redo(case, arguments={"number": "55"})
        assert closed(sim, case) == "done"
        assert (sim.state(case).close or {})["result"] == "55"
        assert sim.state(case).incidents == {}

    in_both(scenario, dialled)
