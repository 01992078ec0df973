"""What the tests of `redo` share: calls that are corrected while they are under way, and a bank that keeps books."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.rules.support import (
    Order,
    banking,
    closed,
    credit,
    desk,
)

from longcase import (
    NOT_HAPPENED,
    ActivityFailed,
    Case,
    Next,
    NotHappened,
    Retry,
    Workflow,
    activity,
    days,
    injected,
    seconds,
)
from longcase.insight.conform import conform
from longcase.insight.verify import verify
from longcase.model.activity import Activity
from longcase.testing import Simulation

slowly = Retry(max_attempts=3, initial=seconds(60), jitter="none")


@activity(owner=banking, retry=slowly, effect="repeatable")
async def open_account(order: Order, *, idempotency_key: str = injected()) -> str:
    return f"account-{order.amount}"


@open_account.undo
async def close_account(account: str, order: Order, *, idempotency_key: str = injected()) -> None:
    return None


@activity(owner=credit, retry=slowly, effect="none")
async def score(amount: int, level: int) -> str:
    return f"score-{amount}"


@activity(owner=credit, retry=slowly, effect="repeatable")
async def tell_vendor(amount: int) -> str:
    return f"told-{amount}"


@activity(owner=credit, queue="scales", effect="none")
async def weigh(amount: int) -> str:
    raise NotImplementedError


@activity(owner=credit, effect="once")
async def pay(amount: int) -> str:
    return f"paid-{amount}"


@activity(owner=credit, retry=slowly, effect="repeatable")
async def reserve(amount: int, *, idempotency_key: str = injected()) -> str:
    return f"place-{amount}"


@reserve.undo
async def release(place: str, amount: int) -> None:
    return None


@reserve.verify
async def was_reserved(amount: int, *, idempotency_key: str) -> str | NotHappened:
    return NOT_HAPPENED


@activity(owner=credit, retry=slowly, once_per="case")
async def register(amount: int) -> str:
    return f"registered-{amount}"


opening = Workflow("opening", object=Order, key="id", owner=desk, expect=days(5))
weighing = Workflow("weighing", object=Order, key="id", owner=desk, expect=days(5))
scoring = Workflow("scoring", object=Order, key="id", owner=desk, expect=days(5))
telling = Workflow("telling", object=Order, key="id", owner=desk, expect=days(5))
paying = Workflow("paying", object=Order, key="id", owner=desk, expect=days(5))
reserving = Workflow("reserving", object=Order, key="id", owner=desk, expect=days(5))
registering = Workflow("registering", object=Order, key="id", owner=desk, expect=days(5))
both = Workflow("both", object=Order, key="id", owner=desk, expect=days(5))
hurried = Workflow("hurried", object=Order, key="id", owner=desk, expect=days(5))
left = Workflow("left", object=Order, key="id", owner=desk, expect=days(5))
caught = Workflow("caught", object=Order, key="id", owner=desk, expect=days(5))


@opening.stage
async def opens(case: Case[Order]) -> Next:
    account = await open_account(case.object)
    await case.pause(days(1), because="cooling off")
    if case.object.note == "undo":
        await case.undo()
    return opening.close("done", result=account)


@weighing.stage
async def weighs(case: Case[Order]) -> Next:
    return weighing.close("done", result=await weigh(case.object.amount))


@scoring.stage
async def scores(case: Case[Order]) -> Next:
    return scoring.close("done", result=await score(case.object.amount, 7))


@telling.stage
async def tells(case: Case[Order]) -> Next:
    return telling.close("done", result=await tell_vendor(case.object.amount))


@paying.stage
async def pays(case: Case[Order]) -> Next:
    return paying.close("done", result=await pay(case.object.amount))


@reserving.stage
async def reserves(case: Case[Order]) -> Next:
    return reserving.close("done", result=await reserve(case.object.amount))


@registering.stage
async def registers(case: Case[Order]) -> Next:
    got = await register(case.object.amount)
    if case.object.note == "again":
        return registering.close("done", result=got)
    case.update(note="again")
    return registers


@both.stage
async def at_once(case: Case[Order]) -> Next:
    one, other = await asyncio.gather(score(case.object.amount, 7), open_account(case.object))
    return both.close("done", result=[one, other])


@hurried.stage
async def hurries(case: Case[Order]) -> Next:
    try:
        async with asyncio.timeout(100):
            await open_account(case.object)
    except TimeoutError:
        return hurried.close("late")
    return hurried.close("done")


@left.stage
async def leaves(case: Case[Order]) -> Next:
    try:
        async with asyncio.timeout(100):
            await open_account(case.object)
    except TimeoutError:
        await case.pause(days(1), because="a breath")
        await case.undo()
    return left.close("late")


@caught.stage
async def catches(case: Case[Order]) -> Next:
    try:
        got = await score(case.object.amount, 7)
    except ActivityFailed as error:
        got = f"failed {error.error_type}"
    return caught.close("done", result=got)


class Bank:
    """Opens accounts, and does something while it opens the first."""

    def __init__(self, sim: Simulation, *, during: Any = None, error: Exception | None = None) -> None:
        self.sim, self.during, self.error = sim, during, error
        self.did: list[Any] = []
        self.keys: list[str] = []
        sim.fake(open_account, self.open)
        sim.fake(close_account, self.close)

    async def open(self, order: Order, *, idempotency_key: str) -> str:
        self.did.append(("open", order.amount))
        self.keys.append(idempotency_key)
        first_time, self.during = self.during, None
        if first_time is not None:
            await first_time()
        error, self.error = self.error, None
        if error is not None:
            raise error
        return f"account-{order.amount}"

    async def close(self, account: str, order: Order, **_: Any) -> None:
        self.did.append(("close", account, order.amount))


def result(sim: Simulation, case: str) -> Any:
    assert closed(sim, case) == "done"
    return (sim.state(case).close or {})["result"]


def sound(sim: Simulation) -> None:
    """What is stored holds every invariant, and every event lies on the map."""

    async def look() -> tuple[list[str], Any]:
        return [str(finding) async for finding in verify(sim._app.store)], await conform(sim._app.store)

    findings, conformance = sim._do(look())
    assert findings == []
    assert (conformance.off, conformance.order) == ([], [])
    assert conformance.placed


def failing_first(sim: Simulation, called: Activity[..., Any], answer: Any = None) -> list[Any]:
    """Let the first attempt fail; returns what the activity was called with."""
    seen: list[Any] = []

    def fake(**given: Any) -> Any:
        seen.append(given)
        if len(seen) == 1:
            raise ConnectionError("no answer")
        return answer if answer is not None else f"with-{given['amount']}"

    sim.fake(called, fake)
    return seen


async def hangs(**_: Any) -> str:
    """What an attempt looks like that gets no answer in its time."""
    from longcase.runtime.performing import TimedOut

    raise TimedOut("timeout", "not done within 300 s")
