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
from pathlib import Path

import pytest
from tests.crash.fire import BOUND, CASES, POINTS, Fire
from tests.crash.inspection import Inspection
from tests.faults.watching import until

pytestmark = pytest.mark.timeout(600)  # several bounds, one after the other


@pytest.fixture
def fire(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fire:
    monkeypatch.setenv("CRASH_LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", "1")  # where death is told by a lapsed lease, each kill waits for it
    return Fire(tmp_path, store_url)


def test_an_uncrashed_run_is_the_yardstick(fire: Fire) -> None:
    fire.finish()
    fire.check()
    picks = [line for line in fire.ledger.read_text().splitlines() if line.startswith("pick:")]
    assert len(picks) == CASES * 4  # three lines, and one repeat of the jammed one


@pytest.mark.parametrize("point", POINTS)
def test_row_D4_killed_at_a_named_point_again_and_again(fire: Fire, point: str) -> None:
    for hit in (1, 2, 3, 5, 8) if fire.url.startswith("sqlite") else (1, 3):
        fire.until_dead(f"{point}:{hit}")
    assert fire.deaths >= 2, "the fault never struck: the test would prove nothing"
    fire.finish()
    fire.check()


def test_row_D2_killed_at_random_under_load(fire: Fire) -> None:
    draw = random.Random(11)
    held = 0
    for _ in range(8):
        worker = fire.worker()
        goal = len(fire.effects()) + draw.randrange(1, 8)  # the instant of the kill is the random input of this test
        until(lambda goal=goal, worker=worker: len(fire.effects()) >= goal or worker.poll() is not None, "it works")  # type: ignore[misc]
        if worker.poll() is not None:
            break
        worker.send_signal(signal.SIGKILL)
        worker.wait(BOUND)
        fire.deaths += 1
        with fire.client() as client:
            held += client.query("SELECT count(*) AS n FROM cases WHERE lease <> 0")[0]["n"]
    assert fire.deaths >= 1
    assert held, "every kill met a worker that had nothing: the test would prove nothing"
    fire.finish()
    fire.check()


def test_two_workers_on_one_file_and_one_is_killed(fire: Fire) -> None:
    first = fire.worker("after_effect:4")
    until(lambda: fire.effects() or first.poll() is not None, "the first has work")  # else the second may take it all
    second = fire.worker()
    assert second.wait(BOUND) == 0
    assert first.wait(BOUND) == 137
    fire.finish()
    fire.check()


def test_a_lost_client_answer_is_asked_for_again(fire: Fire) -> None:
    """A client killed after the commit and before its answer repeats with its key and gets the same one."""
    code = f"""
import sys
from longcase.client import LongcaseClient
from tests.crash import program
client = LongcaseClient([program.orders], url="{fire.url}")
client.start("orders", {{"id": "late", "lines": 1}}, idempotency_key="start-late")
client.signal("orders/late", "word", {{"text": "x"}}, idempotency_key="late-1")
"""
    for hit in (1, 2):
        environment = {**os.environ, "LONGCASE_FAULT": f"after_commit:{hit}"}
        assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 137
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    fire.finish()
    inspection = Inspection(fire.url)
    assert inspection.count("orders/late", "signal_consumed") == 1
    assert inspection.count("orders/late", "case_started") == 1
    assert inspection.broken_invariants() == []
