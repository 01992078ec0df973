"""A2: a turn is computed against the last seen event; what came in between decides whether it stands."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.rules.support import Between, Order, closed, credit, desk, director, do, every, in_both

from longcase import Case, Next, Retry, Workflow, activity, days, seconds
from longcase.engine.tasks import Actor
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))


@activity(owner=desk, retry=Retry(max_attempts=3, initial=seconds(60), jitter="none"))
async def price(amount: int) -> int:
    return amount * 2


@wf.stage
async def quote(case: Case[Order]) -> Next:
    total = await price(case.object.amount)
    again = await price.labelled("again")(case.object.amount)
    return wf.close("quoted", result=[total, again])


@wf.stage
async def sign(case: Case[Order]) -> Next:
    verdict = await case.approval(
        "Sign?", label="sign", of=credit, quorum=2, remind=days(1), escalate=[(days(2), director)]
    )
    return wf.close(verdict.answer)


def test_rule_A2_a_seen_event_in_between_throws_the_turn_away_and_it_is_redone() -> None:
    """A correction lands between a turn's computing and its commit: the turn runs again over it."""

    def scenario(sim: Simulation) -> None:
        do(sim, sim.service.start(wf, Order(id="1", amount=1)))
        between = Between(sim, lambda: sim.service.correct("order/1", {"amount": 5}, reason="typo"))
        sim.run()
        assert between.left == 0
        assert closed(sim, "order/1") == "quoted"
        assert (sim.state("order/1").close or {})["result"] == [10, 10]
        assert len(every(sim, "order/1", "activity_scheduled")) == 2
        types = sim.types("order/1")
        assert types.index("corrected") < types.index("activity_scheduled")

    in_both(scenario, wf)


def test_rule_A2_a_correction_while_a_result_is_on_its_way_is_seen_by_its_turn() -> None:
    def scenario(sim: Simulation) -> None:
        hits: list[Any] = []

        async def slow(amount: int) -> int:
            if not hits:
                hits.append(1)
                Between(sim, lambda: sim.service.correct("order/1", {"amount": 7}, reason="typo"))
            return amount * 2

        sim.fake(price, slow)
        case = sim.start(wf, Order(id="1", amount=1))
        assert (sim.state(case).close or {})["result"] == [2, 14]
        assert len(every(sim, case, "activity_completed")) == 2

    in_both(scenario, wf)


def test_rule_A2_an_unseen_event_in_between_leaves_the_turn_as_it_is() -> None:
    """A vote is `unseen`: the turn of a correction, computed without it, is appended after it."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, sign)
        do(sim, sim.service.correct(case, {"note": "x"}, reason="typo"))
        Between(sim, lambda: sim.service.decide(case, "approved", actor=Actor("person:ann")))
        sim.run()
        state = sim.state(case)
        assert [vote["by"] for task in state.tasks.values() for vote in task["votes"]] == ["ann"]
        sim.decide(case, "approved", by="ben")
        assert closed(sim, case) == "approved"

    def stays(sim: Simulation) -> None:
        async def down(amount: int) -> int:
            raise RuntimeError("down")

        sim.fake(price, down)
        scenario(sim)

    in_both(stays, wf)


def test_rule_A2_an_attempt_record_in_between_does_not_lose_the_turn() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", amount=1))
        assert closed(sim, case) == "quoted"

    def fail_once(sim: Simulation) -> None:
        tries: list[int] = []

        async def once(amount: int) -> int:
            tries.append(amount)
            if len(tries) == 1:
                raise RuntimeError("down")
            return amount

        sim.fake(price, once)
        case = sim.start(wf, Order(id="1", amount=1))
        sim.advance(timedelta(seconds=60))
        assert closed(sim, case) == "quoted"
        assert [e.data["attempt"] for e in every(sim, case, "attempt_started")] == [2]

    in_both(scenario, wf)
    in_both(fail_once, wf)


def test_rule_A2_one_losing_case_does_not_fail_its_batch() -> None:
    def scenario(sim: Simulation) -> None:
        for key in ("1", "2", "3"):
            do(sim, sim.service.start(wf, Order(id=key, amount=1)))
        between = Between(sim, lambda: sim.service.correct("order/2", {"amount": 5}, reason="typo"))
        sim.run()
        assert between.left == 0
        results = [(sim.state(f"order/{key}").close or {})["result"] for key in ("1", "2", "3")]
        assert results == [[2, 2], [10, 10], [2, 2]]

    in_both(scenario, wf)


def test_rule_A2_a_repair_does_not_queue_behind_a_poisoned_input() -> None:
    """The stage fails at its first turn; a correction is appended at once, and the retry sees it."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(picky, Order(id="1", amount=-1))
        assert [i["kind"] for i in sim.state(case).incidents.values()] == ["stage_failed"]
        sim.correct(case, amount=3)
        sim.retry(case)
        assert closed(sim, case) == "fine"

    in_both(scenario, picky)


picky = Workflow("picky", object=Order, key="id", owner=desk, expect=days(1))


@picky.stage
async def check(case: Case[Order]) -> Next:
    if case.object.amount < 0:
        raise KeyError("amount")
    return picky.close("fine")
