"""Signals that are refused, by a closed case or as the workflow has none of that name: they stand in the history."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from longcase import Case, Next, Team, Workflow, days
from longcase.errors import CaseClosed, InvalidInput, UnknownSignal
from longcase.insight.wording import told
from longcase.testing import Simulation

desk = Team("desk")


class Order(BaseModel):
    id: str


class Word(BaseModel):
    text: str = ""


orders = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
word = orders.signal("word", Word)


@orders.stage(expect=days(5))
async def listen(case: Case[Order]) -> Next:
    await case.receive(word, within=days(1))
    return orders.close("heard")


def test_a_refused_signal_stands_in_the_history_with_its_identity() -> None:
    with Simulation([orders]) as sim:
        case = sim.start(orders, Order(id="O-1"))
        sim.signal(case, word, Word(), idempotency_key="one")
        with pytest.raises(CaseClosed):
            sim.signal(case, word, Word(text="late"), idempotency_key="two")
        refused = [event.data for event in sim.history(case) if event.type == "signal_refused"]
        assert [(data["id"], data["body"]) for data in refused] == [("word:two", {"text": "late"})]


def test_a_repeat_of_a_refused_signal_gets_the_same_answer_and_no_second_refusal() -> None:
    with Simulation([orders]) as sim:
        case = sim.start(orders, Order(id="O-1"))
        sim.signal(case, word, Word(), idempotency_key="one")
        for _ in range(2):
            with pytest.raises(CaseClosed, match=r"order/O-1 is closed: heard"):
                sim.signal(case, word, Word(), idempotency_key="two")
        assert sim.types(case).count("signal_refused") == 1
        assert sim.types(case).count("duplicate_ignored") == 1


def test_a_repeat_of_an_accepted_signal_is_accepted_also_when_the_case_has_closed() -> None:
    with Simulation([orders]) as sim:
        case = sim.start(orders, Order(id="O-1"))
        sim.signal(case, word, Word(), idempotency_key="one")
        assert sim.signal(case, word, Word(), idempotency_key="one").duplicate
        assert "signal_refused" not in sim.types(case)


def test_what_is_handed_in_together_is_accepted_before_any_case_moves() -> None:
    with Simulation([orders]) as sim:
        with sim.together():
            case = sim.start(orders, Order(id="O-1"))
            sim.signal(case, word, Word(text="first"))
            sim.signal(case, word, Word(text="second"))  # not refused: the case has not moved yet
            assert sim.state(case).visit == 0
        assert sim.state(case).status == "closed"
        assert sim.types(case).count("signal_unhandled") == 1


def test_a_signal_that_the_workflow_does_not_declare_stands_in_the_history_and_keeps_no_key() -> None:
    with Simulation([orders]) as sim:
        case = sim.start(orders, Order(id="O-1"))
        for _ in range(2):
            with pytest.raises(UnknownSignal, match="declares no signal wrod; it stands in the history") as refused:
                sim.signal(case, "wrod", {"text": "hello"}, idempotency_key="one")
        assert refused.value.hint == "declared: word"
        first, second = (event for event in sim.history(case) if event.type == "signal_refused")
        assert (first.data["signal"], first.data["body"]) == ("wrod", {"text": "hello"})
        assert first.data["id"] != second.data["id"]
        assert told(first).endswith("was refused: the workflow does not declare it")
        assert not sim.signal(case, word, Word(), idempotency_key="one").duplicate, "the key is free"
        assert sim.state(case).status == "closed"
        with pytest.raises(UnknownSignal):
            sim.signal(case, "wrod", {})
        assert sim.types(case)[-1] == "signal_refused"


@pytest.mark.parametrize("name", ["", "no name", "w\x00rd", "\ud800", "x" * 129])
def test_a_signal_of_a_name_that_none_can_have_is_refused_and_not_kept(name: str) -> None:
    with Simulation([orders]) as sim:
        case = sim.start(orders, Order(id="O-1"))
        before = sim.types(case)
        with pytest.raises(UnknownSignal) as refused:
            sim.signal(case, name, {"text": "hello"})
        assert "history" not in refused.value.message
        assert len(refused.value.message) < 120
        assert sim.types(case) == before


class Photo(BaseModel):
    raw: bytes


@pytest.mark.parametrize("body", [Photo(raw=b"\xff"), {"n": float("nan")}, {"n": object()}, "text"])
def test_an_undeclared_signal_whose_body_cannot_be_kept_is_refused_with_a_word(body: Any) -> None:
    with Simulation([orders]) as sim:
        case = sim.start(orders, Order(id="O-1"))
        with pytest.raises((InvalidInput, UnknownSignal)):
            sim.signal(case, "wrod", body)
