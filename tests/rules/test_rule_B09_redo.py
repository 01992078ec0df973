"""B9: a correction marks the calls in flight that were called with what it corrects; `redo` calls them anew."""

from __future__ import annotations

import pytest
from tests.rules.redone import (
    Bank,
    failing_first,
    hangs,
    open_account,
    opening,
    pay,
    paying,
    reserve,
    reserving,
    result,
    score,
    scoring,
    sound,
    tell_vendor,
    telling,
    weigh,
    weighing,
)
from tests.rules.support import (
    Order,
    every,
    fails,
    first,
    in_both,
    incident,
)

from longcase import (
    days,
)
from longcase.errors import RepairRefused
from longcase.insight.wording import corrected_calls, headline, settling, told
from longcase.testing import Simulation


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
            with pytest.raises(RepairRefused, match="attempt 1 is not settled"):  # it runs: who could know?
                await sim.service.redo("paying/1", never_happened=True)
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
