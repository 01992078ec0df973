"""F32, F34, F35, F42: activities that misbehave, releases beside each other, surroundings that differ."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.crash import program as orders
from tests.crash.fire import BOUND, Fire
from tests.crash.inspection import Inspection
from tests.faults.fleet import Fleet, fleet
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
    end = time.monotonic() + 0.4
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
    fault_report(
        injected={"attempts that misbehave": each * (len(bad) + 1)},
        useful={"good cases closed": each * 6},
        found="; ".join(sorted(ends)),
    )


# -- F34, F35 ----------------------------------------------------------------------------------------------

RELEASE = '''
"""Release {number} of one workflow."""
from datetime import timedelta
from pydantic import BaseModel
from longcase import Case, Next, Team, Workflow, activity, days
from tests.faults.program import effect, injected

desk = Team("desk")

class Job(BaseModel):
    id: str
{field}

class Word(BaseModel):
    n: int = 0

jobs = Workflow("jobs", object=Job, key="id", owner=desk, expect=days(1))
go = jobs.signal("go", Word)

@activity(owner=desk, effect="repeatable")
async def make(job: str, *, idempotency_key: str = injected()) -> str:
    effect(f"make:{{job}}", idempotency_key)
    return job

@activity(owner=desk, effect="repeatable")
async def polish(job: str, *, idempotency_key: str = injected()) -> str:
    effect(f"polish:{{job}}", idempotency_key)
    return job

@activity(owner=desk, effect="repeatable")
async def ship(job: str, *, idempotency_key: str = injected()) -> str:
    effect(f"ship:{{job}}", idempotency_key)
    return job

@jobs.stage(expect=days(1))
async def making(case: Case[Job]) -> Next:
    await make(case.key)
{inserted}
    await case.receive(go)
    return shipping

@jobs.stage(expect=days(1))
async def shipping(case: Case[Job]) -> Next:
    await ship(case.key)
    await case.pause(timedelta(milliseconds=20), because="on its way")
    return jobs.close("shipped")
'''
OLD = RELEASE.format(number=1, field="", inserted="")
NEW = RELEASE.format(number=2, field="    colour: str | None = None", inserted="    await polish(case.key)")


def test_fault_F35_two_releases_beside_each_other_and_back_again(
    tmp_path: Path, store_url: str, fault_report: FaultReport
) -> None:
    """Cases in the middle of the changed stage wait for code that fits; all others go on under either release."""
    for name, text in (("release_1", OLD), ("release_2", NEW)):
        (tmp_path / f"{name}.py").write_text(text)
    count = by_length(6, 60)
    early, late = [f"a{n}" for n in range(count)], [f"b{n}" for n in range(count)]
    with fleet(tmp_path, store_url) as workers:
        old = release(workers, "release_1")
        send(workers, "release_1", early, go=False)
        until(lambda: effects_of(workers, "make") >= len(early), "the old release begins its cases")
        new = release(workers, "release_2")
        send(workers, "release_2", late, go=False)
        until(lambda: effects_of(workers, "make") >= len(early + late), "both releases take new cases")
        send(workers, "release_1", early + late, start=False)
        until(lambda: not moving(workers), "what can move has moved")
        old.terminate()
        assert old.wait(BOUND) == 0, workers.logged()
        until(lambda: not moving(workers), "the new release alone")
        shipped_by_both = closed(workers)
        # Back to the old release: what it began goes on under it.
        new.terminate()
        assert new.wait(BOUND) == 0, workers.logged()
        again = release(workers, "release_1")
        for key in early + late:
            retry(workers, key)
        until(lambda: not moving(workers), "the old release again")
        again.terminate()
        assert again.wait(BOUND) == 0, workers.logged()
        last = release(workers, "release_2")
        for key in early + late:
            retry(workers, key)
        until(lambda: closed(workers) == 2 * count, "each case under the code that fits it")
        last.terminate()
        last.wait(BOUND)
        inspection = workers.check()
        held = Counter(
            event.data["kind"]
            for address in inspection.addresses()
            for event in inspection.events(address)
            if event.type == "incident_opened"
        )
        assert set(held) <= {"code_changed", "object_invalid"}, held
        keys: dict[str, set[str]] = {}
        for what, key, _, _ in workers.effects():
            keys.setdefault(what, set()).add(key)
        assert all(len(found) == 1 for found in keys.values()), "one key a call, under every release"
        assert {f"ship:{key}" for key in early + late} <= keys.keys()
    fault_report(
        injected={"releases beside each other": 2, "ways back": 1},
        useful={"cases closed": 2 * count, "closed while both ran": shipped_by_both},
        found=f"held meanwhile: {dict(held) or 'none'}; never guessed, nothing doubled",
    )


def release(workers: Fleet, module: str) -> Any:
    return workers.worker(FAULTS_RELEASE=module, PYTHONPATH=path_of(workers))


def path_of(workers: Fleet) -> str:
    import os

    return os.pathsep.join([str(workers.folder), *filter(None, [os.environ.get("PYTHONPATH")]), os.getcwd()])


def send(workers: Fleet, module: str, keys: list[str], *, start: bool = True, go: bool = True) -> None:
    """Start the cases, or send them their signal, as a client of that release."""
    import importlib.util

    from longcase.client import LongcaseClient

    spec = importlib.util.spec_from_file_location(module, workers.folder / f"{module}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)
    with LongcaseClient([loaded.jobs], url=workers.url) as client:
        for key in keys:
            if start:
                client.start("jobs", {"id": key})
            if go:
                client.signal(f"jobs/{key}", "go", {"n": 1}, idempotency_key=f"go-{key}")


def effects_of(workers: Fleet, what: str) -> int:
    return len({line[0] for line in workers.effects() if line[0].startswith(f"{what}:")})


def rows(workers: Fleet, where: str) -> int:
    with workers.client() as client:
        return int(client.query(f"SELECT count(*) AS n FROM cases WHERE {where}")[0]["n"])


def closed(workers: Fleet) -> int:
    return rows(workers, "status = 'closed'")


def moving(workers: Fleet) -> int:
    """Return how many open cases are neither held by an incident nor left to another release."""
    told = "wait_kind <> 'signal' OR case_no IN (SELECT case_no FROM inbox)"  # a signal that was not taken up yet
    waiting = f"SELECT case_no FROM cases WHERE status = 'open' AND incident_count = 0 AND ({told})"
    with workers.client() as client:
        return len(client.query(f"SELECT * FROM ({waiting})"))


def retry(workers: Fleet, key: str) -> None:
    with workers.client() as client:
        if client.show(f"jobs/{key}").state.incidents:
            client.retry(f"jobs/{key}")


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
    """Workers are killed again and again; each next one replays under other surroundings."""
    monkeypatch.setattr(orders, "LEDGER", str(tmp_path / "ledger"))
    fire = Fire(tmp_path, cases=by_length(8, 30))
    for number in range(by_length(1, 4)):
        for place, surroundings in enumerate(SURROUNDINGS):
            worker = fire.worker(f"after_commit:{4 + (place + number) % 4}", environment=surroundings)
            assert worker.wait(BOUND) in (0, 137), fire.logged()
            fire.deaths += worker.returncode == 137
    fire.finish()
    inspection = fire.check()
    incidents = sum(inspection.count(address, "incident_opened") for address in inspection.addresses())
    assert incidents == 0, "a replay differed"
    fault_report(
        injected={"surroundings": len(SURROUNDINGS), "SIGKILL": fire.deaths},
        useful={"orders done": fire.cases, "effects": len(fire.effects())},
        found="no replay differed",
    )
