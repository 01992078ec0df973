"""A7: an interrupt ends the visit, whatever the stage does to refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import pytest
from tests.rules.support import Go, Order, closed, credit, desk, every, in_both

from longcase import Case, Next, Stage, Workflow, activity, days, decision
from longcase.errors import VisitInterrupted
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
stop = wf.signal("stop", Go)


@activity(owner=desk)
async def cleanup(text: str) -> None:
    return None


@wf.stage
async def polite(case: Case[Order]) -> Next:
    async with asyncio.TaskGroup() as group:
        group.create_task(case.pause(days(1), because="cooling off"))
        group.create_task(case.approval("Sign?", label="sign", of=credit, within=days(1)))
    return wf.close("done")


@wf.stage
async def swallows_in_a_loop(case: Case[Order]) -> Next:
    for _ in range(1000):
        try:
            await case.pause(days(1), because="wait")
        except asyncio.CancelledError:
            await cleanup("again")
    return wf.close("done")


@wf.stage
async def cleans_up_in_finally(case: Case[Order]) -> Next:
    try:
        await case.pause(days(1), because="wait")
    finally:
        await cleanup("finally")
    return wf.close("done")


@wf.stage
async def returns_a_stage(case: Case[Order]) -> Next:
    try:
        await case.pause(days(1), because="wait")
    except BaseException:
        return polite
    return wf.close("done")


@wf.stage
async def shields(case: Case[Order]) -> Next:
    waiting = asyncio.create_task(case.pause(days(1), because="wait"))
    bare = asyncio.create_task(case.pause(days(2), because="bare"))
    await asyncio.shield(waiting)
    await bare
    return wf.close("done")


@wf.stage
async def never_lets_go(case: Case[Order]) -> Next:
    holding = asyncio.create_task(case.pause(days(1), because="wait"))
    while True:
        try:
            await asyncio.Event().wait()
            await holding
        except BaseException:
            pass


@wf.stage
async def goes_on_and_on(case: Case[Order]) -> Next:
    try:
        await case.pause(days(1), because="wait")
    except BaseException:
        while True:
            await asyncio.sleep(0)
    return wf.close("done")


@wf.stage
async def has_many_tasks(case: Case[Order]) -> Next:
    async with asyncio.TaskGroup() as group:
        for _ in range(60):
            group.create_task(case.pause(days(1), because="wait"))
    return wf.close("done")


@wf.stage
async def tidies_up_at_length(case: Case[Order]) -> Next:
    try:
        await case.pause(days(1), because="wait")
    finally:
        for _ in range(90):
            await asyncio.sleep(0)
    return wf.close("done")


@wf.stage
async def writes_while_unwinding(case: Case[Order]) -> Next:
    try:
        await case.pause(days(1), because="wait")
    except asyncio.CancelledError:
        case.update(note="written while unwinding")
        raise
    return wf.close("done")


@wf.on(stop, owner=desk)
async def stopped(case: Case[Order], why: Go) -> Next:
    return wf.close("stopped", result=why.n, reason=case.object.note or "untouched")


boxes = Workflow("boxes", object=Order, key="id", owner=desk, expect=days(1))
tried: list[str] = []


@boxes.stage
async def packing(case: Case[Order]) -> Next:
    return boxes.close("packed")


@decision(owner=credit, question="Big?", policy="v1")
def big(amount: int) -> Literal["yes", "no"]:
    return "yes" if amount > 3 else "no"


@wf.stage
async def tries_everything(case: Case[Order]) -> Next:
    async def at_once(call: Callable[[], object]) -> None:
        call()

    try:
        await case.pause(days(1), because="wait")
    finally:
        for name, call in {
            "activity": lambda: cleanup("finally"),
            "pause": lambda: case.pause(days(1), because="again"),
            "receive": lambda: case.receive(stop),
            "approval": lambda: case.approval("Sign?", label="late", of=credit, within=days(1)),
            "require": lambda: case.require(lambda order: order.extra, asked_of=desk, within=days(1)),
            "child": lambda: case.child(boxes, Order(id="b")),
            "undo": lambda: case.undo(),
            "spawn": lambda: at_once(lambda: case.spawn(boxes, Order(id="b"))),
            "update": lambda: at_once(lambda: case.update(note="written")),
            "decision": lambda: at_once(lambda: big(4)),
        }.items():
            try:
                await call()
            except VisitInterrupted:
                tried.append(name)
    return wf.close("done")


RESISTING = [
    polite,
    swallows_in_a_loop,
    cleans_up_in_finally,
    returns_a_stage,
    shields,
    never_lets_go,
    goes_on_and_on,
    has_many_tasks,
    tidies_up_at_length,
    writes_while_unwinding,
    tries_everything,
]


@pytest.mark.parametrize("stage", RESISTING, ids=lambda stage: stage.name)
def test_rule_A7_an_interrupt_ends_the_visit(stage: Stage[Order]) -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        if stage is not polite:
            sim.move(case, stage)
        visit = sim.state(case).visit
        assert sim.state(case).stage == stage.name
        sim.signal(case, stop, Go(n=4))
        assert closed(sim, case) == "stopped"
        assert (sim.state(case).close or {}) == {"name": "stopped", "result": 4, "reason": "untouched"}
        assert sim.state(case).visit == visit + 1, "the handler is a visit of its own"
        assert sim.performed == [], "no cleanup runs in stage code"
        after = [e.type for e in sim.history(case) if e.seq > every(sim, case, "interrupted")[-1].seq]
        refused = ["unwind_refused"] if stage in (never_lets_go, goes_on_and_on) else []
        withdrawn = ["task_withdrawn"] if stage is polite else []
        assert after == [*refused, *withdrawn, "stage_entered", "case_closed"]

    in_both(scenario, wf)


def test_rule_A7_while_unwinding_every_durable_call_is_interrupted() -> None:
    def scenario(sim: Simulation) -> None:
        tried.clear()
        case = sim.start(wf, Order(id="1"))
        sim.move(case, tries_everything)
        sim.signal(case, stop, Go(n=4))
        assert tried == [
            "activity", "pause", "receive", "approval", "require", "child", "undo", "spawn", "update", "decision",
        ]  # fmt: skip

    in_both(scenario, wf)


def test_rule_A7_the_signal_that_interrupts_is_recorded_with_its_sender() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.signal(case, stop, Go(n=4))
        event = every(sim, case, "interrupted")[0]
        assert (event.data["signal"], event.data["body"], event.actor) == ("stop", {"n": 4}, "service:api")

    in_both(scenario, wf)
