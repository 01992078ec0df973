"""A turn that reaches PostgreSQL after its worker has looked what became of it: nobody would run its attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from tests.runtime.common import Thing, desk
from tests.support.wire_proxy import Harm, Request, WireProxy

from longcase import Case, Longcase, Next, Workflow, activity, days
from longcase.errors import StoreUnavailable
from longcase.runtime.limits import Slots
from longcase.runtime.turns import Turns

things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(1))


@activity(owner=desk, effect="repeatable")
async def weigh(thing: str) -> str:
    return thing


@things.stage(expect=days(1))
async def weighing(case: Case[Thing]) -> Next:
    return things.close("weighed", result=await weigh(case.key))


class Mover:
    """Moves one case by hand, with one slot."""

    def __init__(self, longcase: Longcase, worker: int) -> None:
        self.slots = Slots(longcase.env.now, limit=1)
        self.turns = Turns(longcase.store, longcase.env, longcase.codes, worker, self.slots)
        self.begun: list[int] = []
        self.case_no = 0

    async def look(self) -> bool:
        """Look at the case; tells whether it wants to be looked at again."""
        (moved,) = await self.turns.advance({self.case_no: []}, look={self.case_no})
        self.begun += [command.number for command in moved.commands if command.kind == "perform"]
        return moved.again


@asynccontextmanager
async def whose_attempt_is_in_doubt(url: str, harm: Harm) -> AsyncIterator[tuple[WireProxy, Longcase, Mover]]:
    """Yield the mover of a case whose attempt it began in a write that was not answered."""
    harmed: list[str] = []

    def plan(request: Request) -> Harm:
        if harmed or "UPDATE cases" not in request.sql:
            return "pass"
        harmed.append(request.sql)
        return harm

    with WireProxy(url) as wire:
        async with Longcase([things], url=wire.url) as longcase:
            await longcase.record_maps()
            mover = Mover(longcase, await longcase.store.join("here", 1))
            mover.case_no = (await longcase.service.start(things, Thing(id="a"))).case_no
            assert mover.slots.take(weigh) is not None  # another attempt has the only slot
            await mover.look()
            mover.slots.give_back(weigh)
            wire.plan = plan
            with pytest.raises(StoreUnavailable):
                await mover.look()
            assert harmed
            assert mover.slots.running == 1
            yield wire, longcase, mover
            events = await longcase.service.history("things/a")
            assert [event.type for event in events].count("attempt_started") == 1


async def test_an_attempt_whose_beginning_arrives_after_it_was_looked_for_is_refused(postgres_url: str) -> None:
    async with whose_attempt_is_in_doubt(postgres_url, "late") as (wire, _, mover):
        await mover.look()  # nothing is there yet, nor can it be begun once more: what is in doubt has the slot
        await asyncio.to_thread(wire.deliver)
        await mover.look()
        await mover.look()
        assert mover.begun == [1]


async def test_an_attempt_stays_in_doubt_while_its_beginning_may_still_be_under_way(postgres_url: str) -> None:
    async with whose_attempt_is_in_doubt(postgres_url, "cut") as (_, _, mover):
        connection = await asyncpg.connect(postgres_url)
        try:
            async with connection.transaction():  # a turn whose line is gone holds its worker's row
                await connection.execute("SELECT FROM workers FOR SHARE")
                assert await mover.look(), "it is looked at again"
                assert (mover.slots.running, mover.begun) == (1, [])
        finally:
            await connection.close()
        assert not await mover.look()
        assert mover.slots.running == 0, "it did not happen"
        await mover.look()
        assert mover.begun == [1]
