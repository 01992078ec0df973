"""Bad definitions, as the table of bad inputs numbers them: refused with file and line, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.definitions import check, codes, load, stage_source

from longcase.model.check import check_module, import_findings
from longcase.model.map import atlas, compile, compile_map, source


def test_row_53_an_unknown_stage_is_named_with_the_near_one(tmp_path: Path) -> None:
    (found,) = check(tmp_path, "await notify('x')\nreturn lasst")
    assert (found.code, found.hint) == ("exit_not_readable", "did you mean last?")
    assert found.line > 0


def test_row_53_stages_without_a_way_in_or_out_are_named(tmp_path: Path) -> None:
    island = (
        "\n@wf.stage(owner=desk, expect=days(1))\nasync def island(case: Case[Order]) -> Next:\n"
        "    return case.again()\n"
    )
    found = check_module(load(tmp_path, stage_source("await notify('x')") + island))
    assert [(finding.code, finding.message.split()[1]) for finding in found] == [
        ("never_closes", "close"),
        ("stage_falls_off", "can"),
        ("unreachable_stage", "last"),
        ("unreachable_stage", "island"),
    ]


def test_row_53_all_errors_come_at_once(tmp_path: Path) -> None:
    body = """
    await asyncio.sleep(5)
    await case.receive(paid)
    go = await case.approval("Go?", within=days(1))
    case.update(amonut=1)
    return lasst
    """
    assert codes(tmp_path, body) == [
        "sleep_in_stage",
        "wait_without_expectation",
        "owner_missing",
        "unknown_field",
        "exit_not_readable",
    ]


def test_row_54_two_stages_of_one_name_are_refused(tmp_path: Path) -> None:
    body = stage_source("await notify('x')\nreturn last")
    again = "\n@wf.stage(owner=desk, expect=days(1))\nasync def last(case: Case[Order]) -> Next:\n    return first\n"
    with pytest.raises(Exception, match="two stages named last") as raised:
        load(tmp_path, body + again)
    (found,) = import_findings(raised.value, "flows")
    assert (found.code, found.line) == ("not_importable", len(body.splitlines()) + 2)


def test_row_55_an_approval_without_approver_or_timeout_is_refused(tmp_path: Path) -> None:
    found = codes(tmp_path, 'go = await case.approval("Go?")\nawait notify(go.answer)\nreturn last')
    assert found == ["owner_missing", "wait_without_expectation"]


def test_row_56_an_owner_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    body = 'go = await case.approval("Go?", of={}, within=days(1))\nawait notify(go.answer)\nreturn last'
    assert codes(tmp_path, body.format("purchasing")) == ["owner_unresolved"]
    assert codes(tmp_path, body.format('"sales"')) == ["owner_unresolved"]
    assert codes(tmp_path, body.format("sales")) == []


def test_row_57_a_source_over_the_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(tmp_path, stage_source("await notify('x')\nreturn last"))
    monkeypatch.setattr(source, "SOURCE_LIMIT", 100)
    assert {found.code for found in compile_map(module.wf)[1]} == {"source_not_found"}
    assert "longer than 100 characters" in compile_map(module.wf)[1][0].message


def test_row_57_more_stages_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(tmp_path, stage_source("await notify('x')\nreturn last"))
    monkeypatch.setattr(compile, "STAGES_LIMIT", 1)
    assert "too_large" in [found.code for found in compile_map(module.wf)[1]]


def test_row_57_more_nodes_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(tmp_path, stage_source("await notify('x')\nawait charge(1)\nreturn last"))
    monkeypatch.setattr(atlas, "NODES_LIMIT", 1)
    assert "too_large" in [found.code for found in compile_map(module.wf)[1]]


def test_row_57_a_name_that_differs_in_case_only_is_refused(tmp_path: Path) -> None:
    assert codes(tmp_path, "await notify('x')\nreturn last", 'other = Team("SALES", calendar=office)') == ["name_clash"]


def test_a_stage_nested_beyond_reason_is_a_finding(tmp_path: Path) -> None:
    body = f"n = {'+'.join(['1'] * 700)}\nawait notify('x')\nreturn last"
    assert "too_large" in codes(tmp_path, body)


def test_a_module_without_a_workflow_has_no_findings(tmp_path: Path) -> None:
    assert check_module(load(tmp_path, "x = 1\n")) == []
