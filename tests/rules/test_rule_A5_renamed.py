"""A5: a restarted visit recognises a call by its activity's earlier name, and says what it takes over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from longcase import Case, Next, Team, Workflow, activity, days
from longcase.testing import Simulation

desk = Team("desk")
paid: list[str] = []


class Bill(BaseModel):
    id: str


def version(name: str, was: tuple[str, ...]) -> Workflow[Any]:
    """Return the workflow as one release has it: the activity under one name or the other."""

    @activity(owner=desk, name=name, was=was, effect="repeatable")
    async def pay(bill: str) -> str:
        paid.append(bill)
        return f"receipt-{bill}"

    bills = Workflow("bills", object=Bill, key="id", owner=desk, expect=days(9))

    @bills.stage(expect=days(9))
    async def paying(case: Case[Bill]) -> Next:
        receipt = await pay(case.key)
        answer = await case.approval("File it?", label="file", of=desk, expires=(days(3), "rejected"))
        return bills.close("filed", result=[receipt, answer.answer])

    return bills


def test_rule_A5_a_renamed_activity_is_not_repeated_by_a_restart(tmp_path: Path) -> None:
    paid.clear()
    path = tmp_path / "cases.db"
    with Simulation([version("pay", ())], path=path) as old:
        case = old.start("bills", {"id": "b1"})
    with Simulation([version("payout", ("pay",))], path=path) as new:
        new.decide(case, "approved")
        incident = next(iter(new.state(case).incidents.values()))
        assert incident["kind"] == "code_changed"
        answer = new.restart(case)
        assert answer.did == "to paying, taking over the results of pay#1; what was asked is asked again"
        new.decide(case, "approved")
        assert new.state(case).close == {"name": "filed", "result": ["receipt-b1", "approved"], "reason": ""}
    assert paid == ["b1"]
