"""B9: a correction marks the calls in flight that were called with what it corrects; `redo` calls them anew."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.rules.support import (
    Between,
    Order,
    banking,
    closed,
    credit,
    desk,
    do,
    every,
    fails,
    first,
    in_both,
    incident,
)

from longcase import (
    NOT_HAPPENED,
    ActivityFailed,
    Case,
    Next,
    NotHappened,
    Retry,
    Workflow,
    activity,
    days,
    injected,
    seconds,
)
from longcase.errors import CaseClosed, InvalidInput, RepairRefused, UsageError
from longcase.insight.conform import conform
from longcase.insight.verify import verify
from longcase.insight.wording import corrected_calls, headline, settling, told
from longcase.model.activity import Activity
from longcase.testing import Simulation

slowly = Retry(max_attempts=3, initial=seconds(60), jitter="none")


@activity(owner=banking, retry=slowly, effect="repeatable")
async def open_account(order: Order, *, idempotency_key: str = injected()) -> str:
    return f"account-{order.amount}"


@open_account.undo
async def close_account(account: str, order: Order, *, idempotency_key: str = injected()) -> None:
    return None


@activity(owner=credit, retry=slowly, effect="none")
async def score(amount: int, level: int) -> str:
    return f"score-{amount}"


@activity(owner=credit, retry=slowly, effect="repeatable")
async def tell_vendor(amount: int) -> str:
    return f"told-{amount}"


@activity(owner=credit, queue="scales", effect="none")
async def weigh(amount: int) -> str:
    raise NotImplementedError


@activity(owner=credit, effect="once")
async def pay(amount: int) -> str:
    return f"paid-{amount}"


@activity(owner=credit, retry=slowly, effect="repeatable")
async def reserve(amount: int, *, idempotency_key: str = injected()) -> str:
    return f"place-{amount}"


@reserve.undo
async def release(place: str, amount: int) -> None:
    return None


@reserve.verify
async def was_reserved(amount: int, *, idempotency_key: str) -> str | NotHappened:
    return NOT_HAPPENED


@activity(owner=credit, retry=slowly, once_per="case")
async def register(amount: int) -> str:
    return f"registered-{amount}"


opening = Workflow("opening", object=Order, key="id", owner=desk, expect=days(5))
weighing = Workflow("weighing", object=Order, key="id", owner=desk, expect=days(5))
scoring = Workflow("scoring", object=Order, key="id", owner=desk, expect=days(5))
telling = Workflow("telling", object=Order, key="id", owner=desk, expect=days(5))
paying = Workflow("paying", object=Order, key="id", owner=desk, expect=days(5))
reserving = Workflow("reserving", object=Order, key="id", owner=desk, expect=days(5))
registering = Workflow("registering", object=Order, key="id", owner=desk, expect=days(5))
both = Workflow("both", object=Order, key="id", owner=desk, expect=days(5))
hurried = Workflow("hurried", object=Order, key="id", owner=desk, expect=days(5))
caught = Workflow("caught", object=Order, key="id", owner=desk, expect=days(5))


@opening.stage
async def opens(case: Case[Order]) -> Next:
    account = await open_account(case.object)
    await case.pause(days(1), because="cooling off")
    if case.object.note == "undo":
        await case.undo()
    return opening.close("done", result=account)


@weighing.stage
async def weighs(case: Case[Order]) -> Next:
    return weighing.close("done", result=await weigh(case.object.amount))


@scoring.stage
async def scores(case: Case[Order]) -> Next:
    return scoring.close("done", result=await score(case.object.amount, 7))


@telling.stage
async def tells(case: Case[Order]) -> Next:
    return telling.close("done", result=await tell_vendor(case.object.amount))


@paying.stage
async def pays(case: Case[Order]) -> Next:
    return paying.close("done", result=await pay(case.object.amount))


@reserving.stage
async def reserves(case: Case[Order]) -> Next:
    return reserving.close("done", result=await reserve(case.object.amount))


@registering.stage
async def registers(case: Case[Order]) -> Next:
    got = await register(case.object.amount)
    if case.object.note == "again":
        return registering.close("done", result=got)
    case.update(note="again")
    return registers


@both.stage
async def at_once(case: Case[Order]) -> Next:
    one, other = await asyncio.gather(score(case.object.amount, 7), open_account(case.object))
    return both.close("done", result=[one, other])


@hurried.stage
async def hurries(case: Case[Order]) -> Next:
    try:
        async with asyncio.timeout(100):
            await open_account(case.object)
    except TimeoutError:
        return hurried.close("late")
    return hurried.close("done")


@caught.stage
async def catches(case: Case[Order]) -> Next:
    try:
        got = await score(case.object.amount, 7)
    except ActivityFailed as error:
        got = f"failed {error.error_type}"
    return caught.close("done", result=got)


class Bank:
    """Opens accounts, and does something while it opens the first."""

    def __init__(self, sim: Simulation, *, during: Any = None, error: Exception | None = None) -> None:
        self.sim, self.during, self.error = sim, during, error
        self.did: list[Any] = []
        self.keys: list[str] = []
        sim.fake(open_account, self.open)
        sim.fake(close_account, self.close)

    async def open(self, order: Order, *, idempotency_key: str) -> str:
        self.did.append(("open", order.amount))
        self.keys.append(idempotency_key)
        first_time, self.during = self.during, None
        if first_time is not None:
            await first_time()
        error, self.error = self.error, None
        if error is not None:
            raise error
        return f"account-{order.amount}"

    async def close(self, account: str, order: Order, **_: Any) -> None:
        self.did.append(("close", account, order.amount))


def result(sim: Simulation, case: str) -> Any:
    assert closed(sim, case) == "done"
    return (sim.state(case).close or {})["result"]


def sound(sim: Simulation) -> None:
    """What is stored holds every invariant, and every event lies on the map."""

    async def look() -> tuple[list[str], Any]:
        return [str(finding) async for finding in verify(sim._app.store)], await conform(sim._app.store)

    findings, conformance = sim._do(look())
    assert findings == []
    assert (conformance.off, conformance.order) == ([], [])
    assert conformance.placed


def failing_first(sim: Simulation, called: Activity[..., Any], answer: Any = None) -> list[Any]:
    """Let the first attempt fail; returns what the activity was called with."""
    seen: list[Any] = []

    def fake(**given: Any) -> Any:
        seen.append(given)
        if len(seen) == 1:
            raise ConnectionError("no answer")
        return answer if answer is not None else f"with-{given['amount']}"

    sim.fake(called, fake)
    return seen


def test_rule_B9_a_correction_marks_the_call_and_redo_calls_it_anew() -> None:
    """Between two tries; the stage goes on with what the new call returned, and undoes with what it was given."""

    def scenario(sim: Simulation) -> None:
        bank = Bank(sim, error=ConnectionError("no answer"))
        case = sim.start(opening, Order(id="1", amount=2, note="undo"))
        marked = sim.correct(case, amount=3)
        assert "open_account was called with what it was before: longcase show opening/1" in marked.did
        (mark,) = every(sim, case, "input_corrected")
        (ref,) = sim.state(case).calls
        assert mark.data == {
            "call": ref, "activity": "open_account", "fields": ["amount"], "doubts": [],
            "changes": [{"at": ["order", "amount"], "field": "amount", "before": 2, "after": 3}],
        }  # fmt: skip
        assert (mark.node, mark.n, mark.strand) == ("opens/activity:open_account", 1, "0")
        assert mark.cause == first(sim, case, "corrected").seq
        (line,) = corrected_calls(sim.state(case), lambda instant: instant)
        assert line.startswith(
            f"open_account ({ref}) was called with order.amount=2, corrected to 3, by service:api on"
        )
        assert line.endswith("; redo: longcase redo opening/1")
        sim.redo(case, reason="the contract says 3")
        anew = first(sim, case, "call_redone")
        assert anew.data["reason"] == "the contract says 3"
        assert (anew.node, anew.data["redoes"], anew.actor) == (mark.node, ref, "service:api")
        assert told(anew).endswith(": the contract says 3")
        sim.advance(days(2))
        assert result(sim, case) == "account-3"
        assert bank.did == [("open", 2), ("open", 3), ("close", "account-3", 3)]
        assert len(set(bank.keys)) == 2
        assert bank.keys[0] == first(sim, case, "activity_scheduled").data["key"]
        rows = sim.query(
            "SELECT idempotency_key FROM attempts WHERE activity = 'open_account' ORDER BY started_at, call"
        )
        assert [row["idempotency_key"] for row in rows] == bank.keys
        sound(sim)

    in_both(scenario, opening)


def test_rule_B9_a_running_attempt_is_settled_and_undone_before_the_new_call_begins() -> None:
    def scenario(sim: Simulation) -> None:
        async def meanwhile() -> None:
            await sim.service.correct("opening/1", {"amount": 3}, reason="typo")
            await sim.service.redo("opening/1")
            view = await sim.service.show("opening/1")
            assert view.waits[0].what == "open_account, called anew: begins when the call before it is settled"
            lines.extend(settling(view.state))

        lines: list[str] = []
        bank = Bank(sim, during=meanwhile)
        case = sim.start(opening, Order(id="1", amount=2))
        assert [line.partition(" ")[2] for line in lines] == [
            "(1.c1) was called anew; before that begins: attempt 1 was asked to stop, and its end is awaited"
        ]
        sim.advance(days(2))
        assert result(sim, case) == "account-3"
        assert bank.did == [("open", 2), ("close", "account-2", 2), ("open", 3)]
        assert first(sim, case, "result_late").data["result"] == "account-2"
        assert sim.state(case).redone == {}
        undone = first(sim, case, "undo_started")
        assert undone.node == "opens/activity:open_account"
        sound(sim)

    in_both(scenario, opening)


def test_rule_B9_a_call_that_is_made_anew_waits_for_no_worker_of_its_queue_before_the_old_one_is_settled() -> None:
    def scenario(sim: Simulation) -> None:
        async def meanwhile(amount: int) -> str:
            if amount == 2:
                await sim.service.correct("weighing/1", {"amount": 3}, reason="typo")
                await sim.service.redo("weighing/1")
                state = (await sim.service.show("weighing/1")).state
                lines.append(headline(state, "", str))
            return f"weight {amount}"

        lines: list[str] = []
        sim.fake(weigh, meanwhile)
        case = sim.start(weighing, Order(id="1", amount=2))
        sim.run()
        assert [line.partition(" since ")[0] for line in lines] == [
            "Waiting on credit: weigh, called anew: begins when the call before it is settled,"
        ]
        assert result(sim, case) == "weight 3"

    in_both(scenario, weighing)


def test_rule_B9_a_running_attempt_that_fails_leaves_nothing_to_undo() -> None:
    def scenario(sim: Simulation) -> None:
        async def meanwhile() -> None:
            await sim.service.correct("opening/1", {"amount": 3}, reason="typo")
            await sim.service.redo("opening/1")

        bank = Bank(sim, during=meanwhile, error=ConnectionError("no answer"))
        case = sim.start(opening, Order(id="1", amount=2))
        sim.advance(days(2))
        assert result(sim, case) == "account-3"
        assert bank.did == [("open", 2), ("open", 3)], "it is not tried again for nobody"
        sound(sim)

    in_both(scenario, opening)


def test_rule_B9_a_late_effect_without_undo_is_told_and_the_new_call_goes_on() -> None:
    def scenario(sim: Simulation) -> None:
        told: list[int] = []

        async def tell(amount: int) -> str:
            told.append(amount)
            if len(told) == 1:
                await sim.service.correct("telling/1", {"amount": 3}, reason="typo")
                await sim.service.redo("telling/1")
            return f"told-{amount}"

        sim.fake(tell_vendor, tell)
        case = sim.start(telling, Order(id="1", amount=2))
        assert result(sim, case) == "told-3"
        opened = first(sim, case, "incident_opened").data
        assert (opened["kind"], opened["details"]["result"], opened["blocks"]) == ("late_effect", "told-2", False)
        assert told == [2, 3]
        sound(sim)

    in_both(scenario, telling)


def test_rule_B9_a_call_in_an_incident_is_called_anew_and_the_incident_ends() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(score, fails(3))
        case = sim.start(scoring, Order(id="1", amount=2))
        sim.advance(days(1))
        assert incident(sim, case)["kind"] == "activity_failed"
        sim.correct(case, amount=3)
        sim.fake(score, lambda amount, level: f"{amount}-{level}")
        sim.redo(case, reason="wrong amount")
        assert result(sim, case) == "3-7"
        ended = first(sim, case, "incident_closed")
        assert (ended.data["how"], ended.data["reason"]) == ("redone", "wrong amount")
        sound(sim)

    in_both(scenario, scoring)


def test_rule_B9_an_unknown_outcome_with_an_undo_is_asked_before_the_new_call_begins() -> None:
    """The attempt was cut off: a person says what it came to, it is undone, and only then is the call made anew."""

    def scenario(sim: Simulation) -> None:
        bank = Bank(sim)
        sim.fake(open_account, hangs)
        case = sim.start(opening, Order(id="1", amount=2))
        sim.correct(case, amount=3)
        sim.fake(open_account, bank.open)
        sim.redo(case)
        opened = incident(sim, case)
        assert (opened["kind"], opened["node"]) == ("outcome_unknown", "opens/activity:open_account")
        assert bank.did == []
        assert "nobody knows yet what attempt 1 came to" in settling(sim.state(case))[0]
        sim.set_result(case, "account-9", reason="found at the bank")
        sim.advance(days(2))
        assert result(sim, case) == "account-3"
        assert bank.did == [("close", "account-9", 2), ("open", 3)]
        sound(sim)

    in_both(scenario, opening)


async def hangs(**_: Any) -> str:
    """What an attempt looks like that gets no answer in its time."""
    from longcase.runtime.performing import TimedOut

    raise TimedOut("timeout", "not done within 300 s")


def test_rule_B9_verify_tells_and_no_person_is_asked() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(reserve, hangs)
        case = sim.start(reserving, Order(id="1", amount=2))
        sim.correct(case, amount=3)
        sim.fake(reserve, lambda amount, idempotency_key: f"place-{amount}")
        sim.redo(case)
        assert result(sim, case) == "place-3"
        assert first(sim, case, "attempt_verified").data["happened"] is False
        assert "incident_opened" not in sim.types(case)
        sound(sim)

    in_both(scenario, reserving)


def test_rule_B9_an_effect_that_must_not_be_repeated_is_not_while_it_is_unsettled() -> None:
    def scenario(sim: Simulation) -> None:
        refused: list[str] = []

        async def slow(amount: int) -> str:
            await sim.service.correct("paying/1", {"amount": 3}, reason="typo")
            with pytest.raises(RepairRefused) as caught:
                await sim.service.redo("paying/1")
            refused.append(str(caught.value))
            return await hangs()

        sim.fake(pay, slow)
        case = sim.start(paying, Order(id="1", amount=2))
        assert "attempt 1 is not settled, and its effect must not be repeated" in refused[0]
        assert "wait for its end" in refused[0]
        assert incident(sim, case)["kind"] == "outcome_unknown"
        with pytest.raises(RepairRefused, match="longcase redo paying/1 --never-happened"):
            sim.redo(case)
        sim.fake(pay, lambda amount: f"paid-{amount}")
        sim.redo(case, never_happened=True, reason="the bank has nothing")
        assert result(sim, case) == "paid-3"
        assert "undo_started" not in sim.types(case)
        sound(sim)

    in_both(scenario, paying)


def test_rule_B9_what_is_in_doubt_is_told_and_never_replaced_by_itself() -> None:
    def scenario(sim: Simulation) -> None:
        seen = failing_first(sim, score)
        case = sim.start(scoring, Order(id="1", amount=7))
        sim.correct(case, amount=8)
        mark = first(sim, case, "input_corrected").data
        assert mark["changes"] == [{"at": ["amount"], "field": "amount", "before": 7, "after": 8}]
        assert mark["doubts"] == [{"at": ["level"], "field": "amount", "value": 7, "after": 8}]
        assert "level=7, perhaps amount, corrected to 8" in corrected_calls(sim.state(case), str)[0]
        sim.redo(case)
        assert seen[1] == {"amount": 8, "level": 7}

    in_both(scenario, scoring)


def test_rule_B9_an_argument_may_be_given_by_the_operator() -> None:
    def scenario(sim: Simulation) -> None:
        seen = failing_first(sim, score)
        case = sim.start(scoring, Order(id="1", amount=7))
        sim.correct(case, amount=8)
        with pytest.raises(UsageError, match=r"no argument rating(.|\n)*its arguments: amount, level"):
            sim.redo(case, arguments={"rating": 8})
        with pytest.raises(InvalidInput):
            sim.redo(case, arguments={"level": "eight"})
        with pytest.raises(RepairRefused, match="same arguments"):
            sim.redo(case, arguments={"amount": 7})
        sim.redo(case, arguments={"level": 9})
        assert seen[1] == {"amount": 8, "level": 9}
        assert first(sim, case, "call_redone").data["changed"] == {"amount": 8, "level": 9}
        sound(sim)

    in_both(scenario, scoring)


def test_rule_B9_only_a_call_that_was_marked_is_called_anew() -> None:
    def scenario(sim: Simulation) -> None:
        failing_first(sim, score)
        Bank(sim, error=ConnectionError("no answer"))
        case = sim.start(both, Order(id="1", amount=2))
        with pytest.raises(RepairRefused, match="nothing to redo"):
            sim.redo(case)
        sim.correct(case, extra="x")  # the object is an argument of one of them
        (ref,) = (event.data["call"] for event in every(sim, case, "input_corrected"))
        (other,) = (name for name in sim.state(case).calls if name != ref)
        with pytest.raises(RepairRefused, match=r"score .* was called with nothing that was corrected since"):
            sim.redo(case, call=other)
        with pytest.raises(RepairRefused, match=r"has no call 1.c9 in flight \(in flight: 1.c1 \(score\), 1.c2"):
            sim.redo(case, call="1.c9")
        sim.correct(case, amount=3)
        with pytest.raises(RepairRefused, match=f"2 calls whose input was corrected(.|\n)*--call {other}"):
            sim.redo(case)
        sim.redo(case, call=ref)
        sim.redo(case)
        assert result(sim, case) == ["with-3", "account-3"]
        with pytest.raises(CaseClosed):
            sim.redo(case)
        sound(sim)

    in_both(scenario, both)


def test_rule_B9_an_end_that_waits_for_a_worker_stands() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(score, fails(3))
        case = sim.start(scoring, Order(id="1", amount=2))
        sim.advance(days(1))
        with sim.together():
            sim.correct(case, amount=3)
            sim.set_result(case, "by-hand", reason="asked by phone")
            with pytest.raises(RepairRefused, match=r"the end of score .* was accepted from service:api"):
                sim.redo(case)
        assert result(sim, case) == "by-hand"

    in_both(scenario, scoring)


def test_rule_B9_corrections_add_up_and_one_that_takes_back_unmarks() -> None:
    def scenario(sim: Simulation) -> None:
        seen = failing_first(sim, score)
        case = sim.start(scoring, Order(id="1", amount=2))
        sim.correct(case, amount=3)
        sim.correct(case, amount=2)
        assert all("corrected" not in call for call in sim.state(case).calls.values())
        sim.correct(case, amount=4)
        sim.correct(case, amount=5)
        (call,) = sim.state(case).calls.values()
        assert call.get("corrected", {})["changes"] == [{"at": ["amount"], "field": "amount", "before": 2, "after": 5}]
        sim.redo(case)
        assert [given["amount"] for given in seen] == [2, 5]

    in_both(scenario, scoring)


def test_rule_B9_a_call_is_called_anew_more_than_once_each_time_under_another_key() -> None:
    def scenario(sim: Simulation) -> None:
        keys: list[str] = []

        def down(order: Order, *, idempotency_key: str) -> str:
            keys.append(idempotency_key)
            if len(keys) < 3:
                raise ConnectionError("no answer")
            return f"account-{order.amount}"

        sim.fake(open_account, down)
        case = sim.start(opening, Order(id="1", amount=2))
        for amount in (3, 4):
            sim.correct(case, amount=amount)
            sim.redo(case)
        sim.advance(days(2))
        assert result(sim, case) == "account-4"
        assert len(set(keys)) == 3
        assert [event.data["call"] for event in every(sim, case, "call_redone")] == ["1.c1-redo1", "1.c1-redo2"]
        sound(sim)

    in_both(scenario, opening)


def test_rule_B9_a_restarted_visit_takes_over_what_the_new_call_returned() -> None:
    """Its arguments are the corrected ones; what the call before came to belongs to others."""

    def scenario(sim: Simulation) -> None:
        bank = Bank(sim, error=ConnectionError("no answer"))
        case = sim.start(opening, Order(id="1", amount=2))
        sim.correct(case, amount=3)
        sim.redo(case)
        assert bank.did == [("open", 2), ("open", 3)]
        sim.restart(case)
        sim.advance(days(2))
        assert result(sim, case) == "account-3"
        assert bank.did == [("open", 2), ("open", 3)]
        reused = first(sim, case, "activity_reused").data
        assert reused["key"] == first(sim, case, "call_redone").data["key"]
        sound(sim)

    in_both(scenario, opening)


def test_rule_B9_once_per_case_returns_what_the_new_call_came_to() -> None:
    def scenario(sim: Simulation) -> None:
        seen = failing_first(sim, register)
        case = sim.start(registering, Order(id="1", amount=2))
        sim.correct(case, amount=3)
        sim.redo(case)
        assert result(sim, case) == "with-3"
        assert [given["amount"] for given in seen] == [2, 3]
        sound(sim)

    in_both(scenario, registering)


def test_rule_B9_the_failure_of_the_new_call_is_the_stages() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(score, fails(99))
        case = sim.start(caught, Order(id="1", amount=2))
        sim.correct(case, amount=3)
        sim.redo(case)
        sim.advance(days(1))
        assert result(sim, case) == "failed VendorDown"
        sound(sim)

    in_both(scenario, caught)


def test_rule_B9_an_incident_of_the_new_call_is_repaired_like_any_other() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(score, fails(99))
        case = sim.start(scoring, Order(id="1", amount=2))
        sim.correct(case, amount=3)
        sim.redo(case)
        sim.advance(days(1))
        opened = incident(sim, case)
        assert (opened["kind"], opened["call"]) == ("activity_failed", "1.c1-redo1")
        seen = failing_first(sim, score, "fine")
        sim.retry(case)
        sim.advance(days(1))
        assert result(sim, case) == "fine"
        assert [given["amount"] for given in seen] == [3, 3]
        sound(sim)

    in_both(scenario, scoring)


def test_rule_B9_an_await_that_is_cancelled_lets_go_of_the_new_call() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(open_account, fails(99))
        case = sim.start(hurried, Order(id="1", amount=2))
        sim.correct(case, amount=3)
        sim.redo(case)
        sim.advance(seconds(200))
        assert closed(sim, case) == "late"
        assert first(sim, case, "activity_cancelled").data["call"] == "1.c2-redo1"
        sound(sim)

    in_both(scenario, hurried)


def test_rule_B9_a_case_does_not_close_over_what_is_still_to_be_undone() -> None:
    """The stage stops waiting while the call before is being undone; nobody else would see to that."""

    def scenario(sim: Simulation) -> None:
        async def meanwhile() -> None:
            await sim.service.correct("hurried/1", {"amount": 3}, reason="typo")
            await sim.service.redo("hurried/1")

        bank = Bank(sim, during=meanwhile)
        sim.fake(close_account, fails(2))
        case = sim.start(hurried, Order(id="1", amount=2))
        sim.advance(seconds(101))
        assert incident(sim, case)["kind"] == "unsettled_close"
        assert settling(sim.state(case)) == [
            "open_account (1.c2) was called anew; before that begins: it took effect, and is undone by close_account"
        ]
        sim.advance(days(1))
        assert "undone" in sim.types(case)
        sim.retry(case)
        assert closed(sim, case) == "late"
        assert bank.did == [("open", 2)]
        sound(sim)

    in_both(scenario, hurried)


def test_rule_B9_a_turn_that_was_computed_without_the_repair_is_thrown_away() -> None:
    """Its third attempt is about to begin when an operator has the call made anew."""

    def scenario(sim: Simulation) -> None:
        sim.fake(score, fails(2))
        case = sim.start(caught, Order(id="1", amount=2))
        sim.advance(seconds(60))
        sim.correct(case, amount=3)

        async def happens() -> None:
            await sim.service.redo(case)

        between = Between(sim, happens)
        sim._turns.store = between  # type: ignore[assignment]
        sim.fake(score, lambda amount, level: f"with-{amount}")
        sim.advance(seconds(120))
        assert between.left == 0
        begun = [(event.data["call"], event.data["attempt"]) for event in every(sim, case, "attempt_started")]
        assert begun == [("1.c1", 2), ("1.c1-redo1", 1)]
        assert result(sim, case) == "with-3"
        sound(sim)

    in_both(scenario, caught)


@pytest.mark.parametrize("dies", ["before the correction", "before the repair", "after the repair"])
def test_rule_B9_a_worker_that_dies_loses_nothing_of_it(dies: str) -> None:
    """Its attempt had begun: nobody knows what it came to, there is an undo, and a person is asked first."""

    def scenario(sim: Simulation) -> None:
        bank = Bank(sim)
        case = do(sim, sim.service.start(opening, Order(id="1", amount=2))).address
        case_no = do(sim, sim.service.show(case)).case_no
        do(sim, sim._turns.advance({case_no: []}, {case_no}))  # and what it begins is not carried out
        assert [call["status"] for call in do(sim, sim.service.show(case)).state.calls.values()] == ["running"]
        for name, work in (
            ("before the correction", lambda: sim.service.correct(case, {"amount": 3}, reason="typo")),
            ("before the repair", lambda: sim.service.redo(case)),
            ("after the repair", None),
        ):
            if dies == name:
                sim.crash()
            if work is not None:
                do(sim, work())
        sim.run()
        assert incident(sim, case)["kind"] == "outcome_unknown"
        assert bank.did == []
        sim.set_result(case, "account-2", reason="found at the bank")
        sim.advance(days(2))
        assert result(sim, case) == "account-3"
        assert bank.did == [("close", "account-2", 2), ("open", 3)]
        sound(sim)

    in_both(scenario, opening)
