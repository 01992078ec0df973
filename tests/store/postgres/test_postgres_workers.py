"""Leases, claims and the fence: who may move a case, and who no longer may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from tests.support.cases import NOON_TEXT, entered, first_turn, new_case, receive, turn
from tests.support.postgres import run_sql

from longcase.errors import WorkerForgotten
from longcase.store.postgres import PostgresStore
from longcase.store.postgres.commit import Job
from longcase.store.postgres.workers import Standing
from longcase.store.records import CaseRef, QueuedCall, QueueLimits

SILENT = "UPDATE workers SET beat = clock_timestamp() - lease - interval '1 millisecond'"  # one lease without a beat


async def cases(store: PostgresStore, count: int, *, lease: int = 0, workflow: str = "onboarding") -> list[int]:
    """Start cases and let each be due, or be held by a worker."""
    started = await store.start([new_case(f"k{i}", workflow=workflow) for i in range(count)])
    await store.write(
        [turn(one, entered(), receive(), wake_at="" if lease else NOON_TEXT, lease=lease) for one in started]
    )
    return [one.case_no for one in started]


@asynccontextmanager
async def held(url: str, sql: str) -> AsyncIterator[None]:
    """Hold the locks of a statement while the body runs."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(sql)
            yield
    finally:
        await connection.close()


async def waits_for_a_lock(url: str, text: str) -> None:
    """Return when a statement that contains `text` waits for a lock."""
    sql = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() "
    for _ in range(500):
        if await asyncio.to_thread(run_sql, url, f"{sql} AND position('{text}' IN query) > 0"):
            return
    raise AssertionError(f"nothing waits: {text}")


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


async def test_a_claim_ends_with_the_turn_or_with_its_worker(store: PostgresStore) -> None:
    first, second = await cases(store, 2)
    mine = await store.join("here", 1)
    assert await store.ready(NOON_TEXT, mine, 10) == [first, second]
    rows = await store.load_many([first, second])
    assert [row.lease for row in rows.values()] == [mine, mine]
    await store.write([turn(rows[first])])  # parked
    await store.leave(mine)
    rows = await store.load_many([first, second])
    assert [(rows[n].lease, rows[n].wake_at) for n in (first, second)] == [(0, ""), (0, NOON_TEXT)]


async def test_inv_18_a_silent_worker_loses_its_cases_when_its_lease_lapses_and_not_before(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    silent, well = await store.join("here", 1), await other.join("there", 2)
    (case_no,) = await cases(store, 1, lease=silent)
    assert await other.dead_workers() == []
    assert await other.recover(silent) == 0  # it is alive
    assert [one.no for one in await other.workers()] == [silent, well]
    await asyncio.to_thread(run_sql, postgres_url, f"{SILENT} WHERE no = {silent}")
    assert await other.dead_workers() == [silent]
    assert not other.is_dead(silent)  # it is late, and may still give a beat
    assert await other.recover(silent) == 1
    assert other.is_dead(silent)
    assert not other.is_dead(well)
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
    assert not store.is_dead(worker)
    await store.beat(worker)
    assert await store.recover(worker) == 0  # whoever had read that it is late comes too late himself
    assert await store.dead_workers() == []
    assert not store.is_dead(worker)


def test_an_old_reading_of_who_lives_changes_nothing() -> None:
    known = Standing()
    old, new = known.begin(), known.begin()
    known.read(new, [(1, False), (3, False)])
    known.read(old, [(1, False), (2, False)])  # 2 has gone meanwhile, and 3 has joined
    assert [known.is_dead(one) for one in (1, 2, 3)] == [False, True, False]
    before = known.begin()
    known.joined(4)
    known.read(before, [(1, False), (3, False), (5, False)])
    assert not known.is_dead(4)


@pytest.mark.parametrize("gone", [False, True], ids=["lapsed", "gone"])
async def test_inv_14_a_forgotten_worker_writes_no_lease(
    store: PostgresStore, other: PostgresStore, gone: bool
) -> None:
    zombie = await store.join("here", 1)
    (case_no,) = await cases(store, 1)
    row = await store.load(CaseRef(case_no))
    assert row is not None
    late = turn(row, receive("other", "1.r2"), lease=zombie)
    await store.abandon(zombie)
    if gone:  # before that its cases are being set free, some at a time
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


@pytest.mark.parametrize("by", ["its heart", "its pump"])
async def test_inv_14_a_worker_that_was_declared_dead_does_not_beat_itself_alive_again(
    store: PostgresStore, postgres_url: str, by: str
) -> None:
    """Its leases are being voided: a beat in the middle of that must not be taken for a life."""
    zombie = await store.join("here", 1)
    heart = store.heart(zombie)
    assert heart is not None
    await store.abandon(zombie)
    before = await asyncio.to_thread(run_sql, postgres_url, "SELECT beat, lapsed FROM workers")
    with pytest.raises(WorkerForgotten):
        await (asyncio.to_thread(heart.beat) if by == "its heart" else store.beat(zombie))
    await asyncio.to_thread(heart.close)
    assert await asyncio.to_thread(run_sql, postgres_url, "SELECT beat, lapsed FROM workers") == before


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


@pytest.mark.parametrize("by", ["lease", "worker"])
async def test_inv_14_what_a_forgotten_worker_runs_from_a_queue_is_refused_although_it_wants_no_lease(
    store: PostgresStore, other: PostgresStore, by: str
) -> None:
    zombie = await other.join("there", 1)
    (case_no,) = await cases(store, 1)
    row = await store.load(CaseRef(case_no))
    assert row is not None
    await store.abandon(zombie)
    await store.recover(zombie)
    late = turn(row, receive("other", "1.r2"))
    setattr(late, by, zombie)
    late.queued = [QueuedCall("1.c1", "gpu", 0, 1, NOON_TEXT, NOON_TEXT, zombie)]
    assert [one.outcome for one in await store.write([late])] == ["stale"]
    with pytest.raises(WorkerForgotten):
        await other.write([late])
    assert await store.query("SELECT call FROM queued_calls") == []


async def test_a_forgotten_worker_takes_and_claims_nothing(store: PostgresStore, other: PostgresStore) -> None:
    zombie = await store.join("here", 1)
    (case_no,) = await cases(store, 1)
    row = await store.load(CaseRef(case_no))
    assert row is not None
    waits = turn(row, receive("other", "1.r2"), wake_at=NOON_TEXT)
    waits.queued = [QueuedCall("1.c1", "gpu", 0, 1, NOON_TEXT, NOON_TEXT)]
    await store.write([waits])
    await store.abandon(zombie)
    for _ in range(2):  # lapsed, then gone
        with pytest.raises(WorkerForgotten):
            await store.take(zombie, [QueueLimits("gpu", 1)], NOON_TEXT, 5)
        with pytest.raises(WorkerForgotten):
            await store.ready(NOON_TEXT, zombie, 5)
        await other.recover(zombie)
    heir = await other.join("there", 2)
    assert (await other.take(heir, [QueueLimits("gpu", 1)], NOON_TEXT, 5)).calls == ((case_no, "1.c1", 1),)
    assert await other.ready(NOON_TEXT, heir, 5) == [case_no]


async def test_a_worker_that_writes_is_forgotten_after_its_write_and_what_stands_still_stops_nobody(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    worker = await store.join("here", 1)
    (case_no,) = await cases(store, 1)
    row = await store.load(CaseRef(case_no))
    assert row is not None
    await asyncio.to_thread(run_sql, postgres_url, SILENT)
    async with held(postgres_url, "SELECT FROM cases FOR UPDATE"):
        write = asyncio.create_task(store.write([turn(row, receive("a", "1.r2"), lease=worker, worker=worker)]))
        await waits_for_a_lock(postgres_url, "UPDATE cases")
        # It is late, and its write is under way: it is not waited for, and nothing of it is voided.
        assert await asyncio.wait_for(other.recover(worker), 5) == 0
        assert not other.is_dead(worker)
        assert await other.dead_workers() == [worker]
    assert [one.outcome for one in await write] == ["done"]
    assert await other.recover(worker) == 1
    after = await other.load(CaseRef(case_no))
    assert after is not None
    assert (after.state.seq, after.lease, after.wake_at) == (row.state.seq + 1, 0, NOON_TEXT)


async def test_a_case_that_somebody_has_locked_does_not_hold_up_the_recovery_of_the_others(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    worker = await store.join("here", 1)
    leased, running, free = await cases(store, 3, lease=worker)
    row = (await store.load_many([running]))[running]
    runs = turn(row, receive("a", "1.r2"), wake_at="", worker=worker)
    runs.queued = [QueuedCall("1.c1", "gpu", 0, 1, NOON_TEXT, NOON_TEXT, worker)]
    await store.write([runs])
    await store.abandon(worker)
    async with held(postgres_url, f"SELECT FROM cases WHERE case_no IN ({leased}, {running}) FOR UPDATE"):
        for _ in range(2):
            await asyncio.wait_for(other.recover(worker), 5)
        assert (await other.load_many([free]))[free].lease == 0
        assert await other.dead_workers() == [worker]  # not forgotten: somebody has to come again
    await other.recover(worker)
    after = await other.load_many([leased, running, free])
    assert [(row.lease, row.wake_at) for row in after.values()] == [(0, NOON_TEXT)] * 3
    assert await other.workers() == []


async def test_no_write_of_a_worker_comes_after_it_has_given_its_leases_back(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    worker = await store.join("here", 1)
    first, second = await cases(store, 2)
    rows = await store.load_many([first, second])
    await store.write([turn(rows[first], receive("a", "1.r2"), lease=worker, worker=worker)])
    async with held(postgres_url, f"SELECT FROM cases WHERE case_no = {first} FOR UPDATE"):
        leaving = asyncio.create_task(store.leave(worker))
        await waits_for_a_lock(postgres_url, "UPDATE cases SET lease")
        late = asyncio.create_task(other.write([turn(rows[second], receive("a", "1.r2"), lease=worker)]))
        await waits_for_a_lock(postgres_url, "FOR SHARE")
    await leaving
    assert [one.outcome for one in await late] == ["stale"]
    assert {row.lease for row in (await store.load_many([first, second])).values()} == {0}


async def test_a_queue_that_somebody_has_locked_is_left_for_later_and_the_others_are_not(
    store: PostgresStore, postgres_url: str
) -> None:
    worker = await store.join("here", 1)
    numbers = await cases(store, 2)
    for case_no, row in (await store.load_many(numbers)).items():
        waits = turn(row, receive("other", "1.r2"))
        waits.queued = [QueuedCall("1.c1", f"q{case_no - numbers[0]}", 0, 1, NOON_TEXT, NOON_TEXT)]
        await store.write([waits])
    await asyncio.to_thread(run_sql, postgres_url, "INSERT INTO queue_rates VALUES ('q0', '[]')")
    limits = [QueueLimits("q0"), QueueLimits("q1")]
    async with held(postgres_url, "SELECT FROM queue_rates FOR UPDATE"):
        taken = await asyncio.wait_for(store.take(worker, limits, NOON_TEXT, 5), 5)
    assert taken.calls == ((numbers[1], "1.c1", 1),)
    assert NOON_TEXT < taken.again < "2026-03-02T12:00:05"
    assert (await store.take(worker, limits, taken.again, 5)).calls == ((numbers[0], "1.c1", 1),)


async def test_inv_12_a_key_used_and_closed_while_a_start_waited_is_not_used_again(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    (case_no,) = await cases(store, 1)
    row = await store.load(CaseRef(case_no))
    assert row is not None
    async with held(postgres_url, "SELECT FROM cases FOR UPDATE"):
        both = asyncio.gather(store.write([turn(row, receive("a", "1.r2"))]), store.start([new_case("K")]))
        await waits_for_a_lock(postgres_url, "UPDATE cases")
        (first,) = await other.start([new_case("K")])
        close = f"UPDATE cases SET status = 'closed', revision = revision + 1 WHERE case_no = {first.case_no}"
        await asyncio.to_thread(run_sql, postgres_url, close)
    _, (second,) = await both
    assert (second.case_no, second.existing) == (first.case_no, True)


async def test_inv_12_of_two_that_begin_a_key_at_once_the_later_sees_what_the_first_came_to(
    store: PostgresStore, postgres_url: str
) -> None:
    # The first one's transaction is still open when the second begins, and its case is closed when it ends.
    (case_no,) = [one.case_no for one in await store.start([new_case("L")])]
    async with held(postgres_url, "UPDATE cases SET key = 'K', status = 'closed', revision = revision + 1"):
        start = asyncio.create_task(store.start([new_case("K")]))
        await waits_for_a_lock(postgres_url, "INSERT INTO cases")
    (started,) = await start
    assert (started.case_no, started.existing) == (case_no, True)


async def test_inv_12_cases_of_one_key_are_numbered_on_whoever_begins_them(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    close = "UPDATE cases SET status = 'closed', revision = revision + 1"
    for at in (store, other, store):
        await at.start([new_case("K", again=True)])
        (blocked,) = await other.start([new_case("K", again=True)])
        assert blocked.existing
        await asyncio.to_thread(run_sql, postgres_url, close)
    found = await asyncio.to_thread(run_sql, postgres_url, "SELECT nth FROM cases ORDER BY case_no")
    assert [row["nth"] for row in found] == [1, 2, 3]
    (closed,) = await store.start([new_case("K")])
    assert closed.existing


async def test_starts_of_several_keys_take_them_in_one_order_and_never_wait_crosswise(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    await store.start([new_case("L")])
    async with held(postgres_url, "UPDATE cases SET key = 'M', revision = revision + 1"):
        both = asyncio.create_task(store.start([new_case("Z"), new_case("M")]))
        await waits_for_a_lock(postgres_url, "INSERT INTO cases")  # for M, and has not begun Z yet
        (first,) = await asyncio.wait_for(other.start([new_case("Z")]), 5)
    assert not first.existing
    assert [one.existing for one in await both] == [True, True]
    started = await store.start([new_case(key) for key in ("c", "a", "b")])
    numbers = [one.case_no for one in started]
    assert numbers == sorted(numbers)


async def test_a_job_that_is_answered_early_frees_only_what_it_had(store: PostgresStore) -> None:
    committer = store._committer

    class Nothing:
        reads, error = False, None

        def __init__(self, case_no: int) -> None:
            self.about = [case_no]

    first, second, later = (Job([Nothing(case_no)], atomic=False) for case_no in (1, 2, 1))
    committer._queue.extend([first, second])
    jobs = committer._take()
    committer._answer([first])
    committer._queue.append(later)
    assert committer._take() == [later]
    committer._answer(jobs)
    assert committer._busy == {1}
    committer._answer([later])
    assert committer._busy == set()


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
