"""Disk errors: an error to the caller, never half a write, and work again when the disk does (F7, F9)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.support.cases import do, entered, new_case, noted, receive, turn
from tests.support.disk import Disk, failing_disk

from longcase.env import Env
from longcase.errors import LongcaseError, StorageFull, StoreUnavailable
from longcase.insight.verify import verify
from longcase.store.records import CaseRef
from longcase.store.sqlite import open_sqlite


@pytest.fixture
def disk() -> Iterator[Disk]:
    with failing_disk("longcase-test-faults") as disk:
        yield disk


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("forever", [False, True])
async def test_inv_06_every_failing_operation_of_the_disk_is_survived(
    path: str, env: Env, disk: Disk, forever: bool, inline: bool
) -> None:
    store = await open_sqlite(path, env, inline=inline, faults=disk.name)
    acknowledged = failures = 0
    for at in range(1, 60):
        (base,) = await store.start([new_case(f"k{at}")])
        disk.fail(at, forever=forever)
        try:
            await store.write([turn(base, entered(), receive())])
            for number in range(3):
                await store.edit(CaseRef(base.case_no), do(noted(str(number))))
                acknowledged += 1
        except StoreUnavailable:
            failed = True
        else:
            failed = False
        failures += failed
        disk.heal()
        row = await store.load(CaseRef(base.case_no))
        assert row is not None
        assert failed or row.state.seq == 6
        await store.edit(CaseRef(base.case_no), do(noted("well again")))
        if not failed:
            break  # the disk had no more operations to fail at
    assert failures > 3
    assert [str(finding) async for finding in verify(store) if finding.invariant != "I31"] == []
    (found,) = await store.query("SELECT count(*) AS n FROM history WHERE type = 'duplicate_ignored'")
    assert found["n"] >= acknowledged
    await store.close()


async def test_a_failed_fsync_is_not_believed_the_second_time(path: str, env: Env, disk: Disk) -> None:
    store = await open_sqlite(path, env, faults=disk.name)
    (base,) = await store.start([new_case("k1")])
    before = store._committer.connection
    disk.fail(1, on="sync")
    with pytest.raises(StoreUnavailable, match="cannot be read or written"):
        await store.edit(CaseRef(base.case_no), do(noted()))
    await store.edit(CaseRef(base.case_no), do(noted()))
    assert store._committer.connection is not before
    await store.close()


async def test_a_full_disk_is_told_and_reads_go_on(path: str, env: Env, disk: Disk) -> None:
    store = await open_sqlite(path, env, faults=disk.name)
    (base,) = await store.start([new_case("k1")])
    disk.fail(1, forever=True, full=True, on="write")
    for _ in range(3):
        with pytest.raises(StorageFull, match="full") as refused:
            await store.edit(CaseRef(base.case_no), do(noted()))
        assert refused.value.hint.startswith("df -h")
        assert (await store.load(CaseRef(base.case_no))) is not None
    disk.heal()
    await store.edit(CaseRef(base.case_no), do(noted()))
    row = await store.load(CaseRef(base.case_no))
    assert row is not None
    assert row.state.seq == 2
    await store.close()


async def test_everybody_in_a_failed_transaction_is_told(path: str, env: Env, disk: Disk) -> None:
    store = await open_sqlite(path, env, faults=disk.name)
    cases = await store.start([new_case(f"k{i}") for i in range(5)])
    store._committer._commit_took = 1.0  # a slow disk: nobody goes alone, all are in one transaction
    disk.fail(1, on="sync")
    outcomes = await asyncio.gather(
        *(store.write([turn(base, entered(), receive())]) for base in cases), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    assert [written.outcome for written in await store.write([turn(base, entered(), receive()) for base in cases])] == [
        "done"
    ] * 5
    await store.close()


async def test_a_worker_that_could_not_join_holds_no_lock(path: str, env: Env, disk: Disk) -> None:
    store = await open_sqlite(path, env, faults=disk.name)
    disk.fail(1, forever=True, full=True)
    with pytest.raises(LongcaseError):
        await store.join("here", 1)
    disk.heal()
    assert store._locks.held == []
    assert await store.join("here", 1) > 0
    await store.close()


async def test_reads_fail_with_the_disk_and_come_back_with_it(path: str, env: Env, disk: Disk) -> None:
    store = await open_sqlite(path, env, faults=disk.name)
    (base,) = await store.start([new_case("k1", text="x" * 100_000)])
    store._reader.pragma("cache_size", 1)  # type: ignore[union-attr]
    disk.fail(1, forever=True, on="read")
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        await store.load(CaseRef(base.case_no))
    with pytest.raises(StoreUnavailable):
        await store.load(CaseRef(base.case_no))
    disk.heal()
    row = await store.load(CaseRef(base.case_no))
    assert row is not None
    assert len(row.state.object["text"]) == 100_000
    await store.close()
