"""The workflows that the workloads run. A step is one async activity of no work, in process."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from pathlib import Path
from time import perf_counter

from pydantic import BaseModel

from longcase import NOT_HAPPENED, Case, Next, NotHappened, Team, Workflow, activity, attempt, days, seconds

desk = Team("desk")
EFFECTS = "LONGCASE_BENCH_EFFECTS"  # names the log in which activities of W8 witness that they ran
stamps: list[float] = []  # of W7: when each activity ran


class Order(BaseModel):
    id: str
    size: int = 1  # how many activities the case performs


class Nap(BaseModel):
    id: str
    due: datetime


class Go(BaseModel):
    note: str


@activity(owner=desk)
async def step(number: int) -> int:
    return number


steps = Workflow("steps", object=Order, key="id", owner=desk, expect=days(1))


@steps.stage
async def one_after_another(case: Case[Order]) -> Next:
    for number in range(case.object.size):
        await step(number)
    return steps.close("done")


fan = Workflow("fan", object=Order, key="id", owner=desk, expect=days(1))


@fan.stage
async def all_at_once(case: Case[Order]) -> Next:
    results = await asyncio.gather(*(step(number) for number in range(case.object.size)))
    return fan.close("done", result=sum(results))


parked = Workflow("parked", object=Order, key="id", owner=desk, expect=days(1))
go = parked.signal("go", Go)


@parked.stage
async def wait_for_go(case: Case[Order]) -> Next:
    await case.receive(go, within=days(1))
    return parked.close("done")


@activity(owner=desk)
async def stamped(number: int) -> int:
    stamps.append(perf_counter())
    return number


long = Workflow("long", object=Order, key="id", owner=desk, expect=days(1))


@long.stage
async def many_in_one_visit(case: Case[Order]) -> Next:
    for number in range(case.object.size):
        await stamped(number)
    return long.close("done")


naps = Workflow("naps", object=Nap, key="id", owner=desk, expect=days(1))


@naps.stage
async def nap(case: Case[Nap]) -> Next:
    await case.pause(seconds((case.object.due - case.now()).total_seconds()), because="not yet due")
    return naps.close("done")


def witness(name: str) -> None:
    """Append `name:case:call:attempt` to the effect log, in one write that survives the process."""
    now = attempt()
    line = f"{name}:{now.case}:{now.idempotency_key}:{now.number}\n"
    descriptor = os.open(os.environ[EFFECTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


@activity(owner=desk, effect="repeatable")
async def book(number: int) -> int:
    witness("book")
    return number


async def find_payment(number: int) -> int | NotHappened:
    """Ask the outside world, which is the effect log, whether the payment was made."""
    return number if paid(attempt().idempotency_key) else NOT_HAPPENED


def paid(key: str) -> bool:
    """Look into the effect log for a payment under a key."""
    lines = Path(os.environ[EFFECTS]).read_text().splitlines()
    return any(line.startswith("pay:") and line.split(":")[2] == key for line in lines)


@activity(owner=desk, effect="once", verify=find_payment)
async def pay(number: int) -> int:
    witness("pay")
    return number


payments = Workflow("payments", object=Order, key="id", owner=desk, expect=days(1))


@payments.stage
async def book_and_pay(case: Case[Order]) -> Next:
    for number in range(case.object.size):
        await (pay(number) if number == 2 else book(number))
    return payments.close("done")
