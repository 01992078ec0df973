"""The seeded simulation as a test: seeds that must hold, and planted bugs that must be found.

A tenth of the seeds and of the bugs runs here, another one each day; `make faults` runs them all.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.simulation.bugs import PLANTED
from tests.simulation.command import LIVES, USEFUL, find_one, replay
from tests.simulation.life import Life
from tests.simulation.minimise import minimised
from tests.simulation.planted import BOUND, Change, instead, planted

FOUND = Path(__file__).parent.parent / "seeds" / "found.txt"
KEPT = [
    (words[0], int(words[1]))
    for line in FOUND.read_text().splitlines()
    if line[:1] not in ("", "#")
    if (words := line.split())
]
TENTH = datetime.now(UTC).toordinal() % 10
SEEDS = 100  # of each kind of life
FIRST = 10_000 + TENTH * SEEDS

pytestmark = pytest.mark.simulation


def report(kind: str, life: Life) -> str:
    return "\n".join([f"longcase-sim replay {life.seed} --life {kind}", *life.problems, *life.timeline])


def test_forty_bugs_are_planted() -> None:
    assert len(PLANTED) >= 40


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_planted_bug_finds_the_code_it_changes(name: str) -> None:
    with planted(PLANTED[name]):
        pass


@pytest.mark.parametrize(("kind", "seed"), KEPT)
def test_seed_that_found_something_once_holds(kind: str, seed: int) -> None:
    life = LIVES[kind](seed)
    assert not life.problems, report(kind, life)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", sorted(LIVES))
def test_every_rule_holds_under_faults(kind: str) -> None:
    counts: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + SEEDS):
        life = LIVES[kind](seed)
        assert not life.problems, report(kind, life)
        counts.update(life.counts)
    # A run in which nothing happened proves nothing.
    assert not [what for what in USEFUL[kind] if not counts[what]]
    assert counts["events"] > 20 * SEEDS


@pytest.mark.parametrize("kind", sorted(LIVES))
def test_two_runs_of_a_seed_are_equal(kind: str) -> None:
    for seed in range(FIRST, FIRST + 3):
        first, second = LIVES[kind](seed), LIVES[kind](seed)
        assert first.digest == second.digest
        assert first.counts == second.counts


@pytest.mark.parametrize("kind", sorted(LIVES))
def test_replay_lives_the_life_that_is_asked_for(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    replay(Namespace(seed=FIRST, life=kind))
    assert f"digest {LIVES[kind](FIRST).digest[:16]}:" in capsys.readouterr().out


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(PLANTED)[TENTH::10])
def test_planted_bug_is_found(name: str) -> None:
    _, seed, _ = find_one((name, BOUND))
    assert seed is not None, f"{name} was not found in {BOUND} seeds"


def test_failure_is_minimised_to_the_faults_it_needs() -> None:
    def forgets(real: object, *args: object) -> None:
        """What a worker reports is lost whenever the store fails at the wrong moment."""

    bug: tuple[Change, ...] = (instead("runtime.doubt:Doubt.note", forgets),)
    with planted(bug):
        life = next(life for seed in range(BOUND) if (life := LIVES["fleet"](seed)).problems)
        needed = minimised(life)
    assert 0 < len(needed) < len(life.faults)
