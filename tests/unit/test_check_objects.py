"""The business object, the name of the case, and choices that nobody owns."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.definitions import check, codes

FIELDS = {
    "update": ("case.update({}=1)\nawait notify('x')\nreturn last", "amonut", "amount"),
    "change": ("with case.change() as order:\n    order.{} = 1\nawait notify('x')\nreturn last", "amonut", "amount"),
    "require": (
        "await case.require(lambda order: order.{}, asked_of=sales, within=days(1))\nreturn last",
        "ratnig",
        "rating",
    ),
    "shows": (
        'go = await case.approval("Go?", of=sales, shows=[lambda order: order.{}], within=days(1))\n'
        "await notify(go.answer)\nreturn last",
        "amonut",
        "amount",
    ),
}


@pytest.mark.parametrize("where", FIELDS)
def test_rule_C7_a_field_that_is_not_there_is_named(tmp_path: Path, where: str) -> None:
    body, wrong, right = FIELDS[where]
    (found,) = check(tmp_path, body.format(wrong))
    assert found.code == "unknown_field"
    assert found.hint == f"did you mean {right}?"
    assert codes(tmp_path, body.format(right)) == []


LOST = {
    "a field": "case.object.amount = 3",
    "a field added to": "case.object.amount += 3",
    "a field deleted": "del case.object.rating",
    "a list": "case.object.items.append('x')",
    "a set": "case.object.tags.add('x')",
    "a place in a list": "case.object.items[0] = 'x'",
    "through a name": "order = case.object\norder.amount = 3",
    "through a field's name": "items = case.object.items\nitems.append('x')",
}
KEPT = {
    "a draft": "with case.change() as order:\n    order.amount = 3\n    order.items.append('x')",
    "a copy": "items = [*case.object.items]\nitems.append('x')",
    "a copy of it all": "order = case.object.model_copy()\norder.amount = 3",
    "what a method returns": "rating = case.object.rating.insert('x')",
    "another's list": "items = []\nitems.append(case.object.amount)",
}


@pytest.mark.parametrize("statement", LOST.values(), ids=LOST)
def test_rule_B9_a_change_of_the_object_in_place_is_found_as_lost(tmp_path: Path, statement: str) -> None:
    (found,) = check(tmp_path, f"{statement}\nawait notify('x')\nreturn last")
    assert found.code == "object_changed_in_place"
    assert found.hint == "with case.change() as draft: ..."


@pytest.mark.parametrize("statement", KEPT.values(), ids=KEPT)
def test_rule_B9_what_is_recorded_or_never_the_objects_is_no_finding(tmp_path: Path, statement: str) -> None:
    assert codes(tmp_path, f"{statement}\nawait notify('x')\nreturn last") == []


def test_rule_C8_a_pattern_must_not_capture_case(tmp_path: Path) -> None:
    body = """
    await notify("x")
    match case.key:
        case "a": return wf.close("a")
        case {}: return last
    """
    assert codes(tmp_path, body.format("case")) == ["case_rebound"]
    assert codes(tmp_path, body.format("_")) == []


def test_rule_C8_the_case_is_not_assigned(tmp_path: Path) -> None:
    body = "await notify('x')\nfor {} in (1, 2):\n    n = 1\nreturn last"
    assert codes(tmp_path, body.format("case")) == ["case_rebound"]
    assert codes(tmp_path, body.format("number")) == []


OWNERLESS = {
    "an if that exits": (
        "await notify('x')\nif case.object.amount > 5:\n    return wf.close('big')\nreturn last",
        "await notify('x')\nif is_big(case.object) == 'yes':\n    return wf.close('big')\nreturn last",
    ),
    "an if that calls an activity": (
        "if case.object.amount > 5:\n    await notify('x')\nreturn last",
        "if is_big(case.object) == 'yes':\n    await notify('x')\nreturn last",
    ),
    "an if that asks": (
        "if case.object.rating is None:\n"
        "    await case.require(lambda o: o.rating, asked_of=sales, within=days(1))\nreturn last",
        "rating = await case.require(lambda o: o.rating, asked_of=sales, within=days(1))\nreturn last",
    ),
    "an if on a field in a variable": (
        "amount = case.object.amount\nif amount > 5:\n    await notify('x')\nreturn last",
        "amount = case.visit\nif amount > 5:\n    await notify('x')\nreturn last",
    ),
    "a conditional exit": (
        "await notify('x')\nreturn last if case.object.amount > 5 else wf.close('small')",
        "await notify('x')\nreturn last if is_big(case.object) == 'yes' else wf.close('small')",
    ),
    "a match": (
        "await notify('x')\nmatch case.object.route:\n    case 'fast': return last\n"
        "    case 'slow': return wf.close('slow')",
        "n = 0\nmatch case.object.route:\n    case 'fast': n = 1\n    case 'slow': n = 2\nawait notify('x')\n"
        "return last",
    ),
    "arms that differ": (
        "if case.object.amount > 5:\n    await notify('x')\nelse:\n    await reserve('x')\nreturn last",
        "if case.object.amount > 5:\n    text = 'big'\nelse:\n    text = 'small'\nawait notify(text)\nreturn last",
    ),
}


@pytest.mark.parametrize("what", OWNERLESS)
def test_a_choice_on_the_object_without_an_owner_is_warned_of(tmp_path: Path, what: str) -> None:
    bad, twin = OWNERLESS[what]
    found = check(tmp_path, bad)
    assert [(finding.code, finding.severity) for finding in found] == [("decision_without_owner", "warning")]
    assert codes(tmp_path, twin) == []


def test_a_choice_marked_technical_needs_no_owner(tmp_path: Path) -> None:
    on_the_line = "if case.object.amount > 5:  # longcase: technical\n    await notify('x')\nreturn last"
    above = "# longcase: technical\nif case.object.amount > 5:\n    await notify('x')\nreturn last"
    assert codes(tmp_path, on_the_line) == []
    assert codes(tmp_path, above) == []
