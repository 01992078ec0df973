"""A record is a dataclass in all that users and code ask of one; only its making is our own."""

from __future__ import annotations

import ast
import copy
import pickle
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, asdict, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import pytest
from pydantic import TypeAdapter

import longcase
from longcase.record import record

T = TypeVar("T")


@record
class Place:
    """A frozen record."""

    street: str
    number: int = 1
    tags: list[str] = field(default_factory=list, compare=False)
    secret: str = field(default="", repr=False)


@record(frozen=False)
class Box(Generic[T]):
    """A record that changes."""

    content: T
    size: int = field(init=False)
    opened: int = field(init=False, default=0)
    log: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.size = 2


@record
class Only:
    """A record of one field."""

    value: Any


@record
class Nothing:
    """A record without fields."""


@record(eq=False)
class Unlike:
    """A record that is equal to itself only."""

    value: int


@record
class Named:
    """A record with methods of its own."""

    name: str

    def __init__(self, first: str, last: str) -> None:
        object.__setattr__(self, "name", f"{first} {last}")

    def __repr__(self) -> str:
        return f"<{self.name}>"


def test_a_record_takes_its_fields_by_place_and_by_name_and_knows_their_defaults() -> None:
    place = Place("Elm", tags=["old"])
    assert (place.street, place.number, place.tags, place.secret) == ("Elm", 1, ["old"], "")
    assert Place("Elm", 2, [], "x").secret == "x"


def test_a_default_that_is_made_is_made_for_each_record() -> None:
    assert Place("Elm").tags is not Place("Elm").tags
    assert Box(1).log is not Box(1).log


def test_a_missing_or_unknown_field_is_refused_by_the_name_of_the_class() -> None:
    with pytest.raises(TypeError, match=r"Place\.__init__\(\) missing 1 required positional argument: 'street'"):
        cast(Any, Place)()
    with pytest.raises(TypeError, match="unexpected keyword argument 'town'"):
        cast(Any, Place)("Elm", town="Ulm")


def test_fields_that_are_not_given_are_set_by_their_default_or_after_the_others() -> None:
    box = Box("tea")
    assert (box.content, box.size, box.opened, box.log) == ("tea", 2, 0, [])
    with pytest.raises(TypeError, match="unexpected keyword argument 'opened'"):
        cast(Any, Box)("tea", opened=1)


def test_records_are_equal_by_their_compared_fields_and_by_their_class() -> None:
    assert Place("Elm", tags=["old"]) == Place("Elm", tags=["new"])
    assert Place("Elm") != Place("Elm", 2)
    assert Only("Elm") != Box("Elm")
    assert Only(1) == Only(1) != Only(2)
    assert Nothing() == Nothing()
    assert Nothing() != Only(1)
    assert Box([1]) == Box([1]) != Box([2])


def test_a_record_of_one_field_compares_as_a_tuple_of_it_would() -> None:
    nan = float("nan")
    assert Only(nan) == Only(nan)
    assert hash(Only(nan)) == hash(Only(nan))


def test_a_record_that_is_not_compared_is_equal_to_itself_only() -> None:
    one = Unlike(1)
    assert one == one
    assert one != Unlike(1)
    assert len({one, Unlike(1)}) == 2


def test_a_frozen_record_is_hashed_by_its_compared_fields_and_a_changing_one_never() -> None:
    assert {Place("Elm", tags=["old"]), Place("Elm"), Place("Oak")} == {Place("Elm"), Place("Oak")}
    assert hash(Nothing()) == hash(Nothing())
    with pytest.raises(TypeError, match="unhashable type: 'Box'"):
        hash(Box(1))


def test_a_frozen_record_refuses_to_change() -> None:
    place: Any = Place("Elm")
    with pytest.raises(FrozenInstanceError, match=r"Place\.street cannot be changed"):
        place.street = "Oak"
    with pytest.raises(FrozenInstanceError):
        del place.street
    with pytest.raises(FrozenInstanceError):
        place.town = "Ulm"
    assert place == Place("Elm")


def test_a_changing_record_changes_its_fields_and_has_no_others() -> None:
    box: Any = Box("tea")
    box.content = "salt"
    assert box == Box("salt")
    with pytest.raises(AttributeError):
        box.colour = "red"


def test_a_record_shows_its_fields_and_not_those_that_are_not_to_be_shown() -> None:
    assert repr(Place("Elm", secret="x")) == "Place(street='Elm', number=1, tags=[])"
    box: Box[Any] = Box("tea")
    box.content = box
    assert repr(box) == "Box(content=..., size=2, opened=0, log=[])"


def test_what_a_class_defines_itself_is_kept() -> None:
    assert repr(Named("Ada", "L")) == "<Ada L>"
    assert Named("Ada", "L") == Named("Ada", "L")
    assert Place.__doc__ == "A frozen record."


@pytest.mark.parametrize("one", [Place("Elm", 2, ["old"], "x"), Box([1]), Only({1}), Nothing(), Named("Ada", "L")])
def test_a_record_is_copied_and_pickled_whole(one: Any) -> None:
    for twin in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):  # noqa: S301
        assert type(twin) is type(one)
        assert asdict(twin) == asdict(one)


def test_a_record_is_a_dataclass() -> None:
    place = Place("Elm", tags=["old"])
    assert is_dataclass(Place)
    assert [one.name for one in fields(Place)] == ["street", "number", "tags", "secret"]
    assert replace(place, number=3) == Place("Elm", 3)
    assert asdict(place) == {"street": "Elm", "number": 1, "tags": ["old"], "secret": ""}
    match place:
        case Place(street, number):
            assert (street, number) == ("Elm", 1)
    assert TypeAdapter(Place).validate_python({"street": "Elm"}) == place


def test_a_keyword_only_field_is_refused() -> None:
    with pytest.raises(AssertionError, match="no keyword-only fields"):

        @record
        class Wrong:
            late: int = field(kw_only=True)


def _plain_dataclasses() -> Iterator[str]:
    folder = Path(longcase.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(one) for one in node.decorator_list):
                yield f"{file.relative_to(folder).as_posix()}:{node.name}"


def test_a_plain_dataclass_stands_only_where_its_reason_is_known() -> None:
    assert set(_plain_dataclasses()) == {
        "model/map/graph.py:WorkflowMap",  # keeps what it has worked out
        "testing/shuffled.py:Chances",  # not loaded by a worker
        "testing/shuffled.py:Hand",
        "testing/shuffled.py:Job",
    }
