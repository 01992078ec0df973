"""I6, I7, I14, I18: what holds of real processes that are killed, stopped and copied under load."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.conftest import LEASE_SECONDS
from tests.faults.watching import stop_outside_its_commits
from tests.invariants.program import Paper, orders, slow
from tests.support.processes import line, process

from longcase import Longcase
from longcase.env import Env
from longcase.insight.verify import verify
from longcase.opening import open_store
from longcase.runtime import sweep
from longcase.store.records import Stored
from longcase.store.sqlite.maintenance import backup, restore

BOUND = 60.0  # seconds a test waits for what it can see, before it says that it did not come

LOAD = """
from longcase import Longcase
from tests.invariants.program import orders
async with Longcase([orders], url=url) as app, app.working():
    for n in range(100_000):
        await app.service.start("orders", {"id": f"{n}"}, idempotency_key=f"start-{n}")
        say("start", n)
        for repeat in range(2):
            await app.service.signal(f"orders/{n}", "word", {"n": n}, idempotency_key=f"word-{n}")
        say("word", n)
"""


async def all_of(url: str) -> tuple[list[Stored], list[str]]:
    """Return everything a store holds, and what `verify` finds wrong with it."""
    store: Any = await open_store(url, Env(), create=False)
    try:
        findings = [str(finding) async for finding in verify(store)]
        return await store.stored(0, 1_000_000), findings
    finally:
        await store.close()


def times_there(stored: Stored, ident: str) -> int:
    """Return how often a signal stands in the inbox or in the history of its case."""
    kept = sum(item.id == ident for item in stored.inbox)
    taken = [event for event in stored.events if event.type == "signal_received" and event.data["id"] == ident]
    return kept + len(taken)


@pytest.mark.parametrize("lines", [3, 40, 161])
async def test_inv_06_what_was_acknowledged_is_there_once_after_a_kill(lines: int, store_url: str) -> None:
    """A program that takes in and moves cases is killed under load; its own word is the witness."""
    told: list[list[str]] = []
    with process(LOAD, store_url) as child:
        while len(told) < lines:
            told.append(line(child).split())
        child.kill()
        assert child.stdout is not None
        told += [rest.split() for rest in child.stdout.read().splitlines() if rest.count(" ") == 1]
    if store_url.startswith("sqlite"):
        path = store_url.removeprefix("sqlite:///")
        assert apsw.Connection(path).execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    stored, findings = await all_of(store_url)
    assert findings == []
    cases = {str(case.row["key"]): case for case in stored}
    assert len(cases) == len(stored)
    words = {n for what, n in told if what == "word"}
    assert {n for _, n in told} <= cases.keys(), "an acknowledged start is there"
    for key, case in cases.items():
        assert times_there(case, f"word:word-{key}") in ((1,) if key in words else (0, 1))
    assert len(cases) - len({n for _, n in told}) <= 1, "what was not acknowledged is there once or not at all"


def prefix_problems(copy: list[Stored], original: list[Stored], told: list[list[str]]) -> list[str]:
    """Say why a copy is no prefix, at one instant, of what the store came to."""
    problems = []
    later = {case.case_no: case for case in original}
    for case in copy:
        hashes = [event.hash for event in case.events]
        if hashes != [event.hash for event in later[case.case_no].events[: len(hashes)]]:
            problems.append(f"case {case.case_no} has another history")
    if [case.case_no for case in copy] != list(range(1, len(copy) + 1)):
        problems.append("a case is missing before the last one")
    by_key = {str(case.row["key"]): case for case in copy}
    # One client, one thing at a time: of what it did, the copy holds the first so many.
    there = [n in by_key and (what == "start" or times_there(by_key[n], f"word:word-{n}") == 1) for what, n in told]
    if there != sorted(there, reverse=True):
        problems.append("something acknowledged is missing before something later")
    return problems


async def test_inv_07_a_backup_under_load_restores_to_a_committed_prefix(tmp_path: Path) -> None:
    path, copy, back = tmp_path / "cases.db", tmp_path / "copy.db", tmp_path / "back.db"
    told: list[list[str]] = []
    with process(LOAD, str(path)) as child:
        for _ in range(60):
            told.append(line(child).split())
        await asyncio.to_thread(backup, str(path), str(copy))
        before = len(told)
        for _ in range(60):
            told.append(line(child).split())
        child.kill()
        assert child.stdout is not None
        told += [rest.split() for rest in child.stdout.read().splitlines() if rest.count(" ") == 1]
    original, _ = await all_of(f"sqlite:///{path}")
    restore(str(back), str(copy), Env())
    url = f"sqlite:///{back}"
    restored, findings = await all_of(url)
    assert findings == []
    assert prefix_problems(restored, original, told) == []
    keys = {str(case.row["key"]) for case in restored}
    assert {n for _, n in told[:before]} <= keys, "what was acknowledged before the backup is in it"
    assert len(restored) < len(original), "it was taken under load"

    broken, _ = await all_of(url)  # a copy that is no prefix is told from one
    del broken[3]
    assert len(prefix_problems(broken, original, told)) == 2
    broken, _ = await all_of(url)
    broken[5].events[1].hash = b"?"
    assert prefix_problems(broken, original, told) == ["case 6 has another history"]

    async with Longcase([orders], url=url) as longcase, longcase.working():
        wanted = f"orders/{told[0][1]}"
        await until(lambda: _settled(longcase), "the restored store goes on")
        assert (
            await longcase.service.signal(wanted, "word", {"n": int(told[0][1])}, idempotency_key=f"word-{told[0][1]}")
        ).duplicate


async def _settled(longcase: Longcase) -> bool:
    rows = await longcase.service.query(
        "SELECT count(*) AS n FROM cases WHERE status = 'open' AND wait_kind NOT IN ('timer', 'signal')"
    )
    return bool(rows[0]["n"] == 0)


# -- workers ---------------------------------------------------------------------------------------

WORKER = """
from longcase import Longcase
from tests.invariants.program import slow
async with Longcase([slow], url=url) as app, app.working() as worker:
    say("working")
    while sys.stdin.readable() and await asyncio.to_thread(sys.stdin.readline):
        rows = await app.service.query("SELECT count(*) AS n FROM cases WHERE status = 'open'")
        say(worker.number, rows[0]["n"])
"""


async def until(seen: Any, what: str) -> float:
    """Wait until something can be seen; returns the seconds it took."""
    began = time.monotonic()
    while not await seen():
        assert time.monotonic() - began < BOUND, f"{what}: not within {BOUND} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def exists(path: Path) -> bool:
    return path.exists() and bool(path.read_text())


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the slow vendor is watched and let go."""
    folder = tmp_path / "vendor"
    folder.mkdir()
    monkeypatch.setenv("SLOW_VENDOR", str(folder))
    monkeypatch.setattr("tests.invariants.program.FOLDER", str(folder))
    return folder


@contextmanager
def other_worker(url: str) -> Iterator[Any]:
    with process(WORKER, url) as child:
        assert line(child) == "working"
        yield child


@asynccontextmanager
async def second_worker(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Longcase, list[float]]]:
    """Run a worker here; also returns the instants at which it looked for dead ones."""
    async with Longcase([slow], url=url) as longcase:
        sweeps: list[float] = []
        look = longcase.store.dead_workers

        async def noting() -> list[int]:
            sweeps.append(time.monotonic())
            return await look()

        monkeypatch.setattr(longcase.store, "dead_workers", noting)
        async with longcase.working():
            yield longcase, sweeps


async def types(longcase: Longcase, case: str) -> list[str]:
    return [event.type for event in await longcase.service.history(case)]


async def test_inv_18_a_dead_workers_cases_go_on_within_a_sweep(
    store_url: str, vendor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its death is certain at once where a lock file tells it, and when its lease has lapsed where a beat does."""
    url = store_url
    lease = float(LEASE_SECONDS) if url.startswith("postgres") else 0.0
    with other_worker(url) as first:
        async with Longcase([slow], url=url) as door:
            await door.service.start(slow, Paper(id="1"))
        await until(lambda: exists(vendor / "began-1"), "the first worker begins the attempt")
        assert (vendor / "began-1").read_text().split()[0] == str(first.pid)
        async with second_worker(url, monkeypatch) as (longcase, sweeps):
            await until(lambda: _more(sweeps, 1), "the second worker looks around")
            assert "attempt_lost" not in await types(longcase, "slow/1"), "the first one lives"
            looks = len(sweeps)
            first.kill()
            first.wait()
            await until(lambda: exists(vendor / "began-2"), "the second worker takes over")
            assert len(sweeps) - looks <= lease / sweep.SWEEP + 4, "within a sweep, however slow the machine"
            (vendor / "release-2").touch()
            await until(lambda: _is_closed(longcase), "the case closes")
            history = await types(longcase, "slow/1")
            assert (history.count("attempt_lost"), history.count("attempt_started")) == (1, 1)
            keys = {(vendor / f"began-{n}").read_text().split()[1] for n in (1, 2)}
            assert len(keys) == 1, "both attempts carried the same key"
            assert [w.alive for w in await longcase.store.workers()] == [True], "the dead one is forgotten"


async def test_inv_18_a_stopped_worker_keeps_its_lease(
    tmp_path: Path, vendor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped is not dead: however often others look, its attempt is its own, and its result counts."""
    monkeypatch.setattr(sweep, "SWEEP", 0.05)
    url = f"sqlite:///{tmp_path / 'cases.db'}"
    with other_worker(url) as first:
        async with Longcase([slow], url=url) as door:
            await door.service.start(slow, Paper(id="1"))
        await until(lambda: exists(vendor / "began-1"), "the first worker begins the attempt")
        assert await asyncio.to_thread(stop_outside_its_commits, first, tmp_path / "cases.db")
        try:
            async with second_worker(url, monkeypatch) as (longcase, sweeps):
                await until(lambda: _more(sweeps, 12), "the second worker looks a dozen times")
                assert (await types(longcase, "slow/1"))[-1] == "activity_scheduled"
                os.kill(first.pid, signal.SIGCONT)
                (vendor / "release-1").touch()
                await until(lambda: _is_closed(longcase), "the case closes")
                assert not (vendor / "began-2").exists()
                assert (await longcase.service.show("slow/1")).state.close == {
                    "name": "done",
                    "result": "attempt 1",
                    "reason": "",
                }
        finally:
            os.kill(first.pid, signal.SIGCONT)


async def test_inv_14_a_zombie_process_changes_nothing_and_is_recorded(
    tmp_path: Path, vendor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's lock file is removed under it: it is taken for dead, goes on, and its result is refused."""
    monkeypatch.setattr(sweep, "SWEEP", 0.05)
    url = f"sqlite:///{tmp_path / 'cases.db'}"
    with other_worker(url) as first:
        async with Longcase([slow], url=url) as door:
            await door.service.start(slow, Paper(id="1"))
        await until(lambda: exists(vendor / "began-1"), "the first worker begins the attempt")
        (lock,) = Path(f"{tmp_path / 'cases.db'}-workers").glob("*.lock")
        lock.unlink()
        async with second_worker(url, monkeypatch) as (longcase, _):
            await until(lambda: exists(vendor / "began-2"), "the second worker takes over")
            (vendor / "release-1").touch()
            await until(lambda: _recorded(longcase, "attempt_refused"), "the zombie's end is refused")
            assert first.poll() is None, "the zombie lives"
            history = await longcase.service.history("slow/1")
            refused = next(event for event in history if event.type == "attempt_refused")
            assert (refused.data["attempt"], refused.data["why"]) == (1, "lost_lease")
            # None if it found out before its vendor answered, and gave the attempt up.
            assert refused.data["result"] in ("attempt 1", None)
            assert "activity_completed" not in [event.type for event in history]
            (vendor / "release-2").touch()
            await until(lambda: _is_closed(longcase), "the case closes")
            assert ((await longcase.service.show("slow/1")).state.close or {})["result"] == "attempt 2"
            assert [str(finding) async for finding in verify(longcase.store)] == []  # type: ignore[arg-type]


async def _more(sweeps: list[float], than: int) -> bool:
    return len(sweeps) > than


async def _is_closed(longcase: Longcase) -> bool:
    return (await longcase.service.show("slow/1")).state.status == "closed"


async def _recorded(longcase: Longcase, kind: str) -> bool:
    return kind in await types(longcase, "slow/1")
