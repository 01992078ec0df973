"""What handlers (B8), corrected input (B9) and transactional activities (A12) do to each other, and to a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.rules.redone import slowly, sound
from tests.rules.support import Go, Order, banking, closed, desk, do, every, fails, in_both, incident, outline
from tests.rules.test_rule_A12 import insert, invoices, make_table

from longcase import Case, Next, Retry, Transaction, Workflow, activity, days, seconds
from longcase.errors import UsageError
from longcase.testing import Simulation

pytestmark = pytest.mark.usefixtures("each_store")

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)
remark = wf.signal("remark", Go)
stop = wf.signal("stop", Go)


@activity(owner=banking, retry=Retry(max_attempts=1))
async def ring(order: str) -> str:
    raise ConnectionError("nobody answers")


@activity(owner=banking, transaction=True, retry=slowly)
def bill(tx: Transaction, number: str, amount: int) -> int:
    insert(tx, number, amount)
    return amount


@bill.undo(transaction=True)
def unbill(tx: Transaction, result: int, number: str, amount: int) -> None:
    tx.execute(f"DELETE FROM invoices WHERE number = '{number}'")


@activity(owner=banking, retry=slowly, effect="repeatable")
async def tell(amount: int) -> int:
    return amount


@tell.undo
async def untell(result: int, amount: int) -> None:
    return None


@wf.stage
async def waiting(case: Case[Order]) -> Next:
    await make_table()
    if case.object.note == "tell":
        await tell(case.object.amount)
    if case.object.note == "both":
        async with asyncio.TaskGroup() as group:
            rung = group.create_task(ring(case.key))
            group.create_task(bill(f"{case.key}-{case.object.amount}", case.object.amount))
            if await rung == "engaged":  # a bug: its incident holds back what comes after it
                raise LookupError("engaged")
    await case.receive(go)
    if case.object.note == "undo":
        await case.undo()
    return wf.close("done")


@wf.on(remark, interrupts=False)
async def remarked(case: Case[Order], message: Go) -> None:
    if case.object.extra == "tell":
        await tell(case.object.amount)
    elif case.object.extra == "both":
        async with asyncio.TaskGroup() as group:
            rung = group.create_task(ring(case.key))
            group.create_task(bill(f"{case.key}-{case.object.amount}", case.object.amount))
            if await rung == "engaged":  # a bug: its incident holds back what comes after it
                raise LookupError("engaged")
    else:
        await bill.labelled("alone")(case.key, case.object.amount)


@wf.on(stop)
async def stopped(case: Case[Order], message: Go) -> Next:
    await case.undo()
    return wf.close("stopped")


@pytest.mark.parametrize("where", ["stage", "handler"])
def test_a_restart_after_a_correction_takes_no_committed_result_of_other_arguments(where: str) -> None:
    """As with a result that was applied: what was committed for the old amount is not the answer for the new one."""

    def scenario(sim: Simulation) -> None:
        sim.fake(ring, lambda order: "engaged")
        name = {"note": "both"} if where == "stage" else {"extra": "both"}
        case = sim.start(wf, Order(id="o1", amount=2, **name))
        if where == "handler":
            sim.signal(case, remark, Go())
        assert incident(sim, case)["kind"] == "stage_failed"
        assert invoices(sim) == [("o1-2", 2)]
        sim.fake(ring, lambda order: "answered")
        do(sim, sim.service.correct(case, {"amount": 3}, reason="wrong"))  # nothing moves: the result still waits
        assert "input_corrected" not in sim.types(case)  # the call has ended
        sim.restart(case)
        assert "result_late" in sim.types(case)
        assert invoices(sim) == [("o1-2", 2), ("o1-3", 3)]
        keys = [e.data["key"] for e in every(sim, case, "activity_scheduled") if e.data["activity"] == "bill"]
        assert len(set(keys)) == 2
        sim.signal(case, go, Go())
        assert closed(sim, case) == "done"
        sound(sim)

    in_both(scenario, wf)


def test_a_call_of_a_handler_is_called_anew() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="o1", amount=2, extra="tell"))
        told: list[int] = []

        def vendor(amount: int) -> int:
            told.append(amount)
            if len(told) == 1:
                raise ConnectionError("no answer")
            return amount

        sim.fake(tell, vendor)
        sim.signal(case, remark, Go())
        sim.correct(case, amount=3)
        sim.redo(case)
        sim.signal(case, go, Go())
        assert closed(sim, case) == "done", told
        assert told[-1] == 3
        sound(sim)

    in_both(scenario, wf)


def test_a_transactional_call_of_a_handler_is_called_anew_and_undone() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="o1", amount=2, note="undo"))
        said: list[int] = []

        def once(number: str, amount: int) -> int:
            said.append(amount)
            if len(said) == 1:
                raise ConnectionError("no answer")
            return amount

        sim.fake(bill, once)
        sim.fake(unbill, lambda **given: said.append(-given["amount"]))
        sim.signal(case, remark, Go())
        sim.correct(case, amount=3)
        sim.redo(case)
        assert said == [2, 3]
        sim.restart(case)
        assert said == [2, 3]
        sim.signal(case, go, Go())
        assert closed(sim, case) == "done"
        assert said == [2, 3, -3]
        sound(sim)

    in_both(scenario, wf)


def test_an_interrupt_beside_a_handlers_commit_is_undone() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(ring, lambda order: "engaged")
        case = sim.start(wf, Order(id="o1", amount=2, extra="both"))
        sim.signal(case, remark, Go())
        assert incident(sim, case)["kind"] == "stage_failed"
        assert invoices(sim) == [("o1-2", 2)]
        sim.fake(unbill, lambda result, number, amount: None)
        sim.signal(case, stop, Go())
        sim.advance(seconds(200))
        assert closed(sim, case) == "stopped"
        assert "undone" in sim.types(case)
        sound(sim)

    in_both(scenario, wf)


@pytest.mark.parametrize("again", ["once", "twice", "corrected"])
def test_a_call_of_a_restarted_visit_waits_until_the_one_it_was_called_anew_for_is_undone(again: str) -> None:
    """A restart does not let a call begin beside the one before it, which the redo would have waited for."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="o1", amount=2, extra="tell"))
        did: list[Any] = []

        async def vendor(amount: int) -> int:
            did.append(amount)
            if len(did) == 1:
                await sim.service.correct(case, {"amount": 3}, reason="wrong")
                await sim.service.redo(case)
            return amount

        def back(**given: Any) -> None:
            did.append(-given["amount"])
            if did.count(-2) == 1:
                raise ConnectionError("no answer")

        sim.fake(tell, vendor)
        sim.fake(untell, back)
        sim.signal(case, remark, Go())
        assert did == [2, -2]
        sim.restart(case)
        assert did == [2, -2]
        held = "tell, called anew: begins when the call before it is settled"
        assert held in [wait.what for wait in sim.show(case).waits]
        assert held in [row["what"] for row in sim.query("SELECT what FROM waiting")]
        if again != "once":
            if again == "corrected":
                sim.correct(case, amount=4)
            sim.restart(case)
            assert did == [2, -2]
        sim.advance(seconds(300))
        assert did == [2, -2, -2, 4 if again == "corrected" else 3]
        assert sim.state(case).redone == {}
        sim.signal(case, go, Go())
        assert closed(sim, case) == "done"
        sound(sim)

    in_both(scenario, wf)


@pytest.mark.parametrize("by", ["path", "cancel", "move"])
def test_what_ends_a_handler_whose_call_was_called_anew_leaves_nothing_of_the_call_before(by: str) -> None:
    """The new call never begins, and what the one before came to is undone once."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="o1", amount=2, extra="tell"))
        did: list[int] = []

        async def vendor(amount: int) -> int:
            did.append(amount)
            if len(did) == 1:
                await sim.service.correct(case, {"amount": 3}, reason="wrong")
                await sim.service.redo(case)
                if by == "path":
                    await sim.service.signal(case, stop, Go())
                elif by == "cancel":
                    await sim.service.cancel(case, reason="enough")
                else:
                    await sim.service.move(case, waiting, reason="elsewhere")
            return amount

        sim.fake(tell, vendor)
        sim.fake(untell, lambda result, amount: did.append(-amount))
        sim.signal(case, remark, Go())
        sim.advance(seconds(100))
        if by == "move":
            sim.signal(case, go, Go())
        assert closed(sim, case) == {"path": "stopped", "cancel": "cancelled", "move": "done"}[by]
        assert did == [2, -2]
        sound(sim)

    in_both(scenario, wf)


@pytest.mark.parametrize("during", ["corrected", "redone", "settled"])
def test_a_worker_that_dies_between_a_correction_and_the_new_call_of_a_handler_loses_nothing(during: str) -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="o1", amount=2))
        sim.fake(unbill, lambda **given: None)
        said: list[int] = []

        def once(number: str, amount: int) -> int:
            said.append(amount)
            if len(said) == 1:
                raise ConnectionError("no answer")
            return amount

        sim.fake(bill, once)
        sim.signal(case, remark, Go())
        do(sim, sim.service.correct(case, {"amount": 3}, reason="wrong"))
        if during == "corrected":
            sim.crash()
        do(sim, sim.service.redo(case))
        if during == "redone":
            sim.crash()
        sim.advance(seconds(100))
        if during == "settled":
            sim.crash()
        sim.signal(case, go, Go())
        assert closed(sim, case) == "done"
        assert said == [2, 3]
        sound(sim)

    in_both(scenario, wf)


@pytest.mark.parametrize("way", ["move", "redo"])
def test_a_call_of_a_visit_that_is_moved_to_once_more_or_called_anew_there_waits_as_well(way: str) -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="o1", amount=1))
        did: list[Any] = []

        async def vendor(amount: int) -> int:
            did.append(amount)
            if len(did) == 1:
                await sim.service.correct(case, {"amount": 3}, reason="wrong")
                await sim.service.redo(case)
            return amount

        def back(**given: Any) -> None:
            did.append(-given["amount"])
            if did.count(-2) == 1:
                raise ConnectionError("no answer")

        sim.fake(tell, vendor)
        sim.fake(untell, back)
        sim.correct(case, amount=2, note="tell")
        sim.restart(case)
        assert did == [2, -2]
        if way == "move":
            sim.move(case, waiting)
        else:
            sim.restart(case)
            sim.correct(case, amount=4)
            sim.redo(case)
        assert did == [2, -2]
        sim.advance(seconds(300))
        assert did == [2, -2, -2, 3 if way == "move" else 4]
        assert sim.state(case).redone == {}
        sim.signal(case, go, Go())
        assert closed(sim, case) == "done"
        sound(sim)

    in_both(scenario, wf)


class AfterReading:
    """The store, with something happening right after events of a case were read."""

    def __init__(self, sim: Simulation, happens: Callable[[], Awaitable[Any]]) -> None:
        self._store = sim.service.store
        self._happens: Callable[[], Awaitable[Any]] | None = happens
        sim.service.store = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def events(self, *given: Any, **more: Any) -> Any:
        found = await self._store.events(*given, **more)
        happens, self._happens = self._happens, None
        if happens is not None:
            await happens()
        return found


@pytest.mark.parametrize("repair", ["restart", "move"])
def test_a_new_visit_that_was_overtaken_by_a_redo_is_refused_and_finds_its_key_the_next_time(repair: str) -> None:
    def anew(sim: Simulation, case: str) -> Any:
        if repair == "restart":
            return sim.service.restart(case, reason="once more")
        return sim.service.move(case, sim.state(case).stage, reason="once more")

    def scenario(sim: Simulation) -> None:
        sim.fake(tell, fails(1, 3))
        # A handler's signal comes back to the visit that is restarted, and not to one that is moved to.
        case = sim.start(wf, Order(id="o1", amount=2, **{"extra" if repair == "restart" else "note": "tell"}))
        if repair == "restart":
            sim.signal(case, remark, Go())
        do(sim, sim.service.correct(case, {"amount": 3}, reason="wrong"))
        AfterReading(sim, lambda: sim.service.redo(case))
        with pytest.raises(UsageError, match="moved meanwhile"):
            do(sim, anew(sim, case))
        do(sim, anew(sim, case))
        sim.advance(seconds(300))
        key = every(sim, case, "call_redone")[0].data["key"]
        again = [event for event in sim.history(case) if event.visit == 2 and event.data.get("activity") == "tell"]
        assert again[0].data["key"] == key, outline(again)
        sim.signal(case, go, Go())
        assert closed(sim, case) == "done"
        sound(sim)

    in_both(scenario, wf)
