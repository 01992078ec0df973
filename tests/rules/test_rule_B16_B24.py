"""B16 to B24 but B20: owners, closes, the write budget, children, changed models, randomness."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.rules.support import (
    Go,
    Order,
    banking,
    closed,
    credit,
    declare,
    desk,
    do,
    every,
    fails,
    in_both,
    incident,
    sales,
)

from longcase import Case, Next, Retry, Workflow, activity, days, hours, minutes
from longcase.errors import CaseClosed
from longcase.history import chain
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)
extra = wf.signal("extra", Go)


@activity(owner=banking, retry=Retry(max_attempts=1))
async def step(n: int) -> int:
    return n


@wf.stage(owner=sales)
async def parallel(case: Case[Order]) -> Next:
    async with asyncio.TaskGroup() as group:
        group.create_task(case.approval("Sign?", label="sign", of=credit, within=hours(4)))
        group.create_task(case.pause(hours(1), because="cooling off"))
        group.create_task(case.receive(go, within=minutes(30)))
    return unowned


@wf.stage
async def unowned(case: Case[Order]) -> Next:
    got = await case.receive(go)
    return wf.close("done", result=got.n)


def test_rule_B16_one_owner_under_parallel_work_and_the_headline_is_the_earliest_wait() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        assert sim.state(case).owner == "sales"
        waits = sim.waits(case)
        assert [(w.kind, w.whose) for w in waits] == [("signal", "desk"), ("timer", "sales"), ("person", "credit")]
        sim.signal(case, go, Go())
        sim.advance(hours(1))
        sim.decide(case, "approved", by="ann")
        assert sim.state(case).owner == "desk", "a stage without an owner belongs to the workflow's"

    in_both(scenario, wf)


def test_rule_B16_an_incident_has_an_owner_of_its_own() -> None:
    def scenario(sim: Simulation) -> None:
        sim.fake(step, fails(1))
        case = sim.start(stepping, Order(id="1"))
        assert incident(sim, case)["owner"] == "banking"
        assert sim.state(case).owner == "desk"

    in_both(scenario, stepping)


def test_rule_B17_close_withdraws_lists_and_refuses() -> None:
    """Unconsumed signals are listed; a later one is refused, and stands in the closed case's history."""

    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, unowned)
        sim.signal(case, extra, Go(n=3))
        sim.signal(case, go, Go(n=1))
        assert closed(sim, case) == "done"
        listed = every(sim, case, "signal_unhandled")
        assert [(e.data["body"], e.data["why"]) for e in listed] == [({"n": 3}, "case closed: done")]
        with pytest.raises(CaseClosed, match="closed: done"):
            sim.signal(case, go, Go(n=9))
        assert every(sim, case, "signal_refused")[0].data["body"] == {"n": 9}
        assert sim.state(case).tasks == {}
        assert sim.show(case).wake_at == ""

    in_both(scenario, wf)


def test_rule_B17_inputs_accepted_before_the_close_are_listed_in_its_commit() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, unowned)
        for n in (1, 2, 3):
            do(sim, sim.service.signal(case, go, Go(n=n)))
        sim.run()
        assert (sim.state(case).close or {})["result"] == 1
        assert [e.data["body"]["n"] for e in every(sim, case, "signal_unhandled")] == [2, 3]
        assert sim.show(case).pending == 0

    in_both(scenario, wf)


def test_rule_B18_inputs_are_taken_in_order_of_acceptance_and_shown_until_applied() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.move(case, unowned)
        do(sim, sim.service.signal(case, extra, Go(n=5)))
        do(sim, sim.service.signal(case, extra, Go(n=4), idempotency_key="k"))
        do(sim, sim.service.signal(case, extra, Go(n=4), idempotency_key="k"))
        view = sim.show(case)
        assert (view.pending, view.state.signals) == (2, []), "accepted, not yet applied: outside the fold"
        sim.run()
        assert [kept["body"]["n"] for kept in sim.state(case).signals] == [5, 4]
        assert len(every(sim, case, "duplicate_ignored")) == 1

    in_both(scenario, wf)


stepping = Workflow("stepping", object=Order, key="id", owner=desk, expect=days(5))


@stepping.stage
async def steps(case: Case[Order]) -> Next:
    for n in range(10):
        await step(n)
    return stepping.close("done")


def test_rule_B19_a_call_costs_two_history_rows_and_one_commit_in_fair_weather() -> None:
    with Simulation([stepping]) as sim:
        commits: list[int] = []
        store = sim._turns.store
        write = store.write

        async def counting(writes, **options):  # type: ignore[no-untyped-def]
            commits.append(len(writes))
            return await write(writes, **options)

        store.write = counting  # type: ignore[method-assign]
        case = sim.start(stepping, Order(id="1"))
        assert closed(sim, case) == "done"
        of_calls = [e.type for e in sim.history(case) if e.type not in ("case_started", "stage_entered", "case_closed")]
        assert of_calls == ["activity_scheduled", "activity_completed"] * 10
        assert commits == [1] * 11, "N calls in a row are N + 1 commits, one case update each"
        assert sim.query("SELECT count(*) AS n FROM inbox") == [{"n": 0}]


def test_rule_B21_the_chain_covers_a_salted_digest_not_the_payload() -> None:
    """Destroying a payload leaves the chain verifiable; equal payloads have different digests."""
    with Simulation([wf]) as sim:
        case = sim.start(wf, Order(id="1", note="NL91ABNA0417164300"))
        other = sim.start(wf, Order(id="2", note="NL91ABNA0417164300"))
        hashes = chain.GENESIS
        for event in sim.history(case):
            event.data, event.text = {"erased": True}, ""
            hashes = chain.link(hashes, event)
            assert hashes == event.hash
        first, second = sim.history(case)[2], sim.history(other)[2]
        assert first.data == second.data or first.type == second.type
        assert first.salt != second.salt
        assert first.digest != second.digest


parents = Workflow("parents", object=Order, key="id", owner=desk, expect=days(5))
children = Workflow("children", object=Order, key="id", owner=credit, expect=days(2))
finish = children.signal("finish", Go)
stop = parents.signal("stop", Go)


@children.stage
async def child_work(case: Case[Order]) -> Next:
    if case.object.amount < 0:
        raise ValueError("negative")
    got = await case.receive(finish)
    return children.close("finished", result={"n": got.n}, reason="all good")


@parents.stage
async def awaits(case: Case[Order]) -> Next:
    match case.object.note:
        case "timeout":
            try:
                async with asyncio.timeout(60):
                    ended = await case.child(children, Order(id="c1"), label="timed")
            except TimeoutError:
                return parents.close("early")
        case "leave":
            ended = await case.child(children, Order(id="c1", amount=case.object.amount), on_close="leave")
        case "refuse":
            case.spawn(children, Order(id="c1"), on_close="refuse")
            return parents.close("early")
        case "spawn-cancel":
            case.spawn(children, Order(id="c1"), on_close="cancel")
            return parents.close("early")
        case _:
            ended = await case.child(children, Order(id="c1", amount=case.object.amount))
    return parents.close("done", result=[ended.key, ended.name, ended.result], reason=ended.reason)


@parents.on(stop, owner=desk)
async def stopped(case: Case[Order], why: Go) -> Next:
    return parents.close("stopped")


def test_rule_B22_a_parent_gets_its_childs_named_close_typed() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(parents, Order(id="p"))
        assert [(w.kind, w.what) for w in sim.waits(case)] == [("child", "child children/c1")]
        sim.signal("children/c1", finish, Go(n=6))
        assert closed(sim, case) == "done"
        assert (sim.state(case).close or {}) == {
            "name": "done",
            "result": ["c1", "finished", {"n": 6}],
            "reason": "all good",
        }

    in_both(scenario, parents, children)


@pytest.mark.parametrize(("note", "child_ends"), [("", "cancelled"), ("leave", "")])
def test_rule_B22_an_interrupted_parent_applies_on_close(note: str, child_ends: str) -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(parents, Order(id="p", note=note))
        sim.signal(case, stop, Go())
        assert closed(sim, case) == "stopped"
        child = sim.state("children/c1")
        assert (child.status == "closed") is bool(child_ends)
        if child_ends:
            assert closed(sim, "children/c1") == child_ends
        else:
            sim.signal("children/c1", finish, Go(n=1))
            assert closed(sim, "children/c1") == "finished"

    in_both(scenario, parents, children)


def test_rule_B22_a_childs_incident_is_the_childs() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(parents, Order(id="p", amount=-1))
        assert sim.state(case).incidents == {}
        assert incident(sim, "children/c1")["owner"] == "credit"
        sim.correct("children/c1", amount=1)
        sim.retry("children/c1")
        sim.signal("children/c1", finish, Go())
        assert closed(sim, case) == "done"

    in_both(scenario, parents, children)


def test_rule_B22_on_close_applies_to_a_close_and_to_a_cancelled_await() -> None:
    def refuses(sim: Simulation) -> None:
        case = sim.start(parents, Order(id="p", note="refuse"))
        assert incident(sim, case)["kind"] == "unsettled_close"

    def cancels(sim: Simulation) -> None:
        case = sim.start(parents, Order(id="p", note="spawn-cancel"))
        assert closed(sim, case) == "early"
        assert closed(sim, "children/c1") == "cancelled"

    def times_out(sim: Simulation) -> None:
        case = sim.start(parents, Order(id="p", note="timeout"))
        sim.advance(minutes(2))
        assert closed(sim, case) == "early"
        assert closed(sim, "children/c1") == "cancelled"

    in_both(refuses, parents, children)
    in_both(times_out, parents, children)
    in_both(cancels, parents, children)


MODEL = """
class Thing(BaseModel):
    id: str
    {field}

things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(1))
go = things.signal("go", Go)

@things.stage
async def work(case: Case[Thing]) -> Next:
    await case.receive(go)
    return things.close("done", result=case.object.id)
"""


def test_rule_B23_a_case_that_does_not_fit_the_new_model_is_an_incident_of_that_case_only(tmp_path: Path) -> None:
    path = tmp_path / "cases.db"
    with Simulation([declare(MODEL.format(field="iban: str | None = None")).things], path=path) as sim:
        sim.start("things", {"id": "old"})
        sim.start("things", {"id": "full", "iban": "NL1"})
        now = sim.now
    with Simulation([declare(MODEL.format(field="iban: str")).things], path=path, now=now) as sim:
        assert sim.state("things/old").object == {"id": "old", "iban": None}, "reads still show what is stored"
        sim.signal("things/old", "go", {"n": 1})
        sim.signal("things/full", "go", {"n": 1})
        assert closed(sim, "things/full") == "done"
        opened = incident(sim, "things/old")
        assert opened["kind"] == "object_invalid"
        assert "iban" in opened["message"]
        sim.correct("things/old", iban="NL2")
        sim.retry("things/old")
        assert closed(sim, "things/old") == "done"


chance = Workflow("chance", object=Order, key="id", owner=desk, expect=days(5))
roll = chance.signal("roll", Go)


@chance.stage
async def draws(case: Case[Order]) -> Next:
    case.update(note=f"{case.random().random():.9f} {case.uuid()}")
    got = await case.receive(roll)
    case.update(extra=f"{case.random().random():.9f} {case.uuid()}")
    if got.n:
        return draws
    return chance.close("done")


def test_rule_B24_randomness_hangs_on_the_visits_lineage() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(chance, Order(id="1"))
        drawn = sim.state(case).object["note"]
        sim.restart(case)
        assert sim.state(case).object["note"] == drawn, "a restart keeps the seed"
        sim.signal(case, roll, Go(n=1))
        assert sim.state(case).object["note"] != drawn, "a new visit has its own"
        assert sim.state(case).object["extra"] != drawn
        other = sim.start(chance, Order(id="2"))
        assert sim.state(other).object["note"] != drawn

    in_both(scenario, chance)
