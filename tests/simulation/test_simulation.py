"""The seeded simulation as a test: seeds that must hold, and planted bugs that must be found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.simulation.planted import PLANTED, STARTS, planted
from tests.simulation.sim import Life, live

FOUND = Path(__file__).parent.parent / "seeds" / "found.txt"
SEEDS = [int(line.split()[0]) for line in FOUND.read_text().splitlines() if line and not line.startswith("#")]
BATCH = 40
BATCHES = 8
BOUND = 60  # seeds within which a planted bug must be found


def report(life: Life) -> str:
    return "\n".join(
        [
            f"seed {life.seed}: python -m tests.simulation.run --seeds 1 --from {life.seed}",
            *life.problems,
            *life.timeline,
        ]
    )


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_seed_that_found_something_once_holds(seed: int) -> None:
    life = live(seed)
    assert not life.problems, report(life)


@pytest.mark.simulation
@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_rule_holds_under_faults(batch: int) -> None:
    counts: Counter[str] = Counter()
    for seed in range(1_000 + batch * BATCH, 1_000 + (batch + 1) * BATCH):
        life = live(seed)
        assert not life.problems, report(life)
        counts.update(life.counts)
    # A run in which nothing happened proves nothing.
    for what in ("crash", "fail", "unknown", "lose", "double", "repeat", "evict", "effects", "ends"):
        assert counts[what], f"no {what} in {BATCH} seeds"
    assert counts["events"] > 20 * BATCH


@pytest.mark.simulation
@pytest.mark.parametrize("seed", [1_000, 1_050, 1_100, 1_150, 1_200])
def test_two_runs_of_a_seed_are_equal(seed: int) -> None:
    assert live(seed).digest == live(seed).digest


@pytest.mark.simulation
@pytest.mark.parametrize("name", PLANTED)
def test_planted_bug_is_found(name: str) -> None:
    start = STARTS.get(name, 0)
    with planted(name):
        found = next((seed for seed in range(start, start + BOUND) if live(seed).problems), None)
    assert found is not None, f"{name} was not found in {BOUND} seeds"
