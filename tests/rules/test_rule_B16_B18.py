"""B16 to B18: which wait is the headline, what a close takes with it, and under which keys inputs are told apart."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.rules.redone import hangs
from tests.rules.support import Go, Order, banking, closed, desk, do, every, fails, in_both, later
from tests.rules.test_review_engine import Unending
from tests.rules.test_rule_A4 import activate, gamble, open_account, pay
from tests.rules.test_rule_A4 import wf as accounts
from tests.rules.test_rule_B06_B07 import paths, stop

from longcase import Case, Next, Retry, System, Workflow, activity, days, hours, seconds
from longcase.engine.tasks import Actor
from longcase.errors import CaseClosed
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
other = Workflow("other", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)
extra = wf.signal("extra", Go)


@activity(owner=banking, system=System("registry", owner=banking), retry=Retry(max_attempts=2, jitter="none"))
async def look(n: int) -> int:
    return n


@activity(owner=banking, retry=Retry(max_attempts=1))
async def rate(n: int) -> int:
    return n


@wf.stage
async def waits(case: Case[Order]) -> Next:
    async with asyncio.TaskGroup() as group:
        group.create_task(case.receive(go))
        if case.object.amount:
            group.create_task(rate(1))
            group.create_task(look(1))
        group.create_task(case.pause(hours(1), because="second", label="b"))
        group.create_task(case.pause(hours(1), because="third", label="a"))
        group.create_task(case.pause(seconds(90), because="first"))
    return wf.close("done")


@other.stage
async def leaves(case: Case[Order]) -> Next:
    if case.object.note == "spawn":
        case.spawn(wf, Order(id="child"), on_close="leave")
    return other.close("left")


def test_rule_B16_the_headline_is_the_earliest_wait_ties_go_by_seq_and_no_end_comes_last() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        assert [wait.what for wait in sim.waits(case)] == ["first", "second", "third", "signal go"]

    in_both(scenario, wf)


def test_rule_B16_an_incident_comes_first_and_a_call_waits_on_its_system() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(rate, fails(1))
        sim.fake(look, fails(1))
        case = sim.start(wf, Order(id="1", amount=1))
        found = [(wait.kind, wait.whose) for wait in sim.waits(case)]
        assert found[0] == ("incident", "banking"), "although the first pause ends earlier"
        assert ("activity", "registry") in found

    in_both(scenario, wf)


def test_rule_B17_a_child_that_is_left_goes_on_and_the_closed_case_waits_for_nothing() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(other, Order(id="1", note="spawn"))
        assert closed(sim, case) == "left"
        assert (sim.state(case).children, sim.state("order/child").status) == ({}, "open")

    in_both(scenario, other, wf)


def test_rule_B17_a_call_whose_outcome_was_left_open_is_nobodys_any_more() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(open_account, hangs)
        case = sim.start(accounts, Order(id="1", note="leave"))
        sim.advance(seconds(30))
        assert closed(sim, case) == "declined"
        assert (sim.state(case).calls, sim.show(case).wake_at) == ({}, "")

    in_both(scenario, accounts)


def test_rule_B17_an_incident_that_blocks_nothing_ends_with_the_case() -> None:
    def scenario(sim: Simulation) -> None:
        async def slow(amount: int) -> str:
            sim.clock.advance(seconds(40))
            return "paid"

        sim.fake(pay, slow)
        sim.fake(open_account, fails(9))
        case = sim.start(accounts, Order(id="1"))
        sim.move(case, gamble)
        assert [wait.what.partition(":")[0] for wait in sim.waits(case)] == ["late_effect", "cooling off"]
        sim.advance(days(2))
        assert closed(sim, case) == "over"
        assert (sim.state(case).incidents, sim.waits(case)) == ({}, [])

    in_both(scenario, accounts)


@pytest.mark.parametrize("live", [512, 0])
def test_rule_B17_a_close_asks_what_still_runs_to_stop_whoever_runs_it(live: int) -> None:
    with Unending([accounts], live=live) as sim:
        case = sim.start(accounts, Order(id="1", note="leave"))
        assert sim.state(case).stage == activate.name
        sim._join()  # another worker, which comes to the case first
        later(sim, 30)
        do(sim, sim._run([sim.show(case).case_no]))
        assert closed(sim, case) == "declined"
        assert sim.commands == [("perform", "1.c2", 1), ("stop", "1.c2", 1)]


def test_rule_B17_what_had_been_accepted_is_listed_in_the_commit_of_the_close() -> None:
    def scenario(sim: Simulation) -> None:
        commits: list[list[str]] = []
        write = sim._turns.store.write

        async def noting(writes: Any, **options: Any) -> Any:
            commits.extend([event.type for event in one.events] for one in writes)
            return await write(writes, **options)

        case = sim.start(paths, Order(id="1"))
        sim.signal(case, stop, Go(n=1))
        sim.signal(case, stop, Go(n=2))
        sim._turns.store.write = noting  # type: ignore[method-assign]
        sim.advance(hours(1))
        assert closed(sim, case) == "stopped"
        assert [commit[-2:] for commit in commits if "case_closed" in commit] == [["case_closed", "signal_unhandled"]]

    in_both(scenario, paths)


def test_rule_B17_a_signal_that_was_refused_is_refused_again_under_its_key() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.cancel(case)
        for _ in range(2):
            with pytest.raises(CaseClosed, match="closed: cancelled"):
                sim.signal(case, go, Go(n=1), idempotency_key="k")
        assert sim.types(case)[-2:] == ["signal_refused", "duplicate_ignored"]

    in_both(scenario, wf)


@pytest.mark.parametrize("repair", ["retry", "skip", "correct", "move", "restart", "cancel", "redo", "set_result"])
def test_rule_B17_no_repair_reaches_a_closed_case(repair: str) -> None:
    given: dict[str, Any] = {"correct": {"amount": 4}, "move": {"stage": "waits"}, "set_result": {"result": 1}}
    with Simulation([wf]) as sim:
        case = sim.start(wf, Order(id="1"))
        sim.cancel(case)
        before = sim.types(case)
        with pytest.raises(CaseClosed, match="is closed: cancelled"):
            getattr(sim, repair)(case, **given.get(repair, {}))
        assert sim.types(case) == before


def test_rule_B18_a_key_is_of_one_case_one_signal_and_one_workflow() -> None:
    def scenario(sim: Simulation) -> None:
        one = sim.start(wf, Order(id="1"), idempotency_key="k")
        two = sim.start(wf, Order(id="2"))
        assert sim.start(other, Order(id="1"), idempotency_key="k") == "other/1"
        sent = [(one, go), (one, extra), (two, extra), (one, extra)]
        assert [sim.signal(case, signal, Go(), idempotency_key="k").duplicate for case, signal in sent] == [
            False, False, False, True,
        ]  # fmt: skip

    in_both(scenario, wf, other)


def test_rule_B18_a_repair_is_recorded_with_who_did_it_for_whom_and_by_which_channel() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        ann = Actor("person:ann", "cli", "person:ben")
        do(sim, sim.service.correct(case, {"amount": 4}, reason="typo", actor=ann))
        event = every(sim, case, "corrected")[0]
        assert (event.actor, event.channel, event.on_behalf) == ("person:ann", "cli", "person:ben")

    in_both(scenario, wf)
