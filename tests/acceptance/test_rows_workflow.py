"""ACCEPTANCE rows of one workflow through the Python API: W3, W5, W8, B1, B2, B3, B4, B6, G1, G6."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from tests.rules.support import closed, do, every, incident, later

from longcase import (
    Case,
    Escalation,
    Next,
    Retry,
    RetryAfter,
    Team,
    Workflow,
    activity,
    days,
    hours,
    injected,
    minutes,
    seconds,
)
from longcase.engine.tasks import Actor
from longcase.errors import AlreadyDecided, InvalidInput
from longcase.history.state import fold
from longcase.testing import Simulation

sales, credit, banking = Team("sales"), Team("credit"), Team("banking")
director, board = Team("director"), Team("board")


class Client(BaseModel):
    """The business object."""

    id: str
    amount: int = 100
    legal_entity: str | None = None


class Withdrawal(BaseModel):
    """Why the customer left."""

    reason: str


class Refused(Exception):
    """The vendor says no, for good."""


wf = Workflow("onboarding", object=Client, key="id", owner=sales, expect=days(15))
withdrawn = wf.signal("withdrew", Withdrawal)
POLICY = Retry(max_attempts=4, initial=seconds(2), factor=3, cap=seconds(10), jitter="none", non_retryable=(Refused,))


@activity(owner=banking, retry=POLICY)
async def register(legal_entity: str, amount: int) -> str:
    return f"{legal_entity}-{amount}"


@activity(owner=banking, effect="repeatable", retry=Retry(max_attempts=50, initial=seconds(1), factor=1))
async def open_account(entity: str, *, idempotency_key: str = injected()) -> str:
    return f"account of {entity}"


@open_account.undo
async def close_account(account: str, entity: str, *, idempotency_key: str = injected()) -> None:
    return None


@activity(owner=banking, effect="once")
async def wire(amount: int, *, idempotency_key: str = injected()) -> str:
    return "wired"


@wf.stage
async def intake(case: Case[Client]) -> Next:
    await case.require(lambda client: client.legal_entity, asked_of=sales, within=days(2), remind=days(1))
    return review


@wf.stage(owner=credit)
async def review(case: Case[Client]) -> Next:
    verdict = await case.approval(
        "Sign off?", label="sign-off", of=credit, quorum=2, shows=[lambda client: client.amount],
        remind=hours(8), escalate=[(hours(24), director), Escalation(hours(48), board, reassign=True)],
        expires=(hours(72), "rejected"),
    )  # fmt: skip
    match verdict.answer:
        case "approved":
            return activate
        case "returned":
            return intake
        case "rejected":
            return wf.close("declined", reason=verdict.reason)


@wf.stage(owner=banking)
async def activate(case: Case[Client]) -> Next:
    registered = await register(case.object.legal_entity or "", case.object.amount)
    account = await open_account(registered)
    return wf.close("active", result=account)


@wf.on(withdrawn)
async def stop(case: Case[Client], why: Withdrawal) -> Next:
    await case.undo()
    return wf.close("withdrawn", reason=why.reason)


def approve(sim: Simulation, case: str) -> None:
    for person in ("ann", "ben"):
        sim.decide(case, "approved", by=person)


def test_row_W3_incomplete_data_is_a_wait_and_changed_data_voids_approvals() -> None:
    with Simulation([wf]) as sim:
        case = sim.start(wf, Client(id="1"))
        wait = sim.waits(case)[0]
        assert (wait.kind, wait.what, wait.whose, wait.expected[:10]) == (
            "data",
            "needs legal_entity",
            "sales",
            "2026-01-07",
        )
        sim.set(case, legal_entity="Acme BV")
        assert sim.state(case).stage == "review", "setting it resumes with no click"
        sim.decide(case, "approved", by="ann")
        sim.correct(case, amount=900)
        stale = every(sim, case, "vote_stale")[0].data
        assert stale["asked_again"] == ["ann"]
        assert ('"amount":100' in stale["was"], '"amount":900' in stale["shown"]) == (True, True)
        sim.decide(case, "approved", by="ben")
        assert sim.state(case).status == "open"
        sim.decide(case, "approved", by="ann")
        assert closed(sim, case) == "active"


@pytest.mark.parametrize("seed", range(5))
def test_row_W5_duplicates_and_crashes_leave_one_row_per_case_in_the_outside_ledger(seed: int) -> None:
    """Ten times the same webhook, a double click, and a crash between effect and record, many rounds."""
    chance = random.Random(seed)
    ledger: dict[str, str] = {}
    posts: list[str] = []
    with Simulation([wf], seed=seed) as sim:

        def post(entity: str, idempotency_key: str) -> str:
            ledger[idempotency_key] = entity
            posts.append(idempotency_key)
            if chance.random() < 0.5:
                raise ConnectionError("the answer was lost")
            return f"account of {entity}"

        sim.fake(open_account, post)
        cases = [sim.start(wf, Client(id=str(n), legal_entity=f"E{n}")) for n in range(10)]
        for case in cases:
            for _ in range(2):
                sim.decide(case, "approved", by="ann")
            sim.crash()
            sim.decide(case, "approved", by="ben")
        sim.advance(hours(1))
        assert [closed(sim, case) for case in cases] == ["active"] * 10
        assert len(posts) > len(ledger) == 10

    with Simulation([wf], seed=seed) as sim:
        case = sim.start(wf, Client(id="1"))
        for _ in range(10):
            do(sim, sim.service.signal(case, withdrawn, Withdrawal(reason="moved"), idempotency_key="webhook-7"))
        sim.run()
        assert closed(sim, case) == "withdrawn"
        assert len(every(sim, case, "duplicate_ignored")) == 9
        assert len(every(sim, case, "interrupted")) == 1


def walk(sim: Simulation, chance: random.Random, case: str) -> None:
    """Do something random to a case, as people and vendors do."""
    state = sim.state(case)
    match chance.randrange(6):
        case 0:
            sim.set(case, legal_entity="Acme") if state.status == "open" else None
        case 1 if state.tasks and state.stage == "review":
            try:
                sim.decide(
                    case, chance.choice(["approved", "approved", "returned", "rejected"]), by=chance.choice("abc")
                )
            except AlreadyDecided:
                pass
        case 2 if state.status == "open":
            sim.correct(case, amount=chance.randrange(1000))
        case 3 if state.status == "open" and chance.random() < 0.2:
            sim.signal(case, withdrawn, Withdrawal(reason="gone"))
        case _:
            sim.advance(hours(chance.randrange(1, 20)))


def test_row_W8_one_read_says_everything_and_the_fold_of_history_equals_the_row() -> None:
    chance = random.Random(8)
    with Simulation([wf], seed=8) as sim:
        sim.fake(register, lambda legal_entity, amount: "x" if chance.random() < 0.7 else _down())
        cases = [sim.start(wf, Client(id=str(n))) for n in range(60)]
        for _ in range(400):
            walk(sim, chance, chance.choice(cases))
        for case in cases:
            view = sim.show(case)
            assert fold(sim.history(case)).to_json() == view.state.to_json()
            if view.state.status == "open":
                headline = view.waits[0]
                assert (view.state.stage, view.state.owner, headline.whose, headline.since) != ("", "", "", "")


def _down() -> str:
    raise ConnectionError("down")


def test_row_B1_after_every_event_a_case_is_in_exactly_one_declared_stage_or_close() -> None:
    chance = random.Random(1)
    declared = {"intake", "review", "activate", "stop", "cancel"}
    with Simulation([wf], seed=1) as sim:
        case = sim.start(wf, Client(id="1"))
        for _ in range(40):
            walk(sim, chance, case)
            rows = sim.query("SELECT stage, status FROM cases WHERE workflow = 'onboarding' AND key = '1'")
            assert len(rows) == 1
            assert rows[0]["stage"] in declared
            assert rows[0]["status"] in ("open", "closed")
        history = sim.history(case)
        for end in range(1, len(history) + 1):
            assert fold(history[:end]).stage in declared


def test_row_B2_a_wrong_input_type_is_refused_before_the_effect() -> None:
    called: list[Any] = []
    with Simulation([typed]) as sim:
        sim.fake(register, lambda **values: called.append(values))
        case = sim.start(typed, Client(id="1"))
        opened = incident(sim, case)
        assert (opened["kind"], called) == ("stage_failed", [])
        assert "register(amount)" in opened["message"]
        assert "activity_scheduled" not in sim.types(case)
        with pytest.raises(InvalidInput, match="amount"):
            sim.start(typed, {"id": "2", "amount": "many"})


typed = Workflow("typed", object=Client, key="id", owner=sales, expect=days(1))


@typed.stage
async def mistyped(case: Case[Client]) -> Next:
    await register("Acme", "a hundred")  # type: ignore[arg-type]
    return typed.close("done")


ERRORS = [
    (ConnectionError("down"), 4, [2.0, 6.0, 10.0]),
    (Refused("never"), 1, []),
    (RetryAfter(seconds(30), "busy"), 4, [30.0, 30.0, 30.0]),
]


@pytest.mark.parametrize(("error", "attempts", "delays"), ERRORS, ids=lambda value: type(value).__name__)
def test_row_B3_error_classes_have_their_attempts_and_delays_in_history(
    error: Exception, attempts: int, delays: list[float]
) -> None:
    with Simulation([wf]) as sim:

        def fail(**_: Any) -> str:
            raise error

        sim.fake(register, fail)
        case = sim.start(wf, Client(id="1", legal_entity="Acme"))
        approve(sim, case)
        sim.advance(hours(1))
        failed = every(sim, case, "attempt_failed")
        assert len(failed) == attempts
        from longcase.history.event import instant_of

        waited = [
            (instant_of(e.data["next_try"]) - instant_of(e.at)).total_seconds() for e in failed if e.data["next_try"]
        ]
        assert waited == delays
        assert incident(sim, case)["owner"] == "banking"


def test_row_B4_a_crash_after_the_vendor_accepted_repeats_under_the_same_key() -> None:
    keys: list[str] = []
    with Simulation([wf]) as sim:

        def accept_then_lose_the_answer(entity: str, idempotency_key: str) -> str:
            keys.append(idempotency_key)
            if len(keys) == 1:
                raise ConnectionError("the answer was lost")
            return "account"

        sim.fake(open_account, accept_then_lose_the_answer)
        case = sim.start(wf, Client(id="1", legal_entity="Acme"))
        approve(sim, case)
        sim.advance(minutes(1))
        assert closed(sim, case) == "active"
        assert len(keys) == 2
        assert len(set(keys)) == 1


once = Workflow("once", object=Client, key="id", owner=sales, expect=days(1))


@once.stage
async def pays(case: Case[Client]) -> Next:
    return once.close("paid", result=await wire(case.object.amount))


def test_row_B4_effect_once_of_unknown_outcome_is_never_blindly_repeated() -> None:
    """The worker dies in the middle of the attempt: the case asks a person, and does not pay again."""
    import asyncio

    with Simulation([once]) as sim:

        async def dies(amount: int) -> str:
            raise asyncio.CancelledError

        sim.fake(wire, dies)
        case = sim.start(once, Client(id="1"))
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"]) == ("outcome_unknown", "banking")
        sim.advance(days(2))
        assert [name for _, name, _ in sim.performed] == ["wire"]
        sim.set_result(case, "wired by the look of the statement")
        assert closed(sim, case) == "paid"


def test_row_B6_timers_and_escalation_stand_in_one_instruction() -> None:
    with Simulation([wf]) as sim:
        case = sim.start(wf, Client(id="1", legal_entity="Acme"))
        sim.advance(hours(23))
        assert sim.waits(case)[0].whose == "credit"
        sim.advance(hours(2))
        assert sim.waits(case)[0].whose == "credit, director"
        sim.advance(hours(24))
        assert sim.waits(case)[0].whose == "board"
        clocks = [e.type for e in sim.history(case) if e.type in ("task_reminded", "task_escalated")]
        assert clocks.count("task_escalated") == 2
        assert clocks.count("task_reminded") == 6
        sim.decide(case, "rejected", by="zoe")
        before = len(sim.history(case))
        sim.advance(days(10))
        assert len(sim.history(case)) == before, "a stale timer never fires"


def test_row_B6_nobody_decides_so_the_named_answer_stands() -> None:
    with Simulation([wf]) as sim:
        case = sim.start(wf, Client(id="1", legal_entity="Acme"))
        sim.advance(hours(72))
        assert closed(sim, case) == "declined"
        assert every(sim, case, "task_decided")[0].data["expired"]


waiting = Workflow("waiting", object=Client, key="id", owner=sales, expect=days(1))


@waiting.stage
async def pauses(case: Case[Client]) -> Next:
    await case.pause(minutes(case.object.amount), because="cooling off")
    return waiting.close("done")


def test_row_G1_timers_due_while_the_service_was_down_fire_once_in_due_order_marked_late() -> None:
    with Simulation([waiting]) as sim:
        order = list(range(1, 51))
        random.Random(3).shuffle(order)
        for n in order:
            sim.start(waiting, Client(id=f"{n:02}", amount=n))
        later(sim, timedelta(hours=3).total_seconds())
        sim.crash()
        sim.run()
        fired = [every(sim, f"waiting/{n:02}", "timer_fired") for n in range(1, 51)]
        assert [len(events) for events in fired] == [1] * 50
        assert [events[0].data["late_s"] for events in fired] == [(180 - n) * 60 for n in range(1, 51)]


def test_row_G6_a_non_retryable_error_is_exactly_one_attempt() -> None:
    with Simulation([wf]) as sim:

        def refuse(**_: Any) -> str:
            raise Refused("no such entity")

        sim.fake(register, refuse)
        case = sim.start(wf, Client(id="1", legal_entity="Acme"))
        approve(sim, case)
        sim.advance(days(1))
        assert [name for _, name, _ in sim.performed] == ["register"]
        assert "Refused: no such entity" in incident(sim, case)["message"]


def test_row_B1_a_decision_through_the_door_names_its_giver() -> None:
    with Simulation([wf]) as sim:
        case = sim.start(wf, Client(id="1", legal_entity="Acme"))
        do(sim, sim.service.decide(case, "approved", actor=Actor("person:ann", "cli", on_behalf="ben"), reason="fine"))
        vote = every(sim, case, "vote_given")[0]
        assert (vote.actor, vote.channel, vote.on_behalf, vote.data["vote"]["reason"]) == (
            "person:ann",
            "cli",
            "ben",
            "fine",
        )
