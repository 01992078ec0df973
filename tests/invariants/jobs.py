"""Jobs that are under way: calls in a queue, attempts, retries, a call made once, incidents, signals that wait.

Every effect leaves a line in the file that JOBS_LEDGER names. What hangs or fails does so only while JOBS_TROUBLE is
set: as it was when the rows in `kept` were written.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from longcase import Case, DoNotRetry, Next, Queue, Retry, Team, Workflow, activity, attempt, days, seconds
from longcase.model.activity import NOT_HAPPENED, NotHappened

desk = Team("desk")
gpu = Queue("gpu", concurrency=2, rate=(50, seconds(1)))
LONG = days(30)

TROUBLE = bool(os.environ.get("JOBS_TROUBLE"))


class Job(BaseModel):
    id: str


class Word(BaseModel):
    n: int = 0


jobs = Workflow("jobs", object=Job, key="id", owner=desk, expect=LONG)
go = jobs.signal("go", Word)


def ledger() -> Path:
    return Path(os.environ["JOBS_LEDGER"])


def effect(what: str, job: str) -> None:
    with ledger().open("a") as file:
        file.write(f"{what} {job}\n")


async def is_booked(job: str) -> str | NotHappened:
    return f"booked {job}" if f"book {job}" in ledger().read_text().splitlines() else NOT_HAPPENED


@activity(owner=desk, queue=gpu, effect="repeatable", heartbeat=seconds(60), timeout=seconds(600))
async def render(job: str) -> str:
    before = attempt().previous_details
    attempt().heartbeat({"frame": 7})
    effect(f"render after {before}" if before else "render", job)
    if TROUBLE and job.startswith("running"):
        await asyncio.Event().wait()
    return job


@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=9, initial=seconds(300), jitter="none"))
async def prepare(job: str) -> str:
    if TROUBLE and job.startswith("later"):
        raise OSError("not now")
    if TROUBLE and job.startswith("broken"):
        raise DoNotRetry("never")
    effect("prepare", job)
    return job


@activity(owner=desk, effect="once", verify=is_booked, timeout=seconds(600))
async def book(job: str) -> str:
    effect("book", job)
    if TROUBLE and job.startswith("unsure"):
        await asyncio.Event().wait()
    return f"booked {job}"


@jobs.stage(expect=LONG)
async def making(case: Case[Job]) -> Next:
    await asyncio.gather(render(case.key), prepare(case.key))
    await case.receive(go, within=LONG)
    return jobs.close("done", result=await book(case.key))
