"""B12: a compensation an interrupted undo had begun is not begun a second time, however it ends."""

from __future__ import annotations

from tests.rules.support import Go, Order, banking, closed, desk, every, in_both, incident

from longcase import Case, Next, Retry, Workflow, activity, days, seconds
from longcase.testing import Simulation

wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))
go = wf.signal("go", Go)


@activity(owner=banking, retry=Retry(max_attempts=2, initial=seconds(10), jitter="none"))
async def charge(amount: int) -> str:
    return f"charged {amount}"


@charge.undo
async def refund(charged: str, amount: int) -> None:
    return None


@wf.stage
async def only(case: Case[Order]) -> Next:
    await case.undo()
    await charge(case.object.amount)
    await case.receive(go)
    await case.undo()
    return wf.close("undone")


def test_rule_B12_an_undo_waits_for_the_incident_of_a_compensation_begun_before_a_restart() -> None:
    def scenario(sim: Simulation) -> None:
        refunded: list[str] = []

        def down(charged: str, amount: int) -> None:
            raise ConnectionError("bank closed")

        sim.fake(refund, down)
        case = sim.start(wf, Order(id="1", amount=9))
        sim.signal(case, go, Go())
        assert [call["status"] for call in sim.state(case).calls.values()] == ["backoff"]
        sim.restart(case)
        sim.advance(seconds(20))
        assert incident(sim, case)["kind"] == "activity_failed"
        assert len(every(sim, case, "undo_started")) == 1
        sim.fake(refund, lambda charged, amount: refunded.append(charged))
        sim.retry(case)
        assert closed(sim, case) == "undone"
        assert refunded == ["charged 9"]
        assert len(every(sim, case, "undone")) == 1

    in_both(scenario, wf)
