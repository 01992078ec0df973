"""The rest of the vocabulary of a stage, as the type checkers see it; `face` is the tutorial's part."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Literal, assert_type

from pydantic import BaseModel

from longcase import (
    NOT_HAPPENED,
    Approval,
    Calendar,
    Case,
    Closed,
    Longcase,
    LongcaseClient,
    Next,
    NotHappened,
    Retry,
    Ruled,
    System,
    Team,
    Transaction,
    Workflow,
    activity,
    business_days,
    days,
    decision,
    hours,
    injected,
    one_of,
)

desk = Team("desk", calendar=Calendar("desk hours"))
bank = System("bank", owner=desk)


class Order(BaseModel):
    id: str
    amount: int
    rating: str | None = None


class Paid(BaseModel):
    amount: int


class Details(BaseModel):
    colour: str


class Route(StrEnum):
    FAST = "fast"
    SLOW = "slow"


@activity(owner=desk)
async def price(amount: int) -> float:
    return amount * 1.21


@activity(owner=desk)
def stock(sku: str) -> int:  # a plain function runs in a thread; calling it is awaited all the same
    return len(sku)


@activity(owner=desk, system=bank, effect="once")
async def transfer(amount: int, *, idempotency_key: str = injected()) -> str:
    return f"{idempotency_key}:{amount}"


@transfer.verify
async def transferred(amount: int, *, idempotency_key: str = injected()) -> str | NotHappened:
    return idempotency_key or NOT_HAPPENED


@activity(owner=desk, system=bank, retry=Retry())
async def pay_slowly(amount: int, *, idempotency_key: str = injected()) -> str:
    return f"{idempotency_key}:{amount}"


@activity(owner=desk, transaction=True)
def book(tx: Transaction, sku: str, amount: int = 1) -> int:  # the caller does not pass the transaction
    rows = tx.execute("INSERT INTO books VALUES (?, ?) RETURNING amount", sku, amount)
    return int(rows[0][0])


@book.undo(transaction=True)
def unbook(tx: Transaction, booked: int, sku: str, amount: int = 1) -> None:
    tx.execute("DELETE FROM books WHERE sku = ?", sku)


@decision(owner=desk, question="Which way?", policy="v1")
def route(order: Order) -> Route:
    return Route.FAST if order.amount < 100 else Route.SLOW


@decision(owner=desk, question="Is it risky?", policy="v2")
def risky(order: Order) -> Ruled[Literal["yes", "no"]]:
    return Ruled("yes", rule="R1", because="large") if order.amount > 1000 else Ruled("no", rule="R2")


orders = Workflow("orders", object=Order, key="id", owner=desk, expect=business_days(10))
paid = orders.signal("paid", Paid)
remark = orders.signal("remark", Details)
payments = Workflow("payments", object=Order, key="id", owner=desk, expect=days(2))


@payments.stage(owner=desk, expect=days(1))
async def settle(case: Case[Order]) -> Next:
    await price(case.object.amount)
    return payments.close("settled", result={"amount": case.object.amount})


@orders.part
async def described(case: Case[Order], question: str) -> str:
    details = await case.ask(question, answer=Details, of=desk, within=days(1))
    assert_type(details, Details)
    return details.colour


@orders.stage(owner=desk, expect=days(20))
async def collect(case: Case[Order]) -> Next:
    total, items = await asyncio.gather(price(case.object.amount), stock("a"))
    assert_type(total, float)
    assert_type(items, int)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(stock.labelled("again")("b"))
    assert_type(task.result(), int)
    assert_type(await described(case, "Which colour?"), str)
    receipt = await one_of({Route.FAST: transfer, Route.SLOW: pay_slowly})[route(case.object)](case.object.amount)
    assert_type(receipt, str)
    assert_type(await book("a", amount=2), int)
    body = await case.receive(paid, within=days(3))
    assert_type(body, Paid)
    async for amount in case.as_completed([price.labelled("each")(n) for n in (1, 2)]):
        assert_type(amount, float)
    await case.pause(hours(1), because="cooling-off")
    child = await case.child(payments, case.object)
    assert_type(child, Closed)
    assert_type(case.spawn(payments, case.object), str)
    ruled = risky.ruling(case.object)
    assert_type(ruled, Ruled[Literal["yes", "no"]])
    assert_type(case.rule_again(risky, case.object), Ruled[Literal["yes", "no"]])
    chosen = await case.choice("Which way?", answers=Route, of=desk, expires=(days(2), Route.SLOW))
    assert_type(chosen, Approval[Route])
    match chosen.answer:
        case Route.FAST:
            return orders.close("fast")
        case Route.SLOW:
            return case.again()


@orders.on(remark, interrupts=False, during=(collect,), owner=desk, expect=hours(2))
async def remarked(case: Case[Order], body: Details) -> None:
    assert_type(body, Details)
    if body.colour == "none":
        return
    await stock.labelled("remarked")(body.colour)
    case.update(rating=body.colour)


@orders.on_cancel(owner=desk)
async def give_up(case: Case[Order]) -> Next:
    await case.undo(since=collect)
    return orders.close("given-up")


def of_a_tenant() -> str:
    """What a program that serves several tenants may say."""
    with LongcaseClient([orders], tenant="acme") as client:
        client.start(orders, {"id": "O-1"})
    return Longcase([orders], tenant="acme").tenant


async def mended(longcase: Longcase) -> None:
    """What an operator's program may say."""
    await longcase.service.correct("orders/O-1", {"amount": 3}, reason="typo")
    anew = await longcase.service.redo("orders/O-1", call="1.c1", arguments={"amount": 3}, never_happened=True)
    assert_type(anew.did, str)
