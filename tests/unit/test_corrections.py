"""Which arguments of a call were taken from a corrected field: certainly, perhaps, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from longcase.engine.corrections import input_corrected, with_changes
from longcase.history.event import Event
from longcase.history.state import CaseState, apply
from longcase.model.codec import Json

ADDRESS = {"street": "Via Roma 1", "city": "Rome"}
OBJECT: dict[str, Json] = {"id": "C-1", "rating": 2, "vip": True, "note": None, "address": ADDRESS, "tags": ["a", "b"]}
MOVED = {"street": "Via Roma 1", "city": "Milan"}


def commanded(**more: Any) -> CaseState:
    """Return the state of a case with one call in flight."""
    state = CaseState(workflow="clients", key="C-1", object=dict(OBJECT), visit=1, stage="s", owner="desk")
    data: dict[str, Json] = {
        "call": "1.c1", "activity": "score", "key": "k", "owner": "desk", "system": "", "expected": "", "attempt": 1,
        "worker": 1, "deadline": "", "start_by": "",
    }  # fmt: skip
    apply(state, Event("activity_scheduled", data, 1, node="s/activity:score", n=1, strand="0", seq=1))
    state.calls["1.c1"].update(more)  # type: ignore[typeddict-item]
    return state


def marks(arguments: dict[str, Json], patch: dict[str, Json], state: CaseState | None = None) -> list[Event]:
    return input_corrected(state or commanded(), patch, lambda call: arguments)


def found(arguments: dict[str, Json], patch: dict[str, Json]) -> tuple[list[Any], list[Any]]:
    """Return the places that are changed, with their new values, and those in doubt, with their fields."""
    marked = marks(arguments, patch)
    if not marked:
        return [], []
    data = marked[0].data
    return (
        [(change["at"], change["after"]) for change in data["changes"]],
        [(doubt["at"], doubt["field"]) for doubt in data["doubts"]],
    )


@pytest.mark.parametrize(
    ("arguments", "patch", "changes", "doubts"),
    [
        pytest.param({"rating": 2}, {"rating": 3}, [(["rating"], 3)], [], id="an argument of its name and value"),
        pytest.param({"client": OBJECT}, {"rating": 3}, [(["client", "rating"], 3)], [], id="the object"),
        pytest.param({"all": [OBJECT]}, {"rating": 3}, [(["all", 0, "rating"], 3)], [], id="the object in a list"),
        pytest.param(
            {"client": OBJECT}, {"address": MOVED, "rating": 3},
            [(["client", "rating"], 3), (["client", "address"], MOVED)], [], id="two fields of the object",
        ),
        pytest.param({"where": ADDRESS}, {"address": MOVED}, [(["where"], MOVED)], [], id="an equal structure"),
        pytest.param({"words": ["a", "b"]}, {"tags": ["a"]}, [(["words"], ["a"])], [], id="an equal list"),
        pytest.param({"city": "Rome"}, {"address": MOVED}, [(["city"], "Milan")], [], id="a part of a field"),
        pytest.param({"note": None}, {"note": "x"}, [(["note"], "x")], [], id="a field that had no value"),
        pytest.param({"rating": 4}, {"rating": 3}, [], [(["rating"], "rating")], id="its name and another value"),
        pytest.param({"rating": 2.0}, {"rating": 3}, [], [(["rating"], "rating")], id="a number of another kind"),
        pytest.param({"level": 2}, {"rating": 3}, [], [(["level"], "rating")], id="its value and another name"),
        pytest.param({"to": "Rome"}, {"address": MOVED}, [], [(["to"], "address.city")], id="a part's value"),
        pytest.param(
            {"partner": {"rating": 2}}, {"rating": 3}, [], [(["partner", "rating"], "rating")],
            id="inside what is not the object",
        ),
        pytest.param({"rating": 3}, {"rating": 3}, [], [], id="called with the new value"),
        pytest.param({"level": 5, "id": "C-1"}, {"rating": 3}, [], [], id="nothing of it"),
        pytest.param({"urgent": True}, {"vip": False}, [], [], id="a truth value says nothing"),
        pytest.param({"remark": None}, {"note": "x"}, [], [], id="no value says nothing"),
        pytest.param({}, {"rating": 3}, [], [], id="no arguments"),
    ],
)  # fmt: skip
def test_what_a_call_was_called_with_is_told(
    arguments: dict[str, Json], patch: dict[str, Json], changes: list[Any], doubts: list[Any]
) -> None:
    certain, perhaps = found(arguments, patch)
    assert sorted(certain, key=str) == sorted(changes, key=str)
    assert perhaps == doubts


def test_two_fields_of_one_value_are_told_by_their_names() -> None:
    state = commanded()
    state.object = {"one": ["x"], "other": ["x"]}
    (mark,) = marks({"other": ["x"], "third": ["x"]}, {"one": ["y"], "other": ["z"]}, state)
    assert [(change["at"], change["after"]) for change in mark.data["changes"]] == [(["other"], ["z"])]
    assert [(doubt["at"], doubt["field"]) for doubt in mark.data["doubts"]] == [
        (["third"], "one"),
        (["third"], "other"),
    ]


@pytest.mark.parametrize("more", [{"awaited": False}, {"undoes": "1.c0"}, {"stopping": True}])
def test_a_call_that_nobody_waits_for_is_not_marked(more: dict[str, Any]) -> None:
    assert marks({"rating": 2}, {"rating": 3}, commanded(**more)) == []


def test_a_doubt_follows_its_field() -> None:
    """The field is corrected once more, and then back to what the call was called with."""
    state = commanded()
    for after, told in ((3, [3]), (4, [4]), (2, [])):
        (mark,) = marks({"level": 2}, {"rating": after}, state)
        mark.seq, mark.at, mark.actor = state.seq + 1, "2026-01-05T09:00:00.000000Z", "person:ann"
        apply(state, mark)
        state.object = {**state.object, "rating": after}
        corrected = state.calls["1.c1"].get("corrected", {"doubts": []})
        assert [doubt["after"] for doubt in corrected["doubts"]] == told
    assert "corrected" not in state.calls["1.c1"]


def test_changes_are_made_to_a_copy() -> None:
    arguments: dict[str, Json] = {"clients": [{"rating": 2}], "n": 1}
    changed = with_changes(arguments, [{"at": ["clients", 0, "rating"], "after": 3}])
    assert changed == {"clients": [{"rating": 3}], "n": 1}
    assert arguments == {"clients": [{"rating": 2}], "n": 1}
