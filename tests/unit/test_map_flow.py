"""Which node may follow which: the relation derived from the block tree."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from tests.support.definitions import compiled

from longcase.model.map.block import Exit, Guard, Jump, Loop, Par, Seq, Step, block_from_json, block_to_json, seq
from longcase.model.map.flow import START, STRAND, completes, flow_of

EXTRA = """
@wf.part
async def early(case: Case[Order]) -> str:
    if is_big(case.object) == "yes":
        return await reserve("a")
    await charge(1)
    return ""
"""

# what: (body, pairs that may follow, pairs that may not)
RELATIONS = {
    "one after the other": (
        'await reserve("a")\nawait charge(1)',
        ["^ reserve", "reserve charge", "charge last"],
        ["^ charge", "charge reserve", "reserve last"],
    ),
    "an if without else": (
        'if is_big(case.object) == "yes":\n    await reserve("a")\nawait charge(1)',
        ["is_big reserve", "reserve charge", "is_big charge"],
        ["charge reserve"],
    ),
    "an arm that exits": (
        'if is_big(case.object) == "yes":\n    return wf.close("big")\nawait charge(1)',
        ["is_big close:big", "is_big charge", "charge last"],
        ["is_big last", "charge close:big"],
    ),
    "a loop": (
        "for i in case.object.items:\n    await reserve(i)\nawait charge(1)",
        ["^ reserve", "reserve reserve", "reserve charge", "^ charge"],
        ["charge reserve"],
    ),
    "break and continue": (
        """
        for i in case.object.items:
            if await reserve(i) == "x":
                break
            if i:
                continue
            await notify(i)
        await charge(1)
        """,
        ["reserve charge", "reserve reserve", "reserve notify", "notify reserve"],
        ["charge notify"],
    ),
    "while True": (
        'while True:\n    if await reserve("a") == "x":\n        break\n    await notify("x")\nawait charge(1)',
        ["reserve charge", "reserve notify", "notify reserve"],
        ["notify charge", "^ charge"],
    ),
    "a test that awaits": (
        'while await reserve("a") == "x":\n    await notify("x")\nawait charge(1)',
        ["^ reserve", "reserve notify", "notify reserve", "reserve charge"],
        ["^ charge", "notify charge", "^ notify"],
    ),
    "gather": (
        'await asyncio.gather(reserve("a"), charge(1))\nawait notify("x")',
        ["| reserve", "| charge", "reserve notify", "charge notify"],
        ["reserve charge", "notify reserve"],
    ),
    "gather of calls, an argument of which awaits": (
        'await asyncio.gather(notify(await reserve("a")), *[charge(1) for i in (await reserve.labelled("b")("b"))])',
        ["^ reserve", "| notify", "| charge", "reserve reserve:b"],
        ["| reserve", "notify charge"],
    ),
    "gather over calls whose arguments await": (
        "await asyncio.gather(*[notify(await reserve(i)) for i in case.object.items])",
        ["^ reserve", "reserve reserve", "| notify"],
        ["| reserve", "notify reserve"],
    ),
    "a task group": (
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(reserve("a"))
            await charge(1)
        await notify("x")
        """,
        ["| reserve", "^ charge", "charge notify"],
        ["notify charge"],
    ),
    "a try": (
        'try:\n    await reserve("a")\n    await charge(1)\nexcept ActivityFailed:\n    await notify("x")',
        ["reserve charge", "reserve notify", "charge notify", "charge last", "notify last"],
        ["notify charge"],
    ),
    "an else and a finally": (
        """
        try:
            await reserve("a")
        except ActivityFailed:
            return wf.close("lost")
        else:
            await charge(1)
        finally:
            case.update(amount=1)
        """,
        ["reserve charge", "charge change", "change last", "reserve change", "change close:lost"],
        ["charge close:lost"],
    ),
    "a timeout": (
        'async with asyncio.timeout(5):\n    await reserve("a")',
        ["^ timeout", "timeout reserve", "^ reserve"],
        ["reserve timeout"],
    ),
    "a change that may be empty": (
        'await reserve("a")\ncase.update(amount=1)\nawait charge(1)',
        ["reserve change", "change charge", "reserve charge"],
        ["charge change"],
    ),
    "what is required may be there": (
        "rating = await case.require(lambda o: o.rating, asked_of=sales, within=days(1))\nawait charge(1)",
        ["^ require:rating", "require:rating charge", "^ charge"],
        [],
    ),
    "a part that returns early": (
        'await early(case)\nawait notify("x")',
        ["^ early/is_big", "early/is_big early/reserve", "early/reserve notify", "early/charge notify"],
        ["early/reserve early/charge"],
    ),
    "a match": (
        """
        go = await case.approval("Go?", of=sales, within=days(1))
        match go.answer:
            case "approved": await reserve("a")
            case "returned": await charge(1)
            case "rejected": return wf.close("no")
        """,
        ["approval:go reserve", "approval:go charge", "approval:go close:no", "reserve last"],
        ["reserve charge", "approval:go last"],
    ),
}


def full(name: str) -> str:
    """Return the id of a short name: `^` is the start, `|` a strand's, a bare word an activity."""
    if name in ("^", "|"):
        return START if name == "^" else STRAND
    part, _, name = name.rpartition("/")
    kinds = {"is_big": "decision:is_big", "last": "exit:to:last", "change": "change", "timeout": "timeout"}
    activity = name.partition(":")[0] in ("reserve", "charge", "notify")
    place = kinds.get(name, f"exit:{name}" if name.startswith("close:") else f"activity:{name}" if activity else name)
    return "/".join(filter(None, ("first", part, place)))


@pytest.mark.parametrize("what", RELATIONS)
def test_what_may_follow(tmp_path: Path, what: str) -> None:
    body, may, may_not = RELATIONS[what]
    flow = compiled(tmp_path, f"{textwrap.dedent(body).strip()}\nreturn last", EXTRA).flows["first"]
    assert [pair for pair in may if not flow.follows(*map(full, pair.split()))] == []
    assert [pair for pair in may_not if flow.follows(*map(full, pair.split()))] == []


def test_before_finds_every_node_on_the_way() -> None:
    flow = flow_of(seq(Step("s/activity:a"), Step("s/activity:b"), Exit("s/exit:to:x")))
    assert flow.before("s/exit:to:x") == {"s/activity:a", "s/activity:b"}
    assert flow.before("s/activity:a") == set()


def test_a_block_that_jumps_away_does_not_complete() -> None:
    assert completes(Seq())
    assert not completes(seq(Step("s/activity:a"), Jump("raise")))
    assert not completes(Loop("while True", Step("s/activity:a"), endless=True))
    assert completes(Loop("while True", Jump("break"), endless=True))
    assert completes(Guard(Jump("raise"), (), Seq(), Seq())) is False


def test_blocks_survive_json() -> None:
    block = seq(
        Par((Step("s/activity:a"), Jump("return")), each=True), Guard(Step("s/activity:b")), Exit("s/exit:again")
    )
    assert block_from_json(block_to_json(block)) == block


def test_many_branches_without_a_node_stay_cheap() -> None:
    from longcase.model.map.block import Alt, Arm

    branch = Alt("x", (Arm("a", Seq()), Arm("b", Seq())))
    flow = flow_of(seq(Step("s/activity:a"), *[branch] * 200, Exit("s/exit:again")))
    assert flow.follows("s/activity:a", "s/exit:again")
