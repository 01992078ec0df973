"""Section 6, votes: who has answered may answer otherwise as long as nothing is decided."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

import pytest
from pydantic import BaseModel
from tests.rules.support import closed, every

from longcase import Case, Next, Team, Workflow, days
from longcase.errors import AlreadyDecided, UsageError
from longcase.insight.verify import verify
from longcase.testing import Simulation

desk = Team("desk")
duo = Team("duo", members=("ann", "ben"))
trio = Team("trio", members=("ann", "ben", "cat"))


class Order(BaseModel):
    id: str
    amount: int = 5


class Route(StrEnum):
    RAIL = "rail"
    ROAD = "road"
    SEA = "sea"


wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(9))
large = Workflow("large", object=Order, key="id", owner=desk, expect=days(9))
signed = Workflow("signed", object=Order, key="id", owner=desk, expect=days(9))


@wf.stage
async def route(case: Case[Order]) -> Next:
    chosen = await case.choice(
        "Which way?", answers=Route, of=duo, label="way", quorum=2, within=days(1), shows=[lambda o: o.amount]
    )
    return wf.close("went", result=[chosen.answer, list(chosen.by), chosen.reason])


@large.stage
async def choose(case: Case[Order]) -> Next:
    chosen = await case.choice("Which way?", answers=Route, of=trio, label="way", quorum=2, within=days(1))
    return large.close("went", result=[chosen.answer, list(chosen.by)])


@signed.stage
async def sign(case: Case[Order]) -> Next:
    verdict = await case.approval("Sign?", of=trio, label="sign", quorum=3, within=days(1))
    return signed.close(verdict.answer, reason=verdict.reason)


def findings_of(sim: Simulation) -> list[str]:
    """Return what `longcase verify` finds: the row of a changed answer is the fold of its history."""

    async def found() -> list[str]:
        return [str(finding) async for finding in verify(sim._app.store)]  # type: ignore[arg-type]

    return sim._do(found())


def test_rule_6_who_disagrees_may_change_the_answer_and_both_are_recorded() -> None:
    with Simulation([wf]) as sim:
        case = sim.start(wf, Order(id="1"))
        assert sim.decide(case, "rail", by="ann").remaining == 1
        assert sim.waits(case)[0].what == "Which way? (1 of 2)"
        told = sim.decide(case, "road", by="ben")
        assert (told.did, told.remaining) == ("recorded", 1)
        (wait,) = sim.waits(case)
        assert (wait.what, wait.whose) == ("Which way? (rail 1, road 1; 2 needed)", "duo")
        told = sim.decide(case, "sea", by="ann", reason="a ship leaves")
        assert (told.did, told.remaining, told.duplicate) == ("changed", 1, False)
        assert sim.waits(case)[0].what == "Which way? (road 1, sea 1; 2 needed)"
        sim.advance(timedelta(hours=1))
        told = sim.decide(case, "road", by="ann", reason="they are right")
        assert (told.did, told.remaining) == ("decided", 0)
        assert closed(sim, case) == "went"
        assert (sim.state(case).close or {})["result"] == ["road", ["ben", "ann"], "they are right"]
        votes = [(event.data["vote"], event.data.get("before")) for event in every(sim, case, "vote_given")]
        given = [(vote["by"], vote["answer"], before) for vote, before in votes]
        assert given == [("ann", "rail", None), ("ben", "road", None), ("ann", "sea", "rail"), ("ann", "road", "sea")]
        assert "vote_refused" not in sim.types(case)
        assert findings_of(sim) == []


def test_rule_6_an_answer_given_before_another_counts_no_more() -> None:
    with Simulation([large]) as sim:
        case = sim.start(large, Order(id="1"))
        for who, answer in (("ann", "rail"), ("ben", "road"), ("ann", "sea"), ("cat", "rail")):
            sim.decide(case, answer, by=who)
        assert sim.state(case).status == "open", "ann's first answer is not rail's second"
        again = sim.decide(case, "sea", by="ann")
        assert (again.did, again.duplicate, again.remaining) == ("recorded", True, 1)
        assert len(every(sim, case, "vote_given")) == 4
        sim.decide(case, "rail", by="ben")
        assert (sim.state(case).close or {})["result"] == ["rail", ["cat", "ben"]]
        repeated = sim.decide(case, "sea", by="ann")
        assert (repeated.did, repeated.duplicate) == ("decided", True), "her answer stands, it did not win"
        with pytest.raises(AlreadyDecided, match="already decided by cat, ben"):
            sim.decide(case, "rail", by="ann")
        assert findings_of(sim) == []


def test_rule_6_who_approved_may_still_reject_and_that_decides() -> None:
    with Simulation([signed]) as sim:
        case = sim.start(signed, Order(id="1"))
        sim.decide(case, "approved", by="ann")
        sim.decide(case, "approved", by="ben")
        assert sim.waits(case)[0].what == "Sign? (2 of 3)"
        assert sim.decide(case, "rejected", by="ann", reason="seen too late").did == "decided"
        assert closed(sim, case) == "rejected"
        (last,) = (event for event in every(sim, case, "vote_given") if event.data["decides"])
        assert last.data["before"] == "approved"
        with pytest.raises(AlreadyDecided, match="already decided by ann"):
            sim.decide(case, "approved", by="ann")


def test_rule_6_an_answer_changed_after_the_data_has_is_of_what_is_shown_now() -> None:
    with Simulation([wf]) as sim:
        case = sim.start(wf, Order(id="1"))
        sim.decide(case, "rail", by="ann")
        sim.correct(case, amount=500)
        sim.decide(case, "road", by="ann")
        assert every(sim, case, "vote_stale")
        assert "before" not in every(sim, case, "vote_given")[-1].data, "what she had said no longer stood"
        with pytest.raises(UsageError, match="no answer, expected one of rail, road, sea"):
            sim.decide(case, "air", by="ann")
        sim.decide(case, "rail", by="ann")
        sim.decide(case, "rail", by="ben")
        assert closed(sim, case) == "went"
        assert findings_of(sim) == []
