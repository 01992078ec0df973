"""Temporal: the development server on its SQLite file, and a worker of the Python SDK in this process."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import usage
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import PollerBehaviorAutoscaling, UnsandboxedWorkflowRunner, Worker
from work import End, Job, Place, book, free_port, step

PORT = "LONGCASE_BENCH_TEMPORAL"
QUEUE = "bench"
ATTEMPT = timedelta(seconds=5)  # after so long without an answer an activity is tried again
waiting: dict[str, set[str]] = {"parked": set(), "nap": set()}


@activity.defn
async def durable_step(number: int) -> int:
    return step(number)


@activity.defn
async def durable_book(case: str, number: int) -> int:
    return book(case, number)


def perform(activity: Any, *arguments: Any) -> Awaitable[int]:
    return workflow.execute_activity(activity, args=arguments, start_to_close_timeout=ATTEMPT)


@workflow.defn(name="chain")
class Chain:
    @workflow.run
    async def run(self, ident: str, size: int, due: float) -> int:
        return sum([await perform(durable_step, number) for number in range(size)])


@workflow.defn(name="fan")
class Fan:
    @workflow.run
    async def run(self, ident: str, size: int, due: float) -> int:
        return sum(await asyncio.gather(*(perform(durable_step, number) for number in range(size))))


@workflow.defn(name="parked")
class Parked:
    def __init__(self) -> None:
        self.gone = False

    @workflow.run
    async def run(self, ident: str, size: int, due: float) -> int:
        waiting["parked"].add(ident)
        await workflow.wait_condition(lambda: self.gone, timeout=timedelta(days=1))
        return 0

    @workflow.signal
    def go(self) -> None:
        self.gone = True


@workflow.defn(name="nap")
class Nap:
    @workflow.run
    async def run(self, ident: str, size: int, due: float) -> int:
        waiting["nap"].add(ident)
        await workflow.sleep(max(due - workflow.time(), 0))
        return 0


@workflow.defn(name="pay")
class Pay:
    @workflow.run
    async def run(self, ident: str, size: int, due: float) -> int:
        return sum([await perform(durable_book, ident, number) for number in range(size)])


class Adapter:
    def __init__(self, place: Place) -> None:
        self._folder = place.folder

    async def serve(self) -> None:
        port = os.environ[PORT] = str(free_port())
        command = [
            str(Path(sys.executable).with_name("temporal")), "server", "start-dev", "--headless", "--ip", "127.0.0.1",
            "--port", port, "--db-filename", str(self._folder / "store.db"), "--log-level", "never",
        ]  # fmt: skip
        null = asyncio.subprocess.DEVNULL
        self._server = await asyncio.create_subprocess_exec(*command, stdout=null, stderr=null)
        while True:
            try:
                await self._connect()
                return
            except RuntimeError:
                await asyncio.sleep(0.1)

    async def _connect(self) -> Client:
        return await Client.connect(f"127.0.0.1:{os.environ[PORT]}")

    async def stop(self) -> None:
        self._server.terminate()
        await self._server.wait()

    async def open(self) -> None:
        self._client = await self._connect()
        self._worker = Worker(
            self._client, task_queue=QUEUE, workflows=[Chain, Fan, Parked, Nap, Pay],
            activities=[durable_step, durable_book], workflow_runner=UnsandboxedWorkflowRunner(),
            workflow_task_poller_behavior=PollerBehaviorAutoscaling(),
            activity_task_poller_behavior=PollerBehaviorAutoscaling(),
        )  # fmt: skip
        self._running = asyncio.ensure_future(self._worker.run())

    async def close(self) -> None:
        await self._worker.shutdown()
        await self._running

    async def start(self, flow: str, jobs: Sequence[Job]) -> None:
        async def one(job: Job) -> None:
            await self._client.start_workflow(flow, args=[job.id, job.size, job.due], id=job.id, task_queue=QUEUE)

        await asyncio.gather(*(one(job) for job in jobs))

    async def ends(self, flow: str, ids: Sequence[str]) -> dict[str, End]:
        async def end(ident: str) -> tuple[str, End]:
            result: int = await self._client.get_workflow_handle(ident, result_type=int).result()
            return ident, End(result, time.time())

        return dict(await asyncio.gather(*(end(ident) for ident in ids)))

    async def until_waiting(self, flow: str, count: int) -> None:
        while len(waiting[flow]) < count:
            await asyncio.sleep(0.02)
        for ident in list(waiting[flow])[-20:]:  # the last ones: is what they reached recorded?
            while await self._moving(ident):
                await asyncio.sleep(0.02)

    async def _moving(self, ident: str) -> Any:
        described = await self._client.get_workflow_handle(ident).describe()
        return described.raw_description.HasField("pending_workflow_task")

    async def signal(self, ident: str) -> None:
        await self._client.get_workflow_handle(ident).signal("go")

    def disk(self) -> int:
        return usage.folder_bytes(self._folder)
