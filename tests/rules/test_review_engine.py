"""What a reading of the engine found wrong, one test each: child keys, moves, poisoned handlers, clocks, places."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.rules.support import Go, Order, banking, credit, desk, do, every, first, in_both, later

from longcase import ActivityFailed, Case, Next, Retry, Workflow, activity, days, hours, seconds
from longcase.engine.work import Command
from longcase.runtime.moved import Moved
from longcase.testing import Simulation

# -- children under a key that is taken (B22) -------------------------------------------------------

boxes = Workflow("boxes", object=Order, key="id", owner=credit, expect=days(2))
packed = boxes.signal("packed", Go)


@boxes.stage(expect=days(1))
async def packing(case: Case[Order]) -> Next:
    got = await case.receive(packed, within=days(1))
    return boxes.close("packed", result=got.n)


shops = Workflow("shops", object=Order, key="id", owner=desk, expect=days(5))


@shops.stage(expect=days(5))
async def selling(case: Case[Order]) -> Next:
    if case.object.note == "spawn":
        case.spawn(boxes, Order(id="b1"), on_close="cancel")
        await case.pause(hours(1), because="the van is late")
        return shops.close("spawned")
    ended = await case.child(boxes, Order(id="b1"), on_close="cancel")
    return shops.close(ended.name, result=ended.result)


def incident(sim: Simulation, case: str) -> Any:
    (opened,) = sim.state(case).incidents.values()
    return opened


def test_rule_B22_a_parent_whose_childs_key_is_taken_is_an_incident_and_not_a_wait_for_ever() -> None:
    def scenario(sim: Simulation) -> None:
        stranger = sim.start(boxes, Order(id="b1"))
        case = sim.start(shops, Order(id="1"))
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"], opened["repairs"]) == (
            "child_key_taken", "desk", ["restart", "move", "cancel"],
        )  # fmt: skip
        assert "boxes/b1" in opened["message"]
        sim.cancel(case)
        assert sim.state(case).status == "closed"
        assert sim.state(stranger).cancel is None, "a stranger is not cancelled with the parent"
        assert sim.state(stranger).status == "open"
        assert len(every(sim, case, "incident_opened")) == 1

    in_both(scenario, shops, boxes)


def test_rule_B22_a_restart_starts_the_child_once_the_key_is_free() -> None:
    def scenario(sim: Simulation) -> None:
        sim.start(boxes, Order(id="b1"))
        case = sim.start(shops, Order(id="1"))
        sim.signal("boxes/b1", packed, Go(n=1))
        sim.restart(case)
        assert [w.kind for w in sim.waits(case)] == ["child"]
        sim.signal("boxes/b1", packed, Go(n=7))
        assert sim.state(case).close == {"name": "packed", "result": 7, "reason": ""}

    in_both(scenario, shops, boxes)


def test_rule_B22_a_closed_case_of_the_key_is_no_obstacle() -> None:
    def scenario(sim: Simulation) -> None:
        sim.start(boxes, Order(id="b1"))
        sim.signal("boxes/b1", packed, Go(n=1))
        case = sim.start(shops, Order(id="1"))
        sim.signal("boxes/b1", packed, Go(n=5))
        assert sim.state(case).close == {"name": "packed", "result": 5, "reason": ""}

    in_both(scenario, shops, boxes)


def test_rule_B22_a_spawned_child_that_was_not_started_is_told_and_the_stage_goes_on() -> None:
    def scenario(sim: Simulation) -> None:
        stranger = sim.start(boxes, Order(id="b1"))
        case = sim.start(shops, Order(id="1", note="spawn"))
        opened = incident(sim, case)
        assert (opened["kind"], opened["blocks"], opened["repairs"][0]) == ("child_key_taken", False, "skip")
        assert sim.state(case).children == {}, "it was never started"
        sim.skip(case, reason="the other box will do")
        assert [w.kind for w in sim.waits(case)] == ["timer"]
        sim.advance(hours(1))
        assert sim.state(case).status == "closed"
        assert sim.state(stranger).cancel is None

    in_both(scenario, shops, boxes)


# -- moves and poisoned inputs ------------------------------------------------------------------------

bad = Workflow("bad", object=Order, key="id", owner=desk, expect=days(5))
stop = bad.signal("stop", Go)


@bad.stage(expect=days(1))
async def opening(case: Case[Order]) -> Next:
    if case.object.note == "poison":
        raise ValueError("poisoned")
    await case.pause(days(1), because="cooling-off")
    return bad.close("done")


@bad.stage(expect=days(1))
async def aside(case: Case[Order]) -> Next:
    await case.pause(hours(2), because="a look")
    return bad.close("aside")


@bad.on(stop, owner=credit)
async def stopping(case: Case[Order], body: Go) -> Next:
    if body.n == 0:
        raise ValueError("cannot stop")
    await case.pause(hours(1), because="winding down")
    if body.n == 1:
        raise ValueError("cannot wind down")
    return aside


def test_rule_A3_a_case_whose_first_stage_raises_at_once_can_be_moved() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(bad, Order(id="1", note="poison"))
        assert (incident(sim, case)["kind"], sim.state(case).visit) == ("stage_failed", 0)
        sim.move(case, aside)
        state = sim.state(case)
        assert (state.stage, state.visit, state.incidents) == ("aside", 1, {})
        sim.advance(hours(2))
        assert (sim.state(case).close or {})["name"] == "aside"

    in_both(scenario, bad)


def test_rule_A3_a_handler_that_raises_at_once_is_one_incident_and_cancel_overtakes() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(bad, Order(id="1"))
        sim.signal(case, stop, Go())
        sim.correct(case, amount=3)  # wakes the case: the refused signal is not tried again
        sim.advance(hours(1))
        assert len(every(sim, case, "incident_opened")) == 1
        assert incident(sim, case)["details"]["input"]
        sim.retry(case)
        assert len(every(sim, case, "incident_opened")) == 2, "a retry tries it again"
        sim.cancel(case)
        assert (sim.state(case).close or {})["name"] == "cancelled"
        assert len(every(sim, case, "incident_opened")) == 2
        assert first(sim, case, "signal_unhandled").data["signal"] == "stop"

    in_both(scenario, bad)


def test_rule_A3_a_move_passes_a_handler_that_cannot_begin() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(bad, Order(id="1"))
        sim.signal(case, stop, Go())
        sim.move(case, aside)
        assert (sim.state(case).stage, sim.state(case).incidents) == ("aside", {})
        assert "an operator moved" in first(sim, case, "signal_unhandled").data["why"]
        sim.advance(hours(2))
        assert (sim.state(case).close or {})["name"] == "aside"

    in_both(scenario, bad)


def test_rule_B7_an_operators_cancel_ends_a_handler_that_an_incident_blocks() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(bad, Order(id="1"))
        sim.signal(case, stop, Go(n=1))
        sim.advance(hours(1))
        assert incident(sim, case)["kind"] == "stage_failed"
        sim.cancel(case)
        assert (sim.state(case).close or {})["name"] == "cancelled"

    in_both(scenario, bad)


# -- attempts that run on -------------------------------------------------------------------------------


@activity(owner=banking, effect="repeatable", retry=Retry(max_attempts=3), schedule_to_close=hours(1))
async def transfer(order: str) -> str:
    return order


@activity(owner=banking, effect="once", schedule_to_close=hours(1))
async def pay(order: str) -> str:
    return order


wires = Workflow("wires", object=Order, key="id", owner=desk, expect=days(5))


@wires.stage(expect=days(5))
async def wiring(case: Case[Order]) -> Next:
    if case.object.note == "cancel":
        try:
            async with asyncio.timeout(60):
                await transfer(case.key)
        except TimeoutError:
            await case.pause(hours(1), because="a breath")
        return wires.close("given-up")
    if case.object.note == "once":
        await pay(case.key)
        return wires.close("paid")
    try:
        await transfer(case.key)
    except ActivityFailed as lost:
        return wires.close("lost", reason=str(lost))
    return wires.close("done")


class Unending(Simulation):
    """A simulation whose attempts begin and never report an end; it keeps the commands it was given."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.commands: list[tuple[str, str, int]] = []
        super().__init__(*args, **options)

    def __enter__(self) -> Unending:
        return self

    async def _command(self, moved: Moved, command: Command) -> None:
        self.commands.append((command.kind, command.call, command.number))


@pytest.mark.parametrize("live", [512, 0])
def test_schedule_to_close_ends_a_call_whose_attempt_runs_on(live: int) -> None:
    with Unending([wires], live=live) as sim:
        case = sim.start(wires, Order(id="1"))
        sim.advance(hours(1))
        failed = first(sim, case, "activity_failed")
        assert failed.data["error"]["type"] == "ScheduleToClose"
        assert (failed.node, failed.n, failed.strand) == ("wiring/activity:transfer", 1, "0")
        assert (sim.state(case).close or {})["name"] == "lost"
        assert sim.commands == [("perform", "1.c1", 1), ("stop", "1.c1", 1)]


@pytest.mark.parametrize("live", [512, 0])
def test_schedule_to_close_of_an_effect_once_asks_before_the_stage_hears(live: int) -> None:
    with Unending([wires], live=live) as sim:
        case = sim.start(wires, Order(id="1", note="once"))
        sim.advance(hours(1))
        assert incident(sim, case)["kind"] == "outcome_unknown"
        assert ("stop", "1.c1", 1) in sim.commands


@pytest.mark.parametrize("live", [512, 0])
def test_rule_B4_a_cancelled_await_asks_its_attempt_to_stop(live: int) -> None:
    with Unending([wires], live=live) as sim:
        sim.start(wires, Order(id="1", note="cancel"))
        assert sim.commands == [("perform", "1.c2", 1)]
        sim.advance(seconds(60))
        assert sim.commands == [("perform", "1.c2", 1), ("stop", "1.c2", 1)]


@pytest.mark.parametrize("live", [512, 0])
def test_rule_B4_an_interrupt_asks_each_attempt_to_stop_once(live: int) -> None:
    with Unending([wires], live=live) as sim:
        case = sim.start(wires, Order(id="1"))
        sim.cancel(case)
        assert sim.commands.count(("stop", "1.c1", 1)) == 1


@pytest.mark.parametrize("live", [512, 0])
def test_rule_B4_an_attempt_of_another_worker_is_asked_to_stop_where_its_await_is_cancelled(live: int) -> None:
    with Unending([wires], live=live) as sim:
        case = sim.start(wires, Order(id="1", note="cancel"))
        runs = sim._worker
        sim._join()  # another one, which comes to the case first
        later(sim, 60)
        do(sim, sim._run([sim.show(case).case_no]))
        assert sim.commands == [("perform", "1.c2", 1), ("stop", "1.c2", 1)]
        assert (sim.show(case).lease, sim.show(case).wake_at != "") == (runs, True), "its worker is told to look"


# -- places on the map, waits, what is kept ----------------------------------------------------------------


@activity(owner=banking, effect="repeatable")
async def note_down(n: int) -> int:
    return n


@activity(owner=banking)
async def book(n: int) -> int:
    return n


@book.undo
async def unbook(booked: int, n: int) -> None:
    return None


loops = Workflow("loops", object=Order, key="id", owner=desk, expect=days(5))


@loops.stage(expect=days(5))
async def rounds(case: Case[Order]) -> Next:
    match case.object.note:
        case "children":
            for n in range(2):
                await case.child(boxes, Order(id=f"b{n}"))
        case "bare":
            try:
                async with asyncio.timeout(3600):
                    await asyncio.Event().wait()
            except TimeoutError:
                return loops.close("timed-out")
        case "notes":
            for n in range(20):
                await note_down(n)
            await case.pause(hours(1), because="a breath")
        case "undo":
            for n in range(2):
                await book(n)
                await case.undo()
        case _:
            for _ in range(2):
                await case.pause(hours(1), because="a breath")
    return loops.close("done")


def test_inputs_and_records_stand_at_the_place_of_their_command() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(loops, Order(id="1"))
        sim.advance(hours(2))
        assert [event.n for event in every(sim, case, "timer_fired")] == [1, 2]
        case = sim.start(loops, Order(id="2", note="undo"))
        for kind in ("undo_started", "undo_finished"):
            assert [event.n for event in every(sim, case, kind)] == [1, 2], kind
        case = sim.start(loops, Order(id="3", note="children"))
        sim.signal("boxes/b0", packed, Go())
        sim.signal("boxes/b1", packed, Go())
        assert [event.n for event in every(sim, case, "child_closed")] == [1, 2]

    in_both(scenario, loops, boxes)


def test_a_stage_that_waits_on_a_bare_timeout_shows_it() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(loops, Order(id="1", note="bare"))
        (wait,) = sim.waits(case)
        assert (wait.kind, wait.what, wait.whose) == ("timer", "timeout", "desk")
        assert wait.expected == "2026-01-05T10:00:00.000000Z"
        rows = sim.query("SELECT kind, what, expected FROM waiting")
        assert rows == [{"kind": "timer", "what": "timeout", "expected": wait.expected}]
        sim.advance(hours(1))
        assert (sim.state(case).close or {})["name"] == "timed-out"

    in_both(scenario, loops, boxes)


def test_a_parent_shows_its_childs_incident_and_its_owner() -> None:
    fragile = Workflow("fragile", object=Order, key="id", owner=credit, expect=days(2))

    @fragile.stage(expect=days(1))
    async def breaking(case: Case[Order]) -> Next:
        if case.object.amount == 0:
            raise ValueError("no amount")
        return fragile.close("fine")

    parents = Workflow("parents", object=Order, key="id", owner=desk, expect=days(2))

    @parents.stage(expect=days(1))
    async def asking(case: Case[Order]) -> Next:
        ended = await case.child(fragile, Order(id="f1"))
        return parents.close("over", result=ended.name)

    with Simulation([parents, fragile]) as sim:
        case = sim.start(parents, Order(id="1"))
        (wait,) = sim.waits(case)
        assert wait.what == "child fragile/f1: incident, owner credit"
        sim.correct("fragile/f1", amount=1)
        sim.retry("fragile/f1")
        assert sim.state(case).close == {"name": "over", "result": "fine", "reason": ""}


def test_settled_calls_without_compensation_leave_nothing_in_the_state() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(loops, Order(id="1", note="notes"))
        assert len(every(sim, case, "activity_completed")) == 20
        assert sim.state(case).undo == {}

    in_both(scenario, loops, boxes)
