"""A filled form is judged by the schema that its task recorded, as the stage will judge it by the type."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, StringConstraints

from longcase.errors import InvalidInput
from longcase.model.codec import codec_for
from longcase.model.form import form_problems


class Route(StrEnum):
    SEA = "sea"
    AIR = "air"


class Line(BaseModel):
    name: str
    count: int = Field(ge=1, le=9)


class Card(BaseModel):
    kind: Literal["card"]
    number: Annotated[str, StringConstraints(pattern=r"^\d{4}$")]


class Cash(BaseModel):
    kind: Literal["cash"]


class Form(BaseModel):
    amount: int = Field(gt=0, lt=1000)
    share: float = 0.0
    price: Decimal | None = Field(default=None, ge=Decimal("0.1"))
    fee: Decimal = Field(default=Decimal(1), gt=0)
    urgent: bool = False
    note: str | None = Field(default=None, min_length=2, max_length=5)
    route: Route = Route.SEA
    size: Literal["s", "m", 3] = "s"
    on: date | None = None
    at: datetime | None = None
    opens: time | None = None
    span: timedelta | None = None
    ref: UUID | None = None
    lines: list[Line] = Field(default=[], max_length=2)
    pair: tuple[int, str] = (1, "a")
    tags: dict[str, int] = {}
    paid: Card | Cash | None = Field(default=None, discriminator="kind")
    first: Line | None = None
    anything: Any = None


class Branch(BaseModel):
    name: str
    under: list[Branch] = []


FITTING: list[dict[str, Any]] = [
    {"amount": 1},
    {"amount": 999, "share": 1, "price": "0.10", "urgent": True, "note": "ab", "route": "air", "size": 3},
    {"amount": 1, "price": 2, "note": None, "on": "2026-01-31", "at": "2026-01-31T09:00:00Z"},
    {"amount": 1, "opens": "09:00:00", "span": "PT2H"},
    {"amount": 1, "ref": "12345678-1234-5678-1234-567812345678", "pair": [2, "b"]},
    {"amount": 1, "lines": [{"name": "a", "count": 1}]},
    {"amount": 1, "tags": {"a": 1}, "paid": {"kind": "card", "number": "1234"}, "first": {"name": "a", "count": 9}},
    {"amount": 1, "paid": {"kind": "cash"}, "anything": [1, {"a": None}]},
]  # fmt: skip
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({}, "/amount", "missing"),
    ({"amount": "seven"}, "/amount", "expected a whole number, got 'seven'"),
    ({"amount": 1.0}, "/amount", "expected a whole number, got 1.0"),
    ({"amount": True}, "/amount", "expected a whole number, got True"),
    ({"amount": None}, "/amount", "expected a whole number, got None"),
    ({"amount": 0}, "/amount", "expected more than 0, got 0"),
    ({"amount": 1000}, "/amount", "expected less than 1000, got 1000"),
    ({"amount": 1, "amuont": 2}, "/amuont", "unknown field"),
    ({"amount": 1, "share": "1"}, "/share", "expected a number, got '1'"),
    ({"amount": 1, "price": True}, "/price", "expected a number or text or null, got True"),
    ({"amount": 1, "price": 0}, "/price", "expected at least 0.1, got 0"),
    ({"amount": 1, "price": "x"}, "/price", "expected a number like 12.50, got 'x'"),
    ({"amount": 1, "price": "NaN"}, "/price", "expected a number like 12.50, got 'NaN'"),
    ({"amount": 1, "price": "0.09"}, "/price", "expected at least 0.1, got '0.09'"),
    ({"amount": 1, "fee": "-5"}, "/fee", "expected more than 0, got '-5'"),
    ({"amount": 1, "urgent": "yes"}, "/urgent", "expected true or false, got 'yes'"),
    ({"amount": 1, "note": 5}, "/note", "expected text or null, got 5"),
    ({"amount": 1, "note": "a"}, "/note", "expected at least 2 characters, got 'a'"),
    ({"amount": 1, "note": "abcdef"}, "/note", "expected at most 5 characters, got 'abcdef'"),
    ({"amount": 1, "route": "see"}, "/route", "expected one of \"sea\", \"air\", got 'see'"),
    ({"amount": 1, "size": "l"}, "/size", "expected one of \"s\", \"m\", 3, got 'l'"),
    ({"amount": 1, "on": "2026-02-30"}, "/on", "expected a date like 2026-01-31, got '2026-02-30'"),
    ({"amount": 1, "at": "soon"}, "/at", "expected an instant like"),
    ({"amount": 1, "opens": "25:00"}, "/opens", "expected a time like"),
    ({"amount": 1, "span": "two hours"}, "/span", "expected a length of time like PT2H"),
    ({"amount": 1, "ref": "x"}, "/ref", "expected a UUID, got 'x'"),
    ({"amount": 1, "lines": {}}, "/lines", "expected a list, got {}"),
    ({"amount": 1, "lines": [{"name": "a", "count": 10}]}, "/lines/0/count", "expected at most 9, got 10"),
    ({"amount": 1, "lines": [{"name": "a", "count": 1}] * 3}, "/lines", "expected at most 2 items"),
    ({"amount": 1, "pair": [1, 2]}, "/pair/1", "expected text, got 2"),
    ({"amount": 1, "tags": {"a/b": "x"}}, "/tags/a~1b", "expected a whole number, got 'x'"),
    ({"amount": 1, "paid": {"kind": "card", "number": "12"}}, "/paid/number", "expected text like"),
    ({"amount": 1, "first": {"name": "a"}}, "/first/count", "missing"),
    ({"amount": 1, "first": {"name": "a", "count": 1, "x": 1}}, "/first/x", "unknown field"),
]  # fmt: skip


@pytest.mark.parametrize("answer", FITTING)
def test_what_the_stage_takes_is_not_refused(answer: dict[str, Any]) -> None:
    codec_for(Form).decode(answer, "form")
    assert form_problems(codec_for(Form).schema(), answer) == []


@pytest.mark.parametrize(("answer", "place", "says"), REFUSED)
def test_what_the_stage_would_not_take_is_refused_by_its_place(answer: dict[str, Any], place: str, says: str) -> None:
    with pytest.raises(InvalidInput):
        codec_for(Form).decode(answer, "form")
    found = form_problems(codec_for(Form).schema(), answer)
    assert [where for where, _ in found] == [place]
    assert found[0][1].startswith(says)


def test_a_form_that_holds_itself_is_judged_all_the_way_down() -> None:
    form = codec_for(Branch).schema()
    assert form_problems(form, {"name": "a", "under": [{"name": "b", "under": []}]}) == []
    assert form_problems(form, {"name": "a", "under": [{"under": [{"name": 1}]}]}) == [
        ("/under/0/name", "missing"),
        ("/under/0/under/0/name", "expected text, got 1"),
    ]


def test_words_of_a_schema_that_are_not_known_refuse_nothing() -> None:
    form = {"type": "object", "properties": {"a": {"type": "text", "pattern": "(?<=a)b", "weight": 3, "if": {}}}}
    assert form_problems(form, {"a": "c"}) == []
