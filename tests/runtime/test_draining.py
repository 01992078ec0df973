"""A worker that drains waits for its attempts; what is due meanwhile is others' work and must not keep it awake."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from tests.runtime.common import CountedRounds, JumpingClock, Thing, desk
from tests.support.waiting import BOUND

from longcase import Case, Longcase, Next, Workflow, activity, days
from longcase.env import Env

PASSES = 500  # of the event loop: some milliseconds
things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(9))
gate: list[asyncio.Event] = []


@activity(owner=desk)
async def slow(what: str) -> str:
    await gate[-1].wait()
    return what


@things.stage(expect=days(9))
async def only(case: Case[Thing]) -> Next:
    if case.key == "slow":
        await slow(case.key)
    else:
        await case.pause(days(2), because="cooling")
    return things.close("done")


async def test_a_draining_worker_rests_although_something_is_due() -> None:
    gate.append(asyncio.Event())
    clock = JumpingClock()
    async with Longcase([things], url="sqlite:///:memory:", env=Env(clock)) as longcase:
        worker = CountedRounds(longcase.store, longcase.env, longcase.codes)
        running = asyncio.create_task(worker.run())
        try:
            for key in ("slow", "cooling"):
                worker.wake((await longcase.service.start(things, Thing(id=key))).case_no)
            async with asyncio.timeout(BOUND):
                while not (worker.running_attempts and worker.agenda.store_at):
                    await asyncio.sleep(0.01)
            worker.stop()
            clock.ahead = timedelta(days=3)
            before = worker.rounds
            for _ in range(PASSES):
                await asyncio.sleep(0)
            assert worker.rounds - before < PASSES / 20
        finally:
            gate[-1].set()
            async with asyncio.timeout(BOUND):
                await running
