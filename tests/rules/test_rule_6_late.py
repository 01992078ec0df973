"""Section 6: who comes late or again, who takes a task, and the instants that are frozen with a question."""

from __future__ import annotations

import pytest
from tests.rules.support import Order, closed, credit, desk, director, do, every, in_both

from longcase import Case, Next, Team, Workflow, days, hours
from longcase.engine.tasks import Actor
from longcase.errors import AlreadyDecided, RefusedError
from longcase.testing import Simulation

board = Team("board", members=("ann", "ben"))
wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))


@wf.stage
async def asks(case: Case[Order]) -> Next:
    first = await case.approval("First?", label="first", of=board, within=days(1))
    second = await case.approval("Second?", label="second", of=board, within=days(1))
    if second.answer == "returned":
        return timed
    return wf.close("done", result=[first.answer, second.answer])


@wf.stage
async def timed(case: Case[Order]) -> Next:
    answer = await case.approval(
        "In time?", label="timed", of=credit, remind=hours(1), within=hours(2),
        escalate=[(hours(4), director), (hours(3), board)], expires=(hours(5), "rejected"),
    )  # fmt: skip
    return wf.close(answer.answer)


def test_rule_6_who_comes_late_is_told_of_the_task_that_was_meant() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.decide(case, "approved", by="ann")
        sim.decide(case, "rejected", by="ben")
        assert closed(sim, case) == "done"
        for task, by, told in (("first", "ben", "by ann .*: approved"), ("second", "ann", "by ben .*: rejected")):
            with pytest.raises(AlreadyDecided, match=told):
                sim.decide(case, "returned", by=by, task=task)
        with pytest.raises(AlreadyDecided, match="by ben"):
            sim.decide(case, "approved", by="ann")  # what she had answered to the first: the second is meant
        refused = every(sim, case, "vote_refused")
        assert [(event.node, event.data["by"], event.data["refused"]) for event in refused] == [
            ("asks/approval:first", "ben", "already_decided"),
            ("asks/approval:second", "ann", "already_decided"),
            ("asks/approval:second", "ann", "already_decided"),
        ]

    in_both(scenario, wf)


def test_rule_6_an_answer_that_stands_is_a_decided_task_before_any_worker_comes() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        ann = Actor("person:ann")
        do(sim, sim.service.decide(case, "approved", actor=ann))
        assert sim.tasks(case) == []
        assert do(sim, sim.service.decide(case, "approved", actor=ann)).duplicate, "the same click"
        with pytest.raises(AlreadyDecided, match="already decided by ann"):
            do(sim, sim.service.decide(case, "rejected", actor=ann))
        sim.run()
        assert [task.task["question"] for task in sim.tasks(case)] == ["Second?"]

    in_both(scenario, wf)


def test_rule_6_a_task_is_taken_by_one_of_those_who_may_answer_and_given_back() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))

        def claim(name: str, *, release: bool = False) -> None:
            do(sim, sim.service.claim(case, actor=Actor(f"person:{name}"), release=release))

        with pytest.raises(RefusedError, match="eve may not answer"):
            claim("eve")
        claim("ann")
        with pytest.raises(AlreadyDecided, match="is taken by ann"):
            claim("ben")
        claim("ann", release=True)
        claim("ben")
        assert [task.task["claimed_by"] for task in sim.tasks(case)] == ["ben"]

    in_both(scenario, wf)


def test_rule_6_the_ladder_is_climbed_in_due_order_and_nothing_reminds_once_the_answer_stands() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.decide(case, "approved", by="ann")
        sim.decide(case, "returned", by="ann")
        (view,) = sim.tasks(case)
        assert view.task["expected"][:13] == "2026-01-05T11", "`within` says when an answer is expected, not `expires`"
        assert [climb["to"] for climb in view.task["ladder"]] == ["board", "director"]
        assert [at[:13] for at in view.task["reminders"]] == [f"2026-01-05T{hour}" for hour in (10, 11, 12, 13)]
        sim.advance(hours(5))
        assert closed(sim, case) == "rejected"
        assert [event.data["to"] for event in every(sim, case, "task_escalated")] == ["board", "director"]

    in_both(scenario, wf)


def test_rule_6_a_question_that_is_asked_again_is_its_next_round() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, asks)
        assert [event.data["round"] for event in every(sim, case, "task_opened")] == [1, 2]

    in_both(scenario, wf)
