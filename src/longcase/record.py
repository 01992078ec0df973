"""`record` makes a class of nothing but fields, at a fraction of what `dataclass` takes at every start.

`dataclass` compiles up to six functions for each class, and a process makes more than a hundred before its first
case. Here what all records do alike is written once, and only `__init__` is compiled. What comes out is a dataclass:
`fields`, `replace`, `asdict`, `match`, `copy` and `pickle` know it. Decision 0016.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from reprlib import recursive_repr
from typing import Any, TypeVar, cast, dataclass_transform, overload

C = TypeVar("C", bound=type)


@overload
def record(cls: C, /) -> C: ...


@overload
def record(*, frozen: bool = True, eq: bool = True) -> Callable[[C], C]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: C | None = None, /, *, frozen: bool = True, eq: bool = True) -> C | Callable[[C], C]:
    """Make a class with slots of its annotated fields; what the class defines itself is kept.

    Args:
        frozen: refuse to change or delete a field; such a record can be hashed.
        eq: compare by the fields; if not, a record is equal to itself only.
    """

    def make(cls: C) -> C:
        made: Any = dataclass(init=False, repr=False, eq=False, slots=True)(cls)
        own = vars(cls)
        for name, method in _methods(made, frozen, eq):
            if name not in own:
                setattr(made, name, method)
        return cast(C, made)

    return make if cls is None else make(cls)


def _methods(cls: type[Any], frozen: bool, eq: bool) -> Iterator[tuple[str, Any]]:
    listed = fields(cls)
    yield "__init__", _init(cls, listed, frozen)
    yield "__repr__", _repr
    if eq:
        values = _values([one.name for one in listed if one.compare])
        yield "__eq__", _eq(values)
        yield "__hash__", _hash(values) if frozen else None
    if frozen:
        yield "__setattr__", _refuse
        yield "__delattr__", _refuse
        yield "__getstate__", _state
        yield "__setstate__", _restore


def _init(cls: type[Any], listed: Sequence[Field[Any]], frozen: bool) -> Callable[..., None]:
    """Compile `__init__`: records are made too often for one that goes through its fields.

    A frozen field is set through its slot, past the class's refusal.
    """
    known: dict[str, Any] = {}
    parameters, body = ["self"], []
    for one in listed:
        assert not one.kw_only, f"{cls.__qualname__}.{one.name}: a record has no keyword-only fields"
        name, value = one.name, one.name
        if one.default_factory is not MISSING:
            known[f"_make_{name}"] = one.default_factory
            value = f"_make_{name}() if {name} is ... else {name}" if one.init else f"_make_{name}()"
            parameter = f"{name}=..."
        elif one.default is not MISSING:
            known[f"_default_{name}"] = one.default
            value = name if one.init else f"_default_{name}"
            parameter = f"{name}=_default_{name}"
        elif one.init:
            parameter = name
        else:
            continue  # `__post_init__` sets it
        if one.init:
            parameters.append(parameter)
        if frozen:
            known[f"_set_{name}"] = getattr(cls, name).__set__
        body.append(f"_set_{name}(self, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n " + "\n ".join(body or ["pass"]), known)  # noqa: S102
    init: Callable[..., None] = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {one.name: one.type for one in listed if one.init}
    return init


def _values(names: Sequence[str]) -> Callable[[Any], Any]:
    """Return what reads a record's fields as a tuple, without a step in Python: records are compared often."""
    match names:
        case []:
            return attrgetter("__class__")
        case [name]:
            return attrgetter(name, name)  # of one name it would read the bare value
        case _:
            return attrgetter(*names)


def _eq(values: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def __eq__(self: Any, other: Any) -> Any:
        return values(self) == values(other) if type(other) is type(self) else NotImplemented

    return __eq__


def _hash(values: Callable[[Any], Any]) -> Callable[[Any], int]:
    def __hash__(self: Any) -> int:
        return hash(values(self))

    return __hash__


@recursive_repr()
def _repr(self: Any) -> str:
    shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
    return f"{type(self).__qualname__}({shown})"


def _refuse(self: Any, name: str, *_value: object) -> None:
    raise FrozenInstanceError(f"{type(self).__qualname__}.{name} cannot be changed: the record is frozen")


def _state(self: Any) -> list[Any]:
    return [getattr(self, one.name) for one in fields(self)]


def _restore(self: Any, state: Sequence[Any]) -> None:
    for one, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, one.name, value)
