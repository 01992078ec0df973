"""F27, F28: wall clocks that jump, and workers whose clocks disagree."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel
from tests.crash.inspection import Inspection
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import BOUND

from longcase import Case, Longcase, Next, Team, Workflow, activity, days, hours
from longcase.env import Env, RealClock
from longcase.history.event import instant_of

pytestmark = pytest.mark.timeout(by_length(300, 900))

desk = Team("desk")


class Thing(BaseModel):
    id: str


class Word(BaseModel):
    n: int = 0


class SetClock(RealClock):
    """The machine's clock as somebody has set it."""

    def __init__(self, ahead: timedelta = timedelta(0)) -> None:
        super().__init__()
        self.ahead = ahead

    def uncorrected(self) -> datetime:
        return super().uncorrected() + self.ahead


things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(9))
go = things.signal("go", Word)


@activity(owner=desk, effect="repeatable")
async def stamp(thing: str) -> str:
    return thing


@things.stage(expect=days(9))
async def cooling(case: Case[Thing]) -> Next:
    """A timer, work, a timer that is set after the jump, and a signal in between."""
    await case.pause(hours(1), because="cooling")
    await stamp(case.key)
    await case.receive(go)
    await case.pause(timedelta(milliseconds=30), because="a moment")
    return things.close("cool")


async def closed(longcase: Longcase, count: int) -> None:
    async with asyncio.timeout(BOUND):
        query = "SELECT count(*) AS n FROM cases WHERE status = 'closed'"
        while (await longcase.service.query(query))[0]["n"] < count:
            await asyncio.sleep(0.01)


def timers_early_or_doubled(url: str, keys: list[str]) -> list[str]:
    """Return what is wrong with the timers of the cases: fired before they were due by the store's clock, or twice."""
    inspection = Inspection(url)
    assert inspection.broken_invariants() == []
    wrong = []
    for key in keys:
        due: dict[str, str] = {}
        for event in inspection.events(f"things/{key}"):
            if event.type == "timer_set":
                due[event.data["timer"]] = event.data["due"]
            elif event.type == "timer_fired":
                wanted = due.pop(event.data["timer"], None)
                if wanted is None:
                    wrong.append(f"{key}: {event.data['timer']} fired twice")
                elif instant_of(event.at) < instant_of(wanted):
                    wrong.append(f"{key}: {event.data['timer']} fired at {event.at}, due {wanted}")
        wrong += [f"{key}: {timer} never fired" for timer in due]
    return wrong


JUMPS = {
    "+1h": timedelta(hours=1), "-1h": timedelta(hours=-1), "+10y": timedelta(days=3650), "-50y": timedelta(days=-18250),
}  # fmt: skip


@pytest.mark.parametrize("jump", JUMPS)
async def test_fault_F27_the_wall_clock_jumps_under_a_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault_report: FaultReport, jump: str
) -> None:
    clock, url = SetClock(), f"sqlite:///{tmp_path / 'cases.db'}"
    keys = [f"t{n}" for n in range(by_length(10, 200))]
    with caplog.at_level(logging.WARNING, "longcase.worker"):
        async with Longcase([things], url=url, env=Env(clock)) as longcase, longcase.working():
            for key in keys:
                await longcase.service.start(things, Thing(id=key))
                await longcase.service.signal(f"things/{key}", go, Word())
            async with asyncio.timeout(BOUND):
                while longcase.worker is None or longcase.worker._sweep._clocks is None:
                    await asyncio.sleep(0.01)
            clock.ahead = JUMPS[jump]
            async with asyncio.timeout(BOUND):
                while "clock_jump" not in caplog.text:
                    await asyncio.sleep(0.01)
            if JUMPS[jump] < timedelta(0):
                # Nothing is due: timers wait, and what is accepted now is kept and taken in order.
                assert (await longcase.service.query("SELECT count(*) AS n FROM cases WHERE status = 'closed'")) == [
                    {"n": 0}
                ]
                for key in keys:
                    await longcase.service.signal(f"things/{key}", go, Word(n=2))
                clock.ahead = timedelta(hours=2)  # somebody sets it right, and time passes
            elif jump == "+1h":
                clock.ahead += timedelta(minutes=1)
            await closed(longcase, len(keys))
    assert await asyncio.to_thread(timers_early_or_doubled, url, keys) == []
    fault_report(
        injected={f"clock set {jump}": 1}, useful={"cases closed": len(keys), "timers fired": 2 * len(keys)},
        found="logged as clock_jump; no timer early, none twice, none lost",
    )  # fmt: skip


async def test_fault_F28_workers_whose_clocks_are_five_minutes_off(tmp_path: Path, fault_report: FaultReport) -> None:
    """One machine has one clock; where two processes are given two all the same, cases still end once and in order."""
    url = f"sqlite:///{tmp_path / 'cases.db'}"
    skews = [timedelta(minutes=5), timedelta(minutes=-5)]
    clocks = [SetClock(skew) for skew in skews]
    keys = [f"t{n}" for n in range(by_length(12, 200))]
    async with (
        Longcase([things], url=url, env=Env(clocks[0])) as fast,
        Longcase([things], url=url, env=Env(clocks[1])) as slow,
        fast.working(),
        slow.working(),
    ):
        doors = [fast, slow]
        for number, key in enumerate(keys):
            await doors[number % 2].service.start(things, Thing(id=key))
            await doors[1 - number % 2].service.signal(f"things/{key}", go, Word())
        for clock in clocks:
            clock.ahead += timedelta(hours=2)
        await closed(fast, len(keys))
    assert await asyncio.to_thread(timers_early_or_doubled, url, keys) == []
    fault_report(
        injected={"clocks five minutes off": 2}, useful={"cases closed": len(keys)},
        found="no timer early by the clock that fired it, none twice; every history in order",
    )  # fmt: skip
