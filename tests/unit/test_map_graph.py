"""The map as data: nodes, edges, earlier names, JSON, and a fingerprint that only the graph changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.definitions import PREAMBLE, compiled, load, stage_source
from tests.typing import face

from longcase.model.map import WorkflowMap, compile_map

BODY = """
go = await case.approval(
    "Ship it?", of=sales, quorum=2, remind=hours(4), escalate=[(days(1), boss)], expires=(days(3), "rejected")
)
match go.answer:
    case "approved": return last
    case _: return wf.close("no")
"""


def onboarding() -> WorkflowMap:
    """Return the map of the tutorial's workflow."""
    found, findings = compile_map(face.onboarding)
    assert findings == []
    return found


def edges(map: WorkflowMap, kind: str) -> list[tuple[str, str, str]]:
    """Return the edges of one kind."""
    return [(edge.source, edge.target, edge.label) for edge in map.edges if edge.kind == kind]


def test_the_tutorial_is_understood_completely() -> None:
    assert sorted(onboarding().nodes) == [
        "activate/activity:open_account",
        "activate/exit:close:active",
        "cancel/exit:close:cancelled",
        "cancel/undo",
        "intake/activity:check_registry",
        "intake/change",
        "intake/exit:to:review",
        "intake/require:legal_entity",
        "review/approval:sign-off",
        "review/decision:needs_sign_off",
        "review/exit:close:declined",
        "review/exit:to:activate",
        "review/exit:to:intake",
        "stop/exit:close:withdrawn",
        "stop/undo",
    ]


def test_the_arms_of_a_decision_and_of_an_approval_are_labelled() -> None:
    labelled = {
        (source.rpartition("/")[2], target.rpartition("/")[2]): label
        for source, target, label in edges(onboarding(), "next")
        if label
    }
    assert labelled == {
        ("decision:needs_sign_off", "exit:to:activate"): "no",
        ("decision:needs_sign_off", "approval:sign-off"): "yes",
        ("approval:sign-off", "exit:to:activate"): "approved",
        ("approval:sign-off", "exit:to:intake"): "returned",
        ("approval:sign-off", "exit:close:declined"): "rejected",
    }


def test_a_wildcard_arm_is_labelled_with_the_answers_it_stands_for(tmp_path: Path) -> None:
    assert ("first/approval:ship-it", "first/exit:close:no", "rejected / returned") in edges(
        compiled(tmp_path, BODY), "next"
    )


def test_exits_failures_ladders_expiries_paths_and_undos_are_edges() -> None:
    map = onboarding()
    assert ("review/exit:to:intake", "intake", "") in edges(map, "exit")
    assert ("activate/exit:close:active", "close:active", "") in edges(map, "exit")
    assert ("intake/activity:check_registry", "incident:integrations", "finally lost") in edges(map, "failure")
    assert ("intake/require:legal_entity", "owner:sales-director", "after 4 days") in edges(map, "escalation")
    expiry = ("review/approval:sign-off", "review/exit:close:declined", "after 5 business days: rejected")
    assert edges(map, "expiry") == [expiry]
    assert ("review", "stop", "customer-withdrew") in edges(map, "exception")
    assert ("stop/undo", "activate/activity:open_account", "close_account") in edges(map, "undo")
    assert edges(map, "entry") == [("", "intake", "")]


def test_a_handled_failure_leads_to_its_handler(tmp_path: Path) -> None:
    body = """
    try:
        async with asyncio.timeout(60):
            await reserve("a")
    except ActivityFailed:
        await notify("lost")
    except TimeoutError:
        return wf.close("late")
    return last
    """
    failures = edges(compiled(tmp_path, body), "failure")
    assert ("first/activity:reserve", "first/activity:notify", "ActivityFailed") in failures
    assert ("first/timeout", "first/exit:close:late", "TimeoutError") in failures
    assert not any(
        source == "first/activity:reserve" and target.startswith("incident") for source, target, _ in failures
    )


def test_a_node_carries_its_expectation_in_words(tmp_path: Path) -> None:
    node = compiled(tmp_path, BODY).nodes["first/approval:ship-it"]
    assert (node.title, node.owner, node.quorum, node.remind) == ("Ship it?", "sales", 2, "4 hours")
    assert [(level.after, level.to) for level in node.escalate] == [("1 day", "boss")]
    assert node.expires == ("3 days", "rejected")
    assert node.answers == ("approved", "rejected", "returned")


def test_a_node_carries_its_line_and_its_object(tmp_path: Path) -> None:
    map = compiled(tmp_path, "await reserve('a')\nreturn last")
    node = map.nodes["first/activity:reserve"]
    assert Path(node.file).read_text().splitlines()[node.line - 1].strip() == "await reserve('a')"
    assert node.target is map.activities["reserve"]


def test_a_map_survives_json() -> None:
    map = onboarding()
    again = WorkflowMap.from_json(json.loads(json.dumps(map.to_json())))
    assert again == map
    assert again.fingerprint == map.fingerprint
    assert again.flows["review"].pairs == map.flows["review"].pairs


def test_lines_are_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    one = compiled(tmp_path, "await reserve('a')\nreturn last")
    two = compiled(tmp_path, "# a comment\n\nawait reserve(\n    'b'\n)\nreturn last")
    assert one.nodes["first/activity:reserve"].line != two.nodes["first/activity:reserve"].line
    assert one.fingerprint == two.fingerprint
    assert len(one.fingerprint) == 64


def test_a_step_more_changes_the_fingerprint(tmp_path: Path) -> None:
    one = compiled(tmp_path, "await reserve('a')\nreturn last")
    assert compiled(tmp_path, "await reserve('a')\nawait charge(1)\nreturn last").fingerprint != one.fingerprint
    assert compiled(tmp_path, "await reserve('a')\ncase.update(amount=1)\nreturn last").fingerprint != one.fingerprint


def test_rule_A9_the_fingerprint_is_the_same_under_every_hash_seed() -> None:
    script = (
        "from longcase.model.map import compile_map\nfrom tests.typing import face\n"
        "print(compile_map(face.onboarding)[0].fingerprint)"
    )
    found = set()
    for seed in ("0", "1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    assert found == {onboarding().fingerprint}


def test_the_registry_knows_activities_their_undos_and_earlier_names(tmp_path: Path) -> None:
    extra = """
    @activity(owner=sales, was=("order_stock",))
    async def book(sku: str) -> str: ...

    @book.undo
    async def unbook(booked: str, sku: str) -> None: ...
    """
    map = compiled(tmp_path, "await book.labelled('x')('a')\nawait case.undo()\nreturn last", extra)
    assert {"book", "order_stock", "unbook"} <= set(map.activities)
    assert map.activities["order_stock"] is map.activities["book"]
    assert map.activities["unbook"] is map.activities["book"].undo_activity


def test_the_registry_keeps_activities_that_no_stage_calls_any_more(tmp_path: Path) -> None:
    assert "charge" in compiled(tmp_path, "await reserve('a')\nreturn last").activities


def test_children_are_known_by_their_earlier_names(tmp_path: Path) -> None:
    extra = 'other = Workflow("payments", object=Order, key="id", owner=desk, expect=days(2), was=("pay",))'
    map = compiled(tmp_path, "await case.child(other, case.object)\nreturn last", extra)
    assert set(map.children) == {"payments", "pay"}
    assert map.nodes["first/child:payments"].was == ("first/child:pay",)


def test_earlier_names_of_stages_and_activities_lead_to_the_present_node(tmp_path: Path) -> None:
    source = (
        PREAMBLE
        + """
@activity(owner=sales, was=("book",))
async def order(sku: str) -> str: ...

@wf.stage(owner=desk, expect=days(1), was=("start",))
async def begin(case: Case[Order]) -> Next:
    await order("a")
    return finish

@wf.stage(owner=desk, expect=days(1), was=("end",))
async def finish(case: Case[Order]) -> Next:
    await notify("x")
    return wf.close("done")
"""
    )
    map, findings = compile_map(load(tmp_path, source).wf)
    assert findings == []
    for old in ("start/activity:order", "begin/activity:book", "start/activity:book"):
        assert map.place(old) is map.nodes["begin/activity:order"]
    assert map.place("start/exit:to:end") is map.nodes["begin/exit:to:finish"]
    assert map.place("start/activity:sell") is None


def test_a_declared_reaction_to_cancel_takes_the_place_of_the_built_in_one(tmp_path: Path) -> None:
    extra = """
    @wf.on_cancel(owner=desk)
    async def give_up(case: Case[Order]) -> Next:
        await notify("cancelled")
        return wf.close("cancelled")
    """
    assert "cancel" in compiled(tmp_path, "await notify('x')\nreturn last").stages
    map = compiled(tmp_path, "await notify('x')\nreturn last", extra)
    assert "cancel" not in map.stages
    assert ("first", "give_up", "cancel") in edges(map, "exception")


def test_a_map_names_its_closes(tmp_path: Path) -> None:
    assert compiled(tmp_path, BODY).closes == ("cancelled", "done", "no")


def test_reading_a_workflow_runs_none_of_it(tmp_path: Path) -> None:
    source = stage_source("raise SystemExit('the stage was run')\nawait notify('x')\nreturn last")
    compile_map(load(tmp_path, source).wf)
