"""Worker incarnations: a free lock is certain death, a paused process is not dead (I18)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from tests.support.cases import NOON_TEXT, entered, new_case, receive, turn
from tests.support.processes import line, process

from longcase.env import Env
from longcase.errors import UsageError
from longcase.store.records import CaseRef
from longcase.store.sqlite import SqliteStore, open_sqlite

WORKER = """
store = await open_sqlite(path, Env())
worker = await store.join("elsewhere", os.getpid())
started = await store.start([new_case(f"k{i}") for i in range(3)])
await store.write([turn(base, entered(), receive(), lease=worker) for base in started[:2]])
await store.write([turn(started[2], entered(), closed(), lease=worker)])
say(worker)
sys.stdin.readline()
await store.close()
say("left")
"""


@pytest.fixture
def worker(path: str, store: SqliteStore) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    with process(WORKER, path) as child:
        yield int(line(child)), child


async def test_inv_18_a_worker_in_another_process_is_alive_until_it_dies(
    store: SqliteStore, worker: tuple[int, subprocess.Popen[str]]
) -> None:
    number, child = worker
    assert await store.dead_workers() == []
    child.kill()
    child.wait()
    assert await store.dead_workers() == [number]


async def test_inv_18_a_paused_worker_is_not_dead(
    store: SqliteStore, worker: tuple[int, subprocess.Popen[str]]
) -> None:
    _, child = worker
    os.kill(child.pid, signal.SIGSTOP)
    assert await store.dead_workers() == []
    os.kill(child.pid, signal.SIGCONT)


async def test_inv_18_the_cases_of_a_dead_worker_are_ready_at_once(
    store: SqliteStore, worker: tuple[int, subprocess.Popen[str]]
) -> None:
    number, child = worker
    mine = await store.join("here", os.getpid())
    assert await store.ready(NOON_TEXT, mine, 10) == []
    child.kill()
    child.wait()
    assert await store.recover(number) == 3
    ready = await store.ready(NOON_TEXT, mine, 10)
    assert len(ready) == 2  # the third is closed
    assert [row.no for row in await store.workers()] == [mine]
    for case_no in ready:
        row = await store.load(CaseRef(case_no))
        assert row is not None
        assert (row.lease, row.wake_at) == (0, NOON_TEXT)


async def test_inv_18_recovery_may_be_repeated(store: SqliteStore, worker: tuple[int, subprocess.Popen[str]]) -> None:
    number, child = worker
    child.kill()
    child.wait()
    assert await store.recover(number) == 3
    assert await store.recover(number) == 0
    assert await store.dead_workers() == []


async def test_a_living_worker_is_not_recovered(store: SqliteStore, worker: tuple[int, subprocess.Popen[str]]) -> None:
    with pytest.raises(UsageError, match="alive"):
        await store.recover(worker[0])


async def test_a_worker_that_closes_its_store_leaves_nothing_behind(
    store: SqliteStore, path: str, worker: tuple[int, subprocess.Popen[str]]
) -> None:
    _, child = worker
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    assert line(child) == "left"
    assert await store.workers() == []
    assert os.listdir(f"{path}-workers") == []


async def test_a_missing_lock_file_is_death(
    store: SqliteStore, path: str, worker: tuple[int, subprocess.Popen[str]]
) -> None:
    number, _ = worker
    os.unlink(f"{path}-workers/{number}.lock")
    assert await store.dead_workers() == [number]


async def test_two_stores_of_one_process_do_not_take_each_other_for_dead(store: SqliteStore, path: str) -> None:
    other = await open_sqlite(path, Env())
    first, second = await store.join("here", 1), await other.join("here", 2)
    assert first != second
    assert await store.dead_workers() == await other.dead_workers() == []
    assert [row.alive for row in await other.workers()] == [True, True]
    await other.close()
    assert [row.no for row in await store.workers()] == [first]


async def test_many_leases_are_freed_in_chunks(store: SqliteStore, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longcase.store.sqlite.workers.RECOVERY_CHUNK", 3)
    started = await store.start([new_case(f"k{i}") for i in range(8)])
    await store.write([turn(base, entered(), receive(), lease=77) for base in started])
    assert await store.recover(77) == 8


async def test_a_turn_computed_before_a_worker_was_forgotten_does_not_lease_its_case_to_the_dead(
    store: SqliteStore,
) -> None:
    dead = await store.join("here", os.getpid())
    (base,) = await store.start([new_case("k1")])
    late = turn(base, entered(), receive(), lease=dead)
    store.abandon(dead)
    await store.recover(dead)
    (written,) = await store.write([late])
    assert written.outcome == "done"
    # It must not wait for a death that is no news any more.
    assert await store.ready(NOON_TEXT, await store.join("here", os.getpid()), 9) == [written.case_no]
