"""F7, F9, F11: the disk is full, fails, is slow; accepted is kept, and all goes on by itself when it is well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from tests.crash import program
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import BOUND, check_orders, living
from tests.support.disk import Disk, failing_disk

from longcase import Case, Longcase, Next, Team, Workflow, activity, attempt, backoff, days, seconds
from longcase.errors import StoreUnavailable
from longcase.store.sqlite import commit as commit_module


@pytest.fixture
def disk() -> Iterator[Disk]:
    with failing_disk("longcase-test-life", default=True) as disk:
        yield disk


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(program, "LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setattr(backoff, "CAP", 0.01)  # and so the first pause
    return tmp_path / "ledger"


@pytest.mark.timeout(by_length(300, 900))
async def test_fault_F7_the_disk_is_full_at_every_nth_write_and_has_room_again(
    tmp_path: Path, ledger: Path, disk: Disk, fault_report: FaultReport
) -> None:
    url = f"sqlite:///{tmp_path / 'cases.db'}"
    keys = [f"o{n}" for n in range(by_length(12, 60))]
    reads = 0
    async with living(url) as life:
        for number, key in enumerate(keys):
            disk.fail(number * 2 + 1, forever=True, full=True, on="write")
            turn = asyncio.create_task(life.order(key))
            before = disk.failed
            while disk.failed < before + 3 and not turn.done():
                await asyncio.sleep(0.002)
            for told in life.told[-3:]:  # reads go on, and show what was accepted
                shown = await life.longcase.service.show(f"orders/{told[1]}")
                assert shown.state.status in ("open", "closed")
                reads += 1
            disk.heal()
            await turn
        fault_report(injected={"writes refused": disk.failed})
        await life.all_closed()
        refused = life.refused
    assert refused["storage_full"] > 0
    assert set(refused) <= {"storage_full"}, refused
    fault_report(
        useful={
            "orders done": len(keys), "effects": await asyncio.to_thread(check_orders, url, ledger, keys),
            "reads meanwhile": reads,
        },
        found=f"{refused['storage_full']} calls got storage_full, all went on without an operator",
    )  # fmt: skip


@pytest.mark.timeout(by_length(300, 900))
@pytest.mark.parametrize("forever", [False, True], ids=["once", "until healed"])
@pytest.mark.parametrize("kind", ["read", "write", "sync"])
async def test_fault_F9_the_nth_operation_of_the_disk_fails(
    tmp_path: Path, ledger: Path, disk: Disk, fault_report: FaultReport, kind: str, forever: bool
) -> None:
    url = f"sqlite:///{tmp_path / 'cases.db'}"
    keys: list[str] = []
    failures = 0
    async with living(url) as life:
        life.on_error = disk.heal
        for number in range(by_length(6, 40)):
            keys.append(f"o{number}")
            reader = life.longcase.store._reader  # type: ignore[attr-defined]
            if kind == "read" and reader is not None:  # or nothing would be read from the disk
                reader.pragma("cache_size", 0)
            before = disk.failed
            disk.fail(number * (by_length(5, 1) if kind != "sync" else 1) + 1, forever=forever, on=kind)
            await life.order(keys[-1])
            while disk.failed == before and await life.open_orders():  # it may strike the worker alone
                await asyncio.sleep(0.005)
            failures += disk.failed - before
            await asyncio.sleep(0.02 if disk.failed > before else 0)
            disk.heal()
        fault_report(injected={f"failed {kind}s": failures})
        await life.all_closed()
        assert set(life.refused) <= {"store_unavailable"}, life.refused
        refused = sum(life.refused.values())
    effects = await asyncio.to_thread(check_orders, url, ledger, keys)
    fault_report(
        useful={"orders done": len(keys), "effects": effects},
        found=f"{refused} calls were told so and repeated; nothing lost, nothing doubled",
    )


async def test_fault_F9_opening_on_a_failing_disk_is_an_error_and_works_when_it_is_well(
    tmp_path: Path, ledger: Path, disk: Disk, fault_report: FaultReport
) -> None:
    url = f"sqlite:///{tmp_path / 'cases.db'}"
    refused = opened = 0
    for at in range(1, 400, by_length(9, 1)):
        disk.fail(at, forever=True, on="read write sync")
        try:
            async with Longcase([program.orders], url=url):
                opened += 1
        except StoreUnavailable as error:
            refused += error.retryable
        disk.heal()
        if opened and at > 60:
            break
    keys = ["o1"]
    async with living(url) as life:
        await life.order(keys[0])
        await life.all_closed()
    fault_report(
        injected={"disks that failed while opening": refused},
        useful={"orders done": 1, "effects": await asyncio.to_thread(check_orders, url, ledger, keys)},
        found="each an error to the caller; the next opening found a whole store",
    )


# -- a slow disk -----------------------------------------------------------------------------------

desk = Team("desk")


class Thing(BaseModel):
    id: str


things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(1))


inside: set[str] = set()  # attempts that run


@activity(owner=desk, effect="repeatable", heartbeat=seconds(0.25), timeout=seconds(60))
async def beating(thing: str) -> int:
    """Work for about a second, and say every few milliseconds that it goes on."""
    inside.add(thing)
    for _ in range(50):
        attempt().heartbeat()
        await asyncio.sleep(0.02)
    inside.discard(thing)
    return attempt().number


@things.stage(expect=days(1))
async def working(case: Case[Thing]) -> Next:
    return things.close("done", result=await beating(case.key))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("quick", [1_000.0, -1.0], ids=["on the loop", "beside the loop"])
async def test_fault_F11_a_slow_fsync_starves_no_heartbeat(
    tmp_path: Path, disk: Disk, fault_report: FaultReport, monkeypatch: pytest.MonkeyPatch, quick: float
) -> None:
    """A slow commit that was not foreseen stops the loop, twice as long as an attempt may be silent."""
    monkeypatch.setattr(commit_module, "QUICK_COMMIT", quick)
    url = f"sqlite:///{tmp_path / 'cases.db'}"
    count = by_length(4, 12)
    inside.clear()
    under = 0  # attempts that ran while a commit was slow
    async with Longcase([things], url=url) as longcase, longcase.working():
        for number in range(count):
            under += len(inside)
            disk.slow = 0.6
            await longcase.service.start(things, Thing(id=f"t{number}"))
            disk.slow = 0.0
            async with asyncio.timeout(BOUND):
                while f"t{number}" not in inside:
                    await asyncio.sleep(0.005)
        async with asyncio.timeout(BOUND):
            while (await longcase.service.query("SELECT count(*) AS n FROM cases WHERE status = 'open'"))[0]["n"]:
                await asyncio.sleep(0.01)
        attempts = [(await longcase.service.show(f"things/t{n}")).state.close for n in range(count)]
    assert [close["result"] for close in attempts if close] == [1] * count, "an attempt was given up for no reason"
    assert under, "no attempt ran while a commit was slow: the test would prove nothing"
    fault_report(
        injected={"syncs of 0.6 s": disk.slowed, "attempts under them": under},
        useful={"attempts that beat on": count},
        found="no attempt was taken for dead",
    )
