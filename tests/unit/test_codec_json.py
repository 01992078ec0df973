"""What is written as JSON is read back as it was: the pair that every event and every state goes through."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcase.model.codec import Json, json_bytes, json_value

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
