"""Ways through a workflow: reached, closed, never round and round without a wait."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.definitions import PREAMBLE, codes, load, stage_source

from longcase.model.check import check_module
from longcase.model.map import compile_map


def stages(tmp_path: Path, **bodies: str) -> list[str]:
    """Return the codes found in a workflow of the given stages, one body each."""
    source = PREAMBLE
    for name, body in bodies.items():
        lines = "\n".join(f"    {line}" for line in body.split("\n"))
        source += f"\n@wf.stage(owner=desk, expect=days(5))\nasync def {name}(case: Case[Order]) -> Next:\n{lines}\n"
    return [finding.code for finding in check_module(load(tmp_path, source))]


def test_a_stage_that_nothing_leads_to_is_unreachable(tmp_path: Path) -> None:
    one = 'await notify("x")\nreturn wf.close("done")'
    assert stages(tmp_path, one=one, two=one) == ["unreachable_stage"]
    assert stages(tmp_path, one='await notify("x")\nreturn two', two=one) == []


def test_two_stages_that_only_know_each_other_are_unreachable(tmp_path: Path) -> None:
    one, two = 'await notify("x")\nreturn wf.close("done")', 'await notify("x")\nreturn {}'
    found = stages(tmp_path, one=one, two=two.format("three"), three=two.format("two"))
    assert found == ["unreachable_stage", "unreachable_stage"]


def test_a_stage_reached_from_an_exception_path_is_reachable(tmp_path: Path) -> None:
    extra = """
    @wf.on(paid, owner=desk)
    async def stop(case: Case[Order], body: Paid) -> Next:
        return {}
    """
    body = 'await notify("x")\nreturn wf.close("done")'
    assert codes(tmp_path, body, extra.format("last")) == []
    assert codes(tmp_path, body, extra.format('wf.close("stopped")')) == ["unreachable_stage"]


def test_a_workflow_that_never_closes_is_refused(tmp_path: Path) -> None:
    there = 'await notify("x")\nreturn two'
    assert stages(tmp_path, one=there, two='await notify("x")\nreturn one') == ["never_closes", "never_closes"]
    assert stages(tmp_path, one=there, two='await notify("x")\nreturn wf.close("done")') == []


def test_a_stage_that_only_an_exception_path_ends_may_go_on(tmp_path: Path) -> None:
    extra = """
    @wf.on(paid, owner=desk)
    async def stop(case: Case[Order], body: Paid) -> Next:
        return last
    """
    body = 'await case.pause(days(1), because="watching")\nreturn case.again()'
    assert codes(tmp_path, body, extra) == []
    assert codes(tmp_path, body) == ["never_closes", "unreachable_stage"]


def test_a_ring_of_stages_without_a_wait_is_refused(tmp_path: Path) -> None:
    one = 'if is_big(case.object) == "yes":\n    return wf.close("done")\nreturn two'
    assert stages(tmp_path, one=one, two="return one") == ["cycle_without_wait"]
    assert stages(tmp_path, one=one, two='await case.pause(days(1), because="x")\nreturn one') == []


def test_a_stage_that_goes_again_without_a_wait_is_refused(tmp_path: Path) -> None:
    one = 'if is_big(case.object) == "yes":\n    return wf.close("done")\n{}return case.again()'
    assert stages(tmp_path, one=one.format("")) == ["cycle_without_wait"]
    assert stages(tmp_path, one=one.format('await case.pause(days(1), because="x")\n')) == []


LOOPS = {
    "while True without a wait": (
        "while True:\n    case.update(amount=1)\nreturn last",
        "while True:\n    await case.receive(paid, within=days(1))\n    case.update(amount=1)\n"
        "    if case.key: return last",
    ),
    "while True that only sleeps(0)": (
        "n = 0\nwhile True:\n    n += 1\nreturn last",
        'n = 0\nwhile True:\n    n += 1\n    if n > 3:\n        break\nawait notify("x")\nreturn last',
    ),
    "a loop that waits for the object to change": (
        "while case.object.rating is None:\n    pass\nreturn last",
        'while case.object.rating is None:\n    await case.pause(days(1), because="rating")\nreturn last',
    ),
    "a loop over its own counter": (
        "while case.object.amount > 0:\n    n = 1\nreturn last",
        'n = case.object.amount\nwhile n > 0:\n    n = n - 1\nawait notify("x")\nreturn last',
    ),
}


@pytest.mark.parametrize("what", LOOPS)
def test_a_loop_waits_or_ends(tmp_path: Path, what: str) -> None:
    bad, twin = LOOPS[what]
    assert "loop_without_wait" in codes(tmp_path, bad)
    assert codes(tmp_path, twin) == []


def test_row_A4_the_exception_paths_are_on_the_map(tmp_path: Path) -> None:
    extra = """
    @wf.on(paid, owner=desk)
    async def stop(case: Case[Order], body: Paid) -> Next:
        return wf.close("stopped")
    """
    found, _ = compile_map(load(tmp_path, stage_source("await notify('x')\nreturn last", extra)).wf)
    paths = [(edge.source, edge.target, edge.label) for edge in found.edges if edge.kind == "exception"]
    assert paths == [
        ("first", "stop", "paid"),
        ("last", "stop", "paid"),
        ("first", "cancel", "cancel"),
        ("last", "cancel", "cancel"),
    ]


def test_hints_name_the_variable_that_holds_the_workflow(tmp_path: Path) -> None:
    found = check_module(
        load(tmp_path, PREAMBLE + "\n@wf.stage(owner=desk)\nasync def one(case: Case[Order]) -> Next: ...\n")
    )
    hints = {finding.code: finding.hint for finding in found}
    assert hints["never_closes"] == 'return wf.close("name")'
    assert hints["wait_without_expectation"].startswith("@wf.stage(")
