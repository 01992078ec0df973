"""I22: a jump of the clock is logged, and what it made due fires."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest
from tests.runtime.common import JumpingClock, Thing, desk

from longcase import Case, Longcase, Next, Workflow, days
from longcase.env import Env

things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(9))


@things.stage(expect=days(9))
async def cooling(case: Case[Thing]) -> Next:
    await case.pause(days(2), because="cooling")
    return things.close("cool")


@pytest.mark.only_sqlite  # on PostgreSQL it is the database's: test_fault_F27_the_databases_clock_jumps_under_a_fleet
async def test_inv_22_a_forward_jump_is_logged_as_clock_jump(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = JumpingClock()

    def logged() -> bool:
        return any("clock_jump" in record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.WARNING, "longcase.worker"):
        async with (
            Longcase([things], url=store_url, env=Env(clock)) as longcase,
            longcase.working(),
        ):
            await longcase.service.start(things, Thing(id="t1"))
            async with asyncio.timeout(60):
                while not logged() or (await longcase.service.show("things/t1")).state.status != "closed":
                    state = (await longcase.service.show("things/t1")).state
                    # The first sweep has read both clocks, and the pause is set by the old one.
                    if state.timers and longcase.worker is not None and longcase.worker._sweep._clocks is not None:
                        clock.ahead = timedelta(days=3)
                    await asyncio.sleep(0.01)
    async with Longcase([things], url=store_url) as longcase:
        fired = [event for event in await longcase.service.history("things/t1") if event.type == "timer_fired"]
    assert len(fired) == 1
