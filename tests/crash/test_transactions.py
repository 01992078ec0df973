"""Real workers are killed inside transactional activities; the user's own table is the witness (SEMANTICS A12)."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.crash import books
from tests.crash.fire import BOUND
from tests.crash.inspection import Inspection
from tests.faults.watching import until

from longcase.client import LongcaseClient

pytestmark = pytest.mark.timeout(600)


class Books:
    """Orders whose lines are booked, workers over them, and the table they write to."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.log = folder / "log"
        self.orders = 0
        self.deaths = 0
        self.order(4)
        books.make_table(url)

    def client(self) -> LongcaseClient:
        return LongcaseClient([books.books], url=self.url, actor="person:tester")

    def order(self, count: int) -> None:
        with self.client() as client:
            for number in range(self.orders, self.orders + count):
                client.start("books", {"id": f"o{number}"})
        self.orders += count

    def worker(self, fault: str = "") -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.crash.books", self.url, str(BOUND)],
                env={**os.environ, "LONGCASE_FAULT": fault},
                stderr=log,
            )

    def until_dead(self, fault: str) -> None:
        code = self.worker(fault).wait(BOUND)
        assert code in (0, 137), (code, self.log.read_text())
        self.deaths += code == 137

    def rows(self) -> Counter[str]:
        with self.client() as client:
            return Counter(row["place"] for row in client.query("SELECT place FROM booked"))

    def finish(self) -> None:
        """Bring everything to its end; each line is booked once, whatever happened."""
        assert self.worker().wait(BOUND) == 0, self.log.read_text()
        places = [f"o{number}:{line}" for number in range(self.orders) for line in range(books.LINES)]
        assert self.rows() == Counter(places)
        inspection = Inspection(self.url)
        for number in range(self.orders):
            state = inspection.state(f"books/o{number}")
            assert state.close == {"name": "done", "result": places[3 * number : 3 * number + 3], "reason": ""}
            assert inspection.count(f"books/o{number}", "attempt_committed") == books.LINES
        assert inspection.broken_invariants() == []


@pytest.fixture
def fire(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Books:
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", "1")
    return Books(store_url, tmp_path)


@pytest.mark.parametrize("point", ["in_transaction", "before_commit", "after_commit", "after_effect"])
def test_rule_A12_killed_at_a_named_point_each_row_is_there_once(fire: Books, point: str) -> None:
    for hit in (1, 2, 3, 5, 8) if fire.url.startswith("sqlite") else (1, 3):
        fire.until_dead(f"{point}:{hit}")
    assert fire.deaths >= 2, "the fault never struck: the test would prove nothing"
    fire.finish()


def test_rule_A12_a_storm_of_kills_over_two_workers_leaves_each_row_once(fire: Books) -> None:
    fire.order(20)
    draw = random.Random(7)
    workers = [fire.worker() for _ in range(2)]
    try:
        for _ in range(8):
            goal = sum(fire.rows().values()) + draw.randrange(1, 8)
            until(
                lambda goal=goal: sum(fire.rows().values()) >= goal or all(w.poll() == 0 for w in workers), "it goes on"
            )  # type: ignore[misc]
            alive = [place for place, worker in enumerate(workers) if worker.poll() is None]
            if not alive:
                break
            victim = draw.choice(alive)
            workers[victim].kill()
            workers[victim].wait()
            fire.deaths += 1
            workers[victim] = fire.worker()
        assert fire.deaths >= 3, "hardly anybody was killed: the test would prove nothing"
        assert [worker.wait(BOUND) for worker in workers] == [0, 0], fire.log.read_text()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    fire.finish()
