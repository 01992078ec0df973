"""A4: a call whose last attempt ran out of time may have taken effect; undo does not assume it did not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from longcase import ActivityFailed, Case, Next, Retry, Team, Workflow, activity, days

desk = Team("desk")


class Order(BaseModel):
    id: str


@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=1))
async def reserve(order: str) -> str:
    return order


@reserve.undo
async def release(reserved: str, order: str) -> None:
    return None


orders = Workflow("orders", object=Order, key="id", owner=desk, expect=days(1))


@orders.stage(expect=days(1))
async def taking(case: Case[Order]) -> Next:
    try:
        await reserve(case.key)
    except ActivityFailed:
        await case.undo()
        return orders.close("given-up")
    return orders.close("done")


class Released:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, reserved: str, order: str) -> None:
        self.calls.append(reserved)


def test_rule_A4_a_call_lost_by_timeout_is_unknown_and_undo_asks_a_person(
    simulate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longcase.engine.attempts import Failure
    from longcase.testing import simulate as kit

    released = Released()
    sim = simulate(orders, fakes={release: released})
    real = kit.perform

    async def perform(activity: Any, running: Any, *rest: Any) -> Any:
        if activity.name == "reserve":
            return Failure("timeout", "AttemptTimeout", "not done within 300 s")
        return await real(activity, running, *rest)

    monkeypatch.setattr(kit, "perform", perform)
    case = sim.start(orders, Order(id="o1"))
    state = sim.state(case)
    assert state.status == "open"
    (incident,) = state.incidents.values()
    assert incident["kind"] == "outcome_unknown"
    sim.set_result(case, "r-1", reason="the shelf says so")
    assert sim.state(case).close["name"] == "given-up"
    assert released.calls == ["r-1"]


def test_rule_A4_a_call_that_failed_by_its_own_word_has_nothing_to_undo(simulate: Any) -> None:
    released = Released()

    def refused(order: str) -> str:
        raise ValueError("no such shelf")

    sim = simulate(orders, fakes={release: released, reserve: refused})
    case = sim.start(orders, Order(id="o2"))
    assert sim.state(case).close["name"] == "given-up"
    assert released.calls == []
