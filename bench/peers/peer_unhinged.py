"""Unhinged: Absurd's engine on SQLite, a library; its worker is a task in this process."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import usage
from unhinged import AsyncTaskContext, AsyncUnhinged
from work import DAY, End, Job, Place, book, step

QUEUE = "bench"
CLAIM_SECONDS = 5  # the lease after which a dead worker's runs are taken over
CONCURRENCY = 16
Params = dict[str, Any]


async def chain(params: Params, ctx: AsyncTaskContext) -> Params:
    results = [await ctx.step(f"step-{number}", lambda number=number: step(number)) for number in range(params["size"])]
    return {"id": params["id"], "result": sum(results)}


async def fan(params: Params, ctx: AsyncTaskContext) -> Params:
    steps = (ctx.step(f"step-{number}", lambda number=number: step(number)) for number in range(params["size"]))
    return {"id": params["id"], "result": sum(await asyncio.gather(*steps))}


async def parked(params: Params, ctx: AsyncTaskContext) -> Params:
    result = await ctx.await_event(f"go:{params['id']}", timeout=DAY)
    return {"id": params["id"], "result": result}


async def nap(params: Params, ctx: AsyncTaskContext) -> Params:
    await ctx.sleep_until("nap", params["due"])
    return {"id": params["id"], "result": 0}


async def pay(params: Params, ctx: AsyncTaskContext) -> Params:
    case = params["id"]
    results = [
        await ctx.step(f"book-{number}", lambda number=number: book(case, number)) for number in range(params["size"])
    ]
    return {"id": case, "result": sum(results)}


class Adapter:
    def __init__(self, place: Place) -> None:
        self._folder = place.folder
        self._file = str(place.folder / "store.db")
        self._ended: dict[str, End] = {}
        self._more = asyncio.Event()

    async def serve(self) -> None: ...

    async def stop(self) -> None: ...

    async def open(self) -> None:
        self._app = AsyncUnhinged(self._file, queue_name=QUEUE)
        self._app.create_queue(QUEUE)
        for handler in (chain, fan, parked, nap, pay):
            self._app.register_task(handler.__name__)(handler)
        engine = self._app.engine
        complete = engine.complete_run

        def noting(queue: str, run: str, state: Any = None) -> None:
            complete(queue, run, state)
            self._ended[state["id"]] = End(state["result"], time.time())
            self._more.set()

        setattr(engine, "complete_run", noting)  # noqa: B010 - it has no other way to tell an end than to be polled
        self._worker = asyncio.ensure_future(
            self._app.start_worker(claim_timeout=CLAIM_SECONDS, concurrency=CONCURRENCY)
        )
        await asyncio.sleep(0)  # stopping it before its first turn would have no effect

    async def close(self) -> None:
        self._app.stop_worker()
        await self._worker
        self._app.close()

    async def start(self, flow: str, jobs: Sequence[Job]) -> None:
        for job in jobs:
            params = {"id": job.id, "size": job.size, "due": job.due}
            self._app.spawn(flow, params, idempotency_key=job.id)

    async def ends(self, flow: str, ids: Sequence[str]) -> dict[str, End]:
        for ident, payload in self._rows("SELECT idempotency_key, completed_payload FROM t_bench"):
            if payload is not None and ident not in self._ended:  # ended before this process looked
                self._ended[ident] = End(json.loads(payload)["result"], time.time())
        for ident in ids:
            while ident not in self._ended:
                self._more.clear()
                await self._more.wait()
        return {ident: self._ended[ident] for ident in ids}

    def _rows(self, sql: str, *parameters: Any) -> list[Any]:
        connection = sqlite3.connect(self._file, timeout=30)
        try:
            return connection.execute(sql, parameters).fetchall()
        finally:
            connection.close()

    async def until_waiting(self, flow: str, count: int) -> None:
        waiting = (
            "SELECT count(*) FROM r_bench r JOIN t_bench t USING (task_id) WHERE r.state = 'sleeping' AND task_name = ?"
        )
        while self._rows(waiting, flow)[0][0] < count:
            await asyncio.sleep(0.02)

    async def signal(self, ident: str) -> None:
        self._app.emit_event(f"go:{ident}", 0)

    def disk(self) -> int:
        return usage.folder_bytes(self._folder)
