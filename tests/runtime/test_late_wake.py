"""A wake that comes while a case's commit is answered: it tells of something the commit does not hold."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from longcase import Case, Longcase, Next, Team, Workflow, days
from longcase.store.port import CaseRef

BOUND = 20.0
desk = Team("desk")


class Thing(BaseModel):
    id: str


class Word(BaseModel):
    text: str


things = Workflow("things", object=Thing, key="id", owner=desk, expect=days(1))
word = things.signal("word", Word, owner=desk)


@things.stage(expect=days(1))
async def only(case: Case[Thing]) -> Next:
    first = await case.receive(word, within=days(1))
    second = await case.receive(word, within=days(1))
    return things.close("done", result=first.text + second.text)


async def test_a_wake_that_comes_before_the_worker_has_heard_of_its_commit_is_not_lost(tmp_path: Path) -> None:
    async with Longcase([things], url=f"sqlite:///{tmp_path / 'cases.db'}") as longcase, longcase.working() as worker:
        service = longcase.service
        async with asyncio.timeout(BOUND):
            while not worker.accepts:
                await asyncio.sleep(0.01)
        await service.start(things, Thing(id="t"))
        advance, late = worker.turns.advance, [Word(text="b")]

        async def advancing(cases: Mapping[int, Sequence[Any]], look: Any) -> Any:
            moved = await advance(cases, look)
            while late:  # the turn is durable, and the worker does not know it yet
                await service.signal("things/t", word, late.pop())
            return moved

        worker.turns.advance = advancing  # type: ignore[method-assign]
        await service.signal("things/t", word, Word(text="a"))
        async with asyncio.timeout(BOUND):
            while True:
                row = await longcase.store.load(CaseRef(0, "things", "t"))
                assert row is not None
                if row.state.status == "closed":
                    break
                await asyncio.sleep(0.01)
        assert row.state.close is not None
        assert row.state.close["result"] == "ab"
