"""Tasks that outlive their stage, and questions that show what is written beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.definitions import check, codes

B3 = {
    "a task nobody keeps": (
        'asyncio.create_task(reserve("a"))\nawait notify("x")\nreturn last',
        'await asyncio.create_task(reserve("a"))\nawait notify("x")\nreturn last',
    ),
    "a task kept and not awaited": (
        'task = asyncio.create_task(reserve("a"))\nawait notify("x")\ntask.cancel()\nreturn last',
        'task = asyncio.create_task(reserve("a"))\nawait notify("x")\nawait task\nreturn last',
    ),
    "a task assigned twice": (
        'task = asyncio.create_task(reserve("a"))\ntask = asyncio.create_task(charge(1))\nawait task\nreturn last',
        'one = asyncio.create_task(reserve("a"))\ntwo = asyncio.create_task(charge(1))\nawait one\nawait two\n'
        "return last",
    ),
    "tasks in a list that is not awaited": (
        'tasks = [asyncio.create_task(reserve(i)) for i in case.object.items]\nawait notify("x")\nreturn last',
        "tasks = [asyncio.create_task(reserve(i)) for i in case.object.items]\nfor task in tasks:\n"
        "    await task\nreturn last",
    ),
    "tasks appended and not awaited": (
        'tasks = []\ntasks.append(asyncio.create_task(reserve("a")))\nawait notify("x")\nreturn last',
        'tasks = []\ntasks.append(asyncio.create_task(reserve("a")))\nawait asyncio.gather(*tasks)\nreturn last',
    ),
    "a task of the loop": (
        'asyncio.get_running_loop().create_task(reserve("a"))\nawait notify("x")\nreturn last',
        'async with asyncio.TaskGroup() as group:\n    group.create_task(reserve("a"))\nreturn last',
    ),
    "a gather nobody awaits": (
        'both = asyncio.gather(reserve("a"), charge(1))\nawait notify("x")\nreturn last',
        'both = asyncio.gather(reserve("a"), charge(1))\nawait notify("x")\nawait both\nreturn last',
    ),
}


@pytest.mark.parametrize("what", B3)
def test_rule_B3_no_task_outlives_its_stage(tmp_path: Path, what: str) -> None:
    bad, twin = B3[what]
    assert "task_outside_group" in codes(tmp_path, bad)
    assert codes(tmp_path, twin) == []


PARTS = """
@wf.part
async def sign(case: Case[Order]) -> str:
    go = await case.approval("Go?", of=sales, shows={shows}, within=days(1))
    return go.answer

@wf.part
async def rate(case: Case[Order]) -> str:
    rating = await reserve("a")
    {write}
    return rating
"""
A11 = {
    "gather": "await asyncio.gather(sign(case), rate(case))\nreturn last",
    "a task group": (
        "async with asyncio.TaskGroup() as group:\n    group.create_task(sign(case))\n"
        "    group.create_task(rate(case))\nreturn last"
    ),
    "a task beside": "task = asyncio.create_task(rate(case))\nawait sign(case)\nawait task\nreturn last",
}


@pytest.mark.parametrize("what", A11)
def test_rule_A11_what_is_shown_whole_is_not_written_beside_it(tmp_path: Path, what: str) -> None:
    body, write = A11[what], "case.update(rating=rating)"
    (found,) = check(tmp_path, body, PARTS.format(shows="case.object", write=write))
    assert (found.code, found.severity) == ("shows_while_written", "warning")
    assert codes(tmp_path, body, PARTS.format(shows="[lambda order: order.amount]", write=write)) == []
    assert codes(tmp_path, body, PARTS.format(shows="case.object", write="pass")) == []


def test_rule_A11_one_after_the_other_is_fine(tmp_path: Path) -> None:
    body = "await rate(case)\nawait sign(case)\nreturn last"
    assert codes(tmp_path, body, PARTS.format(shows="case.object", write="case.update(rating=rating)")) == []


def test_rule_B6_a_signal_is_caught_or_received(tmp_path: Path) -> None:
    extra = """
    other = wf.signal("other", Paid)

    @wf.on({}, owner=desk)
    async def stop(case: Case[Order], body: Paid) -> Next:
        return wf.close("stopped")
    """
    body = "await case.receive(paid, within=days(1))\nreturn last"
    assert codes(tmp_path, body, extra.format("paid")) == ["signal_caught_and_received"]
    assert codes(tmp_path, body, extra.format("other")) == []
