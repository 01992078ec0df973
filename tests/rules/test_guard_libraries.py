"""The run-time guard: what Longcase itself does through a library is no fault of the stage."""

from __future__ import annotations

from tests.rules.support import Order, desk

from longcase import Calendar, Case, Next, Team, Workflow, business_days
from longcase.testing import Simulation

# A region no other test asks for: the holidays package then reads its texts at the first question.
away = Team("away", calendar=Calendar("PT", hours="Mon-Fri 09:00-17:00", tz="Europe/Lisbon"))
wf = Workflow(
    "order", object=Order, key="id", owner=desk, expect=business_days(2, Calendar("NL", tz="Europe/Amsterdam"))
)


@wf.stage
async def wait(case: Case[Order]) -> Next:
    await case.approval("Go on?", of=away, expires=(business_days(1), "approved"))
    return wf.close("done")


def test_holidays_may_be_read_for_the_first_time_in_the_middle_of_a_stage() -> None:
    with Simulation([wf]) as sim:
        case = sim.start(wf, {"id": "1"})
        assert [entry.kind for entry in sim.waits(case)] == ["person"]
