"""F32, F42: activities that misbehave, surroundings that differ."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.conftest import LEASE_SECONDS
from tests.crash import program as orders
from tests.crash.fire import BOUND, Fire
from tests.crash.inspection import Inspection
from tests.faults.frame import FaultReport, by_length
from tests.faults.watching import until

from longcase import Case, Longcase, Next, Retry, Team, Workflow, activity, days, seconds

pytestmark = pytest.mark.timeout(by_length(600, 1_800))

desk = Team("desk")
ONCE = Retry(max_attempts=1)


class Thing(BaseModel):
    id: str


class Answer(BaseModel):
    size: int


# -- F32 -------------------------------------------------------------------------------------------------


@activity(owner=desk, effect="repeatable", retry=ONCE)
async def good(thing: str) -> str:
    return thing


@activity(owner=desk, effect="repeatable", retry=ONCE)
async def raises(thing: str) -> str:
    raise ValueError("it cannot be \x00 \ud800 done")


@activity(owner=desk, effect="repeatable", retry=ONCE)
async def junk(thing: str) -> Answer:
    answer: Any = {"size": object()}
    return answer  # type: ignore[no-any-return]


@activity(owner=desk, effect="repeatable", retry=ONCE)
async def huge(thing: str) -> str:
    return "x" * 2_000_000


@activity(owner=desk, effect="repeatable", retry=ONCE, timeout=seconds(0.3))
async def hangs(thing: str) -> str:
    await asyncio.Event().wait()
    return thing


@activity(owner=desk, effect="repeatable", retry=ONCE, timeout=seconds(0.3))
def hangs_in_a_thread(thing: str) -> str:
    until(lambda: released, "the test releases the thread")
    return thing


@activity(owner=desk, effect="repeatable", retry=ONCE)
async def blocks_the_loop(thing: str) -> str:
    # Once for longer than a lease lasts: a worker beats all the same.
    end = time.monotonic() + (1.5 * float(LEASE_SECONDS) if "-0-" in thing else 0.4)
    while time.monotonic() < end:
        pass
    return thing


@activity(owner=desk, effect="repeatable", retry=ONCE)
async def recurses(thing: str) -> str:
    return await recurses.raw(thing)  # type: ignore[no-any-return]


@activity(owner=desk, effect="repeatable", retry=ONCE)
async def exits(thing: str) -> str:
    raise SystemExit(3)


@activity(owner=desk, effect="repeatable", retry=ONCE)
async def cancels_itself(thing: str) -> str:
    raise asyncio.CancelledError


released: list[str] = []
pack: dict[str, Callable[[str], Awaitable[Any]]] = {
    one.name: one
    for one in (
        good, raises, junk, huge, hangs, hangs_in_a_thread, blocks_the_loop, recurses, exits, cancels_itself,
    )
}  # fmt: skip
mixed = Workflow("mixed", object=Thing, key="id", owner=desk, expect=days(1))


@mixed.stage(expect=days(1))
async def doing(case: Case[Thing]) -> Next:
    await pack[case.key.partition(".")[0]](case.key)
    return mixed.close("done")


async def test_fault_F32_activities_that_misbehave_among_good_ones(store_url: str, fault_report: FaultReport) -> None:
    url = store_url
    each = by_length(2, 10)
    released.clear()
    fine = {"good", "blocks_the_loop"}
    bad = sorted(pack.keys() - fine)
    ends: Counter[str] = Counter()
    async with Longcase([mixed], url=url) as longcase, longcase.working():
        for number in range(each):
            for name in [*bad, "blocks_the_loop", *["good"] * 5]:
                await longcase.service.start(mixed, Thing(id=f"{name}.{len(ends)}-{number}-{ends['started']}"))
                ends["started"] += 1
        # What ends for good is a close, or an incident with its owner; nothing else is left.
        async with asyncio.timeout(BOUND):
            query = "SELECT count(*) AS n FROM cases WHERE status = 'open' AND incident_count = 0"
            while (await longcase.service.query(query))[0]["n"]:
                await asyncio.sleep(0.02)
        released.append("now")
        rows = await longcase.service.query("SELECT key, status, wait_what FROM cases")
        for row in rows:
            name = row["key"].partition(".")[0]
            assert (row["status"] == "closed") == (name in fine), row
            ends[f"{name}: {row['wait_what'].partition(':')[0] or row['status']}"] += 1
    del ends["started"]
    inspection = await asyncio.to_thread(Inspection, url)
    assert inspection.broken_invariants() == []
    lost = sum(inspection.count(f"mixed/{row['key']}", "attempt_lost") for row in rows)
    assert lost == 0, "a loop that was blocked cost its worker the lease"
    fault_report(
        injected={"attempts that misbehave": each * (len(bad) + 1)},
        useful={"good cases closed": each * 6},
        found="; ".join(sorted(ends)),
    )


# -- F42 -------------------------------------------------------------------------------------------------

SURROUNDINGS: list[dict[str, str]] = [
    {"PYTHONHASHSEED": "1", "TZ": "Pacific/Kiritimati"},
    {"PYTHONHASHSEED": "2", "LC_ALL": "C", "TZ": "America/St_Johns"},
    {"PYTHONHASHSEED": "3", "PYTHONOPTIMIZE": "1"},
    {"PYTHONHASHSEED": "4", "HOME": "/nonexistent", "PYTHONUTF8": "0"},
    {"PYTHONHASHSEED": "5", "PYTHONMALLOC": "debug", "PYTHONDEVMODE": "1"},
]


def test_fault_F42_cases_go_on_under_other_hash_seeds_zones_locales_and_flags(
    tmp_path: Path, fault_report: FaultReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are killed again and again; each next one replays under other surroundings, and goes on from there."""
    monkeypatch.setattr(orders, "LEDGER", str(tmp_path / "ledger"))
    fire = Fire(tmp_path, cases=0)
    numbers: list[int] = []  # of the incarnations
    for number in range(by_length(1, 4)):
        for place, surroundings in enumerate(SURROUNDINGS):
            fire.order(by_length(3, 8))
            worker = fire.worker(f"after_record:{4 + (place + number) % 3}", environment=surroundings)
            assert worker.wait(BOUND) == 137, fire.logged()
            fire.deaths += 1
            with fire.client() as client:
                numbers += [row["no"] for row in client.query("SELECT no FROM workers WHERE pid = ?", [worker.pid])]
    fire.finish()
    inspection = fire.check()
    incidents = sum(inspection.count(address, "incident_opened") for address in inspection.addresses())
    assert incidents == 0, "a replay differed"
    events = [event for address in inspection.addresses() for event in inspection.events(address)]
    began = Counter(event.data["worker"] for event in events if event.data.get("worker") and event.data.get("attempt"))
    assert len(numbers) == fire.deaths
    assert all(began[one] for one in numbers), f"some surroundings saw no work: {began} of {numbers}"
    fault_report(
        injected={"surroundings": len(SURROUNDINGS), "SIGKILL": fire.deaths},
        useful={"orders done": fire.cases, "effects": len(fire.effects())},
        found="no replay differed",
    )
