"""Longcase, through the same driver as the others: its worker is this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import usage
from pydantic import BaseModel
from work import End, Place, book, data_folder, step
from work import Job as Started

from longcase import Case, Longcase, Next, Team, Workflow, activity, days, seconds

CHUNK = 500  # cases accepted in one transaction, as an import of many does
desk = Team("desk")


class Job(BaseModel):
    id: str
    size: int
    due: float


class Go(BaseModel):
    result: int


@activity(owner=desk)
async def durable_step(number: int) -> int:
    return step(number)


@activity(owner=desk, effect="repeatable")
async def durable_book(case: str, number: int) -> int:
    return book(case, number)


chain, fan, parked, nap, pay = flows = [
    Workflow(name, object=Job, key="id", owner=desk, expect=days(1))
    for name in ("chain", "fan", "parked", "nap", "pay")
]
go = parked.signal("go", Go)


@chain.stage
async def one_after_another(case: Case[Job]) -> Next:
    total = 0
    for number in range(case.object.size):
        total += await durable_step(number)
    return chain.close("done", result=total)


@fan.stage
async def all_at_once(case: Case[Job]) -> Next:
    results = await asyncio.gather(*(durable_step(number) for number in range(case.object.size)))
    return fan.close("done", result=sum(results))


@parked.stage
async def wait_for_go(case: Case[Job]) -> Next:
    message = await case.receive(go, within=days(1))
    return parked.close("done", result=message.result)


@nap.stage
async def wait_until_due(case: Case[Job]) -> Next:
    due = datetime.fromtimestamp(case.object.due, UTC)
    await case.pause(seconds((due - case.now()).total_seconds()), because="not yet due")
    return nap.close("done", result=0)


@pay.stage
async def book_one_after_another(case: Case[Job]) -> Next:
    total = 0
    for number in range(case.object.size):
        total += await durable_book(case.object.id, number)
    return pay.close("done", result=total)


class Adapter:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._flows = {each.name: each for each in flows}
        self._ended: dict[str, End] = {}
        self._more = asyncio.Event()

    async def serve(self) -> None: ...

    async def stop(self) -> None: ...

    async def open(self) -> None:
        file = f"sqlite:///{self._place.folder / 'store.db'}"
        url = self._place.url if self._place.store == "postgres" else file
        self._longcase = await Longcase(self._flows.values(), url=url).open()
        self._write = self._longcase.store.write
        setattr(self._longcase.store, "write", self._noting)  # noqa: B010 - an end is told where it becomes durable
        self._working = self._longcase.working()
        await self._working.__aenter__()

    async def _noting(self, writes: Sequence[Any], **options: Any) -> Any:
        outcomes = await self._write(writes, **options)
        now = time.time()
        for write, outcome in zip(writes, outcomes, strict=True):
            if outcome.outcome == "done" and write.state.status == "closed":
                self._ended[write.state.key] = End(write.state.close["result"], now)
                self._more.set()
        return outcomes

    async def close(self) -> None:
        await self._working.__aexit__(None, None, None)
        await self._longcase.close()

    async def start(self, flow: str, jobs: Sequence[Started]) -> None:
        service = self._longcase.service
        for first in range(0, len(jobs), CHUNK):
            bodies = [Job(id=job.id, size=job.size, due=job.due) for job in jobs[first : first + CHUNK]]
            await service.start_prepared([service.new_case(self._flows[flow], body) for body in bodies])

    async def ends(self, flow: str, ids: Sequence[str]) -> dict[str, End]:
        if any(ident not in self._ended for ident in ids):
            await self._ended_elsewhere(flow, ids)
        for ident in ids:
            while ident not in self._ended:
                self._more.clear()
                await self._more.wait()
        return {ident: self._ended[ident] for ident in ids}

    async def _ended_elsewhere(self, flow: str, ids: Sequence[str]) -> None:
        """Take over what ended before this process watched."""
        sql = f"SELECT key FROM cases WHERE workflow = '{flow}' AND status = 'closed'"
        closed = await self._longcase.service.query(sql)
        for key in {row["key"] for row in closed}.intersection(ids).difference(self._ended):
            close = (await self._longcase.service.row(f"{flow}/{key}")).state.close
            assert close is not None
            self._ended[key] = End(close["result"], time.time())

    async def until_waiting(self, flow: str, count: int) -> None:
        kind = {"parked": "signal", "nap": "timer"}[flow]
        sql = f"SELECT count(*) AS n FROM cases WHERE workflow = '{flow}' AND wait_kind = '{kind}'"
        while (await self._longcase.service.query(sql))[0]["n"] < count:
            await asyncio.sleep(0.02)

    async def signal(self, ident: str) -> None:
        await self._longcase.service.signal(f"parked/{ident}", go, Go(result=0))

    def disk(self) -> int:
        return usage.folder_bytes(data_folder() if self._place.store == "postgres" else self._place.folder)
