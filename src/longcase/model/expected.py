"""What a declaration is given, against what it takes: refused where it is written, with the mend to paste.

A wrong argument of a declaration would else show as a TypeError deep inside, or only in a running case.
"""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar, get_origin
from uuid import UUID

from longcase.errors import DefinitionError
from longcase.model.calendar import BusinessSpan
from longcase.model.names import printable
from longcase.nearest import nearest

P = ParamSpec("P")
R = TypeVar("R")

_WRITTEN = re.compile(r"\s*(\d+)\s*(second|minute|hour|day)s?\s*", re.IGNORECASE)


def check_span(what: str, name: str, value: object, unit: str, *, business: bool = False) -> None:
    """Refuse what is no span; `unit` is the function the hint shows, `business` says whether business time fits."""
    if isinstance(value, timedelta) or (business and isinstance(value, BusinessSpan)):
        return
    kind = "elapsed time" if isinstance(value, BusinessSpan) else "a span"
    raise DefinitionError(
        f"{what}: {name}={printable(value)}, expected {kind}", hint=f"{name}={_span_like(value, unit)}"
    )


def check_kind(what: str, name: str, value: object, kind: type | tuple[type, ...], wanted: str, hint: str) -> None:
    """Refuse a value that is not of a kind; None is let through, as what was not given."""
    if value is not None and not isinstance(value, kind):
        raise DefinitionError(f"{what}: {name}={printable(value)}, expected {wanted}", hint=hint)


def check_one_of(what: str, name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is none of those allowed; the hint is the nearest."""
    if value is None or (isinstance(value, str) and value in allowed):
        return
    near = (nearest(value, allowed) if isinstance(value, str) else []) or allowed[:1]
    raise DefinitionError(
        f"{what}: {name}={printable(value)}, expected one of {', '.join(allowed)}", hint=f'{name}="{near[0]}"'
    )


def check_names(what: str, name: str, value: object) -> None:
    """Refuse what is not a tuple of texts; one text would be read letter by letter."""
    if not isinstance(value, (tuple, list)) or not all(isinstance(one, str) for one in value):
        mend = f'{name}=("{value}",)' if isinstance(value, str) else f'{name}=("anna",)'
        raise DefinitionError(f"{what}: {name}={printable(value)}, expected a tuple of names", hint=mend)


def check_text_key(what: str, model: Any, key: str) -> None:
    """Refuse a key field whose values are not texts: `workflow/key` is how a case is addressed."""
    kind = model.model_fields[key].annotation
    while (base := getattr(kind, "__supertype__", None)) is not None:  # a NewType
        kind = base
    no_text = isinstance(kind, type) and not issubclass(kind, (str, UUID, enum.Enum))
    optional = get_origin(kind) is not None and type(None) in getattr(kind, "__args__", ())
    if no_text or optional:
        shown = getattr(kind, "__name__", "") if no_text else str(kind)
        raise DefinitionError(
            f"{what}: the key field {key} of {model.__name__} is {shown}, expected str",
            hint=f"class {model.__name__}(BaseModel): {key}: str",
        )


def declared_with(example: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse a decorator used without its parentheses, or with an option it does not have."""

    def wrap(make: Callable[P, R]) -> Callable[P, R]:
        name = getattr(make, "__name__", "")
        options = inspect.signature(make).parameters
        needed = [option for option, parameter in options.items() if parameter.default is parameter.empty]

        @wraps(make)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if args:
                told = getattr(args[0], "__name__", None) or printable(args[0])
                raise DefinitionError(f"@{name} on {told}: expected its options in parentheses", hint=example)
            for option in kwargs:
                if option not in options:
                    near = nearest(option, options)
                    mend = f"did you mean {near[0]}=?" if near else f"its options: {', '.join(options)}"
                    raise DefinitionError(f"@{name}({option}=...): no such option", hint=mend)
            missing = [option for option in needed if option not in kwargs]
            if missing:
                raise DefinitionError(f"@{name}(): {', '.join(missing)} is missing", hint=example)
            return make(*args, **kwargs)

        return call

    return wrap


def _span_like(value: object, unit: str) -> str:
    """Return the call that makes the span a value seems to mean."""
    if isinstance(value, str) and (written := _WRITTEN.fullmatch(value)):
        return f"{written[2].lower()}s({written[1]})"
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    return f"{unit}({value})" if number else f"{unit}(5)"
