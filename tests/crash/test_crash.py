"""Real workers are killed at named points and at random; the outcome must be the uncrashed run's.

The judge is outside: a ledger of effects that is no part of the store, and the list of what was
acknowledged to the client.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.crash import program
from tests.crash.inspection import Inspection

from longcase.client import LongcaseClient

POINTS = (
    "before_claim",
    "before_record",
    "after_record",
    "before_commit",
    "after_commit",
    "before_effect",
    "after_effect",
)
CASES = 6
BOUND = 60.0  # seconds a run may take before the test says it is stuck


class Fire:
    """A store under fire: starts workers, kills them, and looks at what is left."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "cases.db"
        self.ledger = folder / "ledger"
        self.deaths = 0
        with self.client() as client:
            for number in range(CASES):
                client.start("orders", {"id": f"o{number}", "lines": 3})
                for repeat in range(2):
                    said = client.signal(
                        f"orders/o{number}", "word", {"text": f"w{number}"}, idempotency_key=f"k{number}"
                    )
                    assert said.duplicate == bool(repeat)

    def client(self) -> LongcaseClient:
        return LongcaseClient([program.orders], url=f"sqlite:///{self.store}", actor="person:tester")

    def worker(self, fault: str = "") -> subprocess.Popen[bytes]:
        environment = {**os.environ, "CRASH_LEDGER": str(self.ledger), "LONGCASE_FAULT": fault}
        return subprocess.Popen(
            [sys.executable, "-m", "tests.crash.program", str(self.store), str(BOUND)], env=environment
        )

    def finish(self) -> None:
        """Let an unharmed worker bring everything to its end."""
        assert self.worker().wait(BOUND) == 0

    def until_dead(self, fault: str) -> bool:
        """Run a worker with a fault; True if the fault struck, False if it ended before."""
        code = self.worker(fault).wait(BOUND)
        assert code in (0, 137), code
        self.deaths += code == 137
        return code == 137

    def check(self) -> None:
        """Every promise, by the store, the ledger and what the client was told."""
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        keys: dict[str, set[str]] = {}
        for what, key, _ in lines:
            keys.setdefault(what, set()).add(key)
        expected = {f"{what}:o{n}" for n in range(CASES) for what in ("pack", "charge")}
        expected |= {f"pick:o{n}:{line}" for n in range(CASES) for line in range(3)}
        assert set(keys) == expected  # nothing lost, nothing invented
        assert all(len(found) == 1 for found in keys.values())  # one key a call, over all attempts and crashes (I20)
        charges = [what for what, _, _ in lines if what.startswith("charge:")]
        assert len(charges) == CASES  # effect="once" is never repeated blindly
        inspection = Inspection(self.store)
        for number in range(CASES):
            state = inspection.state(f"orders/o{number}")
            assert state.status == "closed", inspection.waits(f"orders/o{number}")
            assert state.close == {"name": "done", "result": f"w{number}", "reason": ""}
            assert state.object["paid"] == f"receipt-o{number}"
            assert inspection.count(f"orders/o{number}", "signal_consumed") == 1
        # Every attempt of the world is in history (I16).
        recorded = inspection.attempts()
        for _, key, attempt in lines:
            assert (key, int(attempt)) in recorded, (key, attempt)
        assert inspection.broken_invariants() == []


@pytest.fixture
def fire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fire:
    monkeypatch.setenv("CRASH_LEDGER", str(tmp_path / "ledger"))
    return Fire(tmp_path)


def test_an_uncrashed_run_is_the_yardstick(fire: Fire) -> None:
    fire.finish()
    fire.check()
    picks = [line for line in fire.ledger.read_text().splitlines() if line.startswith("pick:")]
    assert len(picks) == CASES * 4  # three lines, and one repeat of the jammed one


@pytest.mark.parametrize("point", POINTS)
def test_row_D4_killed_at_a_named_point_again_and_again(fire: Fire, point: str) -> None:
    for hit in (1, 2, 3, 5, 8):
        fire.until_dead(f"{point}:{hit}")
    assert fire.deaths >= 2, "the fault never struck: the test would prove nothing"
    fire.finish()
    fire.check()


def test_row_D2_killed_at_random_under_load(fire: Fire) -> None:
    draw = random.Random(11)
    for _ in range(8):
        worker = fire.worker()
        time.sleep(draw.uniform(0.25, 0.8))  # the instant of the kill is the random input of this test
        if worker.poll() is not None:
            break
        worker.send_signal(signal.SIGKILL)
        worker.wait(BOUND)
        fire.deaths += 1
    assert fire.deaths >= 1
    fire.finish()
    fire.check()


def test_two_workers_on_one_file_and_one_is_killed(fire: Fire) -> None:
    first, second = fire.worker("after_effect:4"), fire.worker()
    assert second.wait(BOUND) == 0
    assert first.wait(BOUND) in (0, 137)
    fire.finish()
    fire.check()


def test_a_lost_client_answer_is_asked_for_again(fire: Fire) -> None:
    """A client killed after the commit and before its answer repeats with its key and gets the same one."""
    code = f"""
import sys
from longcase.client import LongcaseClient
from tests.crash import program
client = LongcaseClient([program.orders], url="sqlite:///{fire.store}")
client.start("orders", {{"id": "late", "lines": 1}}, idempotency_key="start-late")
client.signal("orders/late", "word", {{"text": "x"}}, idempotency_key="late-1")
"""
    for hit in (1, 2):
        environment = {**os.environ, "LONGCASE_FAULT": f"after_commit:{hit}"}
        assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 137
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    fire.finish()
    inspection = Inspection(fire.store)
    assert inspection.count("orders/late", "signal_consumed") == 1
    assert inspection.count("orders/late", "case_started") == 1
    assert inspection.broken_invariants() == []
