"""A3: a turn that ends in an unhandled exception commits nothing but the incident."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path

import pytest
from tests.rules.support import (
    Order,
    VendorDown,
    banking,
    closed,
    declare,
    desk,
    every,
    fails,
    in_both,
    incident,
    sales,
)

from longcase import ActivityFailed, Case, Next, Retry, Workflow, activity, days
from longcase.errors import RepairRefused
from longcase.model.codec import RESULT_LIMIT
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
ONE = Retry(max_attempts=1)


@activity(owner=sales, retry=ONE)
async def rate(amount: int) -> int:
    return amount


@activity(owner=banking, retry=ONE)
async def book(amount: int) -> int | None:
    return amount


@activity(owner=desk)
async def tell(text: str) -> None:
    return None


@wf.stage
async def work(case: Case[Order]) -> Next:
    case.update(note="begun")
    first = await rate(case.object.amount)
    second = await book(first)
    return wf.close("done", result=[first, second])


@wf.stage
async def grouped(case: Case[Order]) -> Next:
    async with asyncio.TaskGroup() as group:
        a = group.create_task(rate(1))
        b = group.create_task(book(2))
        c = group.create_task(case.pause(days(1), because="cooling off"))
    await c
    return wf.close("both", result=[a.result(), b.result()])


@wf.stage
async def acts(case: Case[Order]) -> Next:
    try:
        await rate(1)
    except ActivityFailed:
        await tell("it failed")
        raise
    return wf.close("fine")


@wf.stage
async def raises_an_older_one(case: Case[Order]) -> Next:
    older: ActivityFailed | None = None
    try:
        await rate(1)
    except ActivityFailed as failed:
        older = failed
    try:
        await book(2)
    except ActivityFailed:
        assert older is not None
        raise older from None
    return wf.close("fine")


@wf.stage
async def handled(case: Case[Order]) -> Next:
    try:
        await rate(1)
    except ActivityFailed as failed:
        return wf.close("handled", reason=failed.error_type)
    return wf.close("fine")


def at(sim: Simulation, stage: object) -> str:
    """Start a case and let an operator put it where the test begins."""
    real = dict(sim._fakes)
    sim._fakes.clear()

    async def hang(amount: int) -> int:
        raise VendorDown("not yet")

    sim.fake(rate, hang)
    case = sim.start(wf, Order(id="1", amount=4))
    sim._fakes.clear()
    sim._fakes.update(real)
    sim.move(case, stage)
    return case


def test_rule_A3_a_failure_nobody_handles_parks_the_case_before_it() -> None:
    """What the failing turn did is void; the incident belongs to the activity's owner."""

    def scenario(sim: Simulation) -> None:
        sim.fake(rate, fails(1, then=9))
        case = sim.start(wf, Order(id="1", amount=4))
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"]) == ("activity_failed", "sales")
        assert "activity_failed" not in sim.types(case)
        assert sim.state(case).status == "open"
        assert next(iter(sim.state(case).calls.values()))["status"] == "incident"
        sim.retry(case)
        assert closed(sim, case) == "done"
        assert (sim.state(case).close or {})["result"] == [9, 9]
        assert len(every(sim, case, "attempt_failed")) == 1

    in_both(scenario, wf)


def test_rule_A3_set_result_supplies_the_outcome_of_the_same_call() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(rate, fails(9))
        case = sim.start(wf, Order(id="1", amount=4))
        sim.set_result(case, 12)
        assert (sim.state(case).close or {})["result"] == [12, 12]
        assert not sim.state(case).incidents
        assert len(every(sim, case, "activity_scheduled")) == 2

    in_both(scenario, wf)


def test_rule_A3_skip_goes_on_only_where_none_fits() -> None:
    """`rate` returns int and cannot be skipped; `book` returns int | None and can."""

    def scenario(sim: Simulation) -> None:
        sim.fake(rate, fails(1, then=2))
        sim.fake(book, fails(9))
        case = sim.start(wf, Order(id="1", amount=4))
        with pytest.raises(RepairRefused, match="cannot be skipped") as refused:
            sim.skip(case)
        assert "set-result" in refused.value.hint
        sim.retry(case)
        assert incident(sim, case)["owner"] == "banking"
        sim.skip(case)
        assert (sim.state(case).close or {})["result"] == [2, None]

    in_both(scenario, wf)


def test_rule_A3_siblings_of_a_failed_call_in_a_taskgroup_stay_as_they_were() -> None:
    """The group cancelled its siblings in the discarded turn: none of that is in the history."""

    def scenario(sim: Simulation) -> None:
        sim.fake(rate, fails(1, then=5))
        case = at(sim, grouped)
        assert "activity_cancelled" not in sim.types(case)
        assert "timer_cancelled" not in [e.type for e in sim.history(case) if e.visit == 2]
        sim.retry(case)
        assert sim.state(case).status == "open"
        sim.advance(days(1))
        assert closed(sim, case) == "both"
        assert (sim.state(case).close or {})["result"] == [5, 2]

    in_both(scenario, wf)


def test_rule_A3_two_failed_calls_of_a_group_are_two_incidents() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(rate, fails(1, then=5))
        sim.fake(book, fails(1, then=6))
        case = at(sim, grouped)
        opened = sim.state(case).incidents
        assert sorted((i["kind"], i["owner"]) for i in opened.values()) == [
            ("activity_failed", "banking"), ("activity_failed", "sales"),
        ]  # fmt: skip
        for number in list(opened):
            sim.retry(case, incident=number)
        sim.advance(days(1))
        assert (sim.state(case).close or {})["result"] == [5, 6]

    in_both(scenario, wf)


def test_rule_A3_a_failure_acted_on_in_an_earlier_turn_is_an_incident_of_the_visit() -> None:
    """`except ...: await tell(); raise`: the call is over, so the repair is to restart the visit."""

    def scenario(sim: Simulation) -> None:
        sim.fake(rate, fails(1, then=5))
        case = at(sim, acts)
        opened = incident(sim, case)
        assert (opened["kind"], opened["call"]) == ("stage_failed", "")
        assert "restart" in opened["repairs"]
        sim.restart(case)
        assert closed(sim, case) == "fine"

    in_both(scenario, wf)


def test_rule_A3_a_failure_of_an_earlier_turn_raised_in_the_turn_of_another_is_the_visits() -> None:
    """The call whose failure is being applied was handled: it is not what the stage ended by."""

    def scenario(sim: Simulation) -> None:
        sim.fake(rate, fails(1, then=5))
        sim.fake(book, fails(1, then=6))
        case = at(sim, raises_an_older_one)
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"], opened["call"]) == ("stage_failed", "desk", "")

    in_both(scenario, wf)


def test_rule_A3_a_handled_failure_is_no_incident() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(rate, fails(1))
        case = at(sim, handled)
        assert closed(sim, case) == "handled"
        assert (sim.state(case).close or {})["reason"] == "VendorDown"

    in_both(scenario, wf)


BUGGY = """
@activity(owner=desk)
async def fetch(amount: int) -> dict[str, int]:
    return {"value": amount}

@wf.stage
async def work(case: Case[Order]) -> Next:
    got = await fetch(case.object.amount)
    return wf.close("done", result=got["%s"])
"""


def test_rule_A3_a_bug_keeps_its_input_and_the_fixed_code_gets_the_same_one(tmp_path: object) -> None:
    """KeyError in stage code: the result that led to it is applied again after the deploy."""
    path = f"{tmp_path}/cases.db"
    broken, fixed = declare(BUGGY % "valu"), declare(BUGGY % "value")
    with Simulation([broken.wf], path=path) as sim:
        case = sim.start("order", {"id": "1", "amount": 3})
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"]) == ("stage_failed", "desk")
        assert "KeyError" in opened["message"]
        assert "activity_completed" not in sim.types(case)
        performed = len(sim.performed)
        sim.retry(case)
        assert incident(sim, case)["kind"] == "stage_failed"
        assert len(sim.performed) == performed, "the call's result was there: it must not run again"
        now = sim.now
    with Simulation([fixed.wf], path=path, now=now) as sim:
        assert sim.state(case).status == "open"
        sim.retry(case)
        assert closed(sim, case) == "done"
        assert (sim.state(case).close or {})["result"] == 3
        assert sim.performed == []


odd = Workflow("odd", object=Order, key="id", owner=desk, expect=days(5))


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise AttributeError("response")


class Itself(list[object]):
    """A list that holds itself: no JSON has that."""


def knot() -> object:
    tied: Itself = Itself()
    tied.append(tied)
    return tied


@odd.stage
async def strange(case: Case[Order]) -> Next:
    match case.object.note:
        case "unspeakable":
            raise Unspeakable
        case "half a character":
            raise ValueError("a\x00b\ud800c")
        case "long":
            raise ValueError("x" * 5_000)
        case "a long number":
            return odd.close("done", result=10**5000)
        case "a knot":
            return odd.close("done", result=knot())
        case "much":
            return odd.close("done", result=["é" * (RESULT_LIMIT // 2)])
        case "much text":
            return odd.close("done", result="x" * (RESULT_LIMIT + 1))
        case "keys that become one":
            return odd.close("done", result={1: "a", "1": "b"})
    return odd.close("done", result={"NaN": [1.5, None], "1": 2**63 - 1})


@pytest.mark.parametrize(
    ("note", "says"),
    [
        ("unspeakable", "Unspeakable: (its text is not known: its __str__ raised AttributeError)"),
        ("half a character", "ValueError: a\\x00b\\ud800c"),
        ("long", "x... (5000 characters)"),
        ("a long number", "close done: result is not JSON: result: an integer of 16610 bits"),
        ("a knot", "close done: result is not JSON: maximum recursion depth exceeded"),
        (
            "much",
            "close done: result: 1,048,580 bytes, at most 1,048,576 are kept; keep it elsewhere and close with where",
        ),
        ("much text", "close done: result: 1,048,577 bytes, at most 1,048,576 are kept"),
        ("keys that become one", "close done: result is not JSON: result: keys that are one as text: ['1', '1']"),
    ],
)
def test_rule_A3_whatever_a_stage_raises_or_returns_is_an_incident_that_says_it(note: str, says: str) -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(odd, Order(id="1", note=note))
        opened = incident(sim, case)
        assert opened["kind"] == "stage_failed"
        assert says in opened["message"]
        sim.correct(case, note="fine")
        sim.retry(case)
        assert closed(sim, case) == "done"

    in_both(scenario, odd)


told = Workflow("told", object=Order, key="id", owner=desk, expect=days(9))
asking = Workflow("asking", object=Order, key="id", owner=desk, expect=days(9))


@told.stage
async def tells(case: Case[Order]) -> Next:
    return told.close("told", result="x" * (RESULT_LIMIT + (case.object.note == "too much")))


@asking.stage
async def asks(case: Case[Order]) -> Next:
    answer = await case.child(told, Order(id="child", note=case.object.note))
    return asking.close("heard", result=len(answer.result))


def test_rule_A3_a_childs_result_is_bounded_where_the_child_closes() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(asking, Order(id="1", note="too much"))
        assert incident(sim, "told/child")["message"].startswith("close told: result: 1,048,577 bytes, at most")
        assert sim.state(case).incidents == {}, "the parent waits: nothing came"
        sim.correct("told/child", note="just enough")
        sim.retry("told/child")
        assert closed(sim, case) == "heard"
        assert (sim.state(case).close or {})["result"] == RESULT_LIMIT

    in_both(scenario, asking, told)


@pytest.mark.parametrize("folder", ["app", "longcase"])  # a clone of ours, say, with an application in it
def test_an_incident_names_the_authors_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    (tmp_path / folder).mkdir()
    source = """
from longcase import Case, Next, Team, Workflow, days
from pydantic import BaseModel
desk = Team("desk")
class Order(BaseModel):
    id: str
    pages: int = 1
wrong = Workflow("wrong", object=Order, key="id", owner=desk, expect=days(1))
@wrong.stage(expect=days(1))
async def writing(case: Case[Order]) -> Next:
    with case.change() as order:
        order.pages = "many"
    return wrong.close("done")
"""
    (tmp_path / folder / "wrong_pages.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path / folder))
    monkeypatch.delitem(sys.modules, "wrong_pages", raising=False)
    with Simulation([importlib.import_module("wrong_pages")]) as sim:
        opened = incident(sim, sim.start("wrong", {"id": "1"}))
    assert opened["details"]["line"] == "wrong_pages.py:11 in writing"
