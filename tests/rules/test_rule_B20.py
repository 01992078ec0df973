"""B20: a visit and a case warn and stop at the limits of their workflow, which another release may set otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from tests.rules.support import Go, Order, VendorDown, banking, closed, desk, every, fails, in_both, incident

from longcase import Case, HistoryLimits, Next, Retry, Workflow, activity, days, seconds
from longcase.errors import DefinitionError
from longcase.insight.wording import told
from longcase.testing import Simulation


@activity(owner=banking, effect="repeatable", retry=Retry(max_attempts=40, initial=seconds(1), factor=1, jitter="none"))
async def ring(order: str) -> str:
    raise VendorDown("nobody answers")


@activity(owner=banking, effect="repeatable")
async def book(order: str) -> str:
    return f"booked-{order}"


@book.undo
async def unbook(booked: str, order: str) -> None:
    return None


def monitoring(**limits: int) -> Workflow[Order]:
    """Return a release of one workflow, which listens until it is told to end."""
    long = Workflow("long", object=Order, key="id", owner=desk, expect=days(5), history=HistoryLimits(**limits))
    tick = long.signal("tick", Go)

    @long.stage
    async def monitor(case: Case[Order]) -> Next:
        if case.object.note:
            await book(case.key)
        while True:
            got = await case.receive(tick)
            if got.n == 1:
                return case.again()
            if got.n == 2:
                return long.close("done")
            if got.n == 3:
                await ring(case.key)

    return long


def tell(sim: Simulation, long: Workflow[Order], case: str, *numbers: int) -> None:
    for n in numbers:
        sim.signal(case, long.signals["tick"], Go(n=n))


def released(sim: Simulation, long: Workflow[Order]) -> None:
    """Let another release of the code move the cases of a simulation."""
    from longcase.app import load_code

    sim._turns.evict_all()
    sim._app.codes["long"] = load_code(long)


def test_rule_B20_again_begins_a_fresh_visit_of_the_same_stage() -> None:
    long = monitoring()

    def scenario(sim: Simulation) -> None:
        case = sim.start(long, Order(id="1"))
        tell(sim, long, case, 0, 1)
        assert (sim.state(case).stage, sim.state(case).visit) == ("monitor", 2)
        assert [e.data["reason"] for e in every(sim, case, "stage_entered")] == ["start", "again"]
        tell(sim, long, case, 2)
        assert closed(sim, case) == "done"

    in_both(scenario, long)


def test_rule_B20_the_limits_are_those_of_the_rule_unless_the_workflow_sets_others() -> None:
    rule = HistoryLimits()
    assert (rule.visit_warns, rule.visit_stops, rule.case_warns, rule.case_stops) == (1_000, 40_000, 10_000, 50_000)
    assert monitoring().history == rule
    assert monitoring(case_stops=200_000).history == HistoryLimits(1_000, 40_000, 10_000, 200_000)


def test_rule_B20_a_long_visit_warns_once_and_then_stops() -> None:
    long = monitoring(visit_warns=20, visit_stops=40)

    def scenario(sim: Simulation) -> None:
        case = sim.start(long, Order(id="1"))
        tell(sim, long, case, *[0] * 30)
        [warned] = every(sim, case, "visit_warned")
        assert warned.data == {"of": ["visit"], "visit_events": 22, "case_events": 24}
        assert told(warned) == "the history grows long: 22 events to replay in the visit, 24 in the case"
        opened = incident(sim, case)
        assert (opened["kind"], opened["message"]) == (
            "history_too_long", "the visit has 40 events to replay, its limit is 40",
        )  # fmt: skip
        assert "case.again()" in opened["details"]["hint"]
        assert len(sim.history(case)) <= 45

    in_both(scenario, long)


def test_rule_B20_a_visit_warns_at_its_bound_and_not_after_it() -> None:
    long = monitoring(visit_warns=22)  # the visit opens a receive, and each signal is three events

    def scenario(sim: Simulation) -> None:
        case = sim.start(long, Order(id="1"))
        tell(sim, long, case, *[0] * 9)
        assert [event.data["visit_events"] for event in every(sim, case, "visit_warned")] == [22]

    in_both(scenario, long)


@pytest.mark.parametrize(
    ("limits", "at"), [({"visit_warns": 40, "visit_stops": 40}, 40), ({"case_warns": 42, "case_stops": 42}, 42)]
)
def test_rule_B20_a_visit_or_a_case_stops_at_its_bound(limits: dict[str, int], at: int) -> None:
    long = monitoring(**limits)

    def scenario(sim: Simulation) -> None:
        case = sim.start(long, Order(id="1"))
        tell(sim, long, case, *[0] * 14)
        opened = incident(sim, case)
        assert (opened["kind"], len(every(sim, case, "signal_received"))) == ("history_too_long", 12)
        assert f"has {at} events" in opened["message"]

    in_both(scenario, long)


def test_rule_B20_a_visit_ended_by_again_in_time_never_stops() -> None:
    long = monitoring(visit_warns=20, visit_stops=40)

    def scenario(sim: Simulation) -> None:
        case = sim.start(long, Order(id="1"))
        tell(sim, long, case, *[1 if n % 5 == 0 else 0 for n in range(30)])
        assert sim.state(case).incidents == {}
        tell(sim, long, case, 2)
        assert closed(sim, case) == "done"

    in_both(scenario, long)


def test_rule_B20_each_long_visit_warns_and_a_long_case_warns_once() -> None:
    long = monitoring(visit_warns=20, case_warns=60)

    def scenario(sim: Simulation) -> None:
        case = sim.start(long, Order(id="1"))
        tell(sim, long, case, *[1 if n % 15 == 14 else 0 for n in range(45)])
        warned = [(event.visit, event.data["of"]) for event in every(sim, case, "visit_warned")]
        assert [visit for visit, of in warned if "visit" in of] == [1, 2, 3]
        assert [visit for visit, of in warned if "case" in of] == [2]
        assert all(event.data["case_events"] >= 60 for event in every(sim, case, "visit_warned")[2:])
        assert sim.state(case).warned == ["case"], "the fourth visit is young; the case has been warned of"

    in_both(scenario, long)


def test_rule_B20_what_a_release_that_warned_once_reads_of_a_warned_case_has_no_field_that_it_lacks() -> None:
    """It could read neither the row nor the snapshot, and held the case as a fault of its own."""
    long = monitoring(visit_warns=20, case_warns=20)

    def scenario(sim: Simulation) -> None:
        case = sim.start(long, Order(id="1"))
        tell(sim, long, case, *[0] * 12, 1)
        kept = sim.state(case).to_json()
        snapshot = every(sim, case, "stage_entered")[-1].data["snapshot"]
        assert [data["history_warned"] for data in (kept, snapshot)] == [["case"], ["case"]]
        assert all("warned" not in data for data in (kept, snapshot))

    in_both(scenario, long)


def test_rule_B20_of_a_visit_only_events_count_that_stage_code_sees() -> None:
    """Thirty attempts of one call are sixty events, and one call to replay."""
    long = monitoring(visit_warns=20, visit_stops=40)

    def scenario(sim: Simulation) -> None:
        sim.fake(ring, fails(30, then="at last"))
        case = sim.start(long, Order(id="1"))
        tell(sim, long, case, 3)
        sim.advance(days(1))
        tell(sim, long, case, 0)
        assert sim.state(case).seq > 60
        assert "visit_warned" not in sim.types(case)
        tell(sim, long, case, *[0] * 4)
        assert every(sim, case, "visit_warned")[0].data["visit_events"] == 21
        assert sim.state(case).incidents == {}

    in_both(scenario, long)


def test_rule_B20_a_case_at_its_limit_stops_and_can_still_be_cancelled() -> None:
    """The visit of the reaction to cancel was refused too: nothing could end the case."""
    long = monitoring(case_warns=20, case_stops=30)

    def scenario(sim: Simulation) -> None:
        case = sim.start(long, Order(id="1", note="book it"))
        tell(sim, long, case, *[1] * 20)
        opened = incident(sim, case)
        assert opened["kind"] == "history_too_long"
        assert opened["message"].startswith("the case has ")
        assert "history=HistoryLimits(case_stops=60)" in opened["details"]["hint"]
        sim.cancel(case, reason="too long")
        assert closed(sim, case) == "cancelled"
        assert len(every(sim, case, "undone")) == len(
            {e.data["call"] for e in every(sim, case, "activity_scheduled") if e.data["activity"] == "book"}
        )

    in_both(scenario, long)


def test_rule_B20_other_limits_change_nothing_that_is_recorded() -> None:
    narrow, wide = monitoring(visit_warns=20, visit_stops=40), monitoring()
    with Simulation([narrow], live=0) as sim:
        case = sim.start(narrow, Order(id="1"))
        tell(sim, narrow, case, *[0] * 25)
        assert incident(sim, case)["kind"] == "history_too_long"
        recorded = [(event.type, event.hash) for event in sim.history(case)]
        released(sim, wide)
        sim.retry(case, reason="released with wider limits")
        tell(sim, wide, case, 0)
        assert sim.state(case).incidents == {}
        assert [(event.type, event.hash) for event in sim.history(case)][: len(recorded)] == recorded
        released(sim, monitoring(visit_warns=2, visit_stops=1_000))  # the visit has been warned of: not once more
        tell(sim, wide, case, 0)
        assert len(every(sim, case, "visit_warned")) == 1
        released(sim, narrow)  # it is longer by now: what is recorded stands, the next turn is refused
        tell(sim, narrow, case, 0)
        assert incident(sim, case)["kind"] == "history_too_long"
        released(sim, wide)
        sim.retry(case, reason="and back")
        tell(sim, wide, case, 2)
        assert closed(sim, case) == "done"


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"visit_warns": 0}, "HistoryLimits(visit_warns=0): expected 1 to 100,000 events"),
        ({"visit_stops": 100_001}, "HistoryLimits(visit_stops=100001): expected 1 to 100,000 events"),
        ({"case_stops": 1_000_001}, "HistoryLimits(case_stops=1000001): expected 1 to 1,000,000 events"),
        ({"case_warns": True}, "HistoryLimits(case_warns=True): expected 1 to 1,000,000 events"),
        ({"case_warns": "many"}, "HistoryLimits(case_warns='many'): expected 1 to 1,000,000 events"),
        (
            {"case_stops": 9_000},
            "HistoryLimits: case_warns=10000 is above case_stops=9000, expected the warning first",
        ),
    ],
)
def test_rule_B20_limits_that_are_none_are_refused(limits: dict[str, Any], told: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        monitoring(**limits)
    assert refused.value.message == told
    assert refused.value.hint.startswith("HistoryLimits(")


def test_rule_B20_history_that_is_no_limits_is_refused() -> None:
    with pytest.raises(DefinitionError) as refused:
        Workflow("w", object=Order, key="id", owner=desk, expect=days(1), history=50_000)  # type: ignore[arg-type]
    assert refused.value.message == "workflow w: history=50000, expected HistoryLimits"


def test_rule_B20_describe_tells_the_limits() -> None:
    import sys

    from longcase.insight.describe import describe_module

    known = {one["name"]: one["history"] for one in describe_module(sys.modules[__name__])["workflows"]}
    assert known["declared"] == {
        "visit_warns": 1_000, "visit_stops": 40_000, "case_warns": 10_000, "case_stops": 200_000,
    }  # fmt: skip


declared = Workflow(
    "declared", object=Order, key="id", owner=desk, expect=days(5), history=HistoryLimits(case_stops=200_000)
)
