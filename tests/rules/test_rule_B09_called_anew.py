"""B9: what `redo` takes, and what becomes of a call that was called anew: its end, its failure, its case."""

from __future__ import annotations

import pytest
from tests.rules.redone import (
    Bank,
    both,
    caught,
    close_account,
    failing_first,
    hurried,
    open_account,
    opening,
    register,
    registering,
    result,
    score,
    scoring,
    sound,
)
from tests.rules.support import (
    Between,
    Order,
    closed,
    do,
    every,
    fails,
    first,
    in_both,
    incident,
)

from longcase import (
    days,
    seconds,
)
from longcase.errors import CaseClosed, InvalidInput, RepairRefused, UsageError
from longcase.insight.wording import settling
from longcase.testing import Simulation


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
