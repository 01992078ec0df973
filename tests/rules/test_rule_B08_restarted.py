"""B8 and A5: a restarted visit finds the calls of its handlers again, in whatever order it comes to them."""

from __future__ import annotations

from tests.rules.support import Go, Order, closed, desk, in_both

from longcase import Case, Next, Workflow, activity, days
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
first = wf.signal("first", Go)
second = wf.signal("second", Go)
leave = wf.signal("leave", Go)


@activity(owner=desk)
async def tell(text: str) -> str:
    return text


@wf.stage
async def work(case: Case[Order]) -> Next:
    await case.receive(leave)
    return wf.close("done")


@wf.on(first, interrupts=False)
async def firsts(case: Case[Order], body: Go) -> None:
    await tell(f"first {body.n}")


@wf.on(second, interrupts=False)
async def seconds(case: Case[Order], body: Go) -> None:
    await tell(f"second {body.n}")


def test_rule_B8_a_restart_finds_the_calls_of_handlers_that_now_begin_in_another_order() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(wf, Order(id="1"))
        for signal, n in ((first, 1), (first, 2), (second, 3)):
            sim.signal(case, signal, Go(n=n))
        done = list(sim.performed)
        assert len(done) == 3
        sim.restart(case)
        begun = [e.data["handler"] for e in sim.history(case) if e.type == "handler_started" and e.visit == 2]
        assert begun == ["firsts", "seconds", "firsts"], "the other one does not wait for the second of the first"
        assert sim.performed == done, "nothing is done twice"
        sim.signal(case, leave, Go())
        assert closed(sim, case) == "done"

    in_both(scenario, wf)
