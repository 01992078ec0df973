"""The group commit: many callers, one fsync; the loop goes on; nobody answers for another's fault."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from tests.support.cases import NOON, do, entered, new_case, noted, receive, turn
from tests.support.disk import Disk, failing_disk

from longcase.env import Env, VirtualClock
from longcase.store.records import CaseRef, Edit, Locked
from longcase.store.sqlite import open_sqlite


class CountingEnv(Env):
    """Counts the commits."""

    def __init__(self) -> None:
        super().__init__(VirtualClock(NOON), seed=1)
        self.commits = 0

    def signal_point(self, name: str) -> None:
        self.commits += name == "after_commit"


@pytest.fixture
def disk() -> Iterator[Disk]:
    with failing_disk("longcase-test-disk") as disk:
        yield disk


async def test_callers_of_one_moment_share_a_commit(path: str) -> None:
    env = CountingEnv()
    store = await open_sqlite(path, env)
    cases = await store.start([new_case(f"k{i}") for i in range(50)])
    env.commits = 0
    _disk_has_been_slow(store)  # on a quick one the first goes alone, and the others together after it
    await asyncio.gather(*(store.write([turn(base, entered(), receive())]) for base in cases))
    assert env.commits == 1
    await store.close()


async def test_callers_that_come_during_a_commit_share_the_next_one(path: str, disk: Disk) -> None:
    env = CountingEnv()
    store = await open_sqlite(path, env, faults=disk.name)
    cases = await store.start([new_case(f"k{i}") for i in range(50)])
    env.commits = 0
    _disk_has_been_slow(store)
    disk.gate = threading.Event()
    first = asyncio.create_task(store.write([turn(cases[0], entered(), receive())]))
    await _until_committing(store)
    others = [asyncio.create_task(store.write([turn(base, entered(), receive())])) for base in cases[1:]]
    await asyncio.sleep(0)
    assert not first.done()  # the loop goes on while the disk is waited for
    assert (await store.load(CaseRef(cases[0].case_no))) is not None
    disk.gate.set()
    await asyncio.gather(first, *others)
    assert env.commits == 2
    disk.gate = None
    await store.close()


def _disk_has_been_slow(store: object) -> None:
    """Let the next commit wait in the helper thread, as it does after a slow one."""
    store._committer._commit_took = 1.0  # type: ignore[attr-defined]


async def _until_committing(store: object) -> None:
    committer = store._committer  # type: ignore[attr-defined]
    for _ in range(10_000):
        if committer.connection is None:
            return
        await asyncio.sleep(0)
    raise AssertionError("no commit began")


async def test_whoever_stops_waiting_does_not_stop_the_others(path: str, disk: Disk) -> None:
    store = await open_sqlite(path, Env(VirtualClock(NOON)), faults=disk.name)
    (base,) = await store.start([new_case("k1")])
    ref = CaseRef(base.case_no)
    _disk_has_been_slow(store)
    disk.gate = threading.Event()
    first = asyncio.create_task(store.edit(ref, do(noted("first"))))
    await _until_committing(store)
    second, third = (asyncio.create_task(store.edit(ref, do(noted(name)))) for name in ("second", "third"))
    await asyncio.sleep(0)
    first.cancel()  # its write is under way
    second.cancel()  # its write has not begun
    disk.gate.set()
    await third
    assert [event.data.get("key") for event in await store.events(base.case_no, after=1)] == ["first", "third"]
    disk.gate = None
    await store.close()


async def test_closing_finishes_what_is_queued(path: str) -> None:
    store = await open_sqlite(path, Env())
    waiting = [asyncio.create_task(store.start([new_case(f"k{i}")])) for i in range(10)]
    await asyncio.sleep(0)
    await store.close()
    assert len(await asyncio.gather(*waiting)) == 10


async def test_a_loop_that_ends_in_a_commit_leaves_a_sound_store(path: str) -> None:
    def interrupted() -> None:
        async def main() -> None:
            store = await open_sqlite(path, Env())
            asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)  # type: ignore[union-attr]
            await asyncio.gather(*(store.start([new_case(f"k{i}")]) for i in range(100)))

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())

    await asyncio.to_thread(interrupted)
    store = await open_sqlite(path, Env())
    (found,) = await store.query("SELECT count(*) AS n FROM cases")
    assert found["n"] in (0, 100)
    await store.close()


def test_inline_every_method_ends_without_suspending(path: str) -> None:
    async def everything() -> int:
        store = await open_sqlite(path, Env(VirtualClock(NOON)), inline=True)
        (base,) = await store.start([new_case("k1")])
        await store.write([turn(base, entered(), receive())])
        await store.edit(CaseRef(base.case_no), do(noted()))
        worker = await store.join("here", 1)
        await store.map_number("onboarding", "f", {}, ["a"])
        await store.query("SELECT * FROM case_overview")
        await store.leave(worker)
        await store.stored(0, 10)
        await store.close()
        return base.case_no

    coroutine = everything()
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    assert ended.value.value == 1


def test_inline_callers_in_several_threads_take_turns(path: str) -> None:
    def drive(coroutine: object) -> None:
        with pytest.raises(StopIteration):
            coroutine.send(None)  # type: ignore[attr-defined]

    store_made: list[object] = []

    async def make() -> None:
        store_made.append(await open_sqlite(path, Env(), inline=True))

    drive(make())
    store = store_made[0]

    def run(number: int) -> None:
        for again in range(10):
            drive(store.start([new_case(f"k{number}-{again}")]))  # type: ignore[attr-defined]
            drive(store.load(CaseRef(workflow="onboarding", key=f"k{number}-{again}")))  # type: ignore[attr-defined]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drive(store.close())  # type: ignore[attr-defined]


async def test_a_unit_may_be_run_again_and_sees_its_own_transaction(path: str) -> None:
    store = await open_sqlite(path, Env())
    (base,) = await store.start([new_case("k1")])

    def second(locked: Locked) -> Edit[int]:
        return Edit(locked.state.seq)

    first, seen = await asyncio.gather(
        store.edit(CaseRef(base.case_no), do(noted())), store.edit(CaseRef(base.case_no), second)
    )
    assert (first, seen) == (1, 2)
    await store.close()
