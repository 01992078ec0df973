"""A case of a batch that cannot be moved or written: the others are carried out, and only a fault is an incident."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.runtime.common import Thing, desk
from tests.support.waiting import BOUND

from longcase import Case, Longcase, Next, Workflow, activity, days
from longcase.errors import StoreUnavailable
from longcase.runtime.residents import Residents
from longcase.store.records import CaseRow, CaseWrite, Written

things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(1))
weighed: list[str] = []


@activity(owner=desk, effect="repeatable")
async def weigh(thing: str) -> str:
    weighed.append(thing)
    return thing


@things.stage(expect=days(1))
async def weighing(case: Case[Thing]) -> Next:
    return things.close("weighed", result=await weigh(case.key))


@pytest.fixture(autouse=True)
def fresh() -> None:
    weighed.clear()


async def accepted(longcase: Longcase, *keys: str) -> None:
    """Accept cases before there is a worker: it moves them as one batch."""
    new = longcase.service.new_case
    await longcase.service.start_prepared([new(things, Thing(id=key)) for key in keys])


async def rows(longcase: Longcase, sql: str, count: int) -> list[dict[str, Any]]:
    """Wait until a query finds so many rows."""
    async with asyncio.timeout(BOUND):
        while len(found := await longcase.service.query(sql)) < count:
            await asyncio.sleep(0.01)
    return found


CLOSED = "SELECT key FROM case_overview WHERE status = 'closed' ORDER BY key"


@pytest.mark.parametrize("where", ["computed", "written"])
async def test_what_was_begun_beside_a_case_that_fails_is_carried_out_although_the_store_goes_away_then(
    store_url: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async with Longcase([things], url=store_url) as longcase:
        await accepted(longcase, "a", "b", "c")
        write, load_many, run = longcase.store.write, longcase.store.load_many, Residents.run
        failed = gone = False

        async def writing(writes: Sequence[CaseWrite], **how: Any) -> list[Written]:
            nonlocal failed
            bad = [one for one in writes if one.state.key == "a"]
            if where == "computed" or failed or not bad:
                return await write(writes, **how)
            failed = True
            good = iter(await write([one for one in writes if one not in bad], **how))
            return [
                Written("failed", one.case_no, error=ValueError("odd")) if one in bad else next(good) for one in writes
            ]

        def running(residents: Residents, resident: Any, *more: Any) -> Any:
            nonlocal failed
            if where == "computed" and not failed and resident.state.key == "a":
                failed = True
                raise ValueError("odd")
            return run(residents, resident, *more)

        async def loading(cases: Sequence[int]) -> dict[int, CaseRow]:
            nonlocal gone
            if failed and not gone:
                gone = True
                raise StoreUnavailable("not now")
            return await load_many(cases)

        monkeypatch.setattr(longcase.store, "write", writing)
        monkeypatch.setattr(longcase.store, "load_many", loading)
        monkeypatch.setattr(Residents, "run", running)
        async with longcase.working() as worker:
            # After the store was away the case is tried anew, like the others: nothing says that it fails again.
            assert [row["key"] for row in await rows(longcase, CLOSED, 3)] == ["a", "b", "c"]
            assert gone
            assert sorted(weighed) == ["a", "b", "c"]
            assert worker._slots.running == 0


@pytest.mark.parametrize("where", ["computed", "written"])
async def test_a_case_that_fails_again_is_held_and_the_others_of_its_batch_are_not(
    store_url: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async with Longcase([things], url=store_url) as longcase:
        await accepted(longcase, "a", "b")
        write, run = longcase.store.write, Residents.run

        async def writing(writes: Sequence[CaseWrite], **how: Any) -> list[Written]:
            bad = [one for one in writes if one.state.key == "a" and not one.state.incidents and where == "written"]
            good = iter(await write([one for one in writes if one not in bad], **how))
            return [
                Written("failed", one.case_no, error=ValueError("odd")) if one in bad else next(good) for one in writes
            ]

        def running(residents: Residents, resident: Any, *more: Any) -> Any:
            if where == "computed" and resident.state.key == "a" and not resident.state.incidents:
                raise ValueError("odd")
            return run(residents, resident, *more)

        monkeypatch.setattr(longcase.store, "write", writing)
        monkeypatch.setattr(Residents, "run", running)
        async with longcase.working() as worker:
            assert [row["key"] for row in await rows(longcase, CLOSED, 1)] == ["b"]
            (opened,) = await rows(longcase, "SELECT key, kind, message FROM incidents", 1)
            kind = "engine_fault" if where == "computed" else "not_storable"
            assert (opened["key"], opened["kind"], opened["message"]) == ("a", kind, "odd")
            assert worker._slots.running == 0
            assert weighed == ["b"]


async def test_a_write_for_which_the_store_had_no_time_is_repeated_and_is_no_incident(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Longcase([things], url=store_url) as longcase:
        await accepted(longcase, "a")
        write, refused = longcase.store.write, 0

        async def writing(writes: Sequence[CaseWrite], **how: Any) -> list[Written]:
            nonlocal refused
            if writes and refused < 30:  # more often than a worker tries before it waits for the store
                refused += 1
                busy = StoreUnavailable("other processes were first 5 times in a row")
                return [Written("failed", one.case_no, error=busy) for one in writes]
            return await write(writes, **how)

        monkeypatch.setattr(longcase.store, "write", writing)
        async with longcase.working() as worker:
            await rows(longcase, CLOSED, 1)
            assert await longcase.service.query("SELECT * FROM incidents") == []
            assert refused == 30
            assert worker._slots.running == 0
