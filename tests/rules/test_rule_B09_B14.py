"""B9 to B14: pins, rulings, code changes, undo, deadlocks, and what a wait may be made of."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.rules.support import Go, Order, banking, closed, credit, declare, desk, every, in_both, incident, sales

from longcase import ActivityFailed, Case, Next, Retry, Stage, Workflow, activity, days, decision, hours
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)


@wf.stage
async def writes(case: Case[Order]) -> Next:
    got = await case.receive(go)
    case.update(amount=got.n, note="stage")
    return wf.close("done", result=case.object.amount)


def test_rule_B9_a_stage_does_not_overwrite_a_correction_silently() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", amount=1))
        sim.correct(case, amount=700, reason="the contract says so")
        sim.signal(case, go, Go(n=5))
        opened = incident(sim, case)
        assert opened["kind"] == "overrides_correction"
        assert (opened["details"]["corrected"], opened["details"]["written"]) == (700, 5)
        assert sim.state(case).object["amount"] == 700
        # Correct again without a pin: the stage may write, and the same signal is applied.
        sim.set(case, amount=701)
        sim.retry(case)
        assert incident(sim, case)["kind"] == "overrides_correction", "the pin holds for the visit"
        sim.restart(case)
        assert closed(sim, case) == "done"
        assert (sim.state(case).close or {})["result"] == 5

    in_both(scenario, wf)


remarked = Workflow("remarked", object=Order, key="id", owner=desk, expect=days(5))
remark = remarked.signal("remark", Go)
leave = remarked.signal("leave", Go)


@activity(owner=credit)
async def file_remark(n: int) -> int:
    return n


@remarked.stage
async def stays(case: Case[Order]) -> Next:
    await case.receive(leave)
    return remarked.close("done")


@remarked.on(remark, interrupts=False)
async def files(case: Case[Order], body: Go) -> None:
    case.update(amount=await file_remark(body.n))


def test_rule_B9_a_handler_does_not_either_and_its_call_is_not_shown_as_under_way() -> None:
    def scenario(sim: Simulation) -> None:
        async def meanwhile(n: int) -> int:
            if (await sim.service.show(case)).state.pins == {}:
                await sim.service.correct(case, {"amount": 700}, reason="the contract says so")
            return n

        sim.fake(file_remark, meanwhile)
        case = sim.start(remarked, Order(id="1", amount=1))
        sim.signal(case, remark, Go(n=5))
        (number,) = sim.state(case).incidents
        opened = incident(sim, case)
        assert opened["message"] == "handler files writes amount = 5 over the correction 700"
        assert "activity_completed" not in sim.types(case)
        assert [wait.what for wait in sim.show(case).waits if wait.kind == "activity"] == [
            f"file_remark, ended: incident {number} keeps its outcome"
        ]
        sim.restart(case)
        assert sim.state(case).object["amount"] == 5
        assert [wait.what for wait in sim.show(case).waits] == ["signal leave"]

    in_both(scenario, remarked)


def test_rule_B9_a_pin_ends_with_its_visit_and_covers_its_fields_only() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", amount=1))
        sim.correct(case, extra="x")
        sim.signal(case, go, Go(n=5))
        assert closed(sim, case) == "done"
        assert sim.state(case).object == {"id": "1", "amount": 5, "note": "stage", "extra": "x"}

    in_both(scenario, wf)


def test_rule_B9_an_unpinned_correction_may_be_overwritten() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", amount=1))
        sim.set(case, amount=700)
        sim.signal(case, go, Go(n=5))
        assert (sim.state(case).close or {})["result"] == 5

    in_both(scenario, wf)


rules = Workflow("rules", object=Order, key="id", owner=desk, expect=days(5))
ask = rules.signal("ask", Go)
ran: list[int] = []
limit = [3]


@decision(owner=credit, question="Is it big?", policy="CR-7 v3")
def is_big(amount: int) -> Literal["yes", "no"]:
    ran.append(amount)
    return "yes" if amount > limit[0] else "no"


@rules.stage
async def judge(case: Case[Order]) -> Next:
    first = is_big(case.object.amount)
    got = await case.receive(ask)
    again = case.rule_again(is_big.labelled("anew"), case.object.amount).answer if got.n else first
    return rules.close("done", result=[first, again])


@pytest.mark.parametrize(("rule_again", "result"), [(0, ["yes", "yes"]), (1, ["yes", "no"])])
def test_rule_B10_a_ruling_is_recorded_and_not_run_on_replay(rule_again: int, result: list[str]) -> None:
    """A hot-fixed rule changes new uses only; the waiting case keeps its ruling and is not held."""

    def scenario(sim: Simulation) -> None:
        ran.clear()
        limit[0] = 3
        case = sim.start(rules, Order(id="1", amount=5))
        limit[0] = 100
        sim.signal(case, ask, Go(n=rule_again))
        assert (sim.state(case).close or {})["result"] == result
        assert len(ran) == 1 + rule_again
        assert [event.data["again"] for event in every(sim, case, "ruling_recorded")] == [False, True][: 1 + rule_again]
        ruling = every(sim, case, "ruling_recorded")[0].data
        assert (ruling["inputs"], ruling["answer"], ruling["policy"], ruling["owner"]) == (
            {"amount": 5},
            "yes",
            "CR-7 v3",
            "credit",
        )

    in_both(scenario, rules)


def test_rule_B10_outside_a_stage_a_decision_is_plain_python() -> None:
    limit[0] = 3
    assert is_big(4) == "yes"


HELPER = """
go = wf.signal("go", Go)
LIMIT = {limit}

@activity(owner=desk)
async def small() -> str:
    return "small"

@activity(owner=desk)
async def large() -> str:
    return "large"

def helper(amount: int) -> bool:
    return amount > LIMIT

@wf.stage
async def work(case: Case[Order]) -> Next:
    if helper(case.object.amount):
        kind = await large()
    else:
        kind = await small()
    await case.receive(go)
    return wf.close("done", result=kind)
"""


@pytest.mark.parametrize(("limit_now", "held"), [(3, False), (4, False), (10, True)])
def test_rule_B11_replay_decides_whether_the_code_has_changed(limit_now: int, held: bool, tmp_path: Path) -> None:
    """A changed constant holds the cases that took the other branch, and no others."""
    path = tmp_path / "cases.db"
    with Simulation([declare(HELPER.format(limit=3)).wf], path=path) as sim:
        sim.start("order", {"id": "1", "amount": 5})
        now = sim.now
    with Simulation([declare(HELPER.format(limit=limit_now)).wf], path=path, now=now) as sim:
        sim.signal("order/1", "go", {"n": 1})
        if held:
            opened = incident(sim, "order/1")
            assert opened["kind"] == "code_changed"
            assert ("large" in opened["details"]["recorded"], "small" in opened["details"]["attempted"]) == (True, True)
        else:
            assert closed(sim, "order/1") == "done"


saga = Workflow("saga", object=Order, key="id", owner=desk, expect=days(5))
back = saga.signal("back", Go)


@activity(owner=sales)
async def reserve(what: str) -> str:
    return f"reserved {what}"


@reserve.undo
async def release(reserved: str, what: str) -> None:
    return None


@activity(owner=banking, retry=Retry(max_attempts=1))
async def charge(amount: int) -> str:
    return f"charged {amount}"


@charge.undo
async def refund(charged: str, amount: int) -> None:
    return None


@saga.stage
async def first(case: Case[Order]) -> Next:
    await reserve("room")
    await case.receive(back)
    return second


@saga.stage
async def second(case: Case[Order]) -> Next:
    await charge(case.object.amount)
    await reserve.labelled("car")("car")
    got = await case.receive(back)
    if got.n == 2:
        await case.undo(since=second)
        return saga.close("partly-undone")
    await case.undo()
    return saga.close("undone")


def begun(sim: Simulation) -> tuple[str, list[Any]]:
    undone: list[Any] = []
    sim.fake(release, lambda reserved, what: undone.append((reserved, what)))
    sim.fake(refund, lambda charged, amount: undone.append((charged, amount)))
    case = sim.start(saga, Order(id="1", amount=9))
    sim.signal(case, back, Go(n=0))
    return case, undone


def test_rule_B12_undo_runs_in_reverse_order_of_command_over_all_visits() -> None:
    def scenario(sim: Simulation) -> None:
        case, undone = begun(sim)
        sim.signal(case, back, Go(n=1))
        assert closed(sim, case) == "undone"
        assert undone == [("reserved car", "car"), ("charged 9", 9), ("reserved room", "room")]
        assert len(every(sim, case, "undone")) == 3
        keys = [e.data["key"] for e in every(sim, case, "undo_started")]
        assert len(set(keys)) == 3

    in_both(scenario, saga)


def test_rule_B12_since_limits_the_undo() -> None:
    def scenario(sim: Simulation) -> None:
        case, undone = begun(sim)
        sim.signal(case, back, Go(n=2))
        assert closed(sim, case) == "partly-undone"
        assert undone == [("reserved car", "car"), ("charged 9", 9)]

    in_both(scenario, saga)


def test_rule_B12_an_exhausted_undo_is_an_incident_of_its_owner_and_the_rest_waits() -> None:
    def scenario(sim: Simulation) -> None:
        case, undone = begun(sim)

        def down(charged: str, amount: int) -> None:
            raise ConnectionError("bank closed")

        sim.fake(refund, down)
        sim.signal(case, back, Go(n=1))
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"]) == ("activity_failed", "banking")
        assert opened["repairs"] == ["retry", "skip", "set-result", "move", "cancel"], (
            "its arguments stay what they were"
        )
        assert undone == [("reserved car", "car")]
        sim.fake(refund, lambda charged, amount: undone.append((charged, amount)))
        sim.retry(case)
        assert closed(sim, case) == "undone"
        assert undone == [("reserved car", "car"), ("charged 9", 9), ("reserved room", "room")]

    in_both(scenario, saga)


def test_rule_B12_an_undo_that_is_skipped_is_left_and_the_rest_goes_on() -> None:
    def scenario(sim: Simulation) -> None:
        case, undone = begun(sim)

        def down(charged: str, amount: int) -> None:
            raise ConnectionError("bank closed")

        sim.fake(refund, down)
        sim.signal(case, back, Go(n=1))
        sim.skip(case, reason="refunded by hand")
        assert closed(sim, case) == "undone"
        assert undone == [("reserved car", "car"), ("reserved room", "room")]
        assert [entry["status"] for entry in sim.state(case).undo.values()] == ["undone", "left", "undone"]

    in_both(scenario, saga)


def test_rule_B12_a_crash_in_the_middle_resumes_at_the_first_not_undone() -> None:
    def scenario(sim: Simulation) -> None:
        case, undone = begun(sim)
        crashed: list[int] = []

        async def crash(charged: str, amount: int) -> None:
            if not crashed:
                crashed.append(1)
                raise asyncio.CancelledError

            undone.append((charged, amount))

        sim.fake(refund, crash)
        sim.signal(case, back, Go(n=1))
        assert closed(sim, case) == "undone"
        assert undone == [("reserved car", "car"), ("charged 9", 9), ("reserved room", "room")]

    in_both(scenario, saga)


def test_rule_B12_going_back_undoes_nothing() -> None:
    def scenario(sim: Simulation) -> None:
        case, undone = begun(sim)
        sim.move(case, first)
        assert undone == []
        assert [entry["status"] for entry in sim.state(case).undo.values()] == ["done"] * 4

    in_both(scenario, saga)


stuck = Workflow("stuck", object=Order, key="id", owner=desk, expect=days(5))


@stuck.stage
async def deadlocks(case: Case[Order]) -> Next:
    await reserve("x")
    await asyncio.Event().wait()
    return stuck.close("done")


@stuck.stage
async def never_yields(case: Case[Order]) -> Next:
    while True:
        await asyncio.sleep(0)


@stuck.stage
async def goes_in_circles(case: Case[Order]) -> Next:
    return goes_in_circles


def test_rule_B13_a_stage_nothing_can_wake_is_a_deadlock_naming_the_line() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(stuck, Order(id="1"))
        opened = incident(sim, case)
        assert opened["kind"] == "deadlock"
        assert "test_rule_B09_B14.py" in opened["message"]
        assert "in deadlocks" in opened["message"]

    in_both(scenario, stuck)


@pytest.mark.parametrize("stage", [never_yields, goes_in_circles], ids=lambda stage: stage.name)
def test_rule_B13_a_stage_that_never_comes_to_rest_is_stopped(stage: Stage[Order]) -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(stuck, Order(id="1"))
        sim.move(case, stage)
        kinds = [e.data["kind"] for e in every(sim, case, "incident_opened")]
        assert kinds[-1] == "stage_never_yields"

    in_both(scenario, stuck)


raw = Workflow("raw", object=Order, key="id", owner=desk, expect=days(5))


@raw.stage
async def bounded(case: Case[Order]) -> Next:
    gate, results = asyncio.Event(), asyncio.Queue[int]()

    async def opens() -> None:
        await case.pause(hours(1), because="cooling off")
        await results.put(1)
        gate.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(opens())
        try:
            async with asyncio.timeout(60):
                await gate.wait()
        except TimeoutError:
            case.update(note="waited a minute")
        await gate.wait()
    return raw.close("done", result=await results.get())


def test_rule_B14_a_timeout_bounds_another_wait_and_every_open_wait_says_whose_move_it_is() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(raw, Order(id="1"))
        waits = sim.waits(case)
        assert [(w.kind, w.what, w.whose) for w in waits] == [("timer", "cooling off", "desk")]
        assert waits[0].expected
        sim.advance(hours(2))
        assert closed(sim, case) == "done"
        assert sim.state(case).object["note"] == "waited a minute"

    in_both(scenario, raw)


@raw.stage
async def sleeps(case: Case[Order]) -> Next:
    try:
        await asyncio.sleep(5)
    except (ActivityFailed, ValueError):
        pass
    return raw.close("done")


def test_rule_B14_sleep_is_refused_with_its_replacement() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(raw, Order(id="1"))
        sim.move(case, sleeps)
        opened = incident(sim, case)
        assert opened["kind"] == "nondeterministic"
        assert "case.pause(" in opened["details"]["hint"]

    in_both(scenario, raw)
