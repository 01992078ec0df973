"""F1, F3, F5: workers of a named queue are killed, stopped or asked to leave while they run what only they may."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from tests.faults.fleet import Fleet, fleet
from tests.faults.frame import FaultReport, by_length
from tests.faults.program import CARDS
from tests.faults.watching import BOUND, stop_outside_its_transactions, until

from longcase.client import LongcaseClient

FILMS = by_length(6, 40)

pytestmark = pytest.mark.timeout(by_length(600, 1_800))


@pytest.fixture(autouse=True)
def lease(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give those who live time enough on a machine under load: each lost attempt is counted."""
    if "postgres_url" in request.fixturenames or "store_url" in request.fixturenames:
        request.getfixturevalue("store_url" if "store_url" in request.fixturenames else "postgres_url")  # sets its own
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", "6")


def running(workers: Fleet) -> Counter[int]:
    """Return how many attempts each process has begun."""
    return Counter(int(process) for _, _, _, process in workers.effects())


def begin(workers: Fleet, client: LongcaseClient) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes], int]:
    """Let two workers fill the queue; returns the one with more to do, the other, and how much the one has."""
    general = workers.worker(FAULTS_QUEUES="default")
    pair = [workers.worker(FAULTS_QUEUES="gpu") for _ in range(2)]
    for number in range(FILMS):
        client.start("films", {"id": f"f{number}"})
    until(lambda: running(workers).total() == CARDS, "as many are rendered as there are cards")
    assert running(workers)[general.pid] == 0, "a worker ran what is bound to a queue it does not serve"
    one, other = sorted(pair, key=lambda worker: running(workers)[worker.pid], reverse=True)
    return one, other, running(workers)[one.pid]


def taken_over(workers: Fleet, client: LongcaseClient, other: subprocess.Popen[bytes], lost: int) -> None:
    """Hold that the other worker does what the lost one did, on as many cards, and brings all to its end."""
    until(lambda: running(workers).total() == CARDS + lost, "the cards of the lost worker are free again")
    assert running(workers)[other.pid] == CARDS
    (workers.folder / "release").touch()
    query = "SELECT count(*) AS n FROM cases WHERE status = 'open'"
    until(lambda: client.query(query)[0]["n"] == 0, "all films are rendered")


def check(workers: Fleet, lost: int) -> None:
    inspection = workers.check()
    addresses = [f"films/f{number}" for number in range(FILMS)]
    assert sum(inspection.count(address, "attempt_lost") for address in addresses) == lost
    results = Counter((inspection.state(address).close or {})["result"] for address in addresses)
    assert results == Counter({1: FILMS - lost, 2: lost}), "who lost an attempt made one more, nobody else"


def test_fault_F1_a_worker_of_a_named_queue_is_killed_and_its_room_is_free_again(
    tmp_path: Path, store_url: str, fault_report: FaultReport
) -> None:
    with fleet(tmp_path, store_url) as workers, workers.client() as client:
        one, other, lost = begin(workers, client)
        one.kill()
        one.wait()
        taken_over(workers, client, other, lost)
        check(workers, lost)
    fault_report(
        injected={"SIGKILL": 1, "attempts that died with it": lost},
        useful={"cases closed": FILMS},
        found=f"the other of the queue made all {lost} again, on as many cards",
    )


def test_fault_F3_a_worker_of_a_named_queue_is_stopped_past_its_lease(
    tmp_path: Path, postgres_url: str, fault_report: FaultReport
) -> None:
    fault_report.store = "postgres"
    with fleet(tmp_path, postgres_url) as workers, workers.client() as client:
        one, other, lost = begin(workers, client)
        stop_outside_its_transactions(one, postgres_url)
        taken_over(workers, client, other, lost)
        one.send_signal(signal.SIGCONT)
        until(lambda: "was forgotten" in workers.logged(), "the stopped one finds out")
        one.terminate()
        assert one.wait(BOUND) == 0, workers.logged()
        check(workers, lost)
    fault_report(
        injected={"SIGSTOP past the lease": 1, "attempts taken from it": lost},
        useful={"cases closed": FILMS},
        found=f"all {lost} were made again by the other of the queue; the stopped one joined anew and changed nothing",
    )


def test_fault_F5_a_worker_that_drains_takes_nothing_more_from_its_queue(
    tmp_path: Path, store_url: str, fault_report: FaultReport
) -> None:
    """Its attempts end one by one, each makes room in the queue, calls wait there, and nobody else serves it."""
    closed = "SELECT count(*) AS n FROM cases WHERE status = 'closed'"
    waiting = "SELECT count(*) AS n FROM queued_calls WHERE queue = 'gpu' AND status = 'waiting'"
    with fleet(tmp_path, store_url) as workers, workers.client() as client:
        workers.worker(FAULTS_QUEUES="default")
        old = workers.worker(FAULTS_QUEUES="gpu", FAULTS_DRAIN=str(BOUND))
        for number in range(FILMS):
            client.start("films", {"id": f"f{number}"})
        until(lambda: running(workers)[old.pid] == CARDS, "as many are rendered as there are cards")
        had = [what.partition(":")[2] for what, _, _, _ in workers.effects()]
        old.terminate()
        until((tmp_path / f"draining-{old.pid}").exists, "it drains")
        for done, film in enumerate(had, 1):
            (tmp_path / f"release-{film}").touch()
            until(lambda done=done: client.query(closed)[0]["n"] == done, "what it runs is recorded")  # type: ignore[misc]
        assert old.wait(BOUND) == 0, workers.logged()
        assert [what.partition(":")[2] for what, _, _, _ in workers.effects()] == had, "it took more while it drained"
        assert client.query(waiting)[0]["n"] == FILMS - CARDS, "what waits is free for others"
        new = workers.worker(FAULTS_QUEUES="gpu")
        (tmp_path / "release").touch()
        until(lambda: client.query(closed)[0]["n"] == FILMS, "all films are rendered")
        assert running(workers) == {old.pid: CARDS, new.pid: FILMS - CARDS}
        check(workers, lost=0)
    fault_report(
        injected={"SIGTERM under attempts of a queue": CARDS},
        useful={"cases closed": FILMS},
        found=f"it recorded its {CARDS} and took none of the {FILMS - CARDS} that waited",
    )
