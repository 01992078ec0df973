"""Starts of a batch that fails half-way: what was begun is carried out all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from apsw import Cursor
from pydantic import BaseModel
from tests.runtime.common import desk
from tests.support.waiting import BOUND
from tests.support.wire_proxy import Harm, Request, WireProxy

from longcase import Case, Longcase, Next, Workflow, activity, days
from longcase.errors import IdempotencyConflict, StoreUnavailable
from longcase.store.records import CaseWrite, Written
from longcase.store.sqlite import SqliteStore
from longcase.store.sqlite.commit import Committer
from longcase.store.unit import WriteUnit


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
    commit, edit, failing = Committer._commit, SqliteStore.edit, {"commits": 0, "looks": 0}

    def committing(committer: Committer, cursor: Cursor) -> None:
        commit(committer, cursor)
        # Not that of the worker's first sign of life, which may be under way.
        if failing["commits"] and cursor.execute("SELECT 1 FROM cases").fetchone():
            failing["commits"] -= 1
            raise StoreUnavailable("the answer is lost")

    async def looking(store: SqliteStore, *about: Any) -> Any:
        if failing["looks"]:
            failing["looks"] -= 1
            if not failing["looks"]:
                raise StoreUnavailable("not now")
        return await edit(store, *about)

    monkeypatch.setattr(Committer, "_commit", committing)
    monkeypatch.setattr(SqliteStore, "edit", looking)
    async with Longcase([things], url=f"sqlite:///{tmp_path / 'cases.db'}") as longcase, longcase.working():
        async with asyncio.timeout(BOUND):
            while longcase.worker is None or not longcase.worker.accepts:
                await asyncio.sleep(0.01)
        new = longcase.service.new_case
        failing["commits"], failing["looks"] = 1, 2  # the second case cannot be looked up at first
        with pytest.raises(StoreUnavailable):
            await longcase.service.start_prepared([new(things, Thing(id=f"t{n}")) for n in range(3)])
        await closed(longcase, 3)
        assert failing == {"commits": 0, "looks": 0}


async def accepting(longcase: Longcase) -> None:
    async with asyncio.timeout(BOUND):
        while longcase.worker is None or not longcase.worker.accepts:
            await asyncio.sleep(0.01)


async def idle(longcase: Longcase) -> None:
    """Wait until no slot is taken."""
    assert longcase.worker is not None
    async with asyncio.timeout(BOUND):
        while longcase.worker._slots.running:
            await asyncio.sleep(0.01)


async def test_a_start_is_carried_out_also_if_its_caller_has_given_up_before_the_answer(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Longcase([things], url=store_url) as longcase, longcase.working():
        await accepting(longcase)
        write, landed = longcase.store.write, asyncio.Event()

        async def writing(writes: Sequence[CaseWrite], **how: Any) -> list[Written]:
            written = await write(writes, **how)
            if any(one.new is not None for one in writes):
                landed.set()
                await asyncio.Event().wait()  # the answer is on its way for longer than the caller waits
            return written

        monkeypatch.setattr(longcase.store, "write", writing)
        starting = asyncio.create_task(longcase.service.start(things, Thing(id="a")))
        async with asyncio.timeout(BOUND):
            await landed.wait()
        starting.cancel()
        await closed(longcase, 1)
        await idle(longcase)


async def test_a_start_that_lands_after_its_caller_has_given_up_is_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transact, taken, go_on = Committer._transact, asyncio.Event(), asyncio.Event()

    async def transacting(committer: Committer, jobs: list[Any]) -> None:
        units = [job.unit for job in jobs if isinstance(job.unit, WriteUnit)]
        if any(entry.write.new is not None for unit in units for entry in unit.entries):
            taken.set()
            await go_on.wait()  # the disk is slow
        await transact(committer, jobs)

    monkeypatch.setattr(Committer, "_transact", transacting)
    monkeypatch.setattr(Committer, "_committed_at_once", lambda committer, job: False)
    async with Longcase([things], url=f"sqlite:///{tmp_path / 'cases.db'}") as longcase, longcase.working():
        await accepting(longcase)
        assert longcase.worker is not None
        committer: Any = longcase.store._committer  # type: ignore[attr-defined]
        starting = asyncio.create_task(longcase.service.start(things, Thing(id="a")))
        async with asyncio.timeout(BOUND):
            await taken.wait()
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            looking = asyncio.create_task(longcase.worker.turns.look_up_starts())
            await asyncio.sleep(0)
            while not (looking.done() or committer._queue):
                await asyncio.sleep(0.01)
            go_on.set()
            for case_no in await looking:
                longcase.worker.wake(case_no)
        await closed(longcase, 1)
        await idle(longcase)


async def test_a_start_that_reaches_the_server_after_it_was_looked_for_is_refused(postgres_url: str) -> None:
    """Nobody would run its attempt: its worker had given it up, and lives."""
    late: list[str] = []

    def plan(request: Request) -> Harm:
        if late or "INSERT INTO cases" not in request.sql:
            return "pass"
        late.append(request.sql)
        return "late"

    with WireProxy(postgres_url) as wire:
        async with Longcase([things], url=wire.url) as longcase, longcase.working():
            await accepting(longcase)
            wire.plan = plan
            with pytest.raises(StoreUnavailable):
                await longcase.service.start(things, Thing(id="a"))
            await idle(longcase)  # its slot is given back: it was looked for, and is not there
            await asyncio.to_thread(wire.deliver)
            assert (await longcase.service.query("SELECT count(*) AS n FROM cases"))[0]["n"] == 0
            await longcase.service.start(things, Thing(id="a"))
            await closed(longcase, 1)
            await idle(longcase)


async def test_callers_that_give_up_at_any_time_strand_no_case_and_no_slot(store_url: str) -> None:
    async with Longcase([things], url=store_url) as longcase, longcase.working():
        await accepting(longcase)

        async def start(number: int) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.001 * (number % 40)):
                    await longcase.service.start(things, Thing(id=f"t{number}"))

        await asyncio.gather(*(start(number) for number in range(100)))
        await longcase.service.start(things, Thing(id="last"))
        await closed(longcase, (await longcase.service.query("SELECT count(*) AS n FROM cases"))[0]["n"])
        await idle(longcase)
