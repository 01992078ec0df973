"""Leases, claims and the fence: who may move a case, and who no longer may."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.support.cases import NOON_TEXT, entered, first_turn, new_case, receive, turn
from tests.support.postgres import run_sql

from longcase.env import Env, RealClock
from longcase.errors import UsageError, WorkerForgotten
from longcase.store.port import CaseRef
from longcase.store.postgres import PostgresStore, open_postgres

SILENT = "UPDATE workers SET beat = clock_timestamp() - lease - interval '1 millisecond'"  # one lease without a beat


async def cases(store: PostgresStore, count: int, *, lease: int = 0, workflow: str = "onboarding") -> list[int]:
    """Start cases and let each be due, or be held by a worker."""
    started = await store.start([new_case(f"k{i}", workflow=workflow) for i in range(count)])
    await store.write(
        [turn(one, entered(), receive(), wake_at="" if lease else NOON_TEXT, lease=lease) for one in started]
    )
    return [one.case_no for one in started]


async def test_two_workers_never_claim_the_same_case(store: PostgresStore, other: PostgresStore) -> None:
    all_ = await cases(store, 40)
    mine, theirs = await store.join("here", 1), await other.join("there", 2)
    claimed: dict[int, list[int]] = {mine: [], theirs: []}

    async def claim(at: PostgresStore, worker: int) -> None:
        for _ in range(8):
            claimed[worker] += [
                case_no for case_no in await at.ready(NOON_TEXT, worker, 5) if case_no not in claimed[worker]
            ]
            await at.write([])

    # Each takes what it can; a claimed case stays due for its holder until its turn is written.
    await asyncio.gather(claim(store, mine), claim(other, theirs))
    assert set(claimed[mine]).isdisjoint(claimed[theirs])
    assert claimed[mine]
    assert claimed[theirs]
    assert set(claimed[mine]) | set(claimed[theirs]) <= set(all_)


async def test_a_claim_ends_with_the_turn_or_its_release(store: PostgresStore) -> None:
    first, second = await cases(store, 2)
    mine = await store.join("here", 1)
    assert await store.ready(NOON_TEXT, mine, 10) == [first, second]
    rows = await store.load_many([first, second])
    assert [row.lease for row in rows.values()] == [mine, mine]
    await store.write([turn(rows[first])])  # parked
    await store.release([second], mine)
    rows = await store.load_many([first, second])
    assert [(rows[n].lease, rows[n].wake_at) for n in (first, second)] == [(0, ""), (0, NOON_TEXT)]


async def test_inv_18_a_silent_worker_loses_its_cases_when_its_lease_lapses_and_not_before(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    silent, well = await store.join("here", 1), await other.join("there", 2)
    (case_no,) = await cases(store, 1, lease=silent)
    assert await other.dead_workers() == []
    with pytest.raises(UsageError, match="alive"):
        await other.recover(silent)
    await asyncio.to_thread(run_sql, postgres_url, f"{SILENT} WHERE no = {silent}")
    assert await other.dead_workers() == [silent]
    assert other.is_dead(silent)
    assert not other.is_dead(well)
    assert await other.recover(silent) == 1
    row = await other.load(CaseRef(case_no))
    assert row is not None
    assert (row.lease, row.wake_at) == (0, NOON_TEXT)
    assert [one.no for one in await other.workers()] == [well]


async def test_inv_18_many_may_recover_one_worker_at_once(store: PostgresStore, other: PostgresStore) -> None:
    dead = await store.join("here", 1)
    held = await cases(store, 30, lease=dead)
    await store.abandon(dead)
    freed = await asyncio.gather(*(one.recover(dead) for one in (store, other, store, other)))
    assert sum(freed) == len(held)
    assert await store.workers() == []
    assert {row.lease for row in (await store.load_many(held)).values()} == {0}


async def test_a_forgotten_worker_is_told_at_its_next_beat(store: PostgresStore) -> None:
    worker = await store.join("here", 1)
    await store.beat(worker)
    await store.abandon(worker)
    await store.recover(worker)
    with pytest.raises(WorkerForgotten, match=f"worker {worker} was silent"):
        await store.beat(worker)


async def test_a_worker_that_beats_again_before_anybody_took_over_is_alive(
    store: PostgresStore, postgres_url: str
) -> None:
    worker = await store.join("here", 1)
    await asyncio.to_thread(run_sql, postgres_url, SILENT)
    assert await store.dead_workers() == [worker]
    await store.beat(worker)
    assert await store.dead_workers() == []
    assert not store.is_dead(worker)


async def test_inv_14_a_forgotten_worker_writes_no_lease(store: PostgresStore, other: PostgresStore) -> None:
    zombie = await store.join("here", 1)
    (case_no,) = await cases(store, 1)
    row = await store.load(CaseRef(case_no))
    assert row is not None
    late = turn(row, receive("other", "1.r2"), lease=zombie)
    await store.abandon(zombie)
    await other.recover(zombie)
    with pytest.raises(WorkerForgotten):  # its own process is told
        await store.write([late])
    (written,) = await other.write([late])
    assert written.outcome == "stale"
    now = await store.load(CaseRef(case_no))
    assert now is not None
    assert (now.state.seq, now.lease) == (row.state.seq, 0)
    assert store.is_dead(zombie)
    assert other.is_dead(zombie)


async def test_inv_14_a_forgotten_worker_begins_no_case_which_can_be_accepted_all_the_same(
    store: PostgresStore,
) -> None:
    zombie = await store.join("here", 1)
    await store.abandon(zombie)
    await store.recover(zombie)
    (written,) = await store.write([first_turn(new_case("k1"), entered(), lease=zombie)], partial=True)
    assert written.outcome == "failed"
    assert isinstance(written.error, WorkerForgotten)
    assert await store.load(CaseRef(workflow="onboarding", key="k1")) is None


async def test_inv_14_of_a_batch_only_the_fenced_case_is_refused(store: PostgresStore, other: PostgresStore) -> None:
    zombie, well = await other.join("there", 1), await store.join("here", 2)
    numbers = await cases(store, 2)
    rows = await store.load_many(numbers)
    await store.abandon(zombie)
    await store.recover(zombie)
    held = turn(rows[numbers[0]], receive("a", "1.r2"), lease=zombie)
    fine = turn(rows[numbers[1]], receive("a", "1.r2"), lease=well)
    assert [one.outcome for one in await store.write([held, fine], partial=True)] == ["stale", "done"]


async def test_a_write_of_a_worker_being_forgotten_is_before_or_after_and_never_lost(
    store: PostgresStore, other: PostgresStore
) -> None:
    # However the two meet: a case is never left with a lease that nobody will ever void.
    for number in range(12):
        worker = await other.join("there", 1)
        (started,) = await store.start([new_case(f"race-{number}")])
        await store.abandon(worker)
        write = store.write([turn(started, entered(), receive(), lease=worker)])
        outcome, _ = await asyncio.gather(write, other.recover(worker))
        row = await store.load(CaseRef(started.case_no))
        assert row is not None
        if outcome[0].outcome == "done":
            assert (row.lease, row.wake_at) == (0, NOON_TEXT)  # voided after it was written
        else:
            assert row.state.seq == 1
        assert await store.workers() == []


async def test_recovery_gives_every_workflow_its_share_of_each_step(store: PostgresStore, monkeypatch: Any) -> None:
    monkeypatch.setattr("longcase.store.postgres.workers.RECOVERY_CHUNK", 10)
    dead = await store.join("here", 1)
    many = await cases(store, 40, lease=dead, workflow="many")
    few = await cases(store, 3, lease=dead, workflow="few")
    await store.abandon(dead)
    freed: list[set[int]] = []
    original = store._change

    async def watched(work: Any, pool: Any = None) -> Any:
        answer = await original(work, pool)
        if isinstance(answer, int) and answer:
            rows = await store.load_many([*many, *few])
            freed.append({case_no for case_no, row in rows.items() if row.lease == 0})
        return answer

    monkeypatch.setattr(store, "_change", watched)
    assert await store.recover(dead) == 43
    assert set(few) <= freed[1]
    assert len(freed[1]) < 43


async def test_a_heart_beats_from_a_thread_of_its_own(store: PostgresStore, postgres_url: str) -> None:
    worker = await store.join("here", 1)
    heart = store.heart(worker)
    assert heart is not None
    assert heart.every == pytest.approx(0.5)  # a quarter of LONGCASE_LEASE_SECONDS, which is 2 here
    await asyncio.to_thread(run_sql, postgres_url, SILENT)
    assert await store.dead_workers() == [worker]
    await asyncio.to_thread(heart.beat)
    assert await store.dead_workers() == []
    await asyncio.to_thread(run_sql, postgres_url, "DELETE FROM workers")
    with pytest.raises(WorkerForgotten):
        await asyncio.to_thread(heart.beat)
    await asyncio.to_thread(heart.close)


class AheadClock(RealClock):
    """The clock of a machine that is set five minutes ahead."""

    def uncorrected(self) -> datetime:
        return super().uncorrected() + timedelta(minutes=5)

    def now(self) -> datetime:
        return self.uncorrected() + self.offset


async def test_inv_21_a_machine_whose_clock_is_ahead_goes_by_the_databases(postgres_url: str) -> None:
    env = Env(AheadClock())
    store = await open_postgres(postgres_url, env)
    try:
        (there,) = await asyncio.to_thread(run_sql, postgres_url, "SELECT clock_timestamp()")
        assert abs((env.now() - there[0]).total_seconds()) < 2
        assert await store.clock_offset() == pytest.approx(0, abs=2)  # of a clock that is right
    finally:
        await store.close()


async def test_a_heart_corrects_the_clock_as_it_beats(store: PostgresStore, env: Env) -> None:
    clock = AheadClock()
    heart = store.heart(await store.join("here", 1))
    assert heart is not None
    env.clock = clock  # set while the worker runs
    await asyncio.to_thread(heart.beat)
    await asyncio.to_thread(heart.close)
    assert clock.offset.total_seconds() == pytest.approx(-300, abs=2)
