"""How often and when an activity is tried again, as data that history can show."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from longcase.errors import DefinitionError
from longcase.model.expected import check_span
from longcase.model.names import counted, printable
from longcase.model.span import describe_span
from longcase.record import record

Jitter = Literal["full", "none"]
MAX_ATTEMPTS_LIMIT = 1000


@record
class Retry:
    """A retry policy. The delay before attempt n+1 is min(cap, initial x factor^(n-1)), jittered.

    Args:
        max_attempts: 1 to 1000, the first try included.
        initial: delay after the first failure.
        factor: growth of the delay, at least 1.
        cap: longest delay; not shorter than `initial`.
        jitter: "full" draws uniformly from 0 to the delay (AWS architecture blog, "Exponential
            backoff and jitter"); "none" keeps it exact.
        non_retryable: exception classes after which no further attempt is made.
        budget: total time from the first attempt's start; no attempt begins after it.
    """

    max_attempts: int = 5
    initial: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    cap: timedelta = timedelta(minutes=5)
    jitter: Jitter = "full"
    non_retryable: tuple[type[BaseException], ...] = ()
    budget: timedelta | None = None

    def __post_init__(self) -> None:
        if (
            isinstance(self.max_attempts, bool)
            or not isinstance(self.max_attempts, int)
            or not 1 <= self.max_attempts <= MAX_ATTEMPTS_LIMIT
        ):
            raise DefinitionError(
                f"Retry(max_attempts={self.max_attempts!r}): expected 1 to {MAX_ATTEMPTS_LIMIT}",
                hint="Retry(max_attempts=5)",
            )
        check_span("Retry", "initial", self.initial, "seconds")
        check_span("Retry", "cap", self.cap, "seconds")
        if self.budget is not None:
            check_span("Retry", "budget", self.budget, "seconds")
        if self.initial < timedelta(0) or self.cap < timedelta(0):
            raise DefinitionError("Retry: initial and cap must not be negative", hint="Retry(initial=seconds(1))")
        if self.initial > self.cap:
            first, longest = describe_span(self.initial), describe_span(self.cap)
            raise DefinitionError(
                f"Retry: the first delay, initial={first}, is longer than the longest, cap={longest}",
                hint=f"with initial give a cap, of {first} at least; without one it is 5 minutes",
            )
        if isinstance(self.factor, bool) or not isinstance(self.factor, (int, float)) or not self.factor >= 1:
            raise DefinitionError(f"Retry(factor={self.factor!r}): expected at least 1", hint="Retry(factor=2)")
        if self.jitter not in ("full", "none"):
            raise DefinitionError(f'Retry(jitter={self.jitter!r}): expected "full" or "none"', hint='jitter="full"')
        if isinstance(self.non_retryable, type):
            raise DefinitionError(
                f"Retry(non_retryable={self.non_retryable.__name__}): expected a tuple of exception classes",
                hint=f"non_retryable=({self.non_retryable.__name__},)",
            )
        kinds = self.non_retryable
        if not isinstance(kinds, tuple) or not all(isinstance(k, type) and issubclass(k, BaseException) for k in kinds):
            raise DefinitionError(
                f"Retry(non_retryable={printable(kinds)}): expected a tuple of exception classes",
                hint="non_retryable=(UnknownEntity,)",
            )

    def delay(self, failures: int, draw: float) -> timedelta:
        """Return the wait after the `failures`-th failure; `draw` is uniform in [0, 1)."""
        # The exponent is bounded so that a large attempt number cannot overflow the float.
        longest = min(self.cap, self.initial * min(self.factor ** min(failures - 1, 64), 1e9))
        return longest * draw if self.jitter == "full" else longest

    def longest(self, timeout: timedelta) -> timedelta:
        """Return the longest the call may take if every attempt runs into `timeout`."""
        total = timeout * self.max_attempts
        for failures in range(1, self.max_attempts):
            total += self.delay(failures, 1.0)
        return total if self.budget is None else min(total, self.budget + timeout)

    def describe(self) -> str:
        """Say the policy in one line."""
        first, longest = describe_span(self.initial), describe_span(self.cap)
        text = f"at most {counted(self.max_attempts, 'attempt')}, {first} x{self.factor:g} up to {longest}"
        if self.budget is not None:
            text += f", within {describe_span(self.budget)}"
        if self.non_retryable:
            text += ", never after " + ", ".join(kind.__name__ for kind in self.non_retryable)
        return text


def check_timeouts(what: str, **timeouts: timedelta | None) -> None:
    """Refuse a timeout, by its option's name, that is no span or not above zero."""
    for option, span in timeouts.items():
        if span is None:
            continue
        check_span(what, option, span, "seconds")
        if span <= timedelta(0):
            raise DefinitionError(f"{what}: {option}={span}, expected above zero", hint=f"{option}=minutes(1)")


def check_limits(what: str, concurrency: int | None, rate: tuple[int, timedelta] | None) -> None:
    """Refuse a concurrency or rate limit below one."""
    whole = isinstance(concurrency, int) and not isinstance(concurrency, bool)
    if concurrency is not None and (not whole or concurrency < 1):
        raise DefinitionError(f"{what}: concurrency={concurrency!r}, expected at least 1", hint="concurrency=10")
    if rate is not None and not _is_rate(rate):
        raise DefinitionError(
            f"{what}: rate={rate!r}, expected (count, span), both above zero", hint="rate=(10, seconds(1))"
        )


def _is_rate(rate: object) -> bool:
    match rate:
        case (int(count), timedelta() as span):
            return not isinstance(count, bool) and count >= 1 and span > timedelta(0)
        case _:
            return False
