"""I8, A3: two repairs that are accepted before the next turn are both kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.rules.support import Order, banking, closed, desk

from longcase import Case, Next, Retry, Workflow, activity, days
from longcase.errors import RepairRefused
from longcase.testing import Simulation

alone = Retry(max_attempts=1)


@activity(owner=banking, retry=alone)
async def rate(order: str) -> str | None:
    raise ValueError("no answer")


@activity(owner=banking, retry=alone)
async def price(order: str) -> str | None:
    raise ValueError("no answer")


wf = Workflow("order", object=Order, key="id", owner=desk, expect=days(5))


@wf.stage(expect=days(5))
async def asking(case: Case[Order]) -> Next:
    async with asyncio.TaskGroup() as group:
        rated = group.create_task(rate(case.key))
        priced = group.create_task(price(case.key))
    return wf.close("done", result=[rated.result(), priced.result()])


@pytest.fixture
def sim() -> Iterator[Simulation]:
    with Simulation([wf]) as sim:
        yield sim


def stuck(sim: Simulation) -> tuple[str, list[str]]:
    """Return a case at two failed calls, and its incidents."""
    case = sim.start(wf, Order(id="1"))
    incidents = list(sim.state(case).incidents)
    assert len(incidents) == 2
    return case, incidents


@pytest.mark.parametrize("second", ["set-result", "skip"])
def test_two_results_set_before_a_turn_both_reach_the_stage(sim: Simulation, second: str) -> None:
    case, (one, other) = stuck(sim)
    with sim.together():
        sim.set_result(case, "A", incident=one)
        if second == "skip":
            sim.skip(case, incident=other)
        else:
            sim.set_result(case, "B", incident=other)
    assert closed(sim, case) == "done"
    assert (sim.state(case).close or {})["result"] == ["A", None if second == "skip" else "B"]


def test_the_same_result_again_is_a_repeat_and_another_one_is_refused(sim: Simulation) -> None:
    """The first one was accepted, so it stands; nobody is told that another one was set."""
    case, (one, other) = stuck(sim)
    with sim.together():
        assert not sim.set_result(case, "A", incident=one).duplicate
        assert sim.set_result(case, "A", incident=one).duplicate
        with pytest.raises(RepairRefused, match=r"accepted from .* and waits for a worker"):
            sim.set_result(case, "C", incident=one)
        sim.set_result(case, "B", incident=other)
    assert (sim.state(case).close or {})["result"] == ["A", "B"]
    assert "signal_unhandled" not in sim.types(case)
