"""Small workflows for every mover: retries, approval, signal, timer, child, undo, incident, handler."""

from __future__ import annotations

import asyncio
from collections import Counter

from pydantic import BaseModel

from longcase import Case, Next, Retry, Team, Transaction, Workflow, activity, days, hours, injected, minutes, seconds

desk = Team("desk")
ledger: dict[str, str] = {}  # what took effect, by idempotency key
asked: Counter[str] = Counter()
broken: set[str] = set()  # what the vendor refuses until somebody mends it


class Order(BaseModel):
    id: str
    note: str | None = None


class Paid(BaseModel):
    amount: int


class Refused(Exception):
    """The vendor says no for good."""


@activity(owner=desk, retry=Retry(max_attempts=4, initial=seconds(1), jitter="none"))
async def reserve(order: str) -> str:
    asked[order] += 1
    if asked[order] < 3:
        raise ConnectionError("busy")
    return f"reserved {order}"


@activity(owner=desk, effect="repeatable", retry=Retry(max_attempts=2, initial=seconds(1), non_retryable=(Refused,)))
async def charge(order: str, *, idempotency_key: str = injected()) -> str:
    if order in broken:
        raise Refused(order)
    return ledger.setdefault(idempotency_key, f"charge {order}")


@charge.undo
async def pay_back(charged: str, order: str, *, idempotency_key: str = injected()) -> None:
    ledger.setdefault(idempotency_key, f"back {order}")


@activity(owner=desk, transaction=True)
def make_table(tx: Transaction) -> None:
    tx.execute("CREATE TABLE booked (place TEXT NOT NULL)")


@activity(owner=desk, transaction=True, retry=Retry(max_attempts=4, initial=seconds(1), jitter="none"))
def book(tx: Transaction, order: str, line: int) -> str:
    asked[order] += 1
    tx.execute(f"INSERT INTO booked VALUES ('{order}:{line}')")
    if asked[order] == 2:
        raise ConnectionError("rolled back")
    return f"{order}:{line}"


@book.undo(transaction=True)
def unbook(tx: Transaction, booked: str, order: str, line: int) -> None:
    tx.execute(f"INSERT INTO booked VALUES ('not {booked}')")


orders = Workflow("orders", object=Order, key="id", owner=desk, expect=days(5))
parcels = Workflow("parcels", object=Order, key="id", owner=desk, expect=days(5))
paid = orders.signal("paid", Paid)
withdrawn = orders.signal("withdrawn", Paid)
extra = orders.signal("extra", Paid)


@parcels.stage(owner=desk, expect=days(1))
async def pack(case: Case[Order]) -> Next:
    await case.pause(minutes(30), because="glue dries")
    return parcels.close("sent", result=case.key)


@orders.stage(owner=desk, expect=days(1))
async def take(case: Case[Order]) -> Next:
    note = await reserve(case.key)
    with case.change() as order:
        order.note = note
    await charge(case.key)
    return decide


@orders.stage(owner=desk, expect=days(1))
async def decide(case: Case[Order]) -> Next:
    said = await case.approval("Ship it?", of=desk, quorum=2, label="ship", expires=(hours(8), "rejected"))
    match said.answer:
        case "approved":
            return ship
        case "returned":
            return take
        case "rejected":
            await case.undo()
            return orders.close("declined", result=said.expired)


@orders.stage(owner=desk, expect=days(1))
async def ship(case: Case[Order]) -> Next:
    money = await case.receive(paid, within=days(1))
    await case.pause(hours(2), because="the van comes")
    parcel = await case.child(parcels, Order(id=f"{case.key}-parcel"))
    return orders.close("shipped", result=[money.amount, parcel.name])


@orders.on(withdrawn, owner=desk)
async def withdraw(case: Case[Order], message: Paid) -> Next:
    await case.undo()
    return orders.close("withdrawn", result=message.amount)


@orders.on(extra, interrupts=False, owner=desk)
async def adds(case: Case[Order], more: Paid) -> None:
    await charge(f"extra {more.amount}")
    await case.pause(minutes(10), because="the clerk writes it down")
    case.update(note=f"{case.object.note or ''}+{more.amount}")


books = Workflow("books", object=Order, key="id", owner=desk, expect=days(5))


@books.stage(owner=desk, expect=days(1))
async def booking(case: Case[Order]) -> Next:
    await make_table()
    async with asyncio.TaskGroup() as group:
        lines = [group.create_task(book.labelled("line")(case.key, line)) for line in range(3)]
    if case.object.note == "undo":
        await case.undo()
    return books.close("booked", result=[line.result() for line in lines])
