"""F40: a heap of cases is due at once after an outage: what is held in memory, open and begun stays bounded (I45)."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.faults.database_clock import set_clock
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import BOUND
from tests.support.workers import killed

from longcase import Case, Longcase, Next, Team, Workflow, activity, days, hours
from longcase.env import Env, RealClock
from longcase.insight.verify import verify
from longcase.opening import open_store
from longcase.store.sqlite import connection as connection_module

desk = Team("desk")
AT_ONCE = 40
CONNECTIONS = 12  # of a process that works, as docs/howto/postgresql.md says


class Thing(BaseModel):
    id: str


heap = Workflow("heap", object=Thing, key="id", owner=desk, expect=days(9))
running: Counter[str] = Counter()


@activity(owner=desk, effect="repeatable", concurrency=AT_ONCE)
async def light(thing: str) -> str:
    running["now"] += 1
    running["most"] = max(running["most"], running["now"])
    running["all"] += 1
    try:
        await asyncio.sleep(0.001)
    finally:
        running["now"] -= 1
    return thing


@heap.stage(expect=days(9))
async def lying(case: Case[Thing]) -> Next:
    await case.pause(hours(1), because="it is due with all the others")
    await light(case.key)
    return heap.close("up")


class LateClock(RealClock):
    ahead = timedelta(0)

    def uncorrected(self) -> datetime:
        return super().uncorrected() + self.ahead

    def set_late(self) -> None:
        self.ahead = timedelta(hours=2)


class Store:
    """An empty store, and what sets its clock two hours ahead."""

    def __init__(self, url: str) -> None:
        self.url, self.env = url, Env()
        self.set_late: Callable[[], None] = partial(set_clock, url, "2 hours")
        if url.startswith("sqlite"):
            clock = LateClock()
            self.env, self.set_late = Env(clock), clock.set_late

    async def used(self, longcase: Longcase) -> dict[str, int]:
        """Return what is in use now: memory and files of this process, and the log's bytes or the connections."""
        used = {"memory": resident(), "files": len(os.listdir("/proc/self/fd"))}
        if self.url.startswith("sqlite"):
            return used | {"log": os.path.getsize(f"{self.url.removeprefix('sqlite:///')}-wal")}
        asked = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
        return used | {"connections": int((await longcase.service.query(asked))[0]["n"])}


def resident() -> int:
    """Return the bytes of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def heap_store(store_kind: str, request: pytest.FixtureRequest, tmp_path: Path, fault_report: FaultReport) -> Store:
    fault_report.store = store_kind
    url = request.getfixturevalue("clock_url") if store_kind == "postgres" else f"sqlite:///{tmp_path / 'cases.db'}"
    return Store(url)


async def count(longcase: Longcase, where: str) -> int:
    return int((await longcase.service.query(f"SELECT count(*) AS n FROM cases WHERE {where}"))[0]["n"])


@pytest.mark.timeout(by_length(300, 6_000))
async def test_fault_F40_a_heap_of_cases_due_at_once_after_an_outage(
    heap_store: Store, fault_report: FaultReport
) -> None:
    url, env = heap_store.url, heap_store.env
    cases = by_length(1_000, 100_000)
    async with Longcase([heap], url=url, env=env) as longcase, longcase.working():
        for begin in range(0, cases, 1_000):
            some = [Thing(id=f"h{n}") for n in range(begin, min(begin + 1_000, cases))]
            await longcase.service.start_prepared([longcase.service.new_case(heap, one) for one in some])
        async with asyncio.timeout(BOUND * by_length(1, 20)):
            while await count(longcase, "wait_kind = 'timer'") < cases:
                await asyncio.sleep(0.05)
    # The outage: nothing lives for two hours, and every timer is due.
    await asyncio.to_thread(heap_store.set_late)
    running.clear()
    before = {"memory": resident(), "files": len(os.listdir("/proc/self/fd"))}
    most: Counter[str] = Counter()
    slowest = 0.0
    reads = deaths = 0
    while True:
        async with Longcase([heap], url=url, env=env) as longcase:
            await longcase.record_maps()
            worker = longcase.new_worker()
            moving = asyncio.create_task(worker.run())
            left = cases
            async with asyncio.timeout(BOUND * by_length(1, 40)):
                while left:
                    began = time.monotonic()
                    await longcase.service.show(f"heap/h{reads * 37 % cases}")
                    slowest = max(slowest, time.monotonic() - began)
                    reads += 1
                    left = await count(longcase, "status = 'open'")
                    most |= Counter(await heap_store.used(longcase))
                    if not deaths and left < cases * 0.7:
                        break  # in the middle of it this worker dies, and another recovers
                    await asyncio.sleep(0.02)
            if not left:
                worker.stop()
                await moving
                break
            deaths += 1
            await killed(worker)
            await asyncio.wait([moving])
    await asyncio.to_thread(lambda: asyncio.run(sound(url, env)))
    assert running["most"] == AT_ONCE, f"{running['most']} ran at once; {AT_ONCE} are allowed, and should be reached"
    assert running["all"] >= cases
    memory, files = most["memory"] - before["memory"], most["files"] - before["files"]
    assert memory < 400 * 2**20, f"{memory / 2**20:.0f} MiB more than before"
    assert files < 20
    assert most["log"] < 2 * connection_module.WAL_LIMIT
    assert most["connections"] <= CONNECTIONS
    fault_report(
        injected={"cases due at once": cases, "workers killed in it": deaths},
        useful={"cases closed": cases, "reads meanwhile": reads},
        found=f"at most {running['most']} attempts at once, {memory / 2**20:.0f} MiB and {files} files more, "
        + (f"log of {most['log'] / 2**20:.0f} MiB" if most["log"] else f"{most['connections']} connections")
        + f", slowest read {slowest * 1000:.0f} ms",
    )


async def sound(url: str, env: Env) -> None:
    """Hold the invariants over all that is stored."""
    store: Any = await open_store(url, env, create=False)
    try:
        assert [str(finding) async for finding in verify(store)] == []
    finally:
        await store.close()
