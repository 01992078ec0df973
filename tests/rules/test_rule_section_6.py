"""Section 6: further rules: keys of live and closed cases, ladders, quorums, rounds, cancel."""

from __future__ import annotations

from enum import StrEnum

import pytest
from tests.rules.support import Go, Order, banking, closed, credit, desk, director, every, in_both

from longcase import Case, Escalation, Next, Team, Workflow, activity, days, hours
from longcase.errors import AlreadyDecided, IdempotencyConflict, RefusedError
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)
board = Team("board", members=("ann", "ben", "cat"))


class Route(StrEnum):
    """Where to."""

    ROAD = "road"
    RAIL = "rail"


@activity(owner=banking)
async def book(what: str) -> str:
    return what


@book.undo
async def unbook(booked: str, what: str) -> None:
    return None


@wf.stage
async def sign(case: Case[Order]) -> Next:
    verdict = await case.approval(
        "Sign?", label="sign", of=credit, quorum=2, remind=hours(1), within=hours(2),
        escalate=[(hours(4), director), Escalation(hours(6), board, reassign=True)],
    )  # fmt: skip
    match verdict.answer:
        case "approved":
            return route
        case "returned":
            return sign
        case "rejected":
            return wf.close("rejected", reason=verdict.reason)


@wf.stage
async def route(case: Case[Order]) -> Next:
    await book("seat")
    chosen = await case.choice("Which way?", label="way", answers=Route, of=board, quorum=2, within=days(1))
    return wf.close("went", result=[chosen.answer, list(chosen.by)])


def test_rule_6_a_start_on_a_live_key_returns_that_case_and_says_what_differs() -> None:
    def scenario(sim: Simulation) -> None:
        sim.start(wf, Order(id="1", amount=1))
        receipt = sim._do(sim.service.start(wf, Order(id="1", amount=2, note="x")))
        assert (receipt.existing, receipt.status, receipt.differs) == (True, "open", ("amount", "note"))
        assert sim.state("order/1").object["amount"] == 1
        sim.cancel("order/1")
        again = sim._do(sim.service.start(wf, Order(id="1", amount=1)))
        assert (again.existing, again.status) == (True, "closed")
        fresh = sim._do(sim.service.start(wf, Order(id="1", amount=3), again=True))
        assert not fresh.existing
        assert sim.state("order/1").object["amount"] == 3, "workflow/key names the live case"

    in_both(scenario, wf)


def test_rule_6_an_idempotency_key_with_another_body_is_a_conflict() -> None:
    def scenario(sim: Simulation) -> None:
        first = sim._do(sim.service.start(wf, Order(id="1"), idempotency_key="k"))
        assert sim._do(sim.service.start(wf, Order(id="1"), idempotency_key="k")).case_no == first.case_no
        with pytest.raises(IdempotencyConflict, match="another body"):
            sim._do(sim.service.start(wf, Order(id="2"), idempotency_key="k"))
        sim.signal("order/1", go, Go(n=1), idempotency_key="s")
        assert sim.signal("order/1", go, Go(n=1), idempotency_key="s").duplicate
        with pytest.raises(IdempotencyConflict):
            sim.signal("order/1", go, Go(n=2), idempotency_key="s")

    in_both(scenario, wf)


def test_rule_6_within_reminds_and_climbs_but_does_not_end_the_wait() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.advance(hours(5))
        assert sim.waits(case)[0].whose == "credit, director"
        sim.advance(hours(2))
        assert sim.waits(case)[0].whose == "board", "reassign replaces whose move it is"
        assert sim.state(case).owner == "desk", "the accountable owner never changes by it"
        clocks = [
            e.data.get("to", "reminded") for e in sim.history(case) if e.type in ("task_reminded", "task_escalated")
        ]
        assert [name for name in clocks if name != "reminded"] == ["director", "board"]
        assert clocks.count("reminded") == 7
        assert sim.state(case).status == "open"

    in_both(scenario, wf)


@pytest.mark.parametrize(("answer", "stage"), [("rejected", ""), ("returned", "sign")])
def test_rule_6_the_first_rejection_or_return_decides(answer: str, stage: str) -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.decide(case, "approved", by="ann")
        sim.decide(case, answer, by="ben", reason="no")
        if stage:
            assert sim.state(case).stage == stage
            assert sim.tasks(case)[0].task["round"] == 2, "a round is the n-th request at that place"
        else:
            assert closed(sim, case) == "rejected"
            assert (sim.state(case).close or {})["reason"] == "no"

    in_both(scenario, wf)


def test_rule_6_a_second_answer_gets_already_decided_by_whom_and_when() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.decide(case, "rejected", by="ann")
        with pytest.raises(AlreadyDecided, match="already decided by ann at 2026-01-05"):
            sim.decide(case, "approved", by="ben")

    in_both(scenario, wf)


def test_rule_6_an_own_answer_set_needs_n_equal_answers_of_named_people() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.decide(case, "approved", by="ann")
        sim.decide(case, "approved", by="ben")
        assert not every(sim, case, "vote_given")[0].data["verified"]
        with pytest.raises(RefusedError, match=r"dan may not answer .* it is asked of \w+ \(.*\)"):
            sim.decide(case, "road", by="dan")
        assert every(sim, case, "vote_refused")[0].data["by"] == "dan"
        sim.decide(case, "road", by="ann")
        sim.decide(case, "rail", by="ben")
        assert sim.state(case).status == "open"
        sim.decide(case, "rail", by="cat")
        assert closed(sim, case) == "went"
        assert (sim.state(case).close or {})["result"] == ["rail", ["ben", "cat"]]
        assert every(sim, case, "vote_given")[-1].data["verified"]

    in_both(scenario, wf)


def test_rule_6_cancel_without_a_handler_undoes_and_closes_cancelled() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.decide(case, "approved", by="ann")
        sim.decide(case, "approved", by="ben")
        sim.cancel(case, reason="customer left")
        assert closed(sim, case) == "cancelled"
        assert [name for _, name, _ in sim.performed] == ["book", "unbook"]
        assert every(sim, case, "cancel_requested")[0].data["reason"] == "customer left"
        assert every(sim, case, "task_withdrawn")[0].data["reason"] == "interrupted: customer left"
        assert (sim.state(case).close or {})["reason"] == "customer left"

    in_both(scenario, wf)
