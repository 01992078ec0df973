"""B12: what an interrupted undo had begun is begun no second time, and nothing else beside it, however it ends."""

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


more = Workflow("more", object=Order, key="id", owner=desk, expect=days(5))


@more.stage
async def both(case: Case[Order]) -> Next:
    if case.object.note is None:
        await charge(1)
    else:
        await charge.labelled("second")(2)
    await case.undo()
    return more.close("undone")


def stands_in_backoff(sim: Simulation) -> str:
    """Return a case whose restarted visit has made a second charge, while the refund of the first waits for its try."""

    def down(charged: str, amount: int) -> None:
        raise ConnectionError("bank closed")

    sim.fake(refund, down)
    case = sim.start(more, Order(id="1"))
    sim.set(case, note="again")
    sim.restart(case)
    assert [(name, call["status"]) for name, call in sim.state(case).calls.items()] == [("1.c1-undo", "backoff")]
    return case


def test_rule_B12_an_undo_begins_nothing_beside_a_compensation_begun_before_a_restart() -> None:
    def scenario(sim: Simulation) -> None:
        refunded: list[str] = []
        case = stands_in_backoff(sim)
        sim.fake(refund, lambda charged, amount: refunded.append(charged))
        sim.advance(seconds(20))
        assert closed(sim, case) == "undone"
        assert refunded == ["charged 1", "charged 2"]
        steps = [kind for kind in sim.types(case) if kind in ("undo_started", "undone")]
        assert steps == ["undo_started", "undone"] * 2, "one at a time"

    in_both(scenario, more)


def test_rule_B12_an_undo_waits_for_the_incident_of_another_compensation() -> None:
    def scenario(sim: Simulation) -> None:
        case = stands_in_backoff(sim)
        sim.advance(seconds(20))
        assert incident(sim, case)["call"] == "1.c1-undo"
        assert len(every(sim, case, "undo_started")) == 1
        sim.fake(refund, lambda charged, amount: None)
        sim.skip(case)
        assert closed(sim, case) == "undone"
        assert [event.data["of"] for event in every(sim, case, "undo_started")] == [
            event.seq for event in every(sim, case, "activity_scheduled")
        ]

    in_both(scenario, more)
