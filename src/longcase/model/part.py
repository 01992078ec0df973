"""Parts: helper coroutines of a workflow that have places of their own on the map."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from longcase.model.case import Case, O
from longcase.model.host import current_host
from longcase.model.names import check_name

P = ParamSpec("P")
R = TypeVar("R")


class Part(Generic[O, P, R]):
    """A helper coroutine of a workflow; calling it pushes its name on the path of the map's nodes."""

    def __init__(self, fn: Callable[Concatenate[Case[O], P], Coroutine[Any, Any, R]], label: str | None = None) -> None:
        self.fn = fn
        self.name = check_name(fn.__name__, "part")
        self.label = label
        self.__doc__ = fn.__doc__

    async def __call__(self, case: Case[O], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the part inside the calling stage."""
        host = current_host.get()
        leave = host.enter_part(f"{self.name}:{self.label}" if self.label else self.name) if host else None
        try:
            return await self.fn(case, *args, **kwargs)
        finally:
            if leave:
                leave()

    def labelled(self, label: str) -> Part[O, P, R]:
        """Return the same part under its own place on the map, for a second use in one stage."""
        return Part(self.fn, check_name(label, "label"))
