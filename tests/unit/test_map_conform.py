"""Events against the map: what stages do when they run lies on it, in an order it allows."""

from __future__ import annotations

import textwrap
from pathlib import Path

from tests.support.definitions import load, stage_source
from tests.support.stage_world import every_run
from tests.typing import face

from longcase.model.map import compile_map, node_known, order_findings

EVERYTHING = """
try:
    async with asyncio.TaskGroup() as group:
        group.create_task(sign(case))
        for item in case.object.items:
            group.create_task(reserve(item))
        await notify("group")
except* ActivityFailed:
    case.update(amount=1)
rating = await case.require(lambda order: order.rating, asked_of=sales, within=days(2))
while (body := await case.receive(paid, within=days(1))).amount:
    with case.change() as order:
        order.amount = order.amount + 1
    if order.amount > 2:
        break
    if is_big(case.object) == "yes":
        continue
    await case.pause(days(1), because="x")
else:
    case.spawn(wf, case.object)
try:
    names = await asyncio.gather(*[reserve.labelled("again")(item) for item in case.object.items])
except ActivityFailed:
    return wf.close("lost")
finally:
    case.update(route="slow")
return last if await asyncio.wait_for(charge(1), 60) and body.amount else wf.close("done")
"""
SIGN = """
@wf.part
async def sign(case: Case[Order]) -> str:
    go = await case.approval("Go?", of=sales, shows=[lambda order: order.amount], within=days(1))
    if go.answer == "approved":
        return await charge(1)
    return go.answer
"""


def test_row_A5_all_that_the_tutorial_does_lies_on_its_map() -> None:
    map, _ = compile_map(face.onboarding)
    start = {"id": "C-1", "name": "Acme", "legal_entity": None, "rating": None}
    visited = set()
    for stage in face.onboarding.stages:
        for events in every_run(face.onboarding, stage, start):
            visited |= {node for node, _, _ in events}
            assert [node for node, _, _ in events if not node_known(map, node)] == []
            assert order_findings(map, events) == []
    assert visited == {node.id for node in map.nodes.values() if node.stage in face.onboarding.stages}


def test_row_A5_all_that_a_stage_of_every_construct_does_lies_on_its_map(tmp_path: Path) -> None:
    module = load(tmp_path, stage_source(textwrap.dedent(EVERYTHING).strip(), SIGN))
    map, findings = compile_map(module.wf)
    assert findings == []
    start = {"id": "C-1", "amount": 0, "rating": None, "route": "fast", "tags": [], "items": ["a"]}
    visited = set()
    for events in every_run(module.wf, "first", start):
        visited |= {node for node, _, _ in events}
        assert [node for node, _, _ in events if not node_known(map, node)] == []
        assert order_findings(map, events) == []
    timers = {"first/timeout"}  # armed by the engine's loop, which this world has not
    assert visited | timers == {node.id for node in map.nodes.values() if node.stage == "first"}


def test_an_order_the_map_does_not_allow_is_found() -> None:
    map, _ = compile_map(face.onboarding)
    events = [("intake/activity:check_registry", 1, "0"), ("intake/require:legal_entity", 1, "0")]
    (found,) = order_findings(map, events)
    assert (found.node, found.after) == ("intake/require:legal_entity", "intake/activity:check_registry")
    assert str(found) == "intake/require:legal_entity#1 in strand 0 after intake/activity:check_registry"


def test_a_stage_that_begins_in_the_middle_is_found() -> None:
    map, _ = compile_map(face.onboarding)
    (found,) = order_findings(map, [("review/approval:sign-off", 1, "0")])
    assert found.after == ""


def test_further_events_at_one_arrival_change_nothing() -> None:
    map, _ = compile_map(face.onboarding)
    events = [
        ("intake/require:legal_entity", 1, "0"),
        ("intake/activity:check_registry", 1, "0"),
        ("intake/require:legal_entity", 1, "0"),
        ("intake/change", 1, "0"),
        ("intake/exit:to:review", 1, "0"),
    ]
    assert order_findings(map, events) == []


def test_a_visit_may_begin_with_the_exit_that_led_to_it() -> None:
    map, _ = compile_map(face.onboarding)
    assert order_findings(map, [("intake/exit:to:review", 1, "0"), ("review/decision:needs_sign_off", 1, "0")]) == []


def test_strands_are_ordered_each_by_itself(tmp_path: Path) -> None:
    body = 'await asyncio.gather(sign(case), reserve("a"))\nawait notify("x")\nreturn last'
    map, _ = compile_map(load(tmp_path, stage_source(body, SIGN)).wf)
    sign = ("first/sign/approval:go", 1, "0.0")
    charge = ("first/sign/activity:charge", 1, "0.0")
    reserve = ("first/activity:reserve", 1, "0.1")
    notify = ("first/activity:notify", 1, "0")
    assert order_findings(map, [sign, reserve, charge, notify]) == []
    assert order_findings(map, [reserve, sign, charge, notify]) == []
    assert [found.node for found in order_findings(map, [charge, sign])] == [charge[0], sign[0]]


def test_stages_and_earlier_ids_are_known_and_others_are_not() -> None:
    map, _ = compile_map(face.onboarding)
    assert node_known(map, "review")
    assert node_known(map, "review/approval:sign-off")
    assert not node_known(map, "review/approval:something-else")
    assert not node_known(map, "")
