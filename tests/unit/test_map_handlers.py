"""A handler on the map: an entry of its own beside the stages it covers, told as one that does not interrupt."""

from __future__ import annotations

from pathlib import Path

from tests.support.definitions import check, compiled, load, places, stage_source

from longcase.insight.describe import describe_module
from longcase.model.check import check_module
from longcase.model.map import WorkflowMap, compile_map
from longcase.model.map.render_mermaid import render_mermaid
from longcase.model.map.render_text import render_text

STAGE = "await notify('x')\nreturn last"
REMARK = """

@wf.on(paid, interrupts=False, owner=sales, expect=days(1){})
async def remark(case: Case[Order], body: Paid) -> None:
    \"\"\"Take note of a payment.\"\"\"
    if not body.amount:
        return
    await reserve("x")
    case.update(amount=body.amount)
"""


def remarked(tmp_path: Path, during: str = "") -> WorkflowMap:
    map, findings = compile_map(load(tmp_path, stage_source(STAGE) + REMARK.format(during)).wf)
    assert findings == []
    return map


def test_rule_B8_a_handler_is_an_entry_of_its_own_that_begins_with_its_signal(tmp_path: Path) -> None:
    map = remarked(tmp_path, ", during=(first,)")
    entry = map.stages["remark"]
    assert (entry.kind, entry.signal, entry.during, entry.owner) == ("handler", "paid", ("first",), "sales")
    assert sorted(places(map, "remark")) == ["activity:reserve", "change", "on:paid"]
    assert [(e.source, e.target, e.label) for e in map.edges if e.kind == "handler"] == [("first", "remark", "paid")]
    assert not [e for e in map.edges if e.kind == "exception" and e.target == "remark"]
    own = [(e.source, e.target) for e in map.edges if e.kind == "next" and e.source.startswith("remark")]
    assert own == [
        ("remark", "remark/on:paid"),
        ("remark/on:paid", "remark/activity:reserve"),
        ("remark/activity:reserve", "remark/change"),
    ]


def test_rule_B8_a_map_with_a_handler_is_read_back_as_it_was(tmp_path: Path) -> None:
    map = remarked(tmp_path)
    again = WorkflowMap.from_json(map.to_json())
    assert again == map
    assert again.fingerprint == map.fingerprint


def test_rule_B8_a_map_without_handlers_has_the_fingerprint_it_had(tmp_path: Path) -> None:
    """Stored maps are found by it: what is new must not change those that do not use it."""
    assert "handler" not in str(compiled(tmp_path, STAGE).to_json())


def test_rule_B8_the_text_says_that_a_handler_does_not_interrupt(tmp_path: Path) -> None:
    told = render_text(remarked(tmp_path))
    assert told.partition("on paid")[2].startswith(
        ", beside any stage: remark (owner sales, expected 1 day, interrupts: no)\n"
        "  Take note of a payment.\n"
        "  if not body.amount\n"
        "  then: return\n"
        "  activity reserve (by sales, on erp)\n"
    )
    assert "on paid, beside first: remark" in render_text(remarked(tmp_path, ", during=(first,)"))


def test_rule_B8_mermaid_draws_a_handler_beside_its_stages(tmp_path: Path) -> None:
    lines = render_mermaid(remarked(tmp_path, ", during=(first,)")).splitlines()
    assert any('["on paid: remark, interrupts: no (sales)"]' in line for line in lines)
    first = next(line.split("[")[0].split()[1] for line in lines if '"first (' in line)
    assert any(line.strip().startswith(f'{first} -.->|"beside, on paid"|') for line in lines)


def test_rule_B8_describe_tells_of_handlers(tmp_path: Path) -> None:
    (workflow,) = describe_module(load(tmp_path, stage_source(STAGE) + REMARK.format("")))["workflows"]
    assert workflow["handlers"] == [
        {
            "name": "remark", "on": "paid", "interrupts": False, "owner": "sales", "expect": "1 day",
            "during": "any stage", "goal": "Take note of a payment.",
        }
    ]  # fmt: skip
    assert workflow["exception_paths"] == []


def test_rule_A11_what_a_handler_writes_makes_answers_beside_it_stale(tmp_path: Path) -> None:
    shows_all = 'go = await case.approval("Go?", of=sales, shows=case.object, within=days(1))\nawait notify(go.answer)'
    handler = """
    @wf.on(paid, interrupts=False, owner=desk, during=({},))
    async def remark(case: Case[Order], body: Paid) -> None:
        {}
    """
    source = stage_source(f"{shows_all}\nreturn last")

    def found(during: str, body: str) -> list[str]:
        text = handler.replace("\n    ", "\n").format(during, body)
        return [one.code for one in check_module(load(tmp_path, f"{source}\n{text}"))]

    assert found("first", "case.update(amount=body.amount)") == ["shows_while_written"]
    assert found("last", "case.update(amount=body.amount)") == []
    assert found("first", "await notify('x')") == []
    assert check(tmp_path, f"{shows_all}\nreturn last") == []
