"""Starts of a batch that fails half-way: what was begun is carried out all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from apsw import Cursor
from pydantic import BaseModel

from longcase import Case, Longcase, Next, Team, Workflow, activity, days
from longcase.errors import IdempotencyConflict, StoreUnavailable
from longcase.store.port import CaseRef, CaseRow
from longcase.store.sqlite import SqliteStore
from longcase.store.sqlite.commit import Committer

desk = Team("desk")
BOUND = 20.0


class Thing(BaseModel):
    id: str
    size: int = 0


things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(1))


@activity(owner=desk, effect="repeatable")
async def weigh(thing: str) -> str:
    return thing


@things.stage(expect=days(1))
async def weighing(case: Case[Thing]) -> Next:
    return things.close("weighed", result=await weigh(case.key))


async def closed(longcase: Longcase, count: int) -> None:
    """Wait until so many cases are closed."""
    async with asyncio.timeout(BOUND):
        query = "SELECT count(*) AS n FROM cases WHERE status = 'closed'"
        while (await longcase.service.query(query))[0]["n"] < count:
            await asyncio.sleep(0.01)


async def test_a_conflict_in_a_batch_of_starts_strands_nothing_that_was_begun(tmp_path: Path) -> None:
    async with Longcase([things], url=f"sqlite:///{tmp_path / 'cases.db'}") as longcase, longcase.working():
        async with asyncio.timeout(BOUND):
            while longcase.worker is None or not longcase.worker.accepts:
                await asyncio.sleep(0.01)
        new = longcase.service.new_case
        await longcase.service.start(things, Thing(id="t0"), idempotency_key="k")
        batch = [new(things, Thing(id="t1")), new(things, Thing(id="t2", size=9), idempotency_key="k")]
        with pytest.raises(IdempotencyConflict):
            await longcase.service.start_prepared(batch)
        await closed(longcase, 2)


async def test_a_lost_answer_to_several_starts_and_a_store_that_fails_while_they_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, load, failing = Committer._commit, SqliteStore.load, {"commits": 0, "loads": 0}

    def committing(committer: Committer, cursor: Cursor) -> None:
        commit(committer, cursor)
        # Not that of the worker's first sign of life, which may be under way.
        if failing["commits"] and cursor.execute("SELECT 1 FROM cases").fetchone():
            failing["commits"] -= 1
            raise StoreUnavailable("the answer is lost")

    async def loading(store: SqliteStore, ref: CaseRef) -> CaseRow | None:
        if failing["loads"]:
            failing["loads"] -= 1
            if not failing["loads"]:
                raise StoreUnavailable("not now")
        return await load(store, ref)

    monkeypatch.setattr(Committer, "_commit", committing)
    monkeypatch.setattr(SqliteStore, "load", loading)
    async with Longcase([things], url=f"sqlite:///{tmp_path / 'cases.db'}") as longcase, longcase.working():
        async with asyncio.timeout(BOUND):
            while longcase.worker is None or not longcase.worker.accepts:
                await asyncio.sleep(0.01)
        new = longcase.service.new_case
        failing["commits"], failing["loads"] = 1, 2  # the second case cannot be looked up at first
        with pytest.raises(StoreUnavailable):
            await longcase.service.start_prepared([new(things, Thing(id=f"t{n}")) for n in range(3)])
        await closed(longcase, 3)
