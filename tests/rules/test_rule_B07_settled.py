"""B7, A4: what an interrupt leaves of calls that were in an incident, of a running undo, and of children."""

from __future__ import annotations

from typing import Any

import pytest
from tests.rules.redone import hangs
from tests.rules.support import Go, Order, banking, closed, credit, desk, every, fails, in_both, incident

from longcase import ActivityFailed, Case, Next, Retry, Workflow, activity, days, hours, seconds
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
stop = wf.signal("stop", Go)
back = wf.signal("back", Go)
boxes = Workflow("boxes", object=Order, key="id", owner=credit, expect=days(2))
packed = boxes.signal("packed", Go)


@activity(owner=banking, retry=Retry(max_attempts=2, initial=seconds(60), jitter="none"))
async def take(what: str) -> str:
    return f"took {what}"


@take.undo
async def give_back(taken: str, what: str) -> None:
    return None


@activity(owner=banking, retry=Retry(max_attempts=1), effect="repeatable")
async def tell(what: str) -> str:
    return what


@boxes.stage
async def packing(case: Case[Order]) -> Next:
    await case.receive(packed)
    return boxes.close("packed")


@wf.stage
async def work(case: Case[Order]) -> Next:
    match case.object.note:
        case "tell":
            await tell("x")
        case "undo":
            for what in ("first", "second"):
                await take.labelled(what)(what)
            await case.undo()
        case "child":
            await case.child(boxes, Order(id="b"))
        case "leave":
            await case.child(boxes, Order(id="b"), on_close="leave")
        case "spawn":
            case.spawn(boxes, Order(id="b"), on_close="cancel")
            await case.pause(days(1), because="spawned")
        case _:
            try:
                await take("it")
            except ActivityFailed:
                pass
            raise ValueError("a bug in what follows")
    return wf.close("done")


@wf.stage
async def undoes(case: Case[Order]) -> Next:
    await case.undo()
    return wf.close("cancelled")


@wf.on(stop)
async def stopped(case: Case[Order], body: Go) -> Next:
    if body.n:
        await case.undo()
    await case.pause(hours(1), because="winding down")
    return wf.close("stopped")


def given_back(sim: Simulation) -> list[Any]:
    found: list[Any] = []
    sim.fake(give_back, lambda taken, what: found.append(taken))
    return found


@pytest.mark.parametrize(("times", "undone"), [(0, ["took it"]), (2, [])], ids=["result", "failure"])
@pytest.mark.parametrize("by", ["cancel", "move"])
def test_rule_B7_who_ends_the_visit_settles_the_call_whose_end_an_incident_keeps(
    by: str, times: int, undone: list[str]
) -> None:
    def scenario(sim: Simulation) -> None:
        found = given_back(sim)
        sim.fake(take, fails(times, then="took it"))
        case = sim.start(wf, Order(id="1"))
        sim.advance(seconds(60))
        assert incident(sim, case)["kind"] == "stage_failed"
        sim.cancel(case) if by == "cancel" else sim.move(case, undoes)
        assert closed(sim, case) == "cancelled"
        assert found == undone

    in_both(scenario, wf, boxes)


def test_rule_B7_a_call_that_ran_out_of_time_and_has_no_undo_does_not_keep_the_path_from_its_close() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(tell, hangs)
        case = sim.start(wf, Order(id="1", note="tell"))
        assert incident(sim, case)["kind"] == "activity_failed"
        sim.signal(case, stop, Go())
        sim.advance(hours(1))
        assert closed(sim, case) == "stopped"

    in_both(scenario, wf, boxes)


def test_rule_B7_an_undo_ends_with_its_visit_and_only_what_it_had_begun_goes_on() -> None:
    def scenario(sim: Simulation) -> None:
        found = given_back(sim)
        sim.fake(give_back, fails(1))
        case = sim.start(wf, Order(id="1", note="undo"))
        sim.signal(case, stop, Go())
        assert sim.state(case).undoing is None
        assert ("activity", "banking") in [(wait.kind, wait.whose) for wait in sim.waits(case)], "it goes on"
        sim.fake(give_back, lambda taken, what: found.append(taken))
        sim.advance(hours(1))
        assert closed(sim, case) == "stopped"
        assert found == ["took second"]
        assert len(every(sim, case, "undo_started")) == 1

    in_both(scenario, wf, boxes)


def test_rule_B12_a_compensation_that_failed_for_good_is_called_again_by_the_next_undo_under_the_same_key() -> None:
    def scenario(sim: Simulation) -> None:
        found = given_back(sim)
        sim.fake(give_back, fails(99))
        case = sim.start(wf, Order(id="1", note="undo"))
        sim.advance(hours(1))
        assert incident(sim, case)["kind"] == "activity_failed"
        sim.fake(give_back, lambda taken, what: found.append(taken))
        sim.signal(case, stop, Go(n=1))
        sim.advance(hours(1))
        assert closed(sim, case) == "stopped"
        assert found == ["took second", "took first"]
        begun = [(event.data["call"], event.data["key"]) for event in every(sim, case, "undo_started")]
        assert len({call for call, _ in begun}) == 3, "each command of a compensation has a name of its own"
        assert begun[0][1] == begun[1][1] != begun[2][1], "the world can tell that the second is a repeat"

    in_both(scenario, wf, boxes)


@pytest.mark.parametrize(
    ("note", "child", "listed"),
    [("child", "cancelled", True), ("leave", "packed", True), ("spawn", "packed", False)],
)
def test_rule_B22_an_interrupt_applies_on_close_to_the_child_that_is_awaited(
    note: str, child: str, listed: bool
) -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", note=note))
        sim.signal(case, stop, Go())
        assert sim.state(case).status == "open"
        assert (sim.state("boxes/b").status == "closed") is (child == "cancelled")
        if child != "cancelled":
            sim.signal("boxes/b", packed, Go())
        assert closed(sim, "boxes/b") == child
        why = [e.data["why"] for e in sim.history(case) if e.type == "signal_unhandled"]
        assert why == (["nobody waits for the child"] if listed else [])
        sim.advance(hours(1))
        assert closed(sim, case) == "stopped"

    in_both(scenario, wf, boxes)


patient = Workflow("patient", object=Order, key="id", owner=desk, expect=days(5))


@patient.stage
async def goes_on(case: Case[Order]) -> Next:
    await case.pause(days(1), because="going on")
    return patient.close("done")


@patient.on_cancel()
async def asks_first(case: Case[Order]) -> Next:
    await case.pause(hours(1), because="asking")
    return goes_on


def test_rule_B7_a_case_whose_cancel_path_went_back_can_be_cancelled_again() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(patient, Order(id="1"))
        for _ in range(2):
            assert sim.cancel(case).did == "asked"
            sim.advance(hours(1))
            assert (sim.state(case).stage, sim.state(case).cancel) == ("goes_on", None)

    in_both(scenario, patient)
