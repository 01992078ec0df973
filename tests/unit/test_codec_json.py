"""What is written as JSON is read back as it was: the pair that every event and every state goes through."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from longcase.errors import InvalidInput
from longcase.model.codec import Json, codec_for, json_bytes, json_value

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)


@given(JSON)
def test_what_is_written_is_read_back_as_the_standard_library_reads_it(value: Json) -> None:
    text = json_bytes(value).decode()
    found = json_value(text)
    assert repr(found) == repr(json.loads(text)) == repr(value)


def test_what_is_nested_deeper_than_the_fast_reader_goes_is_read_all_the_same() -> None:
    text = "[" * 500 + "]" * 500
    assert json_value(text) == json.loads(text)


def test_what_is_no_json_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        json_value('{"a": ')


class Loose(BaseModel):
    answer: Any = None


NOT_KEPT: dict[str, tuple[Any, Any, str]] = {
    "an integer beyond 64 bits": (int, 2**63, "number_out_of_range"),
    "a negative one": (int | None, -(2**63), "number_out_of_range"),
    "one of more digits than Python reads": (int, 10**5000, "number_out_of_range"),
    "one inside": (dict[str, Any], {"a": [2**64]}, "number_out_of_range"),
    "NaN": (float, math.nan, "non_finite_number"),
    "NaN in a vendor's answer": (dict[str, Any], json.loads('{"rate": NaN}'), "non_finite_number"),
    "an infinity in an untyped list": (list, [math.inf], "non_finite_number"),
    "NaN for anything": (Any, math.nan, "non_finite_number"),
    "NaN in an untyped field": (Loose, Loose(answer=[math.nan]), "non_finite_number"),
    "keys that become one": (dict[Any, Any], {1: "a", "1": "b"}, "duplicate_key"),
    "keys that become one, inside": (Loose, Loose(answer={"a": {1: "a", "1": "b"}}), "duplicate_key"),
}


@pytest.mark.parametrize(("declared", "value", "reason"), NOT_KEPT.values(), ids=NOT_KEPT)
def test_row_5_what_json_would_not_give_back_is_refused_and_not_changed(declared: Any, value: Any, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        codec_for(declared).encode(value, "result of rate")
    assert refused.value.reason == reason
    assert refused.value.message.startswith("result of rate: ")


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63 - 1), {"a": None}, [None, 0.5], {1: "a", 2: "b"}, True])
def test_row_9_what_json_gives_back_is_kept(value: Any) -> None:
    kept = codec_for(Any).encode(value, "result of rate")
    assert json.loads(json.dumps(kept)) == json.loads(json.dumps(value))
    if isinstance(value, int):
        assert codec_for(int | bool).encode(value, "result of rate") == value
