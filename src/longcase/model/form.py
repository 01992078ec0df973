"""Judge a filled form by the JSON Schema that its task recorded: without the workflow's code, which may be elsewhere.

The schema is what pydantic made of the answer's type. What it does not say (a validator of the author's own, the
digits of a decimal) the stage finds when it decodes the answer; words that are not known here are passed over, so
what would fit is not refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Final
from uuid import UUID

import pydantic
from pydantic import StringConstraints, TypeAdapter

from longcase.model.codec import Json, canonical_json, dump_json
from longcase.model.names import printable

Schema = Mapping[str, Any]
Problem = tuple[str, str]
"""Where, as a JSON pointer, and what."""

_KINDS: Final[dict[str, tuple[str, tuple[type, ...]]]] = {
    "string": ("text", (str,)),
    "integer": ("a whole number", (int,)),
    "number": ("a number", (int, float)),
    "boolean": ("true or false", (bool,)),
    "null": ("null", (type(None),)),
    "array": ("a list", (list, tuple)),
    "object": ("an object", (Mapping,)),
}
_FORMATS: Final[dict[str, tuple[str, Any]]] = {
    "date": ("a date like 2026-01-31", date),
    "date-time": ("an instant like 2026-01-31T09:00:00Z", datetime),
    "time": ("a time like 09:00:00", time),
    "duration": ("a length of time like PT2H", timedelta),
    "uuid": ("a UUID", UUID),
    "decimal": ("a number like 12.50", Decimal),
}
_LIMITS: Final[dict[str, tuple[str, Callable[[Any, Any], bool]]]] = {
    "minimum": ("at least {}", lambda value, limit: value >= limit),
    "maximum": ("at most {}", lambda value, limit: value <= limit),
    "exclusiveMinimum": ("more than {}", lambda value, limit: value > limit),
    "exclusiveMaximum": ("less than {}", lambda value, limit: value < limit),
}
_LENGTHS: Final[dict[str, tuple[str, Callable[[Any, Any], bool]]]] = {
    "minLength": ("at least {} characters", lambda value, limit: len(value) >= limit),
    "maxLength": ("at most {} characters", lambda value, limit: len(value) <= limit),
    "minItems": ("at least {} items", lambda value, limit: len(value) >= limit),
    "maxItems": ("at most {} items", lambda value, limit: len(value) <= limit),
}


def form_problems(form: Schema, answer: Json) -> list[Problem]:
    """Return every place where a filled form does not fit its schema; none if it fits."""
    return list(_problems(form, answer, "", form.get("$defs", {})))


def _problems(schema: Schema, value: Json, place: str, known: Schema) -> Iterator[Problem]:
    if "$ref" in schema:
        yield from _problems(known.get(schema["$ref"].rpartition("/")[2], {}), value, place, known)
    for part in schema.get("allOf", ()):
        yield from _problems(part, value, place, known)
    if options := schema.get("anyOf") or schema.get("oneOf"):
        yield from _none_fits(options, value, place, known)
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if allowed is not None and not any(_same(value, one) for one in allowed):
        listed = ", ".join(canonical_json(one) for one in allowed)
        yield place, f"expected {'one of ' * (len(allowed) > 1)}{listed}, got {printable(value)}"
        return
    if (kind := schema.get("type")) in _KINDS and not _is(value, kind):
        yield place, f"expected {_KINDS[kind][0]}, got {printable(value)}"
    elif isinstance(value, str):
        yield from _of_text(schema, value, place)
    elif _is(value, "number"):
        yield from _beyond(_LIMITS, schema, value, place)
    elif _is(value, "object"):
        yield from _of_object(schema, value, place, known)
    elif _is(value, "array"):
        yield from _of_list(schema, value, place, known)


def _none_fits(options: list[Schema], value: Json, place: str, known: Schema) -> Iterator[Problem]:
    """Yield nothing if one of several types fits, else what the likeliest finds: one of the value's own kind."""
    found = [list(_problems(option, value, place, known)) for option in options]
    if not all(found):
        return
    kinds = [known.get(option.get("$ref", "").rpartition("/")[2], option).get("type") for option in options]
    likely = [problems for problems, kind in zip(found, kinds, strict=True) if kind not in _KINDS or _is(value, kind)]
    if likely:
        yield from min(likely, key=len)
    else:
        yield place, f"expected {' or '.join(_KINDS[kind][0] for kind in kinds)}, got {printable(value)}"


def _of_text(schema: Schema, value: str, place: str) -> Iterator[Problem]:
    yield from _beyond(_LENGTHS, schema, value, place)
    if (pattern := schema.get("pattern")) is not None and not _fits(_matching(pattern), value):
        yield place, f"expected text like {pattern}, got {printable(value)}"
    if schema.get("format") in _FORMATS:
        like, declared = _FORMATS[schema["format"]]
        if not _fits(_adapter(declared), value):
            yield place, f"expected {like}, got {printable(value)}"
        elif declared is Decimal:
            exactly = {word: Decimal(str(schema[word])) for word in _LIMITS if word in schema}
            if problems := list(_beyond(_LIMITS, exactly, Decimal(value), place)):
                yield place, f"{problems[0][1].partition(', got ')[0]}, got {printable(value)}"


def _of_object(schema: Schema, value: Mapping[str, Json], place: str, known: Schema) -> Iterator[Problem]:
    properties = schema.get("properties")
    others = schema.get("additionalProperties")
    yield from ((f"{place}/{_escaped(name)}", "missing") for name in schema.get("required", ()) if name not in value)
    for name, item in value.items():
        at = f"{place}/{_escaped(name)}"
        if properties is not None and name in properties:
            yield from _problems(properties[name], item, at, known)
        elif properties is not None:
            yield at, "unknown field"
        elif isinstance(others, Mapping):
            yield from _problems(others, item, at, known)


def _of_list(schema: Schema, value: list[Json], place: str, known: Schema) -> Iterator[Problem]:
    yield from _beyond(_LENGTHS, schema, value, place)
    first = schema.get("prefixItems", ())
    rest = schema.get("items")
    for position, item in enumerate(value):
        declared = first[position] if position < len(first) else rest
        if isinstance(declared, Mapping):
            yield from _problems(declared, item, f"{place}/{position}", known)


def _beyond(
    limits: Mapping[str, tuple[str, Callable[[Any, Any], bool]]], schema: Schema, value: Any, place: str
) -> Iterator[Problem]:
    for word, (says, keeps) in limits.items():
        if word in schema and not keeps(value, schema[word]):
            yield place, f"expected {says.format(schema[word])}, got {printable(value)}"


def _is(value: Json, kind: str) -> bool:
    """Tell whether a value is of a kind of JSON: true is no number, and 1.0 is no whole number (as in `codec`)."""
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _KINDS[kind][1])


def _same(value: Json, allowed: Json) -> bool:
    return isinstance(value, bool) == isinstance(allowed, bool) and bool(value == allowed)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


@lru_cache(maxsize=64)
def _adapter(declared: Any) -> TypeAdapter[Any]:
    return TypeAdapter(declared)


@lru_cache(maxsize=256)
def _matching(pattern: str) -> TypeAdapter[Any] | None:
    try:  # pydantic's own patterns, as in the stage: they take time in proportion to the text
        return TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
    except Exception:  # a pattern that only Python's `re` knows: the stage judges by it
        return None


def _fits(adapter: TypeAdapter[Any] | None, text: str) -> bool:
    if adapter is None:
        return True
    try:
        adapter.validate_json(dump_json(text), strict=True)
    except pydantic.ValidationError:
        return False
    return True
