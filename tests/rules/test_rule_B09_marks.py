"""B9: which calls a correction marks, and what of a call that is called anew is settled before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.rules.redone import (
    Bank,
    hangs,
    left,
    open_account,
    opening,
    register,
    registering,
    result,
    sound,
    tell_vendor,
    telling,
)
from tests.rules.support import Order, credit, desk, every, fails, first, in_both, incident
from tests.rules.test_review_engine import Unending
from tests.rules.test_rule_B02_B05 import stopping, stubborn, waits_for_one_end
from tests.rules.test_rule_B09_B14 import wf

from longcase import Case, Next, Workflow, activity, days, seconds
from longcase.errors import RepairRefused
from longcase.testing import Simulation


async def wrong(**_: Any) -> int:
    return 5


@activity(owner=credit, effect="once", concurrency=1)
async def pay_in_turn(amount: int) -> str:
    return f"paid-{amount}"


twice = Workflow("twice", object=Order, key="id", owner=desk, expect=days(5))


@twice.stage
async def pays_twice(case: Case[Order]) -> Next:
    one, other = await asyncio.gather(pay_in_turn(case.object.amount), pay_in_turn(case.object.amount))
    return twice.close("done", result=[one, other])


def test_rule_B9_a_correction_says_what_was_there_before_and_leaves_the_key_alone() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1", amount=1))
        with pytest.raises(RepairRefused, match="the key field id cannot be corrected"):
            sim.correct(case, id="2")
        sim.correct(case, amount=7, note=None, reason="the contract says so")
        (event,) = every(sim, case, "corrected")
        assert event.data == {
            "patch": {"amount": 7}, "before": {"amount": 1}, "reason": "the contract says so", "pin": True,
        }  # fmt: skip
        assert event.actor == "service:api"

    in_both(scenario, wf)


def test_rule_B9_a_call_nobody_waits_for_is_neither_marked_nor_called_anew() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(open_account, hangs)
        case = sim.start(left, Order(id="1", amount=2))
        sim.advance(seconds(100))
        assert [call["awaited"] for call in sim.state(case).calls.values()] == [False]
        sim.correct(case, amount=3)
        assert "input_corrected" not in sim.types(case)
        with pytest.raises(RepairRefused, match="nothing to redo"):
            sim.redo(case)

    in_both(scenario, left)


def test_rule_B9_an_attempt_that_was_asked_to_stop_is_not_marked() -> None:
    with Unending([stopping]) as sim:
        case = sim.start(stopping, Order(id="1", amount=1))
        sim.move(case, waits_for_one_end)
        sim.advance(seconds(10))
        assert [call.get("stopping", False) for call in sim.state(case).calls.values()] == [False, True]
        sim.correct(case, amount=2)
        assert "input_corrected" not in sim.types(case)


def test_rule_B9_a_call_that_has_not_begun_is_called_anew_also_where_its_effect_must_not_be_repeated() -> None:
    def scenario(sim: Simulation) -> None:
        paid: list[int] = []

        async def one_at_a_time(amount: int) -> str:
            paid.append(amount)
            if len(paid) == 1:
                await sim.service.correct("twice/1", {"amount": 3}, reason="typo")
                calls = (await sim.service.show("twice/1")).state.calls
                (waiting,) = (ref for ref, call in calls.items() if call["attempt"] == 0)
                await sim.service.redo("twice/1", call=waiting)
            return f"paid-{amount}"

        sim.fake(pay_in_turn, one_at_a_time)
        case = sim.start(twice, Order(id="1", amount=2))
        assert result(sim, case) == ["paid-2", "paid-3"]
        assert paid == [2, 3]

    in_both(scenario, twice)


@pytest.mark.parametrize("times", [1, 2])
def test_rule_B9_once_per_case_is_found_again_however_often_it_was_called_anew(times: int) -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(register, fails(times, then="registered"))
        case = sim.start(registering, Order(id="1", amount=2))
        for amount in range(3, 3 + times):
            sim.correct(case, amount=amount)
            sim.redo(case)
        assert result(sim, case) == "registered"
        assert len(sim.performed) == times + 1, "the second visit finds the result"

    in_both(scenario, registering)


def test_rule_B9_an_answer_that_could_not_be_read_has_taken_effect_and_is_settled_first() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(open_account, lambda order, idempotency_key: 5)
        case = sim.start(opening, Order(id="1", amount=2))
        assert incident(sim, case)["kind"] == "contract_changed"
        sim.correct(case, amount=3)
        bank = Bank(sim)
        sim.redo(case)
        assert incident(sim, case)["kind"] == "outcome_unknown"
        assert bank.did == []
        sim.set_result(case, "account-5", reason="found at the bank")
        sim.advance(days(2))
        assert bank.did == [("close", "account-5", 2), ("open", 3)]
        sound(sim)

    in_both(scenario, opening)


def test_rule_B9_what_a_person_says_never_happened_is_neither_asked_nor_undone() -> None:
    def scenario(sim: Simulation) -> None:
        bank = Bank(sim)
        sim.fake(open_account, hangs)
        case = sim.start(opening, Order(id="1", amount=2))
        sim.correct(case, amount=3)
        sim.fake(open_account, bank.open)
        sim.redo(case, never_happened=True, reason="the bank has nothing")
        assert bank.did == [("open", 3)]
        assert first(sim, case, "call_redone").data["never_happened"]
        sim.advance(days(2))
        assert result(sim, case) == "account-3"
        sound(sim)

    in_both(scenario, opening)


def test_rule_B9_where_the_stage_waits_for_the_end_of_a_call_it_gave_up_it_is_that_of_the_new_call() -> None:
    def scenario(sim: Simulation) -> None:
        async def takes_long(amount: int) -> int:
            if amount == 1:
                raise ConnectionError("down")
            sim.clock.advance(seconds(30))
            return amount

        sim.fake(stubborn, takes_long)
        case = sim.start(stopping, Order(id="1", amount=1))
        sim.move(case, waits_for_one_end)
        sim.correct(case, amount=2)
        sim.redo(case)
        cancelled = every(sim, case, "activity_cancelled")[-1].data
        assert (cancelled["call"], cancelled["waits"]) == ("2.c2-redo1", True)
        assert sim.state(case).object["note"] == "ended"

    in_both(scenario, stopping)


@pytest.mark.parametrize("ends", [hangs, wrong], ids=["no answer", "no answer of its type"])
def test_rule_B9_what_nobody_could_take_back_is_not_asked_about(ends: Callable[..., Any]) -> None:
    """It runs while it is called anew, and may have taken effect; whoever had it called anew was told so."""

    def scenario(sim: Simulation) -> None:
        async def meanwhile(amount: int) -> Any:
            if amount == 3:
                return f"told-{amount}"
            await sim.service.correct("telling/1", {"amount": 3}, reason="typo")
            await sim.service.redo("telling/1")
            return await ends()

        sim.fake(tell_vendor, meanwhile)
        case = sim.start(telling, Order(id="1", amount=2))
        assert result(sim, case) == "told-3"
        assert "incident_opened" not in sim.types(case)
        sound(sim)

    in_both(scenario, telling)
