"""A11: an answer is bound to a digest of what was shown, and only a change of that makes it stale."""

from __future__ import annotations

import asyncio

import pytest
from tests.rules.support import Between, Go, Order, closed, credit, desk, do, every, in_both

from longcase import Case, Next, Workflow, days, hours
from longcase.engine.tasks import Actor
from longcase.errors import StaleDecision
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))


@wf.stage
async def sign(case: Case[Order]) -> Next:
    verdict = await case.approval(
        "Sign the amount?", label="sign", of=credit, quorum=2, shows=[lambda o: o.amount],
        also_shows={"policy": "CR-7"}, expires=(days(3), "rejected"),
    )  # fmt: skip
    return wf.close(verdict.answer, result=list(verdict.by))


def test_rule_A11_the_task_keeps_what_was_shown_and_its_digest() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", amount=5, note="n"))
        task = sim.tasks(case)[0].task
        assert task["shown"] == '{"constants":{"policy":"CR-7"},"fields":{"amount":5}}'
        sim.decide(case, "approved", by="ann")
        vote = every(sim, case, "vote_given")[0]
        assert vote.data["vote"]["digest"] == task["digest"]
        assert vote.data["shown"] == task["shown"], "the vote's own event says what its giver saw"

    in_both(scenario, wf)


def test_rule_A11_only_a_change_of_what_is_shown_makes_a_vote_stale() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", amount=5))
        sim.decide(case, "approved", by="ann")
        sim.correct(case, note="unrelated")
        sim.decide(case, "approved", by="ben")
        assert closed(sim, case) == "approved"
        assert (sim.state(case).close or {})["result"] == ["ann", "ben"]

    in_both(scenario, wf)


def test_rule_A11_a_stale_vote_is_asked_again_and_both_versions_are_kept() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", amount=5))
        sim.decide(case, "approved", by="ann")
        sim.correct(case, amount=500)
        # The person asked is asked again before anybody else answers.
        task = sim.tasks(case)[0].task
        assert task["votes"] == [], "an approval of 5 does not stand for 500"
        stale = every(sim, case, "vote_stale")[0]
        assert stale.data["asked_again"] == ["ann"]
        assert ('"amount":5}' in stale.data["was"], '"amount":500}' in stale.data["shown"]) == (True, True)
        sim.decide(case, "approved", by="ben")
        assert sim.state(case).status == "open"
        sim.decide(case, "approved", by="ann")
        assert closed(sim, case) == "approved"

    in_both(scenario, wf)


def test_rule_A11_an_answer_to_what_is_no_longer_shown_is_refused_and_recorded() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", amount=5))
        seen = sim.tasks(case)[0].task["digest"]
        sim.correct(case, amount=6)
        with pytest.raises(StaleDecision, match="has changed"):
            sim.decide(case, "approved", by="ann", shown=seen)
        assert every(sim, case, "vote_refused")[0].data["refused"] == "stale"
        assert sim.state(case).status == "open"

    in_both(scenario, wf)


def test_rule_A11_a_quorum_counts_people() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", amount=5))
        assert sim.decide(case, "approved", by="ann").remaining == 1
        assert sim.decide(case, "approved", by="ann").duplicate
        assert sim.state(case).status == "open"
        sim.decide(case, "approved", by="ben")
        assert closed(sim, case) == "approved"

    in_both(scenario, wf)


def test_rule_A11_the_answer_is_taken_without_the_workflows_code() -> None:
    """The process that accepts a decision need not have the stage: nothing of it runs."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", amount=5))
        codes = dict(sim.service.codes)
        sim._app.codes.clear()
        assert not sim.service.codes
        do(sim, sim.service.decide(case, "approved", actor=Actor("person:ann")))
        do(sim, sim.service.decide(case, "approved", actor=Actor("person:ben")))
        assert sim.show(case).pending == 1
        sim._app.codes.update(codes)
        sim.advance(hours(1))
        assert closed(sim, case) == "approved"

    in_both(scenario, wf)


def test_rule_A11_a_vote_given_anew_is_not_asked_for_again_by_a_turn_that_did_not_know_it() -> None:
    """The turn of a correction finds ann's vote stale; before its commit she has voted on what is shown now."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", amount=5))
        sim.decide(case, "approved", by="ann")
        do(sim, sim.service.correct(case, {"amount": 500}, reason="typo"))
        between = Between(sim, lambda: sim.service.decide(case, "approved", actor=Actor("person:ann")))
        sim.run()
        assert between.left == 0
        assert [stale.data["asked_again"] for stale in every(sim, case, "vote_stale")] == [["ann"]]
        assert [vote["by"] for vote in sim.tasks(case)[0].task["votes"]] == ["ann"]
        sim.decide(case, "approved", by="ben")
        assert closed(sim, case) == "approved"

    in_both(scenario, wf)


both = Workflow("both", object=Order, key="id", owner=desk, expect=days(5))
raised = both.signal("raised", Go)


@both.stage
async def sign_or_raise(case: Case[Order]) -> Next:
    async def listen() -> None:
        case.update(amount=(await case.receive(raised)).n)

    async with asyncio.TaskGroup() as group:
        group.create_task(listen())
        verdict = group.create_task(
            case.approval("Sign?", label="sign", of=credit, shows=[lambda o: o.amount], expires=(days(3), "rejected"))
        )
    return both.close(verdict.result().answer, result=list(verdict.result().by))


def test_rule_A11_a_vote_that_decides_before_a_turn_changes_what_is_shown_stands() -> None:
    """It was accepted for what was shown then; the turn's `vote_stale`, computed without it, took it away."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(both, Order(id="1", amount=5))
        do(sim, sim.service.signal(case, raised, Go(n=500)))

        async def decide() -> None:
            told = await sim.service.decide(case, "approved", actor=Actor("person:ann"))
            assert (told.did, told.remaining) == ("decided", 0)

        between = Between(sim, decide)
        sim.run()
        assert between.left == 0
        assert "vote_stale" not in sim.types(case)
        assert closed(sim, case) == "approved"
        assert (sim.state(case).close or {})["result"] == ["ann"]

    in_both(scenario, both)
