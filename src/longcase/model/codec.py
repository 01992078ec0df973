"""From Python values to strict JSON and back: the only gate between user types and history.

Values coming from outside are validated strictly and unknown fields are refused; never pickle.
The next module on the data's way is `activity`, whose inputs and results pass through here.
"""

from __future__ import annotations

import json
import json.encoder
import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from longcase.errors import InvalidInput
from longcase.model.names import printable, text_of
from longcase.nearest import nearest

_QUOTED = re.compile(r"valid (?:integer|number|boolean), got '(-?\d[\d.]*|true|false)'$")
_BARE = re.compile(r"valid string, got (-?\d[\d.]*)$")
_DECIMAL_LIMITS: Final = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
T = TypeVar("T")
Json = Any  # None | bool | int | float | str | list[Json] | dict[str, Json]; recursion confuses user types


def _encoder(*, sort_keys: bool) -> Callable[[Json], str]:
    """Return a compact JSON encoder. The C encoder is made once; `JSONEncoder.encode` makes one a call."""
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys).encode
    encode = make(None, _not_json, json.encoder.encode_basestring, None, ":", ",", sort_keys, False, False)

    def dump(value: Json) -> str:
        return "".join(encode(value, 0))

    return dump


def _not_json(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


_dump = _encoder(sort_keys=False)
_dump_canonical = _encoder(sort_keys=True)
_PLAIN = (str, int, bool, type(None))
_LEAVES: Final[frozenset[type]] = frozenset((str, bool, type(None)))  # nothing of these is ever lost
_WHOLE: Final = _LEAVES | {int}  # nor of this one, once it is in range
MAX_INTEGER: Final = 2**63 - 1
"""The largest integer that every store and reader keeps exactly (BAD-INPUTS rows 9 to 11)."""


def dump_json(value: Json) -> str:
    """Return the compact JSON text of an already JSON-able value; NaN and infinities raise ValueError."""
    return _dump(value)


RESULT_LIMIT: Final = 1024 * 1024
"""Bytes of a result's JSON, of an activity or a close: it is read at every replay of the visit that awaits it."""

_to_json: Callable[[Json], bytes] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="constants")).serializer.to_json


_N, _I = b"NI"


def json_bytes(value: Json) -> bytes:
    """Return the text of `dump_json` in UTF-8, several times faster, of data already JSON-able.

    Raises:
        ValueError: a lone surrogate, an object of no JSON type, NaN or an infinity.
    """
    data = _to_json(value)
    # One letter is looked for at a fraction of the cost of a word, and by its number at a fifth of that again: `in`
    # takes what is no number for one at first, and makes an error of it.
    if (_N in data and b"NaN" in data) or (_I in data and b"Infinity" in data):
        dump_json(value)  # tells the number, which is refused, from the word
    return data


def json_text(value: Json) -> str:
    """Return the text of `dump_json`, several times faster, of data already JSON-able."""
    try:
        return str(json_bytes(value), "utf-8")
    except ValueError:  # a lone surrogate: what may be kept is decided where it is kept
        return dump_json(value)


_from_json: Callable[[str | bytes], Json] = TypeAdapter(Any).validator.validate_json


def json_value(text: str | bytes) -> Json:
    """Return the value of JSON text that we wrote ourselves, several times faster than `json.loads`.

    Raises:
        ValueError: the text is no JSON.
    """
    try:
        return _from_json(text)
    except ValueError:
        return json.loads(text)  # it reads what is nested deeper than 200, too


def canonical_json(value: Json) -> str:
    """Return JSON text with sorted keys: equal values give equal text (in the manner of RFC 8785)."""
    return _dump_canonical(value)


def digest(value: Json) -> str:
    """Return 16 hex digits over the canonical text, for comparing arguments on replay."""
    return sha256(_dump_canonical(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Codec:
    """Encode and decode values of one declared type."""

    __slots__ = ("_adapter", "_has_decimals", "_has_sets", "_plain", "_untyped", "type")

    def __init__(self, declared: Any) -> None:
        self.type = declared
        self._adapter: TypeAdapter[Any] = TypeAdapter(declared)
        self._plain = declared if declared in _PLAIN else (type(None) if declared is None else None)
        self._has_sets = "'type': 'set'" in (schema := repr(self._adapter.core_schema)) or "'frozenset'" in schema
        self._has_decimals = "'type': 'decimal'" in schema
        self._untyped = "'type': 'any'" in schema

    def encode(self, value: Any, what: str) -> Json:
        """Return `value` as JSON-able data, or raise InvalidInput naming each field that does not fit.

        A dict or list is read as JSON is (dates as text and so on), so that a vendor's answer may
        be returned as it came.
        """
        if self._plain is not None and type(value) is self._plain:
            if self._plain is int:
                refuse_unkept(value, what)
            return value
        try:
            valid = self._adapter.validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            if not isinstance(value, (dict, list)):
                raise invalid(error, what, self._fields) from None
            valid = self.decode(value, what)
        except Exception as error:
            raise _of_a_validator(error, what) from error
        try:
            dumped = self._adapter.dump_python(valid, mode="json", warnings=False)
        except Exception as error:  # bytes that are no UTF-8, a serializer of the author's
            raise InvalidInput(
                f"{what} cannot be written as JSON: {text_of(error)}",
                reason="not_json",
                hint='give it as text; of bytes: model_config = ConfigDict(ser_json_bytes="base64", '
                'val_json_bytes="base64")',
            ) from error
        if self._has_sets:
            dumped = _with_sorted_sets(valid, dumped)
        refuse_unkept(dumped, what)
        if self._untyped:
            _refuse_lost(valid, dumped, what)
        return dumped

    def decode(self, data: Json, what: str) -> Any:
        """Return the typed value of JSON-able data; unknown fields and loose types are refused."""
        if self._plain is not None and type(data) is self._plain:
            return data
        try:
            text = _dump(data)
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"{what}: {error}", reason="not_json", hint="send JSON data: text, numbers, lists"
            ) from None
        try:
            value = self._adapter.validate_json(text, strict=True, extra="forbid")
        except pydantic.ValidationError as error:
            raise invalid(error, what, self._fields) from None
        except Exception as error:
            raise _of_a_validator(error, what) from error
        if self._has_decimals:
            _refuse_rounded_decimals(value, data, what, "")
        return value

    @property
    def _fields(self) -> tuple[str, ...]:
        return tuple(getattr(self.type, "model_fields", ()))

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the type (for forms and `describe`)."""
        return self._adapter.json_schema(schema_generator=_Schema)


class _Schema(GenerateJsonSchema):
    """Says of a decimal that is written as text what its text must be: else any text fits the form."""

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:  # its type is pydantic-core's, no dependency of ours
        made = super().decimal_schema(schema)
        limits = {}  # those that a number of JSON holds to the last digit
        for kind, word in _DECIMAL_LIMITS.items():
            if (limit := schema.get(kind)) is not None and Decimal(str(float(limit))) == limit:
                exact = float(limit)
                limits[word] = int(exact) if exact.is_integer() else exact
        for option in made.get("anyOf", ()):
            if option.get("type") == "string":
                option.pop("pattern", None)  # of one pydantic, not of another
                option |= {"format": "decimal", **limits}
        return made


@lru_cache(maxsize=1024)
def _cached_codec(declared: Any) -> Codec:
    return Codec(declared)


def codec_for(declared: Any) -> Codec:
    """Return the codec of a type; built once per type."""
    try:
        return _cached_codec(declared)
    except TypeError:  # an unhashable annotation
        return Codec(declared)


def pointer(location: tuple[Any, ...]) -> str:
    """Return a JSON pointer (RFC 6901) for a location in a document."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def invalid(error: pydantic.ValidationError, what: str, fields: Sequence[str] = ()) -> InvalidInput:
    """Turn a validation error into our own: every place by JSON pointer, no pydantic wording around it.

    Args:
        fields: those the type has, for the hint.
    """
    problems = [
        (pointer(item["loc"]), _wording(item)) for item in error.errors(include_url=False, include_context=False)
    ]
    listed = "; ".join(f"{place or '/'}: {problem}" for place, problem in problems[:8])
    more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
    hint = _mend(problems, fields)
    return InvalidInput(f"{what}: {listed}{more}", problems=problems, reason="does_not_fit", hint=hint)


def _mend(problems: Sequence[tuple[str, str]], fields: Sequence[str]) -> str:
    for place, problem in problems:  # a misspelt name is missing under the right one too, and that stands first
        if problem == "unknown field" and (close := nearest(place.removeprefix("/"), fields)):
            return f"did you mean {close[0]}?"
    place, problem = problems[0]
    name = place.removeprefix("/")
    if problem == "unknown field" and fields:
        return f"its fields: {', '.join(fields)}"
    if problem == "missing":
        return f'add "{name}"'
    named = f'"{name}": ' if name else ""
    if unquoted := _QUOTED.search(problem):
        return f"without quotes: {named}{unquoted[1]}"
    if bare := _BARE.search(problem):
        return f'in quotes: {named}"{bare[1]}"'
    return "longcase describe --json  # has the schema of every type"


def _of_a_validator(error: Exception, what: str) -> InvalidInput:
    """Tell what the author's own code raised over the data; a validator that refuses it raises ValueError."""
    return InvalidInput(
        f"{what}: a validator of its type raised {type(error).__name__}: {error}",
        reason="does_not_fit",
        hint="raise ValueError in it for data that does not fit",
    )


def _wording(item: Mapping[str, Any]) -> str:
    if item["type"] == "missing":
        return "missing"
    if item["type"] == "extra_forbidden":
        return "unknown field"
    text = item["msg"]
    return f"{text[:1].lower()}{text[1:]}, got {printable(item.get('input'))}"


def refuse_unkept(value: Json, what: str) -> None:
    """Refuse data made inside that JSON would not give back as it was: NaN, beyond 64 bits, keys that become one.

    Raises:
        InvalidInput: with the `reason` that `strict_json` gives for the same from outside.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            hint = "send None, or the word as text"
            raise InvalidInput(f"{what}: {value} is not a finite number", reason="non_finite_number", hint=hint)
    elif isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            number = f"{value.bit_length()} bits"  # its digits may be more than Python writes
            raise InvalidInput(
                f"{what}: an integer of {number}, at most 63 and the sign are kept",
                reason="number_out_of_range",
                hint="send it as text",
            )
    elif isinstance(value, dict):
        texts = True
        for key, item in value.items():
            if type(item) not in _LEAVES:
                refuse_unkept(item, what)
            texts = texts and type(key) is str
        if not texts and len(set(map(str, value))) < len(value):
            raise InvalidInput(
                f"{what}: keys that are one as text: {printable(sorted(map(str, value)))}",
                reason="duplicate_key",
                hint="use texts as keys",
            )
    elif isinstance(value, (list, tuple)):
        for item in value:
            if type(item) not in _LEAVES:
                refuse_unkept(item, what)


def _refuse_lost(value: Any, dumped: Json, what: str) -> None:
    """Refuse what pydantic changes silently where a type says nothing of it: NaN becomes null, keys become one."""
    if dumped is None:
        refuse_unkept(value, what)
    elif isinstance(dumped, dict):
        inner = value if isinstance(value, dict) else getattr(value, "__dict__", {})
        if isinstance(value, dict) and len(dumped) < len(inner):
            refuse_unkept(dict.fromkeys(inner), what)
        for key, item in inner.items():
            if type(item) not in _WHOLE and (name := str(key)) in dumped:
                _refuse_lost(item, dumped[name], what)
    elif isinstance(dumped, list) and isinstance(value, (list, tuple)):
        for item, out in zip(value, dumped, strict=False):
            if type(item) not in _WHOLE:
                _refuse_lost(item, out, what)


def _refuse_rounded_decimals(value: Any, data: Json, what: str, place: str) -> None:
    """Refuse a decimal that came as a JSON float: it has been rounded to binary already (an amount of 0.1)."""
    if isinstance(value, Decimal):
        if isinstance(data, float):
            problems = [(place or "/", "a decimal as a float")]
            hint = f'send it as text: "{data}"'
            message = f"{what}: {place or '/'}: {data} is a binary fraction, expected a decimal as text"
            raise InvalidInput(message, problems=problems, reason="does_not_fit", hint=hint)
    elif isinstance(value, BaseModel) and isinstance(data, dict):
        for name, field in type(value).model_fields.items():
            for key in (name, field.alias):
                if key in data:
                    _refuse_rounded_decimals(getattr(value, name), data[key], what, f"{place}/{key}")
    elif isinstance(value, dict) and isinstance(data, dict):
        for key, item in value.items():
            if key in data:
                _refuse_rounded_decimals(item, data[key], what, f"{place}/{key}")
    elif isinstance(value, (list, tuple)) and isinstance(data, list):
        for position, (item, given) in enumerate(zip(value, data, strict=False)):
            _refuse_rounded_decimals(item, given, what, f"{place}/{position}")


def _with_sorted_sets(value: Any, dumped: Json) -> Json:
    """Sort what came out of a set: its order is the hash seed's and would differ on replay (A9)."""
    if isinstance(value, (set, frozenset)):
        return sorted(dumped, key=canonical_json)
    if isinstance(value, BaseModel):
        return {name: _with_sorted_sets(getattr(value, name, None), item) for name, item in dumped.items()}
    if isinstance(value, dict) and isinstance(dumped, dict):
        return {name: _with_sorted_sets(item, dumped[name]) if name in dumped else item for name, item in value.items()}
    if isinstance(value, (list, tuple)) and isinstance(dumped, list):
        return [_with_sorted_sets(item, out) for item, out in zip(value, dumped, strict=True)]
    return dumped
