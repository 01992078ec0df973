"""Who moves which case: wake instants, leases, worker incarnations."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.support.cases import NOON_TEXT, do, entered, new_case, receive, turn

from longcase.env import Env
from longcase.history.event import instant_text
from longcase.store.records import CaseRef

SOON = "2026-03-02T12:00:01.000000Z"
LATER = "2026-03-02T15:00:00.000000Z"


async def cases(store: Any, *wake: tuple[str, int]) -> list[int]:
    """Start one case for each (wake_at, lease)."""
    started = await store.start([new_case(f"k{i}") for i in range(len(wake))])
    await store.write(
        [
            turn(base, entered(), receive(), wake_at=at, lease=lease)
            for base, (at, lease) in zip(started, wake, strict=True)
        ]
    )
    return [base.case_no for base in started]


async def test_ready_cases_come_due_first(store: Any) -> None:
    first, second, third, _ = await cases(store, (LATER, 0), (SOON, 0), (NOON_TEXT, 0), ("", 0))
    assert await store.ready(LATER, 0, 10) == [third, second, first]
    assert await store.ready(SOON, 0, 10) == [third, second]
    assert await store.ready(LATER, 0, 1) == [third]


async def test_a_case_leased_by_another_worker_is_left_to_it(store: Any) -> None:
    mine, other = await store.join("here", 1), await store.join("here", 2)
    held, free = await cases(store, (NOON_TEXT, other), (NOON_TEXT, 0))
    assert await store.ready(LATER, mine, 10) == [free]
    assert await store.ready(LATER, other, 10) == [held]  # the free one is taken, until it is given back
    await store.leave(mine)
    assert await store.ready(LATER, other, 10) == [held, free]


async def test_next_wake_is_the_earliest_later_instant(store: Any) -> None:
    worker = await store.join("here", 1)
    await cases(store, (LATER, 0), (SOON, worker), ("", 0))
    assert await store.next_wake(NOON_TEXT) == SOON
    assert await store.next_wake(SOON) == LATER
    assert await store.next_wake(LATER) == ""


async def test_a_worker_that_leaves_gives_its_leases_back(store: Any) -> None:
    worker = await store.join("here", 1)
    (case_no,) = await cases(store, (NOON_TEXT, worker))
    await store.leave(worker)
    assert (await store.load(CaseRef(case_no))).lease == 0
    assert await store.workers() == []


async def test_a_worker_number_is_never_used_again(store: Any) -> None:
    first = await store.join("here", 1)
    await store.leave(first)
    second = await store.join("here", 1)
    assert second > first


async def test_a_living_worker_is_listed_with_its_leases(store: Any) -> None:
    worker = await store.join("here", 4711)
    await cases(store, (NOON_TEXT, worker), (NOON_TEXT, worker))
    (row,) = await store.workers()
    assert (row.no, row.host, row.pid, row.alive, row.leases, row.started_at) == (
        worker,
        "here",
        4711,
        True,
        2,
        NOON_TEXT,
    )
    assert await store.dead_workers() == []


async def test_a_case_of_a_worker_nobody_knows_is_free(store: Any) -> None:
    mine = await store.join("here", 1)
    (case_no,) = await cases(store, (NOON_TEXT, 4000))
    assert await store.ready(LATER, mine, 10) == [case_no]


@pytest.mark.only_sqlite  # where nothing counts the commits of others, looking again after a while is news enough
async def test_own_commits_do_not_count_as_news(store: Any) -> None:
    (case_no,) = await cases(store, (NOON_TEXT, 0))
    store.changed()
    await store.edit(CaseRef(case_no), do(wake=True))
    assert not store.changed()


async def test_a_worker_is_offered_only_the_workflows_it_has_loaded(store: Any) -> None:
    (known,) = await store.start([new_case("a", workflow="onboarding")])
    (foreign,) = await store.start([new_case("a", workflow="claims")])
    assert await store.ready(NOON_TEXT, 0, 10, ["onboarding"]) == [known.case_no]
    assert await store.ready(NOON_TEXT, 0, 10, ["claims", "other"]) == [foreign.case_no]
    assert await store.ready(NOON_TEXT, 0, 10, []) == []


async def test_the_last_heartbeat_is_kept_with_its_attempt_until_it_is_forgotten(store: Any) -> None:
    (case_no,) = await cases(store, (NOON_TEXT, 0))
    assert await store.last_heartbeat(case_no, "1.c1") is None
    await store.keep_heartbeat(case_no, "1.c1", 1, {"row": 1})
    await store.keep_heartbeat(case_no, "1.c1", 2, {"row": 2})
    assert await store.last_heartbeat(case_no, "1.c1") == (2, {"row": 2})
    await store.keep_heartbeat(case_no, "1.c1", 1, "from a zombie")
    assert await store.last_heartbeat(case_no, "1.c1") == (2, {"row": 2})
    await store.keep_heartbeat(case_no, "1.c2", 1, "of another call")
    await store.forget_heartbeats(case_no, ["1.c1", "1.c9"])
    assert await store.last_heartbeat(case_no, "1.c1") is None
    assert await store.last_heartbeat(case_no, "1.c2") == (1, "of another call")


async def test_a_workers_sign_of_life_is_its_own_and_of_now(store: Any, env: Env) -> None:
    silent, well = await store.join("here", 1), await store.join("here", 2)
    env.clock.advance(timedelta(seconds=40))  # type: ignore[attr-defined]
    await store.beat(well)
    assert {row.no: row.beat_at for row in await store.workers()} == {silent: NOON_TEXT, well: instant_text(env.now())}
