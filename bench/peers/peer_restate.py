"""Restate: its server as a process, and the services of the Python SDK in this one."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import restate
import usage
from hypercorn.asyncio import serve as serve_http
from hypercorn.config import Config
from plainhttp import Http, Refused, bounded
from restate import RunOptions, WorkflowContext, WorkflowSharedContext
from work import End, Job, Place, book, free_port, step

SERVER = "LONGCASE_BENCH_RESTATE"  # path of the server's binary
PORTS = "LONGCASE_BENCH_RESTATE_PORTS"  # of ingress, admin, node and our services
Params = dict[str, Any]
chain, fan, parked, nap, pay = flows = [restate.Workflow(name) for name in ("chain", "fan", "parked", "nap", "pay")]


async def step_async(number: int) -> int:
    return step(number)


async def book_async(case: str, number: int) -> int:
    return book(case, number)


@chain.main()
async def run_chain(ctx: WorkflowContext, job: Params) -> int:
    return sum([await ctx.run_typed("step", step_async, RunOptions(), number) for number in range(job["size"])])


@fan.main()
async def run_fan(ctx: WorkflowContext, job: Params) -> int:
    steps = [ctx.run_typed("step", step_async, RunOptions(), number) for number in range(job["size"])]
    await restate.gather(*steps)
    return sum([await future for future in steps])


@parked.main()
async def run_parked(ctx: WorkflowContext, job: Params) -> int:
    result: int = await ctx.promise("go", type_hint=int).value()
    return result


@parked.handler()
async def go(ctx: WorkflowSharedContext) -> None:
    await ctx.promise("go", type_hint=int).resolve(0)


@nap.main()
async def run_nap(ctx: WorkflowContext, job: Params) -> int:
    await ctx.sleep(timedelta(seconds=max(job["due"] - time.time(), 0)))
    return 0


@pay.main()
async def run_pay(ctx: WorkflowContext, job: Params) -> int:
    case = ctx.key()
    return sum([await ctx.run_typed("book", book_async, RunOptions(), case, number) for number in range(job["size"])])


MAINS = {"chain": "run_chain", "fan": "run_fan", "parked": "run_parked", "nap": "run_nap", "pay": "run_pay"}


class Adapter:
    def __init__(self, place: Place) -> None:
        self._folder = place.folder

    def _port(self, number: int) -> str:
        return os.environ[PORTS].split()[number]

    async def serve(self) -> None:
        os.environ[PORTS] = " ".join(str(free_port()) for _ in range(4))
        settings = {
            "RESTATE_BASE_DIR": str(self._folder / "store"), "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_LISTEN_MODE": "tcp", "RESTATE_BIND_IP": "127.0.0.1", "RESTATE_LOG_FILTER": "error",
            "RESTATE_INGRESS__BIND_PORT": self._port(0), "RESTATE_ADMIN__BIND_PORT": self._port(1),
            "RESTATE_BIND_PORT": self._port(2),
        }  # fmt: skip
        null = asyncio.subprocess.DEVNULL
        self._server = await asyncio.create_subprocess_exec(
            os.environ[SERVER], "--no-logo", env={**os.environ, **settings}, stdout=null, stderr=null
        )
        await self._answers(1, "/health")
        await self._answers(0, "/restate/health")

    async def _answers(self, port: int, path: str) -> None:
        while True:
            try:
                await Http(self._port(port)).ask("GET", path)
                return
            except (OSError, Refused):
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self._server.terminate()
        await self._server.wait()

    async def open(self) -> None:
        config = Config()
        config.bind = [f"127.0.0.1:{self._port(3)}"]
        config.loglevel = "error"
        self._done = asyncio.Event()
        self._serving = asyncio.ensure_future(serve_http(restate.app(flows), config, shutdown_trigger=self._done.wait))  # type: ignore[arg-type]
        self._ingress, self._admin = Http(self._port(0)), Http(self._port(1))
        await asyncio.sleep(0.2)
        await self._admin.ask("POST", "/deployments", {"uri": f"http://127.0.0.1:{self._port(3)}"})

    async def close(self) -> None:
        self._ingress.close()
        self._admin.close()
        self._done.set()

    async def start(self, flow: str, jobs: Sequence[Job]) -> None:
        async def send(job: Job) -> None:
            body = {"size": job.size, "due": job.due}
            await self._ingress.ask("POST", f"/{flow}/{job.id}/{MAINS[flow]}/send", body)

        await bounded([send(job) for job in jobs], 64)

    async def ends(self, flow: str, ids: Sequence[str]) -> dict[str, End]:
        async def end(ident: str) -> tuple[str, End]:
            result = await self._ingress.ask("GET", f"/restate/workflow/{flow}/{ident}/attach")
            return ident, End(result, time.time())

        return dict(await bounded([end(ident) for ident in ids], 2_000))

    async def until_waiting(self, flow: str, count: int) -> None:
        kind = {"parked": "Command: GetPromise", "nap": "Command: Sleep"}[flow]
        sql = (
            "SELECT count(*) AS n FROM sys_journal j JOIN sys_invocation i ON i.id = j.id "
            f"WHERE i.target_service_name = '{flow}' AND j.entry_type = '{kind}' AND i.status <> 'completed'"
        )
        found = 0
        while found < count:
            found = (await self._admin.ask("POST", "/query", {"query": sql}))["rows"][0]["n"]
            await asyncio.sleep(0.05)

    async def signal(self, ident: str) -> None:
        await self._ingress.ask("POST", f"/parked/{ident}/go")

    def disk(self) -> int:
        return usage.folder_bytes(self._folder)
