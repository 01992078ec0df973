"""A5: a restarted visit recognises a call by its activity's earlier name, and says what it takes over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from longcase import Case, Next, Team, Workflow, activity, days
from longcase.errors import DefinitionError
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


class VendorGone(Exception):
    """What the compensation meets before its mend."""


def undoing(name: str, was: tuple[str, ...], *, works: bool) -> Workflow[Any]:
    """Return the workflow as one release has it: the compensation under one name or the other."""

    @activity(owner=desk, effect="repeatable")
    async def book(bill: str) -> str:
        return f"booking-{bill}"

    async def take_back(booking: str, bill: str) -> None:
        if not works:
            raise VendorGone("moved away")
        paid.append(booking)

    take_back.__name__ = name
    book.undo(was=was)(take_back) if was else book.undo(take_back)
    bills = Workflow("bills", object=Bill, key="id", owner=desk, expect=days(9))

    @bills.stage(expect=days(9))
    async def booking(case: Case[Bill]) -> Next:
        await book(case.key)
        await case.pause(days(1), because="cooling-off")
        return bills.close("booked")

    return bills


def test_rule_A5_a_renamed_compensation_is_found_by_an_open_case(tmp_path: Path) -> None:
    paid.clear()
    path = tmp_path / "cases.db"
    with Simulation([undoing("unbook", (), works=False)], path=path) as old:
        case = old.start("bills", {"id": "b1"})
        old.cancel(case, reason="withdrawn")
        old.advance(days(2))
        assert old.state(case).status == "open"
        assert next(iter(old.state(case).incidents.values()))["owner"] == "desk"
    with Simulation([undoing("give_back", ("unbook",), works=True)], path=path) as new:
        new.retry(case)
        new.advance(days(1))
        assert new.state(case).status == "closed"
    assert paid == ["booking-b1"]


def test_a_name_that_is_no_tuple_is_refused_where_it_is_written() -> None:
    with pytest.raises(DefinitionError, match="was='unbook', expected a tuple of names") as told:
        undoing("give_back", "unbook", works=True)  # type: ignore[arg-type]
    assert told.value.hint == 'was=("unbook",)'
