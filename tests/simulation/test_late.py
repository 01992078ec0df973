"""What a process of the fleet sends late: after `settle` its turns are refused, as PostgreSQL refuses them.

Starts and edits are written late there, too: they name no worker whose row could hold a fence.
"""

from __future__ import annotations

import asyncio

import pytest
from tests.simulation.fleet import Fleet
from tests.support.cases import entered, new_case, receive, turn

from longcase.history.state import CaseState


@pytest.mark.parametrize(("settled", "events", "refused"), [(False, 3, 0), (True, 1, 1)])
def test_a_turn_that_comes_after_settle_is_refused_and_a_start_is_not(settled: bool, events: int, refused: int) -> None:
    fleet = Fleet(1)
    fleet.lapse = True
    process = fleet._process("worker0")

    async def live() -> list[CaseState]:
        (started,) = await fleet.store.start([new_case("k1")])
        fleet.shared.caller = process
        worker = await fleet.shared.join("here", 1)
        late = turn(started, entered(), receive(), lease=worker, worker=worker)
        fleet.later("write", fleet.shared.write, [late], by=process)
        fleet.later("start", fleet.shared.start, [new_case("k2")], by=process)
        if settled:
            await fleet.shared.settle()
        await asyncio.sleep(3)  # of the fleet's own time
        rows = await fleet.store.load_many([started.case_no, started.case_no + 1])
        await fleet.store.close()
        return [row.state for row in rows.values()]

    first, second = fleet.loop.run(live())
    assert (first.seq, second.seq) == (events, 1)
    assert fleet.counts["late refused"] == refused
