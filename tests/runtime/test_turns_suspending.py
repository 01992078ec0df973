"""Turns over a store whose reads suspend, as those of a server do: what happens meanwhile changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.runtime.attempts import at_once, world
from tests.runtime.common import Thing, desk
from tests.support.waiting import until, until_true

from longcase import Case, Longcase, Next, Workflow, activity, days
from longcase.errors import StoreUnavailable
from longcase.history.event import Event
from longcase.runtime.turns import Turns
from longcase.store.records import CaseRow, Input


class Suspending:
    """Stands before a store; every read of cases lets others run before and after it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.failed = 0  # reads after a turn was discarded; the first one fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def load_many(self, cases: Sequence[int]) -> dict[int, CaseRow]:
        await asyncio.sleep(0)
        if world.notes["raised"] and not self.failed:
            self.failed += 1
            raise StoreUnavailable("the line is dead", hint="wait")
        found: dict[int, CaseRow] = await self._store.load_many(cases)
        await asyncio.sleep(0)
        return found

    async def ranges(self, wanted: Sequence[tuple[int, int, int]]) -> dict[int, list[Event]]:
        await asyncio.sleep(0)
        found: dict[int, list[Event]] = await self._store.ranges(wanted)
        await asyncio.sleep(0)
        return found

    async def inboxes(self, cases: Sequence[int]) -> dict[int, list[Input]]:
        await asyncio.sleep(0)
        found: dict[int, list[Input]] = await self._store.inboxes(cases)
        return found


@activity(owner=desk, concurrency=4, retry=at_once)
async def measured(key: str) -> str:
    with world.crowd("measured"):
        await asyncio.sleep(0)
    world.notes["ran"].append(key)
    return key


flow = Workflow("measuring", object=Thing, key="id", owner=desk, expect=days(1))


@flow.stage(expect=days(1))
async def three_times(case: Case[Thing]) -> Next:
    for number in range(3):
        await measured(f"{case.key}-{number}")
    return flow.close("done")


raising = Workflow("raising", object=Thing, key="id", owner=desk, expect=days(1))


@raising.stage(expect=days(1))
async def raise_then(case: Case[Thing]) -> Next:
    await measured(case.key)
    world.notes["raised"].append(case.key)
    raise ValueError("no such account")


async def closed(longcase: Longcase) -> int:
    rows = await longcase.service.query("SELECT count(*) AS n FROM cases WHERE status = 'closed'")
    number: int = rows[0]["n"]
    return number


async def all_closed(longcase: Longcase, cases: int) -> bool:
    return await closed(longcase) == cases


@asynccontextmanager
async def at_work(path: Path, live: int) -> AsyncIterator[tuple[Longcase, Turns]]:
    async with Longcase([flow, raising], url=f"sqlite:///{path}", live=live) as longcase, longcase.working() as worker:
        await until_true(lambda: worker.accepts)
        worker.turns.store = Suspending(longcase.store)  # type: ignore[assignment]
        yield longcase, worker.turns


async def test_starts_between_the_reads_of_a_batch_take_and_give_back_their_own_slots(path: Path) -> None:
    cases = 60
    async with at_work(path, 3) as (longcase, turns):

        async def start(first: int) -> None:
            for number in range(first, cases, 3):
                await longcase.service.start(flow, Thing(id=str(number)))

        await asyncio.gather(start(0), start(1), start(2))
        await until(lambda: all_closed(longcase, cases))
        assert turns.slots.running == 0
    assert sorted(world.notes["ran"]) == sorted(f"{case}-{number}" for case in range(cases) for number in range(3))
    assert world.most["measured"] <= 4


async def test_a_read_that_fails_in_the_middle_of_a_batch_gives_back_what_the_others_had_taken(path: Path) -> None:
    cases = 3
    async with at_work(path, 100) as (longcase, turns):
        service = longcase.service
        new = [service.new_case(flow, Thing(id=str(number))) for number in range(cases)]
        await service.start_prepared([*new, service.new_case(raising, Thing(id="bad"))])
        await until(lambda: all_closed(longcase, cases))
        await until(lambda: service.query("SELECT 1 FROM cases WHERE incident_count = 1"))
        assert turns.slots.running == 0
        assert turns.store.failed == 1  # type: ignore[attr-defined]
