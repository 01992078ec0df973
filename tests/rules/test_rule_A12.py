"""A12: a transactional activity: its writes and its result are there together, or neither is."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import apsw
import pytest
from tests.rules.support import Go, Order, banking, closed, desk, every, in_both, incident
from tests.support.postgres import run_sql

from longcase import (
    Activity,
    ActivityFailed,
    Case,
    Next,
    Retry,
    Transaction,
    Workflow,
    activity,
    attempt,
    days,
    injected,
    seconds,
)
from longcase.engine.attempts import Failure
from longcase.engine.work import Ended
from longcase.env import Env
from longcase.errors import RepairRefused
from longcase.history.event import instant_text
from longcase.insight.verify import verify
from longcase.runtime.performing import Running
from longcase.runtime.transacting import transact
from longcase.store.port import Transacting
from longcase.testing import Simulation
from longcase.upkeep import examine_store

pytestmark = pytest.mark.usefixtures("each_store")

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)
TABLE = "CREATE TABLE IF NOT EXISTS invoices (number TEXT PRIMARY KEY, amount INTEGER NOT NULL)"


def insert(tx: Transaction, number: str, amount: int) -> None:
    """Write an invoice; the number of the attempt tells the dialects' placeholders apart by nothing."""
    tx.execute(f"INSERT INTO invoices VALUES ('{number}', {amount})")


@activity(owner=banking, transaction=True)
def make_table(tx: Transaction) -> None:
    tx.execute(TABLE)


@activity(owner=banking, transaction=True, retry=Retry(max_attempts=3, initial=seconds(10), jitter="none"))
def write_invoice(tx: Transaction, order: str, amount: int, *, idempotency_key: str = injected()) -> str:
    insert(tx, order, amount)
    if amount < 0:
        raise ValueError(f"attempt {attempt().number} of {idempotency_key[-1]}")
    return f"invoice-{order}"


@write_invoice.undo(transaction=True)
def cancel_invoice(tx: Transaction, invoice: str, order: str, amount: int) -> int:
    return len(tx.execute(f"DELETE FROM invoices WHERE number = '{order}' RETURNING number"))


@wf.stage
async def invoicing(case: Case[Order]) -> Next:
    await make_table()
    try:
        invoice = await write_invoice(case.key, case.object.amount)
    except ActivityFailed as failed:
        return wf.close("failed", reason=failed.message)
    if case.object.note == "undo":
        await case.receive(go)
        await case.undo()
        return wf.close("undone")
    return wf.close("done", result=invoice)


def invoices(sim: Simulation) -> list[tuple[str, int]]:
    """Return the user's rows, asked for as anybody may."""
    return [(row["number"], row["amount"]) for row in sim.query("SELECT number, amount FROM invoices ORDER BY number")]


def test_rule_A12_the_row_and_the_result_are_committed_together() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="o1", amount=5))
        assert closed(sim, case) == "done"
        assert invoices(sim) == [("o1", 5)]
        committed = every(sim, case, "attempt_committed")
        assert [event.data["activity"] for event in committed] == ["make_table", "write_invoice"]
        assert [event.node for event in committed] == [event.node for event in every(sim, case, "activity_completed")]

    in_both(scenario, wf)


def test_rule_A12_what_raises_leaves_nothing_and_is_tried_again_by_policy() -> None:
    def scenario(sim: Simulation) -> None:
        stranger = sim.start(wf, Order(id="other", amount=1))
        case = sim.start(wf, Order(id="o1", amount=-1))
        sim.advance(seconds(60))
        assert closed(sim, case) == "failed"
        assert closed(sim, stranger) == "done"
        assert invoices(sim) == [("other", 1)]
        failed = every(sim, case, "attempt_failed")
        assert [event.data["error"]["type"] for event in failed] == ["ValueError"] * 2
        assert len(every(sim, case, "attempt_committed")) == 1  # the table's

    in_both(scenario, wf)


def test_rule_A12_an_undo_may_be_transactional_too() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="o1", amount=5, note="undo"))
        assert invoices(sim) == [("o1", 5)]
        sim.signal(case, go, Go())
        assert closed(sim, case) == "undone"
        assert invoices(sim) == []

    in_both(scenario, wf)


both = Workflow("both", object=Order, key="id", owner=desk, expect=days(5))
stop = both.signal("stop", Go)


@activity(owner=banking, retry=Retry(max_attempts=1))
async def ring(order: str) -> str:
    raise ConnectionError("nobody answers")


@both.stage
async def together(case: Case[Order]) -> Next:
    await make_table()
    async with asyncio.TaskGroup() as group:
        rung = group.create_task(ring(case.key))
        task = group.create_task(note_down(case.key))
        if await rung == "engaged" and case.object.note != "mended":  # a bug: its incident holds back what comes after
            raise LookupError("engaged")
    return both.close("done", result=task.result())


@activity(owner=banking, transaction=True)
def note_down(tx: Transaction, order: str) -> str:
    insert(tx, order, 1)
    return f"noted {order}"


def test_rule_A12_a_result_that_waits_behind_an_incident_is_taken_over_by_a_restart() -> None:
    """The row is there, and the incident keeps its result from the stage: the restart does not write it again."""

    def scenario(sim: Simulation) -> None:
        sim.fake(ring, lambda order: "engaged")
        case = sim.start(both, Order(id="o1"))
        assert incident(sim, case)["kind"] == "stage_failed"
        assert invoices(sim) == [("o1", 1)]
        sim.fake(ring, lambda order: "answered")
        sim.restart(case)
        assert closed(sim, case) == "done"
        assert sim.state(case).close == {"name": "done", "result": "noted o1", "reason": ""}
        assert invoices(sim) == [("o1", 1)]
        assert "note_down" in {event.data["activity"] for event in every(sim, case, "activity_reused")}
        assert [e.data["activity"] for e in every(sim, case, "result_late")] == ["note_down", "ring"]
        assert "late_effect" not in {opened.data["kind"] for opened in every(sim, case, "incident_opened")}

    in_both(scenario, both)


def test_rule_A12_a_result_that_waits_behind_an_incident_comes_after_its_repair() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(ring, lambda order: "engaged")
        case = sim.start(both, Order(id="o1"))
        sim.correct(case, note="mended")
        sim.retry(case)
        assert closed(sim, case) == "done"
        assert invoices(sim) == [("o1", 1)]

    in_both(scenario, both)


def test_rule_A12_a_commit_behind_an_incident_outlives_its_worker() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(ring, lambda order: "engaged")
        case = sim.start(both, Order(id="o1"))
        sim.crash()
        sim.correct(case, note="mended")
        sim.retry(case)
        assert closed(sim, case) == "done"
        assert invoices(sim) == [("o1", 1)]
        assert "attempt_lost" not in sim.types(case)

    in_both(scenario, both)


def test_rule_A12_a_commit_whose_case_is_moved_away_is_undone_by_nobody_and_told() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(ring, lambda order: "engaged")
        case = sim.start(both, Order(id="o1"))
        sim.fake(ring, lambda order: "answered")
        sim.move(case, together)
        late = every(sim, case, "result_late")
        assert [event.data["activity"] for event in late] == ["note_down", "ring"]
        assert "late_effect" in {opened.data["kind"] for opened in every(sim, case, "incident_opened")}

    in_both(scenario, both)


per_case = Workflow("per-case", object=Order, key="id", owner=desk, expect=days(5))


@activity(owner=banking, transaction=True, once_per="case")
def number_it(tx: Transaction, order: str) -> str:
    insert(tx, order, 1)
    return f"number of {order}"


@per_case.stage
async def numbering(case: Case[Order]) -> Next:
    await make_table()
    async with asyncio.TaskGroup() as group:
        rung = group.create_task(ring(case.key))
        task = group.create_task(number_it(case.key))
        if await rung == "engaged":
            raise LookupError("engaged")
    return per_case.close("done", result=task.result())


@pytest.mark.parametrize("way", ["move", "restart"])
def test_rule_A12_once_per_case_is_once_also_where_the_result_was_not_applied_yet(way: str) -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(ring, lambda order: "engaged")
        case = sim.start(per_case, Order(id="o1"))
        assert incident(sim, case)["kind"] == "stage_failed"
        sim.fake(ring, lambda order: "answered")
        if way == "move":
            sim.move(case, numbering)
        else:
            sim.restart(case)
        assert closed(sim, case) == "done"
        assert invoices(sim) == [("o1", 1)]

    in_both(scenario, per_case)


def test_rule_A12_a_fake_is_a_plain_function_without_the_transaction() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(make_table, lambda: None)
        sim.fake(write_invoice, lambda order, amount: f"fake {order}")
        case = sim.start(wf, Order(id="o1", amount=5))
        assert sim.state(case).close == {"name": "done", "result": "fake o1", "reason": ""}
        assert "attempt_committed" not in sim.types(case)

    in_both(scenario, wf)


def test_rule_A12_its_events_lie_on_the_map() -> None:
    with Simulation([wf]) as sim:
        case = sim.start(wf, Order(id="o1", amount=5))
        assert closed(sim, case) == "done"
        for event in every(sim, case, "attempt_committed"):
            scheduled = next(e for e in every(sim, case, "activity_scheduled") if e.seq == event.cause)
            assert (event.map, event.node, event.n, event.strand) == (
                scheduled.map,
                scheduled.node,
                scheduled.n,
                scheduled.strand,
            )


def found_by_verify(sim: Simulation) -> list[str]:
    async def look() -> list[str]:
        return [str(finding) async for finding in verify(sim._app.store)]  # type: ignore[arg-type]

    return sim._do(look())


def by_hand(
    sim: Simulation, case: str, number: int, worker: int, called: Activity[..., Any] = write_invoice
) -> Failure | None:
    """Let a worker run an attempt of the case's only open call, whether or not it may."""
    shown = sim.show(case)
    ((ref, call),) = shown.state.calls.items()
    running = Running(shown.address, ref, number, call["key"])
    place = (shown.case_no, worker, 0)
    store = cast(Transacting, sim._app.store)
    arguments: dict[str, Any] = {"order": shown.state.key, "amount": 7}
    return sim._do(transact(store, called, running, place, arguments, None, False, None))


@pytest.mark.parametrize(("number", "worker"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_rule_A12_an_attempt_that_is_not_the_calls_current_one_does_not_commit(number: int, worker: int) -> None:
    """Its call waits for another try: neither the attempt that failed nor one that nobody has begun may write."""
    with Simulation([wf]) as sim:
        case = sim.start(wf, Order(id="o1", amount=-1))
        before = sim.types(case)
        refused = by_hand(sim, case, number, worker)
        assert refused is not None
        assert (refused.kind, refused.type) == ("cancelled", "AttemptStopped")
        assert invoices(sim) == []
        assert sim.types(case) == before


def test_rule_A12_one_attempt_commits_once_and_on_its_own_worker_alone() -> None:
    with Simulation([wf]) as sim:
        sim.start(wf, Order(id="table"))
        with sim.together():
            case = sim.start(wf, Order(id="o1", amount=5))
            sim._do(sim._turns.advance({sim.show(case).case_no: []}, {sim.show(case).case_no}))  # begun, and no further
            assert [call["status"] for call in sim.state(case).calls.values()] == ["running"]
            other = by_hand(sim, case, 1, sim._worker + 1, make_table)
            assert other is not None
            assert "it runs on worker" in other.message
            assert by_hand(sim, case, 1, sim._worker, make_table) is None
            again = by_hand(sim, case, 1, sim._worker, make_table)
            assert again is not None
            assert "no longer the call's current attempt" in again.message
        assert closed(sim, case) == "done"
        assert len([event for event in every(sim, case, "attempt_committed") if event.data["call"] == "1.c1"]) == 1


def emptied(url: str) -> None:
    """Empty the inbox, as whoever owns the tables may."""
    if url.startswith("sqlite"):
        other = apsw.Connection(url.removeprefix("sqlite:///"))
        other.execute("DELETE FROM inbox")
        other.close()
    else:
        run_sql(url, "DELETE FROM inbox")


def test_rule_A12_a_restart_does_not_call_again_what_has_committed_and_whose_result_is_gone() -> None:
    def stuck() -> list[str]:
        told = examine_store(sim.url, Env(sim.clock))
        return [f"{one.message}; {one.hint}" for one in told if (one.name, one.level) == ("stuck", "error")]

    with Simulation([wf]) as sim, sim.together():
        case = sim.start(wf, Order(id="o1", amount=5))
        sim._do(sim._turns.advance({sim.show(case).case_no: []}, {sim.show(case).case_no}))  # begun, and no further
        assert by_hand(sim, case, 1, sim._worker, make_table) is None
        assert found_by_verify(sim) == stuck() == []  # its result is in the inbox
        emptied(sim.url)
        (found,) = found_by_verify(sim)
        assert found.startswith("I13: ")
        assert found.endswith("call 1.c1: attempt 1 committed its transaction, its result is nowhere")
        (told,) = stuck()
        assert told.startswith(f"{case} in invoicing (owner desk): make_table has committed its transaction, and its")
        assert f"longcase move {case} invoicing --reason" in told
        with pytest.raises(RepairRefused, match="attempt 1 of make_table has committed its transaction") as refused:
            sim.restart(case)
        assert f"longcase move {case} invoicing --reason" in refused.value.hint
        sim.move(case, "invoicing")
        assert [event.type for event in every(sim, case, "moved")] == ["moved"]


def test_rule_A12_a_failure_that_is_reported_after_the_commit_is_refused() -> None:
    """A worker that was told nothing of its COMMIT, or was asked to stop, cannot take the result back."""

    def scenario(sim: Simulation) -> None:
        sim.fake(ring, lambda order: "engaged")
        case = sim.start(both, Order(id="o1"))
        case_no = sim.show(case).case_no
        (ref,) = [ref for ref, call in sim.state(case).calls.items() if call["activity"] == "note_down"]
        gone = Ended(ref, 1, Failure("lost", "WorkerStopped", "the worker stopped"), 1, instant_text(sim.now))
        sim._do(sim._turns.advance({case_no: [gone]}, {case_no}))
        assert [event.data["call"] for event in every(sim, case, "attempt_refused")] == [ref]
        sim.correct(case, note="mended")
        sim.retry(case)
        assert closed(sim, case) == "done"
        assert invoices(sim) == [("o1", 1)]

    in_both(scenario, both)
