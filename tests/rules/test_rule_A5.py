"""A5: the idempotency key is made once, stored with the command, and inherited by every repair."""

from __future__ import annotations

from typing import Any

import pytest
from tests.rules.support import Go, Order, banking, closed, desk, every, in_both

from longcase import Case, Next, Retry, Workflow, activity, days, injected, seconds
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)


@activity(owner=banking, retry=Retry(max_attempts=2, initial=seconds(1), jitter="none"))
async def reserve(amount: int, *, idempotency_key: str = injected()) -> str:
    return f"r-{amount}"


@activity(owner=banking, once_per="case")
async def open_account(amount: int, *, idempotency_key: str = injected()) -> str:
    return "account"


@activity(owner=banking, once_per="visit")
async def print_label(amount: int, *, idempotency_key: str = injected()) -> str:
    return "label"


@wf.stage
async def prepare(case: Case[Order]) -> Next:
    await reserve(case.object.amount)
    await reserve.labelled("second")(case.object.amount + 1)
    account = await open_account(case.object.amount)
    await print_label(1)
    await print_label.labelled("again")(1)
    got = await case.receive(go)
    if got.n == 1:
        return prepare
    return wf.close("done", result=account)


class World:
    """Remembers the keys it was called with."""

    def __init__(self, sim: Simulation, fail_first: bool = False) -> None:
        self.calls: list[tuple[str, str]] = []
        self.fail = fail_first
        for activity_, name in ((reserve, "reserve"), (open_account, "open_account"), (print_label, "print_label")):
            sim.fake(activity_, self.fake(name))

    def fake(self, name: str) -> Any:
        def call(amount: int, idempotency_key: str) -> str:
            self.calls.append((name, idempotency_key))
            if self.fail and name == "reserve":
                raise ConnectionError("down")
            return f"{name}-{amount}"

        return call

    def keys(self, name: str) -> list[str]:
        return [key for called, key in self.calls if called == name]


def test_rule_A5_the_key_is_stored_with_the_command_and_the_same_on_every_attempt() -> None:
    def scenario(sim: Simulation) -> None:
        world = World(sim, fail_first=True)
        case = sim.start(wf, Order(id="1"))
        sim.advance(seconds(5))
        assert len(world.keys("reserve")) == 2
        sim.retry(case)
        sim.advance(seconds(5))
        assert len(world.keys("reserve")) == 4
        assert set(world.keys("reserve")) == {every(sim, case, "activity_scheduled")[0].data["key"]}

    in_both(scenario, wf)


def test_rule_A5_a_restart_inherits_keys_and_takes_over_recorded_results() -> None:
    def scenario(sim: Simulation) -> None:
        world = World(sim)
        case = sim.start(wf, Order(id="1", amount=3))
        before = list(world.calls)
        sim.restart(case)
        assert world.calls == before, "every recorded result is reused"
        assert sim.state(case).visit == 2
        taken_over = [e.data["reuse"] for e in every(sim, case, "activity_reused") if e.visit == 2 and e.data["reuse"]]
        assert taken_over == ["reserve#1", "reserve#2"]
        sim.restart(case)
        assert world.calls == before, "a second restart takes over what the first one did"
        sim.signal(case, go, Go(n=0))
        assert closed(sim, case) == "done"

    in_both(scenario, wf)


def test_rule_A5_a_key_hangs_on_the_lineage_also_of_a_call_that_a_restarted_visit_makes_first() -> None:
    def scenario(sim: Simulation) -> None:
        world = World(sim, fail_first=True)
        case = sim.start(wf, Order(id="1"))
        sim.advance(seconds(5))
        world.fail = False
        sim.restart(case)
        state = sim.state(case)
        assert (state.visit, state.lineage) == (2, 1)
        assert world.keys("reserve")[-1] == f"{state.uid}-1-reserve-2"

    in_both(scenario, wf)


def test_rule_A5_a_restart_gives_an_open_call_its_old_key() -> None:
    """The call was out when the visit was restarted: its repeat must be recognised by the vendor."""

    def scenario(sim: Simulation) -> None:
        world = World(sim, fail_first=True)
        case = sim.start(wf, Order(id="1"))
        sim.advance(seconds(5))
        world.fail = False
        sim.restart(case)
        assert len(set(world.keys("reserve"))) == 2  # the first call's, thrice; the second call's, once
        assert world.keys("reserve")[0] == world.keys("reserve")[2]

    in_both(scenario, wf)


def test_rule_A5_a_call_with_other_arguments_does_not_take_over_the_result() -> None:
    def scenario(sim: Simulation) -> None:
        world = World(sim)
        case = sim.start(wf, Order(id="1", amount=3))
        sim.correct(case, amount=8)
        sim.restart(case)
        assert len(world.keys("reserve")) == 4
        assert len(set(world.keys("reserve"))) == 4, "nor the key, by which the world would take it for a repeat"
        sim.correct(case, amount=3)
        sim.restart(case)
        assert len(set(world.keys("reserve"))) == 6, "the calls of the last visit had other arguments"

    in_both(scenario, wf)


@pytest.mark.parametrize("loops", [1, 2])
def test_rule_A5_once_per_case_returns_the_recorded_result_on_a_later_visit(loops: int) -> None:
    def scenario(sim: Simulation) -> None:
        world = World(sim)
        case = sim.start(wf, Order(id="1", amount=3))
        for _ in range(loops):
            sim.signal(case, go, Go(n=1))
        sim.signal(case, go, Go(n=0))
        assert closed(sim, case) == "done"
        assert (sim.state(case).close or {})["result"] == "open_account-3"
        assert len(world.keys("open_account")) == 1
        assert len(world.keys("print_label")) == 1 + loops, "once a visit"
        assert len(set(world.keys("print_label"))) == 1 + loops
        assert len(set(world.keys("reserve"))) == 2 * (1 + loops), "once a call"

    in_both(scenario, wf)


def test_rule_A5_moving_back_to_the_stage_by_hand_inherits_the_keys() -> None:
    """The calls are made again, and the world can tell that they are repeats."""

    def scenario(sim: Simulation) -> None:
        world = World(sim)
        case = sim.start(wf, Order(id="1", amount=3))
        sim.move(case, prepare)
        assert len(world.keys("reserve")) == 4
        assert len(set(world.keys("reserve"))) == 2

    in_both(scenario, wf)
