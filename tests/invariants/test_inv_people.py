"""I25 to I28: people who decide at once, twice, too late: nothing is lost, nothing counts twice."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime, timedelta

import pytest
from tests.invariants.lives import a_case, broken, cases, facts, findings, first, happened, inserted, with_events
from tests.invariants.program import Paper, Word, desk, pulled, signing
from tests.rules.support import closed, every
from tests.support.processes import line, process, tell

from longcase import Case, Next, Team, Workflow, days, hours
from longcase.engine.tasks import Actor
from longcase.errors import AlreadyDecided, AlreadyExpired, CaseClosed, LongcaseError, TaskNotFound
from longcase.history.event import Event, instant_of
from longcase.insight import invariants as inv
from longcase.insight.verify import verify
from longcase.testing import Simulation

PAPERS = 25
PERSON = """
from longcase.client import LongcaseClient
from longcase.errors import LongcaseError
from tests.invariants.program import signing
with LongcaseClient([signing], url=url, actor=f"person:{arg1}") as client:
    say("ready")
    sys.stdin.readline()
    for n in range(int(arg2)):
        try:
            answer = client.decide(f"signing/{n}", "approved", reason=f"by {arg1}")
            say(n, "repeated" if answer.duplicate else answer.did)
        except LongcaseError as error:
            say(n, error.code, error.message)
"""


def at_once(url: str, first_one: str, second: str) -> list[tuple[list[str], list[str]]]:
    """Let two people in two processes answer the same papers, and return what each was told."""
    both = []
    with (
        process(PERSON, url, first_one, str(PAPERS)) as one,
        process(PERSON, url, second, str(PAPERS)) as two,
    ):
        assert (line(one), line(two)) == ("ready", "ready")
        for child in (one, two):
            tell(child)
        both = [(line(one).split(), line(two).split()) for _ in range(PAPERS)]
    return both


def opened(url: str, quorum: int) -> datetime:
    """Make papers that wait for their signature; returns the instant."""
    with Simulation([signing], url=url, now=datetime.now(UTC)) as sim:
        for n in range(PAPERS):
            sim.start(signing, Paper(id=f"{n}", quorum=quorum))
        return sim.now


def test_inv_25_of_two_people_at_once_in_two_processes_one_decides(store_url: str) -> None:
    url = store_url
    now = opened(url, quorum=1)
    told = at_once(url, "ann", "ben")
    with Simulation([signing], url=url, now=now + timedelta(minutes=5)) as sim:
        sim.run()
        for n, (ann, ben) in enumerate(told):
            case = f"signing/{n}"
            assert sorted((ann[1], ben[1])) == ["already_decided", "decided"]
            winner, loser = ("ann", ben) if ann[1] == "decided" else ("ben", ann)
            assert f"already decided by {winner} at 20" in " ".join(loser), "the loser is told who and when"
            assert [event.actor for event in every(sim, case, "vote_given")] == [f"person:{winner}"]
            assert len(every(sim, case, "task_decided")) == 1
            refused = every(sim, case, "vote_refused")
            assert [(e.actor, e.data["refused"]) for e in refused] == [
                (f"person:{'ben' if winner == 'ann' else 'ann'}", "already_decided")
            ]
            assert closed(sim, case) == "signed"
        assert sim._do(_findings(sim)) == []


def test_inv_25_a_seat_is_taken_once_though_two_processes_ask(store_url: str) -> None:
    """The same person twice at once is one vote; the quorum of two still waits for somebody else."""
    url = store_url
    now = opened(url, quorum=2)
    told = at_once(url, "ann", "ann")
    with Simulation([signing], url=url, now=now + timedelta(minutes=5)) as sim:
        for n, both in enumerate(told):
            assert sorted(words[1] for words in both) == ["recorded", "repeated"]
            assert len(every(sim, f"signing/{n}", "vote_given")) == 1
            assert sim.state(f"signing/{n}").status == "open"
            sim.decide(f"signing/{n}", "approved", by="ben")
            assert (sim.state(f"signing/{n}").close or {})["result"] == ["ann", "ben"]


async def _findings(sim: Simulation) -> list[str]:
    return [str(finding) async for finding in verify(sim._app.store)]  # type: ignore[arg-type]


def test_inv_25_an_approval_of_the_evidence_counts_once() -> None:
    assert findings(inv.inv_25) == []
    assert happened("vote_given") > 40
    for kind in ("task_decided", "vote_given"):
        life, stored = a_case(with_events("vote_given", "task_decided"))
        decided = first(stored, "task_decided")
        again = next(e for e in stored.events if e.type == kind and e.data["task"] == decided.data["task"])
        inserted(stored, again, decided)
        assert "I25" in {f.invariant for f in inv.inv_25(facts(life, stored))}
        assert broken(life, stored) & {"I25", "I27"}


TICK = timedelta(microseconds=1)


@pytest.mark.parametrize(("offset", "wins"), [(-TICK, "vote"), (timedelta(), "expiry"), (TICK, "expiry")])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.usefixtures("each_store")
def test_inv_27_of_an_approval_and_its_timeout_exactly_one_wins(offset: timedelta, wins: str, down: bool) -> None:
    """By the instants alone, whether or not anybody was there to fire the timeout in time."""
    with Simulation([signing]) as sim:
        case = sim.start(signing, Paper(id="1"))
        instant = instant_of(sim.tasks(case)[0].task["expires_at"]) + offset
        if down:
            sim.clock.set(instant)
        else:
            sim.advance_to(instant)
        refusal = None
        try:
            sim.decide(case, "approved", by="ann")
        except LongcaseError as error:
            refusal = error
        sim.advance(hours(20))
        won = {"vote": sim.types(case).count("vote_given"), "expiry": sim.types(case).count("task_expired")}
        assert won == {"vote": int(wins == "vote"), "expiry": int(wins == "expiry")}
        assert len(every(sim, case, "task_decided")) == 1
        assert closed(sim, case) == ("signed" if wins == "vote" else "refused")
        if wins == "expiry":
            assert isinstance(refusal, AlreadyExpired | TaskNotFound | CaseClosed), refusal
            (late,) = every(sim, case, "vote_refused")
            assert (late.actor, late.data["refused"]) == ("person:ann", "already_expired")
        else:
            assert refusal is None


@pytest.mark.parametrize("ended", ["approved", "rejected", "returned", "withdrawn"])
@pytest.mark.usefixtures("each_store")
def test_inv_27_after_the_end_of_a_request_no_answer_moves_the_case(ended: str) -> None:
    with Simulation([signing]) as sim:
        case = sim.start(signing, Paper(id="1"))
        request = sim.tasks(case)[0].ref
        if ended == "withdrawn":
            sim.signal(case, pulled, Word())
        else:
            sim.decide(case, ended, by="ann", reason="as I see it")
        before = (sim.state(case).stage, sim.state(case).visit, sim.state(case).status, sim.state(case).close)
        with pytest.raises(LongcaseError) as told:
            sim.decide(case, "approved", by="ben", task=request)
        if ended != "withdrawn":
            assert isinstance(told.value, AlreadyDecided)
            assert "ann" in str(told.value), "who"
            assert ended in str(told.value), "what"
        sim.advance(hours(1))
        after = (sim.state(case).stage, sim.state(case).visit, sim.state(case).status, sim.state(case).close)
        assert after == before
        assert "ben" not in {event.actor for event in sim.history(case) if event.type == "vote_given"}
        assert every(sim, case, "vote_refused")[-1].actor == "person:ben"


def test_inv_27_an_answer_that_counted_after_the_end_is_named() -> None:
    life, stored = a_case(with_events("task_expired"))
    expired = first(stored, "task_expired")
    assert broken(life, stored) & {"I25", "I27"} == set()
    _, other = a_case(with_events("vote_given"))
    vote = first(other, "vote_given")
    vote.data["task"] = expired.data["task"]
    inserted(stored, vote, expired)
    assert "I27" in broken(life, stored)


signers = Team("signers", members=("ann", "ben"))
guarded = Workflow("guarded", object=Paper, key="id", owner=desk, expect=days(5))


@guarded.stage
async def guard(case: Case[Paper]) -> Next:
    verdict = await case.approval(
        "Sign it?", label="sign", of=signers, quorum=2,
        shows=[lambda paper: paper.text], expires=(days(1), "rejected"),
    )  # fmt: skip
    return guarded.close("signed" if verdict.answer == "approved" else "refused")


def _of_several(events: list[Event]) -> tuple[Event, Event] | None:
    """Return the first and the deciding vote of a request that needed more than one."""
    for decided in (event for event in events if event.type == "vote_given" and event.data["decides"]):
        votes = [e for e in events if e.type == "vote_given" and e.data["task"] == decided.data["task"]]
        if len(votes) > 1 and all(vote.data["vote"]["answer"] == "approved" for vote in votes):
            return votes[0], decided
    return None


def test_inv_26_a_vote_for_what_is_no_longer_shown_is_named() -> None:
    """Of the evidence none counts; where the amount changes unnoticed before a vote, the check says so."""
    assert happened("vote_stale")
    assert "I26" not in {name for life, stored in cases() for name in broken(life, stored)}
    named = 0
    for life, stored in cases():
        requests = {e.data["task"]: e for e in stored.events if e.type == "task_opened" and e.data["request"]["fields"]}
        vote = next((e for e in stored.events if e.type == "vote_given" and e.data["task"] in requests), None)
        if vote is None:
            continue
        copied = deepcopy(stored)
        before = copied.events[stored.events.index(vote) - 1]
        inserted(copied, Event("corrected", {"patch": {"amount": 987_654}}, visit=before.visit, at=before.at), before)
        assert "I26" in broken(life, copied)
        named += 1
    assert named > 5


@pytest.mark.usefixtures("each_store")
def test_inv_26_every_answer_that_does_not_count_is_refused_by_its_reason_and_recorded() -> None:
    with Simulation([guarded]) as sim:
        case = sim.start(guarded, Paper(id="1"))
        (task,) = sim.tasks(case)
        codes = []
        for by, shown in (("ann", "0" * 64), ("eve", None)):
            with pytest.raises(LongcaseError) as told:
                sim.decide(case, "approved", by=by, shown=shown)
            codes.append(told.value.code)
        sim.decide(case, "approved", by="ann", shown=task.task["digest"])
        sim.correct(case, text="another draft")
        sim.decide(case, "approved", by="ben")
        assert sim.state(case).status == "open", "ann approved what is no longer shown: hers does not count"
        sim.decide(case, "approved", by="ann")
        assert closed(sim, case) == "signed"
        assert codes == ["stale", "refused"]
        assert [event.data["refused"] for event in every(sim, case, "vote_refused")] == codes
        assert len(every(sim, case, "vote_stale")) == 1


def test_inv_28_a_quorum_that_one_person_made_up_is_named() -> None:
    """Votes are counted by person: two of one, or one too few, decide nothing."""
    life, stored = a_case(lambda events: _of_several(events) is not None)
    assert "I28" not in broken(life, stored)
    pair = _of_several(stored.events)
    assert pair is not None
    one, last = pair
    early = deepcopy(stored)
    early.events[stored.events.index(one)].data["decides"] = True
    assert "I28" in broken(life, early)
    last.data["vote"]["by"] = one.data["vote"]["by"]
    assert "I28" in broken(life, stored)


@pytest.mark.usefixtures("each_store")
def test_inv_28_the_same_person_over_two_channels_is_one() -> None:
    with Simulation([signing]) as sim:
        case = sim.start(signing, Paper(id="1", quorum=2))
        for channel in ("api", "cli"):
            sim._do(sim.service.decide(case, "approved", actor=Actor("person:ann", channel)))
        assert sim.state(case).status == "open"
        assert len(every(sim, case, "vote_given")) == 1
        sim.decide(case, "approved", by="ben")
        assert (sim.state(case).close or {})["result"] == ["ann", "ben"]
