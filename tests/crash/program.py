"""The program under fire: a workflow whose every effect is written to an outside ledger.

Run as `python -m tests.crash.program URL SECONDS`: a worker over the store that ends when every case is
closed or held by an incident, or after SECONDS. The ledger is a file of one line an effect, appended with
O_APPEND and fsync, so that it outlives the worker as the world does. The worker dies right after the effect
that CRASH_AFTER names, when that happens for the first time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta

from pydantic import BaseModel

from longcase import (
    NOT_HAPPENED,
    Case,
    Longcase,
    Next,
    NotHappened,
    Retry,
    Team,
    Workflow,
    activity,
    attempt,
    days,
    injected,
    seconds,
)

desk = Team("desk")
LEDGER = os.environ.get("CRASH_LEDGER", "")
MOVING = "SELECT count(*) AS n FROM cases WHERE status = 'open' AND incident_count = 0"  # nobody is to be asked here


class Order(BaseModel):
    id: str
    lines: int = 3
    paid: str | None = None
    remarks: list[str] = []
    labels: set[str] = {"heavy", "fragile", "kühl", "früh", "this side up"}  # in another order in each process


class Word(BaseModel):
    text: str


def effect(what: str, key: str) -> None:
    """Change the world: one line, durable before it returns."""
    file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{what} {key} {attempt().number}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)
    if what == os.environ.get("CRASH_AFTER") and attempt().number == 1:
        os._exit(137)


def effects() -> list[list[str]]:
    """Return the ledger's lines: what, key, attempt."""
    if not os.path.exists(LEDGER):
        return []
    with open(LEDGER) as lines:
        return [line.split() for line in lines]


@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=4, initial=seconds(0.01), cap=seconds(0.05)))
async def pick(order: str, line: int, *, idempotency_key: str = injected()) -> str:
    effect(f"pick:{order}:{line}", idempotency_key)
    if line == 1 and attempt().number == 1:
        raise OSError("the shelf is jammed")
    return f"{order}-{line}"


@activity(owner=desk, effect="repeatable")
def pack(order: str, picked: list[str], labels: set[str], *, idempotency_key: str = injected()) -> str:
    effect(f"pack:{order}", idempotency_key)
    return "packed"


@activity(owner=desk, effect="once", timeout=seconds(20))
async def charge(order: str, *, idempotency_key: str = injected()) -> str:
    effect(f"charge:{order}", idempotency_key)
    return f"receipt-{order}"


@charge.verify
async def charged(order: str, *, idempotency_key: str = injected()) -> str | NotHappened:
    done = any(key == idempotency_key for _, key, _ in effects())
    return f"receipt-{order}" if done else NOT_HAPPENED


@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=4, initial=seconds(0.01), cap=seconds(0.05)))
async def note(order: str, text: str, *, idempotency_key: str = injected()) -> str:
    effect(f"note:{order}:{text}", idempotency_key)
    return text


orders = Workflow("orders", object=Order, key="id", owner=desk, expect=days(1))
word = orders.signal("word", Word)
remark = orders.signal("remark", Word)


@orders.stage(expect=days(1))
async def picking(case: Case[Order]) -> Next:
    """What it calls `pack` with comes out of sets: replayed in another process, in another order but for our care."""
    order, tasks = case.key, set[asyncio.Task[str]]()
    async with asyncio.TaskGroup() as group:
        for line in range(case.object.lines):
            tasks.add(group.create_task(pick(order, line)))
    done, _ = await asyncio.wait(tasks)
    await pack(order, [task.result() for task in done], case.object.labels)
    return paying


@orders.stage(expect=days(1))
async def paying(case: Case[Order]) -> Next:
    receipt = await charge(case.key)
    with case.change() as order:
        order.paid = receipt
    await case.pause(timedelta(milliseconds=20), because="settling")
    said = await case.receive(word, within=days(1))
    return orders.close("done", result=said.text)


@orders.on(remark, interrupts=False)
async def remarked(case: Case[Order], said: Word) -> None:
    text = await note(case.key, said.text)
    await case.pause(timedelta(milliseconds=5), because="writing it down")
    with case.change() as order:
        order.remarks = [*order.remarks, text]


async def main(url: str, limit: float) -> None:
    async with Longcase([orders], url=url) as longcase, longcase.working():
        end = asyncio.get_running_loop().time() + limit
        while asyncio.get_running_loop().time() < end:
            rows = await longcase.service.query(MOVING)
            if rows[0]["n"] == 0:
                return
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
