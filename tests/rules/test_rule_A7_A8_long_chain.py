"""A7, A8: tasks that await each other, more of them than calls may be nested, are ended like any others."""

from __future__ import annotations

import asyncio
import sys

from tests.rules.support import Go, Order, closed, desk, in_both

from longcase import Case, Next, Workflow, days
from longcase.testing import Simulation

LONG = sys.getrecursionlimit() + 200

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go, owner=desk)
stop = wf.signal("stop", Go, owner=desk)


async def chain(case: Case[Order], more: int) -> int:
    if more:
        return await asyncio.create_task(chain(case, more - 1)) + 1
    return (await case.receive(go, within=days(1))).n


@wf.stage
async def linked(case: Case[Order]) -> Next:
    return wf.close("done", result=await chain(case, LONG))


@wf.on(stop, owner=desk)
async def stopped(case: Case[Order], why: Go) -> Next:
    return wf.close("stopped")


def test_rule_A7_A8_a_long_chain_of_tasks_is_evicted_and_interrupted_like_any_other() -> None:
    def scenario(sim: Simulation) -> None:
        ends, leaves = sim.start(wf, Order(id="1")), sim.start(wf, Order(id="2"))
        sim.signal(ends, go, Go(n=4))
        sim.signal(leaves, stop, Go())
        assert (closed(sim, ends), closed(sim, leaves)) == ("done", "stopped")
        assert (sim.state(ends).close or {})["result"] == LONG + 4
        assert "unwind_refused" not in [event.type for event in sim.history(leaves)], "long, and nothing resisted"

    in_both(scenario, wf)
