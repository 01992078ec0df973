"""Leave out faults of a failing life, as long as it fails: what is left is what the failure needs."""

from __future__ import annotations

from tests.simulation.fleet import live
from tests.simulation.life import Life

RUNS = 80  # lives spent on it


def minimised(life: Life) -> list[tuple[str, str]]:
    """Return the faults without which the seed holds, as name and kind; all of them if that is not to be had."""
    without: set[str] = set()
    failing = life
    size = max(1, len(life.faults) // 2)
    runs = 0
    while size and runs < RUNS:
        start = 0
        while start < len(failing.faults) and runs < RUNS:
            some = {name for name, _ in failing.faults[start : start + size]}
            runs += 1
            shorter = live(life.seed, frozenset(without | some))
            if shorter.problems:
                # What follows a fault that is left out is another life: its faults are those that count now.
                without |= some
                failing = shorter
            else:
                start += size
        size //= 2
    return failing.faults
