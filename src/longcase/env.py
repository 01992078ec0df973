"""The injected environment: clock, randomness and ids. Nothing above asks the machine itself.

The same engine runs on real time, on a virtual clock (`simulate`) and on a scaled clock shared
by several processes (`make demo`). The store is opened with an Env; there is no other source
of time in the package.
"""

from __future__ import annotations

import os as _os
import random as _random
import threading as _threading
import time as _time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """A source of instants. `now` is timezone-aware UTC and may be compared across processes."""

    def now(self) -> datetime: ...

    def seconds_until(self, instant: datetime) -> float:
        """Return the real seconds until `instant`, 0.0 if it has passed."""
        ...


class RealClock:
    """The machine's wall clock; where a store has a clock that all machines go by, that one.

    It is then what was read there, carried on by the machine's steady clock: whoever sets the machine's
    wall clock changes nothing.
    """

    def __init__(self) -> None:
        self._epoch: float | None = None  # when the steady clock said 0, by the store's

    def now(self) -> datetime:
        if self._epoch is None:
            return self.uncorrected()
        return datetime.fromtimestamp(self._epoch + _time.monotonic(), UTC)

    def uncorrected(self) -> datetime:
        """Return the instant the machine itself tells."""
        return datetime.now(UTC)

    @property
    def corrected(self) -> bool:
        """Whether it goes by a store's clock."""
        return self._epoch is not None

    def go_by(self, instant: datetime, steady: float) -> None:
        """Go by a clock that told `instant` when the machine's steady one (`Env.monotonic`) said `steady`."""
        self._epoch = instant.timestamp() - steady

    def seconds_until(self, instant: datetime) -> float:
        return max(0.0, (instant - self.now()).total_seconds())


class VirtualClock:
    """A clock that stands still until it is told to move; for tests, in one process."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 5, 9, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self._now

    def seconds_until(self, instant: datetime) -> float:
        return 0.0 if instant <= self._now else float("inf")

    def set(self, instant: datetime) -> None:
        """Move to `instant`; going backwards is allowed, so that tests can inject clock jumps."""
        self._now = instant

    def advance(self, by: timedelta) -> None:
        self._now += by


class ScaledClock:
    """Compressed time for several processes: `factor` seconds pass here in one real second.

    Epoch and factor are kept in the store, so worker, CLI and driver agree on the instant.
    """

    def __init__(self, epoch_real: float, epoch: datetime, factor: float) -> None:
        self.epoch_real = epoch_real
        self.epoch = epoch
        self.factor = factor

    def now(self) -> datetime:
        return self.epoch + timedelta(seconds=(_time.time() - self.epoch_real) * self.factor)

    def seconds_until(self, instant: datetime) -> float:
        return max(0.0, (instant - self.now()).total_seconds() / self.factor)


class Env:
    """Clock, randomness and ids in one hand. Pass `seed` for a repeatable run."""

    def __init__(self, clock: Clock | None = None, *, seed: int | None = None) -> None:
        self.clock: Clock = clock or RealClock()
        # SystemRandom is a syscall per draw; ids and salts need uniqueness and unguessability by
        # outsiders of the store, so the generator is seeded once from the system's entropy.
        self.random = (
            _random.Random(seed) if seed is not None else _random.Random(_random.SystemRandom().getrandbits(256))
        )

        point, _, hit = _os.environ.get("LONGCASE_FAULT", "").partition(":")
        self._fault, self._hits_left = point, int(hit or "1") if point else 0

    def now(self) -> datetime:
        return self.clock.now()

    def signal_point(self, name: str) -> None:
        """Mark a named point of the program, such as `before_commit`; does nothing.

        With LONGCASE_FAULT=name:n in the environment the process ends at the n-th hit as a killed one
        does: tests of crashes only.
        """
        if name == self._fault:
            self._hits_left -= 1
            if self._hits_left == 0:
                _os._exit(137)

    def thread(self, name: str, run: Callable[[], None]) -> bool:
        """Run a function in a thread of its own, beside the program; False where there are no threads."""
        _threading.Thread(target=run, name=name, daemon=True).start()
        return True

    def monotonic(self) -> float:
        return _time.monotonic()

    def new_id(self) -> str:
        """Return a UUIDv7-shaped id as 32 hex digits: sortable by the clock's millisecond."""
        milliseconds = int(self.clock.now().timestamp() * 1000) & (2**48 - 1)
        draw = self.random.getrandbits
        return f"{milliseconds:012x}7{draw(12):03x}{0x8000 | draw(14):04x}{draw(48):012x}"

    def salt(self) -> str:
        """Return 64 random bits as hex, for one event's payload digest."""
        return f"{self.random.getrandbits(64):016x}"
