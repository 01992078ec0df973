"""After a broken line nothing lands that was sent over it, and what is sent since goes its way."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.support.cases import NOON_TEXT, entered, new_case, receive, turn
from tests.support.postgres import run_sql

from longcase.errors import CaseNotFound, StoreUnavailable
from longcase.store.postgres import PostgresStore
from longcase.store.records import CaseRef, Edit

NOBODY = CaseRef(workflow="onboarding", key="nobody")


async def parked(store: PostgresStore, key: str = "k1") -> Any:
    """Return the row of a case that waits."""
    (base,) = await store.start([new_case(key)])
    await store.write([turn(base, entered(), receive(), wake_at=NOON_TEXT)])
    return await store.load(CaseRef(base.case_no))


async def fences(url: str) -> list[int]:
    return [row[0] for row in await asyncio.to_thread(run_sql, url, "SELECT fence FROM workers ORDER BY no")]


async def test_the_fence_of_this_process_is_raised_by_the_first_write_after_a_loss(
    store: PostgresStore, other: PostgresStore, postgres_url: str
) -> None:
    mine = await store.join("here", 1)
    await other.join("there", 2)
    row = await parked(store)
    assert await fences(postgres_url) == [0, 0]
    await asyncio.to_thread(
        run_sql, postgres_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'longcase' "
        "AND datname = current_database()",
    )  # fmt: skip
    late = turn(row, receive("other", "1.r2"), lease=mine)
    while True:
        try:
            (written,) = await store.write([late])
            break
        except StoreUnavailable:
            continue
    assert written.outcome == "done"
    mine_now, theirs = await fences(postgres_url)
    assert (mine_now > 0, theirs) == (True, 0)


async def test_a_turn_sent_under_an_older_fence_is_judged_anew_and_not_taken_for_a_dead_workers(
    store: PostgresStore, postgres_url: str
) -> None:
    worker = await store.join("here", 1)
    row = await parked(store)
    await asyncio.to_thread(run_sql, postgres_url, "UPDATE workers SET fence = 7 RETURNING no")
    (written,) = await store.write([turn(row, receive("other", "1.r2"), lease=worker)])
    assert written.outcome == "done"


async def test_a_case_is_not_said_to_be_unknown_while_a_start_may_still_be_under_way(
    store: PostgresStore, postgres_url: str
) -> None:
    worker = await store.join("here", 1)
    row = await parked(store)
    connection = await asyncpg.connect(postgres_url)
    try:
        async with connection.transaction():  # a turn whose line is gone
            await connection.execute("SELECT FROM workers FOR SHARE")
            store._writers.distrust()
            with pytest.raises(StoreUnavailable, match="may still be under way"):
                await store.edit(NOBODY, lambda locked: Edit(locked.case_no))
            (written,) = await store.write([turn(row, receive("other", "1.r2"), lease=worker)])
            assert written.outcome == "done"  # other work does not wait for it
    finally:
        await connection.close()
    with pytest.raises(CaseNotFound):
        await store.edit(NOBODY, lambda locked: Edit(locked.case_no))
