"""Fakes of activities in a simulation: judged before anything runs, and told when they sleep."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

from longcase.errors import UsageError
from longcase.model.activity import Activity

SLOW = 2.0  # seconds that a fake may take before the test is told


def tell_slow(activity: str, took: float) -> None:
    """Warn of a fake that sleeps."""
    if took > SLOW:
        warnings.warn(
            f"the fake of {activity} took {took:.1f} s: the clock of a simulation stands still meanwhile, and the test "
            "waits. Return at once, and let time pass with sim.advance(); an attempt that nobody knows the end of "
            "raises asyncio.CancelledError",
            stacklevel=2,
        )


def check_fake(activity: Activity[..., Any], fake: Callable[..., Any]) -> None:
    """Refuse a fake that could not be called with what the activity is given, before anything runs."""
    if not isinstance(activity, Activity):
        raise UsageError(
            f"fakes of {activity!r}: expected an activity as the key", hint="fakes={check_registry: lambda ...: ...}"
        )
    if not callable(fake):
        raise UsageError(
            f"the fake of {activity.name} is {fake!r}, expected a function",
            hint=f"{activity.name}: lambda {_taken(activity)}: ...",
        )
    try:
        signature = inspect.signature(fake)
    except (TypeError, ValueError):  # of a builtin that does not tell
        return
    given = {
        name: None
        for name in activity.signature.parameters
        if name != "idempotency_key" or "idempotency_key" in signature.parameters
    }
    try:
        signature.bind(**given)
    except TypeError as error:
        raise UsageError(
            f"the fake of {activity.name} takes {signature}, the activity takes {activity.signature}: {error}",
            hint=f"{activity.name}: lambda {_taken(activity)}: ...",
        ) from None


def _taken(activity: Activity[..., Any]) -> str:
    return ", ".join(name for name in activity.signature.parameters if name != "idempotency_key")


def accepting(fake: Callable[..., Any], activity: Activity[..., Any]) -> Callable[..., Any]:
    """Let a fake leave out the injected key."""
    parameters = inspect.signature(fake).parameters
    wants_key = "idempotency_key" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if wants_key or not activity.injects_key:
        return fake

    def call(**values: Any) -> Any:
        values.pop("idempotency_key", None)
        return fake(**values)

    async def call_async(**values: Any) -> Any:
        values.pop("idempotency_key", None)
        return await fake(**values)

    return call_async if inspect.iscoroutinefunction(fake) else call
