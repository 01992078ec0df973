"""The outside world: vendors that fail, effects counted by idempotency key, a log of every call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from dataclasses import dataclass, field
from random import Random

from tests.simulation.faults import Faults
from tests.simulation.simloop import SimLoop

# Seconds a vendor takes at most, as a rule; what stands in queues takes long, so that others wait for it.
LONG = {"scan": 2.0, "unscan": 2.0, "proof": 1.0, "post": 2.0}
LOST = {"post": 0.08}  # how often no answer comes at all, so that somebody has to ask what happened


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
        once = activity in ("send", "fax", "post")
        if self.flaky():
            self.log.append(Called(activity, key, attempt, what, False))
            raise Never(what) if self.random.random() < 0.15 and activity not in ("refund", "unscan") else Down(what)
        self.log.append(Called(activity, key, attempt, what, True))
        if once and key in self.effects:
            self.doubled.append(key)
        result = self.effects.setdefault(key, f"{activity}:{what}")
        if not once and self.flaky():
            raise Down(f"{what}, after the effect")
        return result

    async def reach(self, activity: str, key: str, attempt: int, what: str) -> str:
        """Let a call travel to the vendor and its answer back; here at once."""
        return self.call(activity, key, attempt, what)

    def call_off(self, key: str, attempt: int = 10**6) -> None:
        """Somebody asks what became of a key: what is still on its way by then comes to nothing."""


@dataclass(kw_only=True)
class FleetWorld(World):
    """A world at the end of wires: a call takes effect later than it was sent, perhaps after its sender's death."""

    loop: SimLoop
    faults: Faults
    watched: Callable[[str], AbstractContextManager[object]] = nullcontext  # told of each attempt while it runs
    called_off: dict[str, int] = field(default_factory=dict)

    async def reach(self, activity: str, key: str, attempt: int, what: str) -> str:
        with self.watched(activity):
            return await self._travel(activity, key, attempt, what)

    async def _travel(self, activity: str, key: str, attempt: int, what: str) -> str:
        answer = self.loop.create_future()
        place = f"wire {activity}"
        slow = self.faults.draw(place, {"slow vendor": 0.1, "answer of a vendor lost": LOST.get(activity, 0.01)})
        delay = self.faults.amount(place, 0.1, 6.0) if slow else self.random.random() * LONG.get(activity, 0.05)

        def arrive() -> None:
            try:
                result, error = self.call(activity, key, attempt, what), None
            except (Down, Never) as raised:
                result, error = "", raised
            if slow != "answer of a vendor lost":
                self.loop.call_later(self.random.random() * 0.05, reply, result, error)

        def reply(result: str, error: Exception | None) -> None:
            if not answer.done():
                if error is None:
                    answer.set_result(result)
                else:
                    answer.set_exception(error)

        self.loop.call_later(delay, arrive, context=Context())
        return str(await answer)

    def call(self, activity: str, key: str, attempt: int, what: str) -> str:
        if attempt <= self.called_off.get(key, 0):
            self.log.append(Called(activity, key, attempt, what, False))
            raise Never(f"{what}: it was called off")
        return super().call(activity, key, attempt, what)

    def call_off(self, key: str, attempt: int = 10**6) -> None:
        self.called_off[key] = max(attempt, self.called_off.get(key, 0))


_current: list[World] = []


def world() -> World:
    return _current[-1]


def enter(made: World) -> None:
    _current[:] = [made]
