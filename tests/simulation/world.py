"""The outside world: vendors that fail, effects counted by idempotency key, a log of every call."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random


class Down(Exception):
    """The vendor did not answer, or answered too late to know what it did."""


class Never(Exception):
    """The vendor will never do it."""


@dataclass(frozen=True, slots=True)
class Called:
    """One call as the vendor saw it."""

    activity: str
    key: str
    attempt: int
    what: str
    effect: bool


@dataclass
class World:
    """What the outside knows. An effect happens once per key; asking again returns the first result."""

    random: Random
    trouble: float
    log: list[Called] = field(default_factory=list)
    effects: dict[str, str] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)  # effect="once" keys that took effect a second time

    def flaky(self) -> bool:
        return self.random.random() < self.trouble

    def call(self, activity: str, key: str, attempt: int, what: str) -> str:
        """Take one call: it may fail before the effect, or after it where a repeat is safe."""
        once = activity in ("send", "fax")
        if self.flaky():
            self.log.append(Called(activity, key, attempt, what, False))
            raise Never(what) if self.random.random() < 0.15 and activity != "refund" else Down(what)
        self.log.append(Called(activity, key, attempt, what, True))
        if once and key in self.effects:
            self.doubled.append(key)
        result = self.effects.setdefault(key, f"{activity}:{what}")
        if not once and self.flaky():
            raise Down(f"{what}, after the effect")
        return result


_current: list[World] = []


def world() -> World:
    return _current[-1]


def enter(made: World) -> None:
    _current[:] = [made]
