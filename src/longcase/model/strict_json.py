"""Read JSON that came from outside: one meaning or none.

Two parsers must never disagree about what was sent, and what is accepted must be storable and come
back as it was. So this refuses what `json.loads` lets pass: duplicate keys, NaN and 1e400, lone
surrogates and NUL, a byte order mark, depth, size, integers no store can keep. -0.0 is read as 0.0.
Every refusal is an `InvalidInput` with a stable `reason` and, where there is one, the offset.
`codec` goes on from here and says whether the data fits its declared type.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from longcase.errors import InvalidInput
from longcase.model.codec import MAX_INTEGER, Json, json_bytes

BODY_BYTES: Final = 1024 * 1024
"""The largest business object, form or result that is read."""
SIGNAL_BYTES: Final = 256 * 1024
"""The largest body of a signal."""
MAX_DEPTH: Final = 64

REASONS: Final = {
    "invalid_json": "not JSON text in UTF-8 without a byte order mark",
    "invalid_text": "text that cannot be stored: NUL, a lone surrogate, bytes that are no UTF-8",
    "duplicate_key": "an object with the same key twice",
    "non_finite_number": "NaN, an infinity, or a number beyond the range of a double",
    "number_out_of_range": "an integer beyond 64 bits",
    "too_deep": "arrays and objects nested deeper than 64",
    "too_large": "more bytes than the door takes",
}
"""Every `reason` that `parse_json` and `check_json` give, with its meaning."""
_MENDS: Final = {
    "invalid_json": """like '{"id": "C-1", "amount": 70}': keys and texts in double quotes, all of it in single ones""",
    "invalid_text": "save it as UTF-8, without NUL characters",
    "duplicate_key": "keep one of them",
    "non_finite_number": "send null, or the word as text",
    "number_out_of_range": "send it as text",
    "too_deep": "send the inner part as text",
    "too_large": "keep the large part elsewhere, and send where it is",
}

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|-?(?:NaN|Infinity)|-?[0-9][0-9.eE+-]*|[\[\]{}:,]', re.DOTALL)
_MAYBE_UNSTORABLE: Final = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_BOMS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_DIGITS: Final = 20  # of an integer of 64 bits, with its sign


class _Refused(Exception):
    """Inside the parser's hooks, which know the value but not its place."""

    def __init__(self, reason: str, message: str, token: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.token = token


def parse_json(text: str | bytes, *, max_bytes: int = BODY_BYTES, what: str = "JSON") -> Json:
    """Return the value of a JSON text, or refuse it.

    Args:
        text: a text, or UTF-8 bytes as they came.
        max_bytes: the most bytes that are read.
        what: how messages name the text.
    Raises:
        InvalidInput: with one of `REASONS`; the message names the offset, in characters.
    """
    source = _decoded(text, max_bytes, what)
    _check_depth(source, what)
    try:
        value = _DECODER.decode(source)
    except json.JSONDecodeError as error:
        _refuse(
            what,
            "invalid_json",
            f"{error.msg[:1].lower()}{error.msg[1:]}".removesuffix(" at"),
            error.pos,
            _hint(source),
        )
    except _Refused as error:
        _refuse(what, error.reason, str(error), _offset(source, error))
    if _MAYBE_UNSTORABLE.search(source):
        check_json(value, what=what)
    return value


def check_json(value: Json, *, what: str = "value", max_bytes: int | None = None) -> Json:
    """Return a value that is JSON data already, after the same rules; pairs of surrogates are one character.

    Args:
        max_bytes: the most that its text may take, where it is kept.
    Raises:
        InvalidInput: with one of `REASONS`; the message names the place by JSON pointer.
    """
    _check(value, what, "", 0)
    if max_bytes is not None and (size := len(json_bytes(value))) > max_bytes:
        _refuse(what, "too_large", f"{size:,} bytes, expected at most {max_bytes:,}")
    return value


def _check(value: Json, what: str, place: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        _refuse(what, "too_deep", f"nested deeper than {MAX_DEPTH} at {place[:80]}")
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            _refuse(what, "invalid_text", _at(place, f"holds NUL or a lone surrogate: {ascii(value)[:60]}"))
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            _refuse(what, "number_out_of_range", _at(place, "is beyond 64 bits"), hint="send it as a string")
    elif isinstance(value, float):
        if not math.isfinite(value):
            _refuse(what, "non_finite_number", _at(place, f"is {value}"))
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                _refuse(what, "invalid_json", _at(place, f"has the key {key!r}, expected text"))
            _check(key, what, f"{place}/{ascii(key)[1:-1]} (a key)", depth)
            _check(item, what, f"{place}/{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            _check(item, what, f"{place}/{position}", depth + 1)
    else:
        told = _at(place, f"is of type {type(value).__name__}, expected JSON data")
        _refuse(what, "invalid_json", told, hint="as text, like a date or a Decimal; or give an object of the model")


def _at(place: str, told: str) -> str:
    return f"{place} {told}" if place else told  # of a bare value, `what` says all


def _decoded(text: str | bytes, max_bytes: int, what: str) -> str:
    data = text
    if isinstance(data, str):
        try:
            size = len(data.encode())
        except UnicodeEncodeError as error:
            _refuse(what, "invalid_text", "a lone surrogate, or a byte that is no UTF-8", error.start)
    else:
        size = len(data)
    if size > max_bytes:
        _refuse(what, "too_large", f"{size:,} bytes, expected at most {max_bytes:,}")
    if isinstance(data, bytes):
        if data.startswith(_BOMS):
            _refuse(what, "invalid_json", "a byte order mark", 0, "save it as UTF-8 without BOM")
        try:
            data = data.decode("utf-8")
        except UnicodeDecodeError as error:
            _refuse(what, "invalid_text", f"byte 0x{error.object[error.start]:02x} is no UTF-8", error.start)
    if data.startswith("\ufeff"):
        _refuse(what, "invalid_json", "a byte order mark", 0, "save it as UTF-8 without BOM")
    if not data.strip(" \t\r\n"):
        _refuse(what, "invalid_json", "nothing there, expected a value", 0)
    return data


def _hint(source: str) -> str:
    if "\x00" in source[:4]:
        return "it looks like UTF-16; save it as UTF-8 without BOM"
    return "keys and texts stand in double quotes" if "'" in source[:200] and '"' not in source[:200] else ""


def _check_depth(source: str, what: str) -> None:
    if source.count("[") + source.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _TOKEN.finditer(source):
        match token[0]:
            case "[" | "{":
                depth += 1
                if depth > MAX_DEPTH:
                    _refuse(what, "too_deep", f"nested deeper than {MAX_DEPTH}", token.start())
            case "]" | "}":
                depth -= 1


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused("duplicate_key", f"the key {ascii(key)[:60]} comes twice in one object", key)
            seen.add(key)
    return found


def _integer(text: str) -> int:
    if len(text) > _DIGITS or abs(int(text)) > MAX_INTEGER:
        raise _Refused("number_out_of_range", f"the integer {text[:30]} is beyond 64 bits; send it as a string", text)
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused("non_finite_number", f"{text[:30]} is no finite number", text)
    return value or 0.0  # -0.0 is 0


def _constant(text: str) -> NoReturn:
    raise _Refused("non_finite_number", f"{text} is no finite number", text)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_integer, parse_float=_number, parse_constant=_constant
)


def _offset(source: str, refused: _Refused) -> int | None:
    """Find the place of what a hook refused; reads again, on the way to an error only."""
    if refused.reason == "duplicate_key":
        return next(_second_keys(source, refused.token), None)
    return next((token.start() for token in _TOKEN.finditer(source) if token[0] == refused.token), None)


def _second_keys(source: str, key: str) -> Iterator[int]:
    counts: list[int] = []
    before: re.Match[str] | None = None
    for token in _TOKEN.finditer(source):
        match token[0]:
            case "{" | "[":
                counts.append(0)
            case "}" | "]":
                counts.pop()
            case ":" if before is not None and json.loads(before[0], strict=False) == key:
                counts[-1] += 1
                if counts[-1] == 2:
                    yield before.start()
        before = token


def _refuse(what: str, reason: str, message: str, offset: int | None = None, hint: str = "") -> NoReturn:
    place = f" at offset {offset}" if offset is not None else ""
    error = InvalidInput(f"{what}: {message}{place}", reason=reason, hint=hint or _MENDS[reason])
    if offset is not None:
        error.details["offset"] = offset
    raise error
