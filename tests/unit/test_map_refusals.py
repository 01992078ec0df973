"""What static reading cannot see is refused, each with a near twin that can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.definitions import check, codes, load, stage_source

from longcase.model.map import compile_map
from longcase.model.map.compile import read_workflow
from longcase.model.map.complete import complete

EXTRA = """
HANDLERS = {"fast": reserve, "slow": notify}
CHECKS = one_of(HANDLERS)
NEXT = {}

@wf.part
async def loop(case: Case[Order]) -> None:
    await notify("x")

async def helper(case: Case[Order]) -> None:
    await notify("x")

def pick(order: Order) -> Next:
    return last

class Service:
    async def run(self) -> None: ...

service = Service()
payments = Workflow("payments", object=Order, key="id", owner=desk, expect=days(2))
refund = payments.signal("refund", Paid)

@payments.stage(owner=desk, expect=days(1))
async def settle(case: Case[Order]) -> Next:
    await case.receive(refund, within=days(1))
    return payments.close("settled")
"""

# construct: (refused, the codes found, understood twin)
REFUSED = {
    "an activity chosen into a variable": (
        'act = reserve if is_big(case.object) == "yes" else notify\nawait act("a")\nreturn last',
        ["activity_as_value", "activity_as_value", "await_not_readable"],
        'act = "fast" if is_big(case.object) == "yes" else "slow"\n'
        'await one_of({"fast": reserve, "slow": notify})[act]("a")\nreturn last',
    ),
    "an activity out of a dict": (
        'await HANDLERS[case.object.route]("a")\nreturn last',
        ["await_not_readable"],
        'await CHECKS[case.object.route]("a")\nreturn last',
    ),
    "map over an activity": (
        "await asyncio.gather(*map(reserve, case.object.items))\nreturn last",
        ["activity_as_value", "await_not_readable"],
        "await asyncio.gather(*[reserve(item) for item in case.object.items])\nreturn last",
    ),
    "partial of an activity": (
        'from functools import partial\ncall = partial(reserve, "a")\nawait call()\nreturn last',
        ["activity_as_value", "await_not_readable"],
        'from functools import partial\ncall = partial(str, "a")\nawait reserve(call())\nreturn last',
    ),
    "a method of another object": (
        "await service.run()\nreturn last",
        ["await_not_readable"],
        "await loop(case)\nreturn last",
    ),
    "coroutines kept in a list": (
        "coros = [reserve(item) for item in case.object.items]\nawait asyncio.gather(*coros)\nreturn last",
        ["durable_call_not_awaited", "await_not_readable"],
        "tasks = [asyncio.create_task(reserve(item)) for item in case.object.items]\n"
        "await asyncio.gather(*tasks)\nreturn last",
    ),
    "a durable call that is not awaited": (
        'reserve("a")\nawait notify("x")\nreturn last',
        ["durable_call_not_awaited"],
        'await reserve("a")\nawait notify("x")\nreturn last',
    ),
    "a wait that is not awaited": (
        'case.pause(days(1), because="x")\nawait notify("x")\nreturn last',
        ["durable_call_not_awaited"],
        'await case.pause(days(1), because="x")\nawait notify("x")\nreturn last',
    ),
    "a durable call in a lambda": (
        'later = lambda: reserve("a")\nawait notify("x")\nreturn last',
        ["durable_call_not_awaited"],
        'later = lambda: len("a")\nawait notify("x")\nreturn last',
    ),
    "a plain coroutine as helper": (
        "await helper(case)\nreturn last",
        ["helper_not_a_part"],
        "await loop(case)\nreturn last",
    ),
    "a coroutine inside the stage": (
        'async def inner() -> None:\n    await reserve("a")\nasync with asyncio.TaskGroup() as group:\n'
        "    group.create_task(inner())\nreturn last",
        ["helper_not_a_part", "helper_not_a_part"],
        'async with asyncio.TaskGroup() as group:\n    group.create_task(reserve("a"))\nreturn last',
    ),
    "a part used twice": (
        "await loop(case)\nawait loop(case)\nreturn last",
        ["same_place_twice"],
        'await loop(case)\nawait loop.labelled("second")(case)\nreturn last',
    ),
    "an activity used twice": (
        'await reserve("a")\nawait reserve("b")\nreturn last',
        ["same_place_twice"],
        'await reserve("a")\nawait reserve.labelled("second")("b")\nreturn last',
    ),
    "a decision used twice": (
        "text = is_big(case.object) + is_big(case.object)\nawait notify(text)\nreturn last",
        ["same_place_twice"],
        'text = is_big(case.object) + is_big.labelled("second")(case.object)\nawait notify(text)\nreturn last',
    ),
    "two questions with one wording": (
        'a = await case.ask("What?", answer=Paid, of=sales, within=days(1))\n'
        'b = await case.ask("What?", answer=Paid, of=sales, within=days(1))\nreturn last',
        ["same_place_twice"],
        'a = await case.ask("What?", answer=Paid, of=sales, within=days(1))\n'
        'b = await case.ask("What?", label="again", answer=Paid, of=sales, within=days(1))\nreturn last',
    ),
    "a question made at run time": (
        'a = await case.ask(f"What of {case.key}?", answer=Paid, of=sales, within=days(1))\nreturn last',
        ["name_not_readable"],
        'a = await case.ask(f"What of {case.key}?", label="what", answer=Paid, of=sales, within=days(1))\nreturn last',
    ),
    "a label made at run time": (
        'await case.pause(days(1), because="x", label=case.key)\nreturn last',
        ["name_not_readable"],
        'await case.pause(days(1), because="x", label="key")\nreturn last',
    ),
    "a signal in a variable": (
        "which = paid\nawait case.receive(which, within=days(1))\nreturn last",
        ["argument_not_readable"],
        "await case.receive(paid, within=days(1))\nreturn last",
    ),
    "arguments out of a dict": (
        'options = {"within": days(1)}\nawait case.receive(paid, **options)\nreturn last',
        ["argument_not_readable", "wait_without_expectation"],
        "await case.receive(paid, within=days(1))\nreturn last",
    ),
    "a field selector that computes": (
        "await case.require(lambda order: order.rating or None, asked_of=sales, within=days(1))\nreturn last",
        ["argument_not_readable"],
        "await case.require(lambda order: order.rating, asked_of=sales, within=days(1))\nreturn last",
    ),
    "a signal of another workflow": (
        "await case.receive(refund, within=days(1))\nreturn last",
        ["foreign_signal"],
        "await case.receive(paid, within=days(1))\nreturn last",
    ),
    "a next stage out of a dict": (
        'await notify("x")\nreturn NEXT[case.object.route]',
        ["exit_not_readable"],
        'await notify("x")\nreturn {"yes": last, "no": wf.close("small")}[is_big(case.object)]',
    ),
    "a next stage out of a helper": (
        'await notify("x")\nreturn pick(case.object)',
        ["exit_not_readable"],
        'await notify("x")\nreturn last if is_big(case.object) == "yes" else wf.close("small")',
    ),
    "a next stage in a variable": (
        'await notify("x")\nto = last\nreturn to',
        ["exit_not_readable"],
        'await notify("x")\nto = "last"\nreturn last',
    ),
    "a close whose name is made at run time": (
        'await notify("x")\nif is_big(case.object) == "yes":\n    return last\nreturn wf.close(case.key)',
        ["exit_not_readable"],
        'await notify("x")\nif is_big(case.object) == "yes":\n    return last\n'
        'return wf.close("small", reason=case.key)',
    ),
    "a stage that is not there": (
        'await notify("x")\nreturn lst',
        ["exit_not_readable"],
        'await notify("x")\nreturn last',
    ),
    "a match that forgets an answer": (
        """
        go = await case.approval("Go?", of=sales, within=days(1))
        match go.answer:
            case "approved": return last
            case "returned": return wf.close("back")
        """,
        ["answer_not_handled"],
        """
        go = await case.approval("Go?", of=sales, within=days(1))
        match go.answer:
            case "approved": return last
            case "returned": return wf.close("back")
            case _: return wf.close("no")
        """,
    ),
    "a choice with a member forgotten": (
        """
        way = await case.choice("Way?", answers=Route, of=sales, within=days(1))
        match way.answer:
            case Route.FAST: return last
        """,
        ["answer_not_handled"],
        """
        way = await case.choice("Way?", answers=Route, of=sales, within=days(1))
        match way.answer:
            case Route.FAST: return last
            case Route.SLOW: return wf.close("slow")
        """,
    ),
    "a decision with an answer forgotten": (
        """
        await notify("x")
        match is_big(case.object):
            case "yes": return last
        """,
        ["answer_not_handled"],
        """
        await notify("x")
        match is_big(case.object):
            case "yes": return last
            case "no": return wf.close("small")
        """,
    ),
    "a table of exits with an answer forgotten": (
        'await notify("x")\nreturn {"yes": last}[is_big(case.object)]',
        ["answer_not_handled"],
        'await notify("x")\nreturn {"yes": last, "no": wf.close("small")}[is_big(case.object)]',
    ),
    "an approval nobody looks at": (
        'await case.approval("Go?", of=sales, within=days(1))\nreturn last',
        ["answer_not_handled"],
        'go = await case.approval("Go?", of=sales, within=days(1))\nawait notify(go.reason)\nreturn last',
    ),
    "an answer that cannot be given": (
        'go = await case.approval("Go?", of=sales, within=days(1))\n'
        'if go.answer == "aproved":\n    return last\nreturn wf.close("no")',
        ["unknown_answer"],
        'go = await case.approval("Go?", of=sales, within=days(1))\n'
        'if go.answer == "approved":\n    return last\nreturn wf.close("no")',
    ),
    "suppress around an await": (
        'import contextlib\nwith contextlib.suppress(ActivityFailed):\n    await reserve("a")\nreturn last',
        ["suppress_around_await"],
        'import contextlib\nname = await reserve("a")\nwith contextlib.suppress(ValueError):\n    int(name)\n'
        "return last",
    ),
    "an await inside a change": (
        'with case.change() as order:\n    order.rating = await reserve("a")\nreturn last',
        ["await_inside_change"],
        'rating = await reserve("a")\nwith case.change() as order:\n    order.rating = rating\nreturn last',
    ),
    "async for over something else": (
        "async for item in case.object.stream:\n    await notify(item)\nreturn last",
        ["async_for_not_readable"],
        "async for item in case.as_completed([reserve(i) for i in case.object.items]):\n    await notify(item)\n"
        "return last",
    ),
    "async with over something else": (
        'async with service:\n    await notify("x")\nreturn last',
        ["async_with_not_readable"],
        'async with asyncio.Lock():\n    await notify("x")\nreturn last',
    ),
    "an end without an exit": (
        'if is_big(case.object) == "yes":\n    return last\nawait notify("x")',
        ["stage_falls_off"],
        'if is_big(case.object) == "yes":\n    return last\nawait notify("x")\nreturn wf.close("small")',
    ),
    "a bare return": (
        'await notify("x")\nif is_big(case.object) == "yes":\n    return\nreturn last',
        ["stage_falls_off"],
        'await notify("x")\nif is_big(case.object) == "yes":\n    return last\nreturn last',
    ),
}


@pytest.mark.parametrize("construct", REFUSED)
def test_construct_is_refused(tmp_path: Path, construct: str) -> None:
    body, expected, _ = REFUSED[construct]
    assert codes(tmp_path, body, EXTRA) == expected


@pytest.mark.parametrize("construct", REFUSED)
def test_the_near_twin_is_understood(tmp_path: Path, construct: str) -> None:
    _, _, twin = REFUSED[construct]
    assert codes(tmp_path, twin, EXTRA) == []


def test_every_answer_taken_by_ifs_leaves_no_way_to_fall_off(tmp_path: Path) -> None:
    body = """
    go = await case.approval("Go?", of=sales, within=days(1))
    if go.answer == "approved":
        return last
    if go.answer == "returned":
        return wf.close("back")
    elif go.answer == "rejected":
        return wf.close("no")
    """
    assert codes(tmp_path, body) == []


def test_ifs_that_leave_an_answer_open_fall_off(tmp_path: Path) -> None:
    body = """
    go = await case.approval("Go?", of=sales, within=days(1))
    if go.answer == "approved":
        return last
    if go.answer == "returned":
        return wf.close("back")
    """
    assert codes(tmp_path, body) == ["stage_falls_off"]


def test_a_literal_field_of_the_object_has_closed_answers(tmp_path: Path) -> None:
    body = """
    await notify("x")
    match case.object.route:  # longcase: technical
        case "fast": return last
        case "slow": return wf.close("slow")
    """
    assert codes(tmp_path, body) == []


def test_code_that_cannot_return_needs_no_exit(tmp_path: Path) -> None:
    body = """
    from typing import assert_never
    await notify("x")
    if case.key:
        return last
    {end}
    """
    assert codes(tmp_path, body.format(end="len(case.key)")) == ["stage_falls_off"]
    assert codes(tmp_path, body.format(end="assert_never(case)")) == []
    assert codes(tmp_path, body.format(end='raise ValueError("no key")')) == []


def test_a_loop_without_end_needs_no_exit_behind_it(tmp_path: Path) -> None:
    body = """
    while True:
        body = await case.receive(paid, within=days(1))
        if body.amount > 10:
            return last
    """
    assert codes(tmp_path, body) == []


def test_rule_C10_a_stage_of_another_workflow_is_no_exit(tmp_path: Path) -> None:
    bad = 'await notify("x")\nif is_big(case.object) == "yes":\n    return settle\nreturn last'
    assert codes(tmp_path, bad, EXTRA) == ["foreign_stage"]
    assert codes(tmp_path, bad.replace("settle", "last"), EXTRA) == []


def test_rule_C10_a_close_of_another_workflow_is_no_exit(tmp_path: Path) -> None:
    bad = 'await notify("x")\nif is_big(case.object) == "yes":\n    return payments.close("x")\nreturn last'
    assert codes(tmp_path, bad, EXTRA) == ["foreign_stage"]
    assert codes(tmp_path, bad.replace("payments", "wf"), EXTRA) == []


def test_an_exception_path_is_no_exit(tmp_path: Path) -> None:
    extra = """
    @wf.on(paid, owner=desk)
    async def stop(case: Case[Order], body: Paid) -> Next:
        return wf.close("stopped")
    """
    bad = 'await notify("x")\nif is_big(case.object) == "yes":\n    return stop\nreturn last'
    assert codes(tmp_path, bad, extra) == ["exit_not_readable"]


def test_a_part_that_calls_itself_is_refused(tmp_path: Path) -> None:
    extra = """
    @wf.part
    async def again(case: Case[Order], left: int) -> None:
        await notify("x")
        {call}
    """
    body = "await again(case, 3)\nreturn last"
    assert codes(tmp_path, body, extra.format(call="await again(case, left - 1)")) == ["part_recursion"]
    assert codes(tmp_path, body, extra.format(call="left = left - 1")) == []


def test_two_activities_of_one_name_are_refused(tmp_path: Path) -> None:
    extra = """
    @activity(owner=sales, name="{name}")
    async def reserve_again(sku: str) -> str: ...
    """
    body = 'await reserve("a")\nawait reserve_again("b")\nreturn last'
    assert set(codes(tmp_path, body, extra.format(name="reserve"))) == {"name_clash", "same_place_twice"}
    assert codes(tmp_path, body, extra.format(name="reserve-again")) == []


def test_the_case_may_have_any_name(tmp_path: Path) -> None:
    source = stage_source('await ctx.pause(days(1), because="x")\nctx.update(amount=1)\nreturn last')
    module = load(tmp_path, source.replace("async def first(case:", "async def first(ctx:"))
    found, findings = compile_map(module.wf)
    assert findings == []
    assert {"first/pause:x", "first/change"} <= set(found.nodes)


def test_names_are_found_through_the_module_of_the_package(tmp_path: Path) -> None:
    source = stage_source(
        'await lc.one_of({"a": reserve})[case.key]("x")\nawait case.pause(lc.days(1), because="x")\nreturn last',
        "import longcase as lc\nimport asyncio as aio",
    )
    found, findings = compile_map(load(tmp_path, source).wf)
    assert findings == []
    assert found.nodes["first/pause:x"].within == "1 day"


def test_a_stage_made_at_run_time_has_no_source(tmp_path: Path) -> None:
    extra = """
    exec('@wf.stage(owner=desk, expect=days(1))\\nasync def made(case):\\n    return last')
    """
    assert "source_not_found" in codes(tmp_path, "await notify('x')\nreturn last", extra)


def test_a_finding_names_the_line_of_the_author(tmp_path: Path) -> None:
    body = 'await notify("x")\nawait HANDLERS["fast"]("a")\nreturn last'
    found = check(tmp_path, body, EXTRA)
    assert found[0].file.startswith(str(tmp_path))
    text = (tmp_path / found[0].file.rpartition("/")[2]).read_text().splitlines()
    assert text[found[0].line - 1].strip() == 'await HANDLERS["fast"]("a")'


def test_what_the_readers_miss_is_found_by_a_second_walk(tmp_path: Path) -> None:
    body = 'async with asyncio.timeout(5):\n    name = await reserve("a")\nis_big(case.object)\nreturn last'
    reading = read_workflow(load(tmp_path, stage_source(body)).wf).functions[0]
    assert complete(reading) == []
    reading.awaits.clear()
    assert [found.code for found in complete(reading)] == ["await_not_claimed", "await_not_claimed"]
    reading.nodes_at.clear()
    assert "helper_not_a_part" in [found.code for found in complete(reading)]
