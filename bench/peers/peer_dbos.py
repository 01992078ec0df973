"""DBOS: a library over SQLite or PostgreSQL; its workers are this process."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy
import usage
from dbos import DBOS, DBOSConfig, SetWorkflowID
from work import DAY, End, Job, Place, book, data_folder, step


@DBOS.step()
async def durable_step(number: int) -> int:
    return step(number)


@DBOS.step()
async def durable_book(case: str, number: int) -> int:
    return book(case, number)


@DBOS.workflow()
async def chain(ident: str, size: int, due: float) -> int:
    return sum([await durable_step(number) for number in range(size)])


@DBOS.workflow()
async def fan(ident: str, size: int, due: float) -> int:
    return sum(await asyncio.gather(*(durable_step(number) for number in range(size))))


@DBOS.workflow()
async def parked(ident: str, size: int, due: float) -> int:
    result: int = await DBOS.recv_async("go", timeout_seconds=DAY)
    return result


@DBOS.workflow()
async def nap(ident: str, size: int, due: float) -> int:
    await DBOS.sleep_async(max(due - time.time(), 0))
    return 0


@DBOS.workflow()
async def pay(ident: str, size: int, due: float) -> int:
    return sum([await durable_book(ident, number) for number in range(size)])


FLOWS: dict[str, Any] = {"chain": chain, "fan": fan, "parked": parked, "nap": nap, "pay": pay}


class Adapter:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._file = place.folder / "store.db"
        self._url = place.url if place.store == "postgres" else f"sqlite:///{self._file}"
        self._handles: dict[str, Any] = {}

    async def serve(self) -> None:
        if self._place.store == "sqlite-wal":
            connection = sqlite3.connect(self._file)
            connection.execute("PRAGMA journal_mode=WAL")  # the file remembers it
            connection.close()

    async def stop(self) -> None: ...

    async def open(self) -> None:
        config: DBOSConfig = {"name": "bench", "system_database_url": self._url, "log_level": "ERROR"}
        DBOS(config=config)
        DBOS.launch()

    async def close(self) -> None:
        DBOS.destroy()

    async def start(self, flow: str, jobs: Sequence[Job]) -> None:
        async def one(job: Job) -> None:
            with SetWorkflowID(job.id):
                self._handles[job.id] = await DBOS.start_workflow_async(FLOWS[flow], job.id, job.size, job.due)

        await asyncio.gather(*(one(job) for job in jobs))

    async def ends(self, flow: str, ids: Sequence[str]) -> dict[str, End]:
        async def end(ident: str) -> tuple[str, End]:
            handle = self._handles.get(ident) or await DBOS.retrieve_workflow_async(ident)
            result: int = await handle.get_result()
            return ident, End(result, time.time())

        return dict(await asyncio.gather(*(end(ident) for ident in ids)))

    async def until_waiting(self, flow: str, count: int) -> None:
        # Whoever waits has first written down, as a step, until when.
        schema = "dbos." if self._place.store == "postgres" else ""
        waiting = sqlalchemy.text(
            f"SELECT count(*) FROM {schema}operation_outputs o JOIN {schema}workflow_status w USING (workflow_uuid) "
            "WHERE o.function_name = 'DBOS.sleep' AND w.name = :flow"
        )
        engine = sqlalchemy.create_engine(self._url.replace("postgresql:", "postgresql+psycopg:"))
        found = 0
        while found < count:
            await asyncio.sleep(0.05)
            with engine.connect() as connection:
                found = connection.execute(waiting, {"flow": flow}).scalar_one()
        engine.dispose()

    async def signal(self, ident: str) -> None:
        await DBOS.send_async(ident, 0, topic="go")

    def disk(self) -> int:
        return usage.folder_bytes(data_folder() if self._place.store == "postgres" else self._place.folder)
