"""A7: an exception path that an operator restarts begins with the message it was entered with."""

from __future__ import annotations

from tests.rules.support import Go, Order, closed, desk, in_both

from longcase import Case, Next, Workflow, days
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)
halt = wf.signal("halt", Go)


@wf.stage
async def only(case: Case[Order]) -> Next:
    await case.receive(go)
    return wf.close("done")


@wf.on(halt, owner=desk)
async def halted(case: Case[Order], message: Go) -> Next:
    await case.receive(go)
    return wf.close("halted", result=message.n)


def test_rule_A7_a_restarted_path_is_given_its_message_again() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        sim.signal(case, halt, Go(n=7))
        for visit in (3, 4):
            sim.restart(case)
            assert (sim.state(case).visit, sim.state(case).kind, sim.state(case).incidents) == (visit, "path", {})
        sim.signal(case, go, Go())
        assert closed(sim, case) == "halted"
        assert (sim.state(case).close or {})["result"] == 7

    in_both(scenario, wf)
