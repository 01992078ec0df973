"""Purging on PostgreSQL while others work: two purges share the cases, a late event wins, a kill halves nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from tests.support.cases import NOON, closed, do, entered, new_case, noted, turn
from tests.support.processes import line, process

from longcase.app import Longcase
from longcase.env import Env, VirtualClock
from longcase.insight.verify import verify
from longcase.service.retention import Period
from longcase.store.records import CaseRef

CASES = 60
PURGING = """
from datetime import UTC, datetime
from longcase.app import Longcase
from longcase.env import VirtualClock

env = Env(VirtualClock(datetime(2026, 3, 20, 12, tzinfo=UTC)), seed=1)
async with Longcase(url=path, env=env) as longcase:
    (due,) = await longcase.retention.due()
    while gone := await longcase.retention.purge_some(due, "the period is over", 3):
        say(len(gone))
    say("done")
"""


def at_work(url: str, seed: int) -> Longcase:
    return Longcase(url=url, env=Env(VirtualClock(NOON + timedelta(days=18)), seed=seed))


async def fill(url: str, folder: Path) -> None:
    """Leave closed and exported cases that are old enough to go, and one living case."""
    async with Longcase(url=url, env=Env(VirtualClock(NOON), seed=5)) as longcase:
        started = await longcase.store.start([new_case(f"k{n}") for n in range(CASES)])
        await longcase.store.write([turn(base, entered(), closed()) for base in started])
        await longcase.store.start([new_case("living")])
        await longcase.retention.keep("onboarding", Period(days=10))
    async with at_work(url, 6) as longcase:
        exporter = longcase.exporter
        await exporter.to_file(str(folder / "a.jsonl"), await exporter.wanted())


async def sound(url: str) -> tuple[int, int]:
    """Return how many cases and how many tombstones a store has; it must verify, and hold nothing of what is gone."""
    async with at_work(url, 9) as longcase:
        store = longcase.exporter._store
        assert [str(finding) async for finding in verify(store)] == []
        for table in ("history", "tasks", "inbox", "dedup", "heartbeats", "exported_cases"):
            left = f"SELECT case_no FROM {table} WHERE case_no IN (SELECT case_no FROM purged)"
            assert await longcase.service.query(left) == []
        cases = await longcase.service.query("SELECT count(*) AS n FROM cases")
        gone = await longcase.service.query("SELECT count(*) AS n FROM purged")
        return int(cases[0]["n"]), int(gone[0]["n"])


async def test_two_purges_share_the_work(postgres_url: str, tmp_path: Path) -> None:
    await fill(postgres_url, tmp_path)

    async def purge(longcase: Longcase) -> list[str]:
        (due,) = await longcase.retention.due()
        gone: list[str] = []
        while due.may_go:
            gone += [one.address for one in await longcase.retention.purge_some(due, "x", 4)]
            (due,) = await longcase.retention.due()
        return gone

    async with at_work(postgres_url, 1) as one, at_work(postgres_url, 2) as two:
        first, second = await asyncio.gather(purge(one), purge(two))
    assert len(first) + len(second) == len({*first, *second}) == CASES
    assert await sound(postgres_url) == (1, CASES)


async def test_a_purge_does_not_wait_for_a_case_that_somebody_holds(postgres_url: str, tmp_path: Path) -> None:
    """And a late event that was first makes the export stale: that case stays."""
    await fill(postgres_url, tmp_path)
    holder = await asyncpg.connect(postgres_url)
    try:
        async with at_work(postgres_url, 1) as longcase, asyncio.timeout(30):
            held = (await longcase.service.row("onboarding/k3")).case_no
            async with holder.transaction():
                await holder.execute("SELECT 1 FROM cases WHERE case_no = $1 FOR UPDATE", held)
                (due,) = await longcase.retention.due()
                while await longcase.retention.purge_some(due, "x", 20):
                    pass
            assert await sound(postgres_url) == (2, CASES - 1)
            await longcase.store.edit(CaseRef(held), do(noted("late")))
            assert await longcase.retention.purge_some(due, "x", 20) == []
            (due,) = await longcase.retention.due()
            assert due.stay == {"not exported": 1}
    finally:
        await holder.close()


@pytest.mark.parametrize("batches", [0, 1, 5])
async def test_inv_02_a_purge_killed_in_the_middle_is_gone_on_with(
    postgres_url: str, tmp_path: Path, batches: int
) -> None:
    await fill(postgres_url, tmp_path)
    with process(PURGING, postgres_url) as child:
        for _ in range(batches):
            assert line(child) == "3"
        os.kill(child.pid, signal.SIGKILL)
        child.wait(60)
    cases, gone = await sound(postgres_url)
    assert cases + gone == CASES + 1
    assert gone >= 3 * batches
    with process(PURGING, postgres_url) as child:
        said = [line(child)]
        while said[-1] != "done":
            said.append(line(child))
        assert child.wait(60) == 0
    assert await sound(postgres_url) == (1, CASES)
