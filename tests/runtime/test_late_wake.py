"""Wakes that come in between: while a case's commit is answered, or while the worker looks for what is due."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from tests.runtime.common import Thing, desk
from tests.support.waiting import BOUND

from longcase import Case, Longcase, Next, Workflow, days
from longcase.history.event import instant_text
from longcase.store.records import CaseRef


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


naps = Workflow("naps", object=Thing, key="id", owner=desk, expect=days(1))


@naps.stage(expect=days(1))
async def napping(case: Case[Thing]) -> Next:
    await case.pause(timedelta(seconds=1), because="tired")
    return naps.close("rested")


async def test_a_timer_that_falls_due_between_two_looks_at_the_store_is_not_slept_over(tmp_path: Path) -> None:
    async with Longcase([naps], url=f"sqlite:///{tmp_path / 'cases.db'}") as longcase:
        store, pending, late = longcase.store, list[bool](), [True]
        ready = store.ready

        def changed() -> bool:
            return bool(pending and pending.pop())  # once, while the timer runs, another process commits something

        async def looking(*values: Any) -> list[int]:
            found = await ready(*values)
            row = await store.load(CaseRef(0, "naps", "n"))
            if row is not None and row.state.timers and not found:
                while (
                    instant_text(longcase.env.now()) <= row.wake_at
                ):  # not due when it looked, and due when it is told so
                    await asyncio.sleep(0.001)
                late.clear()
            return found

        store.changed, store.ready = changed, looking  # type: ignore[method-assign,assignment]
        async with longcase.working():
            await longcase.service.start(naps, Thing(id="n"))
            async with asyncio.timeout(BOUND):
                while not (await longcase.service.show("naps/n")).state.timers:
                    await asyncio.sleep(0.005)
            pending.append(True)
            async with asyncio.timeout(BOUND):
                while (await longcase.service.show("naps/n")).state.status != "closed":
                    await asyncio.sleep(0.01)
        assert not late, "the worker did not look while the timer ran: the test would prove nothing"
