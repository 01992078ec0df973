"""A4: the undo entry is written with the command; a late result is undone, never dropped."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.rules.support import Order, banking, closed, desk, every, in_both, incident

from longcase import Case, Next, Retry, Workflow, activity, days, injected, seconds
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))


@activity(owner=banking, retry=Retry(max_attempts=3, initial=seconds(60), jitter="none"), effect="repeatable")
async def open_account(amount: int, *, idempotency_key: str = injected()) -> str:
    return f"account-{amount}"


@open_account.undo
async def close_account(account: str, amount: int, *, idempotency_key: str = injected()) -> None:
    return None


@activity(owner=banking, retry=Retry(max_attempts=1), effect="once", cancel="abandon")
async def pay(amount: int) -> str:
    return "paid"


@wf.stage
async def activate(case: Case[Order]) -> Next:
    try:
        async with asyncio.timeout(30):
            account = await open_account(case.object.amount)
    except TimeoutError:
        if case.object.note == "refuse":
            return wf.close("declined")
        if case.object.note == "leave":
            return wf.close("declined", leave=["open_account"])
        if case.object.note == "leave another":
            return wf.close("declined", leave=["pay"])
        await case.undo()
        return wf.close("undone")
    return wf.close("active", result=account)


@wf.stage
async def gamble(case: Case[Order]) -> Next:
    try:
        async with asyncio.timeout(30):
            await pay(case.object.amount)
    except TimeoutError:
        await case.pause(days(1), because="cooling off")
    return wf.close("over", leave=["pay"])


class Vendor:
    """Opens accounts; its answer may come after the caller has given up."""

    def __init__(self, sim: Simulation, answers_after: float) -> None:
        self.sim = sim
        self.after = answers_after
        self.opened: list[str] = []
        self.closed: list[str] = []
        sim.fake(open_account, self.open)
        sim.fake(close_account, self.close)

    async def open(self, amount: int, *, idempotency_key: str) -> str:
        # The stage's deadline passes while the vendor works: its timer fires in the same advance, before the result.
        self.sim.clock.advance(seconds(self.after))
        self.opened.append(idempotency_key)
        return f"account-{amount}"

    async def close(self, account: str, amount: int, **_: Any) -> None:
        self.closed.append(account)


def test_rule_A4_late_results_are_undone() -> None:
    """The timeout fires, the account is opened all the same: `case.undo()` settles it, then closes it."""

    def scenario(sim: Simulation) -> None:
        vendor = Vendor(sim, answers_after=40)
        case = sim.start(wf, Order(id="1", amount=4))
        assert closed(sim, case) == "undone"
        assert len(vendor.opened) == 1
        assert vendor.closed == [f"account-{sim.state(case).object['amount']}"]
        assert every(sim, case, "result_late")[0].data["result"] == "account-4"
        assert "activity_completed" not in sim.types(case)
        assert [entry["status"] for entry in sim.state(case).undo.values()] == ["undone"]

    in_both(scenario, wf)


def test_rule_A4_a_result_in_time_is_used() -> None:
    def scenario(sim: Simulation) -> None:
        vendor = Vendor(sim, answers_after=20)
        case = sim.start(wf, Order(id="1", amount=4))
        assert closed(sim, case) == "active"
        assert vendor.closed == []

    in_both(scenario, wf)


def test_rule_A4_the_entry_is_written_with_the_command() -> None:
    """It stands in the state before the first attempt has ended."""

    def scenario(sim: Simulation) -> None:
        seen: list[Any] = []

        async def look(amount: int) -> str:
            row = await sim.service.show("order/1")
            seen.append([(e["activity"], e["undo"], e["status"]) for e in row.state.undo.values()])
            return "account"

        sim.fake(open_account, look)
        sim.start(wf, Order(id="1"))
        assert seen == [[("open_account", "close_account", "open")]]

    in_both(scenario, wf)


def test_rule_A4_an_attempt_that_failed_leaves_nothing_to_undo() -> None:
    """Abandoned while it waited for its next try: it is not tried again for nobody."""

    def scenario(sim: Simulation) -> None:
        def down(**_: Any) -> str:
            raise ConnectionError("down")

        undone: list[str] = []
        sim.fake(open_account, down)
        sim.fake(close_account, lambda account, amount: undone.append(account))
        case = sim.start(wf, Order(id="1"))
        sim.advance(days(1))
        assert closed(sim, case) == "undone"
        assert undone == []
        assert [name for _, name, _ in sim.performed] == ["open_account"]

    in_both(scenario, wf)


def test_rule_A4_a_close_with_unsettled_entries_is_refused_unless_they_are_named() -> None:
    def refuse(sim: Simulation) -> None:
        vendor = Vendor(sim, answers_after=40)
        case = sim.start(wf, Order(id="1", note="refuse"))
        assert "unsettled_close" in [e.data["kind"] for e in every(sim, case, "incident_opened")]
        opened = incident(sim, case)
        assert opened["kind"] == "unsettled_close"
        assert "open_account" in opened["message"]
        # The discarded turn had cancelled nothing; the repair is to let the stage undo.
        sim.correct(case, note="undo")
        sim.retry(case)
        assert closed(sim, case) == "undone"
        assert vendor.closed == [f"account-{sim.state(case).object['amount']}"]
        assert len(vendor.opened) == 1

    def leave_another(sim: Simulation) -> None:
        Vendor(sim, answers_after=40)
        case = sim.start(wf, Order(id="1", note="leave another"))
        assert incident(sim, case)["kind"] == "unsettled_close", "what is left must be named itself"

    def leave(sim: Simulation) -> None:
        Vendor(sim, answers_after=40)
        case = sim.start(wf, Order(id="1", note="leave"))
        assert closed(sim, case) == "declined"
        assert every(sim, case, "result_late"), "the answer that came after the close is on record"

    in_both(refuse, wf)
    in_both(leave_another, wf)
    in_both(leave, wf)


def test_rule_A4_a_late_effect_without_undo_is_shown_to_its_owner() -> None:
    def scenario(sim: Simulation) -> None:
        async def slow(amount: int) -> str:
            sim.clock.advance(seconds(40))
            return "paid"

        sim.fake(pay, slow)

        async def hang(amount: int) -> str:
            raise ConnectionError("down")

        sim.fake(open_account, hang)
        case = sim.start(wf, Order(id="1"))
        sim.move(case, gamble)
        opened = incident(sim, case)
        assert (opened["kind"], opened["owner"], opened["blocks"]) == ("late_effect", "banking", False)
        sim.skip(case)
        sim.advance(days(2))
        assert closed(sim, case) == "over"

    in_both(scenario, wf)
