"""Workflows that several processes load: a signature of people, a slow vendor, and a stage of many orders."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from longcase import Case, Next, Retry, Team, Workflow, activity, attempt, days, hours, injected, minutes

desk, board, director = Team("desk"), Team("board"), Team("director")


class Paper(BaseModel):
    id: str
    quorum: int = 1
    text: str = "draft"


class Word(BaseModel):
    n: int = 0


signing = Workflow("signing", object=Paper, key="id", owner=desk, expect=days(5))
pulled = signing.signal("pulled", Word)


@signing.stage
async def sign(case: Case[Paper]) -> Next:
    verdict = await case.approval(
        "Sign it?", label="sign", of=board, quorum=case.object.quorum, shows=[lambda paper: paper.text],
        remind=hours(1), escalate=[(hours(2), director)], expires=(hours(10), "rejected"),
    )  # fmt: skip
    match verdict.answer:
        case "approved":
            return signing.close("signed", result=list(verdict.by))
        case "returned":
            return sign
        case "rejected":
            return signing.close("refused", result=verdict.expired)


@signing.on(pulled)
async def pull(case: Case[Paper], word: Word) -> Next:
    return signing.close("pulled")


slow = Workflow("slow", object=Paper, key="id", owner=desk, expect=days(5))
FOLDER = os.environ.get("SLOW_VENDOR", "")


@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=5), timeout=minutes(10))
async def vendor(paper: str, *, idempotency_key: str = injected()) -> str:
    """Say that the attempt has begun, and answer when the test lets it."""
    began = Path(FOLDER) / f"began-{attempt().number}"
    began.write_text(f"{os.getpid()} {idempotency_key}")
    while not (Path(FOLDER) / f"release-{attempt().number}").exists():
        await asyncio.sleep(0.01)
    return f"attempt {attempt().number}"


@slow.stage
async def asking(case: Case[Paper]) -> Next:
    return slow.close("done", result=await vendor(case.key))


orders = Workflow("orders", object=Paper, key="id", owner=desk, expect=days(5))
word = orders.signal("word", Word)


@activity(owner=desk)
async def note(n: str) -> str:
    return f"noted {n}"


@orders.stage
async def many(case: Case[Paper]) -> Next:
    """Commands whose order comes from asyncio's sets of tasks, and from chance and the clock."""
    tasks = {asyncio.create_task(note(f"{n} {case.random().random():.6f}")) for n in range(6)}
    done, _ = await asyncio.wait(tasks)
    for task in done:
        await note.labelled("again")(task.result())
    async with asyncio.TaskGroup() as group:
        for n in range(3):
            group.create_task(case.pause(hours(case.random().randrange(1, 9)), because=f"nap {n}", label="nap"))
    said = await case.receive(word)
    await note.labelled("last")(f"{said.n} {case.now().isoformat()} {case.uuid()}")
    return orders.close("done")


leaky = Workflow("leaky", object=Paper, key="id", owner=desk, expect=days(5))
said = leaky.signal("word", Word)


@leaky.stage
async def unsteady(case: Case[Paper]) -> Next:
    """A stage as `check` refuses it: the order of a set of strings is another one in another process."""
    for name in {"amber", "birch", "cedar", "dahlia", "elder", "fir"}:
        await note(name)
    await case.receive(said)
    return leaky.close("done")
