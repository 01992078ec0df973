"""What the readers understand: the rows of the design's table of constructs, and the asyncio vocabulary."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from tests.support.definitions import compiled, places

UNDERSTOOD = {
    "a direct await": ('await reserve("a")', ["activity:reserve"]),
    "gather of calls": ('await asyncio.gather(reserve("a"), charge(1))', ["activity:reserve", "activity:charge"]),
    "a task group": (
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(reserve("a"))
            group.create_task(charge(1))
        """,
        ["activity:reserve", "activity:charge"],
    ),
    "gather over a comprehension": (
        "await asyncio.gather(*[reserve(i) for i in case.object.items])",
        ["activity:reserve"],
    ),
    "an awaiting comprehension": ("names = [await reserve(i) for i in case.object.items]", ["activity:reserve"]),
    "a filter that awaits": ("names = [i for i in case.object.items if await reserve(i)]", ["activity:reserve"]),
    "asyncio.timeout": (
        """
        try:
            async with asyncio.timeout(60):
                await reserve("a")
        except TimeoutError:
            await notify("late")
        """,
        ["timeout", "activity:reserve", "activity:notify"],
    ),
    "wait_for": ('await asyncio.wait_for(reserve("a"), timeout=60)', ["timeout", "activity:reserve"]),
    "wait with a timeout": (
        """
        tasks = [asyncio.create_task(reserve(i)) for i in case.object.items]
        done, pending = await asyncio.wait(tasks, timeout=60)
        for task in pending:
            task.cancel()
        """,
        ["activity:reserve", "timeout"],
    ),
    "two timeouts share one node": (
        """
        async with asyncio.timeout(60):
            await reserve("a")
        async with asyncio.timeout(60):
            await charge(1)
        """,
        ["timeout", "activity:reserve", "activity:charge"],
    ),
    "a timeout of None is none": ('async with asyncio.timeout(None):\n    await reserve("a")', ["activity:reserve"]),
    "shield": ('await asyncio.shield(reserve("a"))', ["activity:reserve"]),
    "a and await b": ('ok = case.key and await reserve("a")', ["activity:reserve"]),
    "an await in a conditional expression": (
        'name = await reserve("a") if is_big(case.object) == "yes" else ""',
        ["decision:is_big", "activity:reserve"],
    ),
    "await of a conditional expression": (
        'await (reserve("a") if is_big(case.object) == "yes" else charge(1))',
        ["decision:is_big", "activity:reserve", "activity:charge"],
    ),
    "a walrus": (
        'if (name := await reserve("a")) == "x":\n    await charge(1)',
        ["activity:reserve", "activity:charge"],
    ),
    "an await in a loop's test": (
        'while await reserve("a") == "no":\n    await charge(1)',
        ["activity:reserve", "activity:charge"],
    ),
    "an await in an f-string": ('text = f"{await reserve(chr(65))}"', ["activity:reserve"]),
    "for over an awaited list": (
        'for part in (await reserve("a")).split():\n    await notify(part)',
        ["activity:reserve", "activity:notify"],
    ),
    "a table of activities, in place": (
        'await one_of({"fast": reserve, "slow": notify})[case.object.route]("a")',
        ["activity:reserve", "activity:notify"],
    ),
    "a table of activities at module level": (
        'await CHECKS[case.object.route]("a")',
        ["activity:reserve", "activity:notify"],
    ),
    "the same activity under two labels": (
        'await reserve("a")\nawait reserve.labelled("after-correction")("b")',
        ["activity:reserve", "activity:reserve:after-correction"],
    ),
    "a labelled name of the module": (
        'await reserve("a")\nawait again("b")',
        ["activity:reserve", "activity:reserve:again"],
    ),
    "a part": ("await both(case, 3)", ["both/activity:charge", "both/activity:notify"]),
    "a part under two labels": (
        'await both(case, 3)\nawait both.labelled("second")(case, 4)',
        [
            "both/activity:charge",
            "both/activity:notify",
            "both:second/activity:charge",
            "both:second/activity:notify",
        ],
    ),
    "a part inside a part": ("await outer(case)", ["outer/both/activity:charge", "outer/both/activity:notify"]),
    "a part in a task group": (
        "async with asyncio.TaskGroup() as group:\n    group.create_task(both(case, 1))",
        ["both/activity:charge", "both/activity:notify"],
    ),
    "a part that is handed a team": ("await ask(case, sales)", ["ask/approval:go"]),
    "a task assigned once and awaited": (
        'task = asyncio.create_task(reserve("a"))\nawait charge(1)\nawait task',
        ["activity:reserve", "activity:charge"],
    ),
    "as_completed of the case": (
        "async for name in case.as_completed([reserve(i) for i in case.object.items]):\n    await notify(name)",
        ["activity:reserve", "activity:notify"],
    ),
    "an event between two tasks": (
        """
        ready = asyncio.Event()
        async def unused() -> None: ...
        async with asyncio.TaskGroup() as group:
            group.create_task(both(case, 1))
            ready.set()
        await ready.wait()
        """,
        ["both/activity:charge", "both/activity:notify"],
    ),
    "a queue, a lock and a semaphore": (
        """
        queue: asyncio.Queue[str] = asyncio.Queue()
        await queue.put("x")
        name = await queue.get()
        lock = asyncio.Lock()
        async with lock:
            await reserve(name)
        async with asyncio.Semaphore(2):
            await charge(1)
        """,
        ["activity:reserve", "activity:charge"],
    ),
    "sleep(0)": ('await asyncio.sleep(0)\nawait reserve("a")', ["activity:reserve"]),
    "a ruling": (
        "ruled = is_big.ruling(case.object)\nawait notify(ruled.because)",
        ["decision:is_big", "activity:notify"],
    ),
    "a ruling ruled again is the same place": (
        "if is_big(case.object) == case.rule_again(is_big, case.object).answer:\n    await notify('same')",
        ["decision:is_big", "activity:notify"],
    ),
    "two decisions under labels": (
        'a, b = is_big(case.object), is_big.labelled("second")(case.object)',
        ["decision:is_big", "decision:is_big:second"],
    ),
    "a change, twice": ("case.update(amount=1)\nwith case.change() as order:\n    order.amount = 2", ["change"]),
    "require": (
        "rating = await case.require(lambda order: order.rating, asked_of=sales, within=days(2))",
        ["require:rating"],
    ),
    "receive": ("body = await case.receive(paid, within=days(2))", ["receive:paid"]),
    "pause": ('await case.pause(days(1), because="Cooling off!")', ["pause:cooling-off"]),
    "ask": (
        'form = await case.ask("How much?", answer=Paid, of=sales, within=days(1))',
        ["task:how-much"],
    ),
    "choice": (
        """
        chosen = await case.choice("Which way?", answers=Route, of=sales, expires=(days(2), Route.SLOW))
        match chosen.answer:
            case Route.FAST: await notify("fast")
            case Route.SLOW: pass
        """,
        ["choice:which-way", "activity:notify"],
    ),
    "approval by its label": (
        """
        go = await case.approval(f"Ship {case.key}?", label="ship", of=sales, within=days(1))
        match go.answer:
            case "approved": await notify("yes")
            case _: pass
        """,
        ["approval:ship", "activity:notify"],
    ),
    "child and spawn": (
        'await case.child(other, Paid2(id="x"))\nkey = case.spawn(other, Paid2(id="y"), label="second")',
        ["child:payments", "spawn:payments:second"],
    ),
    "undo": ("await case.undo()", ["undo"]),
    "finally without a wait": ('try:\n    await reserve("a")\nfinally:\n    total = 1', ["activity:reserve"]),
    "an except group": (
        'try:\n    await reserve("a")\nexcept* ActivityFailed:\n    total = 1',
        ["activity:reserve"],
    ),
}
EXTRA = """
CHECKS = one_of({"fast": reserve, "slow": notify})
again = reserve.labelled("again")

class Paid2(BaseModel):
    id: str

other = Workflow("payments", object=Paid2, key="id", owner=desk, expect=days(2))

@other.stage(owner=desk, expect=days(1))
async def settle(case: Case[Paid2]) -> Next:
    await notify("settled")
    return other.close("settled")

@wf.part
async def both(case: Case[Order], amount: int) -> str:
    name = await charge(amount)
    await notify(name)
    return name

@wf.part
async def outer(case: Case[Order]) -> None:
    await both(case, 1)

@wf.part
async def ask(case: Case[Order], of: Team) -> bool:
    return (await case.approval("Go?", label="go", of=of, within=days(1))).answer == "approved"
"""


@pytest.mark.parametrize("construct", UNDERSTOOD)
def test_construct_is_understood(tmp_path: Path, construct: str) -> None:
    body, expected = UNDERSTOOD[construct]
    map = compiled(tmp_path, f"{textwrap.dedent(body).strip()}\nreturn last", EXTRA)
    assert places(map) == [*expected, "exit:to:last"]
