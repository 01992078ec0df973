"""B13: stage code that never yields is stopped from outside, and the other cases of the worker go on."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from longcase import Case, Longcase, Next, Team, Workflow, days
from longcase.runtime.watchdog import Watchdog

desk = Team("desk")
BOUND = 30.0  # seconds until the test says the watchdog did not bite


class Job(BaseModel):
    id: str
    spins: bool = False


jobs = Workflow("jobs", object=Job, key="id", owner=desk, expect=days(1))


@jobs.stage(expect=days(1))
async def working(case: Case[Job]) -> Next:
    while case.object.spins:
        try:
            while True:
                pass
        except Exception:
            pass
    return jobs.close("done")


async def test_rule_B13_a_loop_without_an_await_becomes_an_incident_and_others_go_on(store_url: str) -> None:
    async with Longcase([jobs], url=store_url) as longcase, longcase.working() as worker:
        while not worker.accepts:
            await asyncio.sleep(0)
        worker.turns.watchdog.stop()
        worker.turns.residents.watchdog = Watchdog(longcase.env, limit=0.2)
        worker.turns.watchdog.start()
        await longcase.service.start(jobs, Job(id="spinning", spins=True))
        await longcase.service.start(jobs, Job(id="fine"))
        async with asyncio.timeout(BOUND):
            while True:
                spinning = await longcase.service.show("jobs/spinning")
                fine = await longcase.service.show("jobs/fine")
                if spinning.state.incidents and fine.state.status == "closed":
                    break
                await asyncio.sleep(0.01)
    (incident,) = spinning.state.incidents.values()
    assert incident["kind"] == "stage_never_yields"
    assert incident["owner"] == "desk"
