"""Strict JSON: BAD-INPUTS rows 1 to 20 at the parser; each refusal has its reason and its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcase.errors import InvalidInput
from longcase.model.strict_json import MAX_DEPTH, REASONS, SIGNAL_BYTES, check_json, parse_json

REFUSED = [
    ("row 1: empty", "", "invalid_json", 0),
    ("row 1: blanks", " \n", "invalid_json", 0),
    ("row 2: open brace", "{", "invalid_json", 1),
    ("row 3: trailing bytes", '{"a": 1} x', "invalid_json", 9),
    ("row 3: two documents", "{}{}", "invalid_json", 2),
    ("row 4: BOM", b"\xef\xbb\xbf{}", "invalid_json", 0),
    ("row 4: BOM in a text", "\ufeff{}", "invalid_json", 0),
    ("row 4: UTF-16 with BOM", '{"a":1}'.encode("utf-16"), "invalid_json", 0),
    ("row 4: UTF-16 without BOM", '{"a":1}'.encode("utf-16-le"), "invalid_json", 1),
    ("row 5: NaN", '{"a": NaN}', "non_finite_number", 6),
    ("row 6: Infinity", '{"a": Infinity}', "non_finite_number", 6),
    ("row 6: -Infinity", '["Infinity", -Infinity]', "non_finite_number", 13),
    ("row 7: 1e400", '{"a": 1e400}', "non_finite_number", 6),
    ("row 10: 2^63", f'{{"a": {2**63}}}', "number_out_of_range", 6),
    ("row 10: -2^63", f"[{-(2**63)}]", "number_out_of_range", 1),
    ("row 11: 5,000 digits", "[" + "9" * 5000 + "]", "number_out_of_range", 1),
    ("row 13: NUL in a value", r'{"a": "x\u0000"}', "invalid_text", None),
    ("row 13: NUL in a key", r'{"a\u0000": 1}', "invalid_text", None),
    ("row 14: lone surrogate", r'["\ud800"]', "invalid_text", None),
    ("row 14: lone low surrogate in a key", r'{"\uDC00": 1}', "invalid_text", None),
    ("row 14: surrogate in the text itself", '["\udcff"]', "invalid_text", 2),
    ("row 15: a byte that is no UTF-8", b'["\xff"]', "invalid_text", 2),
    ("row 16: overlong", b'["\xc0\x80"]', "invalid_text", 2),
    ("row 17: duplicate key", '{"amount":1,"amount":9}', "duplicate_key", 12),
    ("row 17: duplicate further in", '{"amount":{"a":1},"b":[{"a":1,"\\u0061":2}]}', "duplicate_key", 30),
    ("row 18: depth 100,000", "[" * 100_000, "too_deep", MAX_DEPTH),
    ("row 18: depth 65", "[" * 65 + "]" * 65, "too_deep", MAX_DEPTH),
    ("row 20: 50 MB", b'"' + b"x" * 50_000_000 + b'"', "too_large", None),
]


@pytest.mark.parametrize(("name", "text", "reason", "offset"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_has_no_single_meaning_is_refused(name: str, text: str | bytes, reason: str, offset: int | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_json(text, what="object")
    assert caught.value.reason == reason, name
    assert caught.value.details.get("offset") == offset
    assert caught.value.message.startswith("object: ")
    assert len(caught.value.message) < 200


def test_every_reason_is_given_by_some_row() -> None:
    assert {row[2] for row in REFUSED} == set(REASONS)


def test_row_8_minus_zero_is_read_as_zero() -> None:
    assert json.dumps(parse_json("[-0.0, -0, -0e5]")) == "[0.0, 0, 0.0]"


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 - 1, -(2**63 - 1), 0])
def test_row_9_integers_to_64_bits_are_exact(number: int) -> None:
    assert parse_json(str(number)) == number


def test_depth_64_and_brackets_in_texts_pass() -> None:
    assert parse_json("[" * 64 + "]" * 64)
    assert parse_json(json.dumps(["[" * 500, '"{\\' * 500])) == ["[" * 500, '"{\\' * 500]


def test_the_same_key_in_different_objects_is_no_duplicate() -> None:
    assert parse_json('[{"a": {"a": 1}}, {"a": "a"}]') == [{"a": {"a": 1}}, {"a": "a"}]


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse_json(r'"\ud83d\ude00"') == "\U0001f600"


def test_the_cap_of_a_signal_is_its_own() -> None:
    text = json.dumps("x" * SIGNAL_BYTES)
    assert parse_json(text)
    with pytest.raises(InvalidInput, match="262,146 bytes"):
        parse_json(text, max_bytes=SIGNAL_BYTES)


_storable = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | _storable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_storable, inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(_values, st.booleans())
def test_what_json_can_say_comes_back_as_it_was(value: object, as_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=as_ascii)
    assert parse_json(text) == value
    assert parse_json(text.encode()) == value
    assert check_json(value) is value


@given(st.text() | st.binary())
def test_whatever_comes_there_is_a_value_or_a_reason(text: str | bytes) -> None:
    try:
        value = parse_json(text)
    except InvalidInput as error:
        assert error.reason in REASONS  # noqa: PT017  # either outcome is right; each is checked
    else:
        assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": float("nan")}, "non_finite_number"),
        ({"a": 2**63}, "number_out_of_range"),
        ({"a": ["\x00"]}, "invalid_text"),
        ({"\ud800": 1}, "invalid_text"),
        ({1: "a"}, "invalid_json"),
    ],
)
def test_data_from_python_keeps_the_same_rules(value: object, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_json(value, what="object")
    assert caught.value.reason == reason
