"""F35: two releases of a workflow over one store, forwards and back, with cases held in the middle of what differs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.crash.fire import BOUND
from tests.faults.fleet import Fleet, fleet
from tests.faults.frame import FaultReport, by_length
from tests.faults.watching import until

from longcase.client import LongcaseClient

pytestmark = pytest.mark.timeout(by_length(600, 1_800))

RELEASE = '''
"""Release {number} of one workflow."""
import asyncio
from pydantic import BaseModel
from longcase import Case, Next, Retry, Team, Workflow, activity, days, seconds
from tests.faults.program import FOLDER, effect, injected

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
    effect(f"make:{{job}}:{number}", idempotency_key)
    return job

@activity(owner=desk, effect="repeatable")
async def polish(job: str, *, idempotency_key: str = injected()) -> str:
    effect(f"polish:{{job}}:{number}", idempotency_key)
    return job

@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=9, initial=seconds(0.01)))
async def pack(job: str, *, idempotency_key: str = injected()) -> str:
    effect(f"pack:{{job}}:{number}", idempotency_key)
    while not (FOLDER / "gate").exists():
        await asyncio.sleep(0.01)
    return job

@activity(owner=desk, effect="repeatable")
async def ship(job: str, *, idempotency_key: str = injected()) -> str:
    effect(f"ship:{{job}}:{number}", idempotency_key)
    return job

@jobs.stage(expect=days(1))
async def making(case: Case[Job]) -> Next:
    await make(case.key)
{inserted}
    await case.receive(go)
    await pack(case.key)
    return shipping

@jobs.stage(expect=days(1))
async def shipping(case: Case[Job]) -> Next:
    await ship(case.key)
    return jobs.close("shipped")
'''
RELEASES = {
    "release_1": RELEASE.format(number=1, field="", inserted=""),
    "release_2": RELEASE.format(number=2, field="    colour: str | None = None", inserted="    await polish(case.key)"),
}
OLD, NEW = "release_1", "release_2"


@dataclass
class Where:
    """Where the cases are, by key."""

    waiting: set[str] = field(default_factory=set)  # for the signal
    packing: set[str] = field(default_factory=set)  # an attempt stands at the gate
    held: set[str] = field(default_factory=set)  # by an incident: no living code accepts them
    closed: set[str] = field(default_factory=set)


class Shop:
    """Workers of both releases over one store, and what is known of its cases."""

    def __init__(self, workers: Fleet) -> None:
        self.workers = workers
        self.passed: list[Where] = []
        self.fleet: dict[str, subprocess.Popen[bytes]] = {}
        for name, text in RELEASES.items():
            (workers.folder / f"{name}.py").write_text(text)

    def arrives(self, release: str) -> None:
        path = os.pathsep.join([str(self.workers.folder), *filter(None, [os.environ.get("PYTHONPATH")]), os.getcwd()])
        worker = self.workers.worker(FAULTS_RELEASE=release, FAULTS_DRAIN="0.2", PYTHONPATH=path)
        self.fleet[release] = worker

    def leaves(self, release: str) -> None:
        worker = self.fleet.pop(release)
        worker.terminate()
        assert worker.wait(BOUND) == 0, self.workers.logged()

    def client(self, release: str) -> LongcaseClient:
        spec = importlib.util.spec_from_file_location(release, self.workers.folder / f"{release}.py")
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[release] = loaded
        spec.loader.exec_module(loaded)
        return LongcaseClient([loaded.jobs], url=self.workers.url, actor="person:tester")

    def start(self, release: str, keys: Iterable[str]) -> None:
        with self.client(release) as client:
            for key in keys:
                client.start("jobs", {"id": key})

    def go(self, keys: Iterable[str]) -> None:
        with self.client(OLD) as client:
            for key in keys:
                client.signal(f"jobs/{key}", "go", {"n": 1}, idempotency_key=f"go-{key}")

    def retry(self, keys: Iterable[str]) -> None:
        with self.workers.client() as client:
            for key in keys:
                client.retry(f"jobs/{key}")

    def open_the_gate(self) -> None:
        (self.workers.folder / "gate").touch()

    def now(self) -> Where:
        with self.workers.client() as client:

            def keys(sql: str) -> set[str]:
                return {row["key"] for row in client.query(f"SELECT key FROM {sql}")}

            held = keys("cases WHERE status = 'open' AND incident_count > 0")
            return Where(
                keys("waiting WHERE kind = 'signal'") - held, keys("running_attempts WHERE activity = 'pack'") - held,
                held, keys("cases WHERE status = 'closed'"),
            )  # fmt: skip

    def comes_to(self, what: str, **where: set[str]) -> None:
        """Wait until the cases are where they belong, and nowhere else."""
        wanted = Where(**where)
        try:
            until(lambda: self.now() == wanted, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\nwanted {wanted}\nfound  {self.now()}\n{self.workers.logged()}") from None
        self.passed.append(wanted)

    def releases_of(self, what: str) -> dict[str, set[str]]:
        """Return under which releases an effect was had, by case."""
        found: dict[str, set[str]] = {}
        for line in self.workers.effects():
            kind, key, number = line[0].split(":")
            if kind == what:
                found.setdefault(key, set()).add(f"release_{number}")
        return found


def test_fault_F35_two_releases_beside_each_other_and_back_again(
    tmp_path: Path, store_url: str, fault_report: FaultReport
) -> None:
    """Forwards, back and forwards again, with cases waiting and at work in the stage that differs at each step."""
    each = by_length(4, 24)
    a1, a2, a3, b1, b2, b3 = ({f"{name}x{n}" for n in range(each)} for name in ("a1", "a2", "a3", "b1", "b2", "b3"))
    old_ones, new_ones, mixed, back = a1 | a2 | a3, b1 | b2 | b3, {f"m{n}" for n in range(each)}, {"c0", "c1"}
    with fleet(tmp_path, store_url) as workers:
        shop = Shop(workers)
        shop.arrives(OLD)
        shop.start(OLD, old_ones)
        shop.comes_to("the old release begins cases", waiting=old_ones)

        shop.leaves(OLD)
        shop.arrives(NEW)
        shop.start(NEW, new_ones)
        shop.go(a1)
        shop.comes_to("the new one alone does not guess", waiting=a2 | a3 | new_ones, held=a1)

        shop.arrives(OLD)
        shop.retry(a1)
        shop.start(OLD, mixed)
        shop.go(a2 | b1)
        at_work = a1 | a2 | b1
        shop.comes_to("each goes on under its own", waiting=a3 | b2 | b3 | mixed, packing=at_work)
        begun_by = shop.releases_of("make")
        assert all(begun_by[key] == {OLD} for key in old_ones)
        assert all(begun_by[key] == {NEW} for key in new_ones)
        mixed_old = {key for key in mixed if begun_by[key] == {OLD}}

        # The way back, with attempts of the new release in the middle of their work.
        shop.leaves(NEW)
        shop.comes_to("the old one holds what it cannot read", waiting=a3 | b2 | b3 | mixed, packing=a1 | a2, held=b1)
        shop.start(OLD, back)
        shop.go(a3 | b2 | back)
        at_work = a1 | a2 | a3
        shop.comes_to("it goes on with its own", waiting=b3 | mixed, packing=at_work | back, held=b1 | b2)
        shop.open_the_gate()
        done = old_ones | back
        shop.comes_to("its own are through", waiting=b3 | mixed, held=b1 | b2, closed=done)

        # Forwards once more: what was held and what still waits.
        shop.arrives(NEW)
        shop.retry(b1 | b2)
        shop.go(b3 | mixed)
        everything = done | new_ones | mixed
        shop.comes_to("each under the code that fits it", closed=everything)
        for release in (OLD, NEW):
            shop.leaves(release)

        inspection = workers.check()
        assert shop.releases_of("make") == begun_by | {key: {OLD} for key in back}
        assert shop.releases_of("pack") == shop.releases_of("make"), "a visit goes on under the code that began it"
        assert shop.releases_of("polish") == {key: {NEW} for key in new_ones | (mixed - mixed_old)}
        assert shop.releases_of("ship").keys() == everything
        keys: dict[str, set[str]] = {}
        for what, key, _, _ in workers.effects():
            keys.setdefault(what.rpartition(":")[0], set()).add(key)
        assert all(len(found) == 1 for found in keys.values()), "one key a call, under every release"
        kinds = Counter(_incidents(inspection))
    assert set(kinds) <= {"code_changed", "object_invalid"}, kinds
    assert kinds.total() == len(a1 | b1 | b2), "each is held once, and no other"
    least = min(len(where.waiting) for where in shop.passed[:-1])
    assert least >= each
    fault_report(
        injected={"changes of release": 5, "cases waiting in the middle at each, at least": least},
        useful={"cases closed": len(everything), "at work while a release left": len(a1 | a2 | b1)},
        found=f"held where no living code accepts them: {dict(kinds)}; none ran under the other, nothing doubled",
    )


def _incidents(inspection: Any) -> list[str]:
    return [
        event.data["kind"]
        for address in inspection.addresses()
        for event in inspection.events(address)
        if event.type == "incident_opened"
    ]
