"""Workflows under faults, and a worker process for them: `python -m tests.faults.program URL`.

The worker moves cases until SIGTERM, or until none is open where FAULTS_UNTIL_CLOSED is set; it serves the
queues of FAULTS_QUEUES. What its activities do to the world stands in FAULTS_FOLDER, outside the store: one
line an effect in `ledger`.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from longcase import Case, Longcase, Next, Queue, Retry, Team, Workflow, activity, attempt, days, injected, seconds
from longcase.engine import attempts
from longcase.runtime import worker as worker_module

desk = Team("desk")
FOLDER = Path(os.environ.get("FAULTS_FOLDER", "."))


class Job(BaseModel):
    id: str
    naps: int = 3
    version: str = ""


class Word(BaseModel):
    n: int = 0


def effect(what: str, key: str) -> None:
    """Change the world: one line, durable before it returns."""
    file = os.open(FOLDER / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{what} {key} {attempt().number} {os.getpid()}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)


def effects(folder: Path) -> list[list[str]]:
    """Return the ledger's lines: what, key, attempt, process."""
    ledger = folder / "ledger"
    return [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []


# -- naps: timers and nothing else -------------------------------------------------------------------

naps = Workflow("naps", object=Job, key="id", owner=desk, expect=days(1))


@naps.stage(expect=days(1))
async def napping(case: Case[Job]) -> Next:
    for _ in range(case.object.naps):
        nap = timedelta(milliseconds=case.random().randrange(20, 400))
        await case.pause(nap, because="tired")
    return naps.close("rested")


# -- holds: attempts that run until they are let go ----------------------------------------------------

holds = Workflow("holds", object=Job, key="id", owner=desk, expect=days(1))


@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=3, initial=seconds(0.01)))
async def hold(job: str, *, idempotency_key: str = injected()) -> int:
    effect(f"hold:{job}", idempotency_key)
    while not (FOLDER / "release").exists():
        await asyncio.sleep(0.01)
    return attempt().number


@holds.stage(expect=days(1))
async def holding(case: Case[Job]) -> Next:
    return holds.close("let-go", result=await hold(case.key))


# -- films: as holds, but only where their queue is served -----------------------------------------------

films = Workflow("films", object=Job, key="id", owner=desk, expect=days(1))
CARDS = 4  # films rendered at once, over the whole fleet


@activity(owner=desk, queue=Queue("gpu", concurrency=CARDS), retry=Retry(max_attempts=3, initial=seconds(0.01)))
async def render(job: str, *, idempotency_key: str = injected()) -> int:
    effect(f"render:{job}", idempotency_key)
    while not ((FOLDER / "release").exists() or (FOLDER / f"release-{job}").exists()):
        await asyncio.sleep(0.01)
    return attempt().number


@films.stage(expect=days(1))
async def rendering(case: Case[Job]) -> Next:
    return films.close("rendered", result=await render(case.key))


# -- pills: some of them kill the process that takes them ---------------------------------------------

pills = Workflow("pills", object=Job, key="id", owner=desk, expect=days(1))


@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=1))
async def take(job: str, *, idempotency_key: str = injected()) -> str:
    effect(f"take:{job}", idempotency_key)
    if job.startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    return "well"


@pills.stage(expect=days(1))
async def taking(case: Case[Job]) -> Next:
    return pills.close("taken", result=await take(case.key))


WORKFLOWS = [naps, holds, films, pills]


async def main(url: str) -> None:
    attempts.CRASH_ATTEMPTS = int(os.environ.get("FAULTS_CRASHES", attempts.CRASH_ATTEMPTS))
    attempts.APART = timedelta(seconds=float(os.environ.get("FAULTS_APART", attempts.APART.total_seconds())))
    worker_module.DRAIN = float(os.environ.get("FAULTS_DRAIN", worker_module.DRAIN))
    released = os.environ.get("FAULTS_RELEASE")
    loaded = [importlib.import_module(released)] if released else WORKFLOWS
    queues = os.environ.get("FAULTS_QUEUES", "default").split()
    async with Longcase(loaded, url=url) as longcase, longcase.working(queues) as worker:
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        (FOLDER / f"working-{os.getpid()}").touch()
        while not told.is_set():
            if os.environ.get("FAULTS_UNTIL_CLOSED"):
                rows = await longcase.service.query(
                    "SELECT count(*) AS n FROM cases WHERE status = 'open' AND incident_count = 0"
                )
                if rows[0]["n"] == 0:
                    return
            await asyncio.wait([asyncio.create_task(told.wait())], timeout=0.02)
        worker.stop()
        (FOLDER / f"draining-{os.getpid()}").touch()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
