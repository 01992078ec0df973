"""Field selectors, `lambda client: client.legal_entity`: which field of the object one names."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any

from longcase.errors import DefinitionError


class _Recorder:
    """Stands in for the object in a field selector and notes which attributes are read."""

    __slots__ = ("_path",)
    _path: tuple[str, ...]

    def __init__(self, path: tuple[str, ...] = ()) -> None:
        self._path = path

    def __getattr__(self, name: str) -> _Recorder:
        return _Recorder((*self._path, name))


_by_code: dict[CodeType, str] = {}


def _selected(selector: Callable[[Any], Any]) -> str:
    try:
        chosen = selector(_Recorder())
    except Exception as error:
        raise _not_a_selector(f"it raised {type(error).__name__}: {error}") from None
    if not isinstance(chosen, _Recorder) or not chosen._path:
        raise _not_a_selector("it does more than read an attribute")
    if len(chosen._path) > 1:
        raise _not_a_selector(f"{'.'.join(chosen._path)} reaches into a field")
    return chosen._path[0]


def selected_field(selector: Callable[[Any], Any]) -> str:
    """Return the field a selector like `lambda client: client.legal_entity` names."""
    # A lambda is a new object at every call: cached by its code, or the cache would keep alive what it closes over.
    code = getattr(selector, "__code__", None)
    if code is None or selector.__closure__:
        return _selected(selector)
    if code not in _by_code:
        _by_code[code] = _selected(selector)
    return _by_code[code]


def _not_a_selector(why: str) -> DefinitionError:
    return DefinitionError(
        f"field selector: {why}, expected one field of the object", hint="lambda client: client.legal_entity"
    )
