"""Declarations: policies, owners, names that are one thing, and a source that says what runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.definitions import PREAMBLE, check, codes, load, stage_source

from longcase.model.check import check_module, import_findings
from longcase.model.finding import RULES, Finding

GOOD = "await notify('x')\nreturn last"


def test_an_activity_that_touches_a_system_has_a_policy(tmp_path: Path) -> None:
    extra = "@activity(owner=sales, system=erp{})\nasync def book(sku: str) -> str: ..."
    body = "await book('x')\nreturn last"
    assert codes(tmp_path, body, extra.format("")) == ["system_without_policy"]
    assert codes(tmp_path, body, extra.format(", retry=Retry()")) == []
    assert codes(tmp_path, body, extra.format(', effect="once"')) == []


def test_an_activity_of_the_module_is_checked_though_no_stage_calls_it(tmp_path: Path) -> None:
    extra = "@activity(owner=sales, system=erp)\nasync def book(sku: str) -> str: ..."
    assert codes(tmp_path, GOOD, extra) == ["system_without_policy"]


def test_an_activity_without_types_cannot_be_recorded(tmp_path: Path) -> None:
    extra = "@activity(owner=sales)\nasync def book(sku{}) -> str: ..."
    body = "await book('x')\nreturn last"
    assert codes(tmp_path, body, extra.format("")) == ["declaration_incomplete"]
    assert codes(tmp_path, body, extra.format(": str")) == []


def test_a_decision_without_closed_answers_cannot_be_recorded(tmp_path: Path) -> None:
    extra = '@decision(owner=boss, question="Which?", policy="v1")\ndef which(order: Order) -> {}: ...'
    body = "await notify(which(case.object))\nreturn last"
    assert codes(tmp_path, body, extra.format("str")) == ["declaration_incomplete"]
    assert codes(tmp_path, body, extra.format('Literal["a", "b"]')) == []


def test_an_undo_that_no_stage_asks_for_is_warned_of(tmp_path: Path) -> None:
    extra = "@charge.undo\nasync def refund(charged: str, amount: int) -> None: ..."
    (found,) = check(tmp_path, "await charge(1)\nreturn last", extra)
    assert (found.code, found.severity) == ("never_undone", "warning")
    assert codes(tmp_path, "await charge(1)\nawait case.undo()\nreturn last", extra) == []


def test_two_teams_of_one_name_are_refused(tmp_path: Path) -> None:
    body = 'go = await case.approval("Go?", of=other, within=days(1))\nawait notify(go.answer)\nreturn last'
    assert codes(tmp_path, body, 'other = Team("sales")') == ["name_clash"]
    assert codes(tmp_path, body, 'other = Team("Sales", calendar=office)') == ["name_clash"]
    assert codes(tmp_path, body, 'other = Team("sales", calendar=office)') == []


def test_two_activities_of_one_name_are_refused_in_one_module(tmp_path: Path) -> None:
    extra = '@activity(owner=sales, name="{}")\nasync def tell(text: str) -> None: ...'
    assert codes(tmp_path, GOOD, extra.format("notify")) == ["name_clash"]
    assert codes(tmp_path, GOOD, extra.format("notify-again")) == []


def test_a_stage_named_cancel_hides_the_built_in_reaction(tmp_path: Path) -> None:
    extra = """
    @wf.on_cancel(owner=desk)
    async def give_up(case: Case[Order]) -> Next:
        return wf.close("cancelled")
    """
    bad = stage_source(GOOD.replace("last", "cancel")).replace("async def last(", "async def cancel(")
    assert [found.code for found in check_module(load(tmp_path, bad))] == ["name_clash"]
    good = stage_source(GOOD.replace("last", "cancel"), extra).replace("async def last(", "async def cancel(")
    assert check_module(load(tmp_path, good)) == []


def test_a_scope_of_another_workflows_stage_is_refused(tmp_path: Path) -> None:
    extra = """
    other = Workflow("other", object=Order, key="id", owner=desk, expect=days(2))

    @other.stage(owner=desk, expect=days(1))
    async def only(case: Case[Order]) -> Next:
        await notify("x")
        return other.close("done")
    """
    handler = """

@wf.on(paid, during=({},), owner=desk)
async def stop(case: Case[Order], body: Paid) -> Next:
    return wf.close("stopped")
"""
    source = stage_source(GOOD, extra)
    bad = [found.code for found in check_module(load(tmp_path, source + handler.format("only")))]
    assert bad == ["foreign_stage", "unreachable_stage"]
    assert check_module(load(tmp_path, source + handler.format("first"))) == []


HANDLER = """

@wf.on(paid, interrupts=False, owner=desk{during})
async def remark(case: Case[Order], body: Paid) -> None:
    {body}
"""


def handler_codes(tmp_path: Path, handler: str, during: str = "", stage: str = GOOD) -> list[str]:
    source = stage_source(stage) + HANDLER.format(during=during, body=handler.replace("\n", "\n    "))
    return [found.code for found in check_module(load(tmp_path, source))]


def test_rule_B8_a_handler_returns_nothing(tmp_path: Path) -> None:
    assert handler_codes(tmp_path, "await notify('x')") == []
    assert handler_codes(tmp_path, "if body.amount:\n    return\nawait notify('x')\nreturn None") == []
    for ends in ("last", 'wf.close("done")', "case.again()", "await reserve('x')"):
        assert handler_codes(tmp_path, f"return {ends}") == ["handler_returns"]


def test_rule_B8_a_stage_does_not_return_a_handler(tmp_path: Path) -> None:
    source = stage_source("if case.object.amount:\n    return remark\n" + GOOD)
    found = check_module(load(tmp_path, source + HANDLER.format(during="", body="await notify('x')")))
    assert [one.code for one in found] == ["exit_not_readable"]


def test_rule_B8_a_signal_with_a_handler_is_not_received_too(tmp_path: Path) -> None:
    stage = "await case.receive(paid, within=days(1))\nreturn last"
    source = stage_source(stage) + HANDLER.format(during="", body="await notify('x')")
    (found,) = check_module(load(tmp_path, source))
    assert (found.code, found.severity) == ("signal_caught_and_received", "error")
    assert "has the handler remark" in found.message
    assert handler_codes(tmp_path, "await case.receive(paid, within=days(1))") == ["signal_caught_and_received"]


def test_rule_B8_what_a_handler_does_is_checked_as_a_stage_is(tmp_path: Path) -> None:
    assert handler_codes(tmp_path, "import time\ntime.sleep(1)") == ["time_in_stage"]
    assert handler_codes(tmp_path, "asyncio.create_task(notify('x'))") == ["task_outside_group"]
    assert handler_codes(tmp_path, "await notify('x')\nawait notify('y')") == ["same_place_twice"]
    assert handler_codes(tmp_path, "case.update(colour='x')") == ["unknown_field"]
    assert handler_codes(tmp_path, "await case.ask('Which?', answer=Paid, of=sales)") == ["wait_without_expectation"]


def test_rule_B8_a_handler_covers_stages_of_its_workflow_that_are_reached(tmp_path: Path) -> None:
    assert handler_codes(tmp_path, "await notify('x')", ", during=(first,)") == []
    assert handler_codes(tmp_path, "await notify('x')", ", during=(last,)") == []
    unreached = "await notify('x')\nreturn wf.close('done')"
    assert handler_codes(tmp_path, "await notify('x')", ", during=(last,)", unreached) == ["unreachable_stage"] * 2


REGISTERED = {
    "two activities under one function name": (
        "@activity(owner=sales, name='one')\nasync def book(sku: str) -> str: ...\n\n"
        "@activity(owner=sales, name='two')\nasync def book(sku: str) -> str: ...",
        ["declared_not_registered"],
    ),
    "a stage declared in a function": (
        "def make() -> None:\n"
        "    @wf.stage(owner=desk, expect=days(1))\n"
        "    async def inner(case: Case[Order]) -> Next:\n"
        "        await notify('x')\n"
        "        return wf.close('inner')\n\n"
        "make()",
        ["not_module_level"],
    ),
    "stages declared in a loop": (
        "async def step(case: Case[Order]) -> Next:\n    await notify('x')\n    return wf.close('step')\n\n"
        "for name in ('one', 'two'):\n    wf.stage(owner=desk, expect=days(1), name=name)(step)",
        ["registered_not_declared"],
    ),
    "an activity made by exec": (
        'exec("@activity(owner=sales)\\nasync def book(sku: str) -> str: ...")',
        ["registered_not_declared"],
    ),
}


@pytest.mark.parametrize("what", REGISTERED)
def test_what_runs_is_what_the_source_declares(tmp_path: Path, what: str) -> None:
    extra, expected = REGISTERED[what]
    found = set(codes(tmp_path, GOOD, extra))
    assert set(expected) <= found


@pytest.mark.parametrize(("condition", "expected"), [("True", []), ("False", ["declared_not_registered"])])
def test_a_declaration_under_a_condition_runs_or_is_found(tmp_path: Path, condition: str, expected: list[str]) -> None:
    extra = f"""
    if {condition}:
        @activity(owner=sales)
        async def sell(sku: str) -> str: ...
    """
    assert codes(tmp_path, GOOD, extra) == expected


def import_error(tmp_path: Path, source: str) -> list[Finding]:
    """Return the findings of a module that cannot be imported."""
    try:
        load(tmp_path, source)
    except Exception as error:
        return import_findings(error, "broken")
    raise AssertionError("the module could be imported")


def test_row_B9_a_missing_owner_is_named_with_its_line(tmp_path: Path) -> None:
    found = import_error(tmp_path, PREAMBLE + "\n@activity(system=erp)\nasync def book(sku: str) -> str: ...\n")
    assert [finding.code for finding in found] == ["owner_missing"]
    assert "book" in found[0].message
    assert found[0].line == len(PREAMBLE.splitlines()) + 2


def test_row_B9_all_missing_owners_are_named_at_once(tmp_path: Path) -> None:
    source = PREAMBLE.replace("is_big(order", "is_small(order").replace("owner=boss, question", "question")
    source += '\nother = Workflow("other", object=Order, key="id", expect=days(1))\n'
    assert [finding.code for finding in import_error(tmp_path, source)] == ["owner_missing", "owner_missing"]


def test_row_B9_an_owner_that_is_gone_is_named(tmp_path: Path) -> None:
    (found,) = import_error(
        tmp_path, PREAMBLE + "\n@activity(owner=purchasing)\nasync def book(sku: str) -> str: ...\n"
    )
    assert found.code == "not_importable"
    assert "purchasing" in found.message


def test_a_definition_error_is_a_finding_at_the_authors_line(tmp_path: Path) -> None:
    source = (
        stage_source(GOOD)
        + "\n@wf.stage(owner=desk, expect=days(1))\nasync def FIRST(case: Case[Order]) -> Next:\n    return last\n"
    )
    (found,) = import_error(tmp_path, source)
    assert found.code == "not_importable"
    assert "two stages named FIRST" in found.message
    assert "FIRST" in source.splitlines()[found.line]


def test_a_syntax_error_is_a_finding_at_its_line(tmp_path: Path) -> None:
    (found,) = import_error(tmp_path, "x = 1\ndef (:\n")
    assert (found.code, found.line) == ("not_importable", 2)


def test_every_code_says_what_it_stands_for() -> None:
    assert all(meaning and not meaning.endswith(".") for meaning in RULES.values())
    assert Finding("a.py", 3, "stage_falls_off", "it ends").to_json()["severity"] == "error"
    assert Finding("a.py", 3, "never_undone", "it ends").severity == "warning"


def test_a_finding_prints_its_place_its_code_and_its_mend() -> None:
    found = Finding("flows.py", 12, "owner_missing", "activity book has no owner", "owner=desk")
    assert str(found) == "flows.py:12: error owner_missing: activity book has no owner\n\nhint: owner=desk\n"


TRANSACTIONAL = """
import time
from longcase import Transaction

@activity(owner=sales, transaction=True)
def book(tx: Transaction, sku: str) -> str:
    {}
    return sku
"""


@pytest.mark.parametrize(
    ("does", "found"),
    [
        ("tx.execute('INSERT INTO books VALUES (?)', sku)", []),
        ("time.sleep(0.1)", ["io_in_transaction"]),
        ("open(sku).read()", ["io_in_transaction"]),
        ("import requests; requests.post(sku)", ["io_in_transaction"]),
        ("tx.execute('commit')", ["transaction_ended_by_hand"]),
        ("tx.execute('ROLLBACK; ')", ["transaction_ended_by_hand"]),
    ],
)
def test_rule_A12_a_transactional_activity_does_nothing_but_statements(
    tmp_path: Path, does: str, found: list[str]
) -> None:
    assert codes(tmp_path, "await book('x')\nreturn last", TRANSACTIONAL.format(does)) == found
