"""F1 to F5, F14, F33: processes that are killed, stopped, told to end, and that share one file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.crash import program as orders
from tests.crash.fire import BOUND, POINTS, Fire
from tests.faults.fleet import Fleet, fleet
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import check_orders
from tests.faults.watching import is_stopped, stop_outside_its_commits, until
from tests.support.processes import line, process

from longcase.client import LongcaseClient
from longcase.errors import StoreUnavailable
from longcase.store.sqlite import commit as commit_module

pytestmark = pytest.mark.timeout(by_length(600, 1_800))


HELD = "SELECT count(*) AS n FROM cases WHERE lease IN (SELECT no FROM workers WHERE pid = ?)"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(orders, "LEDGER", str(tmp_path / "ledger"))
    monkeypatch.setenv("CRASH_LEDGER", str(tmp_path / "ledger"))
    return tmp_path / "ledger"


# -- F1 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", by_length(("after_record", "after_commit", "after_effect"), POINTS))
def test_fault_F1_two_workers_killed_at_a_named_point_and_others_take_over(
    tmp_path: Path, store_url: str, ledger: Path, fault_report: FaultReport, point: str
) -> None:
    fire = Fire(tmp_path, store_url)
    # One over an effect that may not be repeated: done in the world, not recorded.
    dying = fire.worker(environment={"CRASH_AFTER": "charge:o1"})
    assert dying.wait(BOUND) == 137, fire.logged()
    fire.deaths += 1
    for first, second in by_length(((2, 5),), ((1, 1), (2, 5), (8, 3))):
        pair = [fire.worker(f"{point}:{hit}") for hit in (first, second)]
        codes = [worker.wait(BOUND) for worker in pair]
        assert set(codes) <= {0, 137}, fire.logged()
        fire.deaths += codes.count(137)
    fire.finish()
    inspection = fire.check()
    lost = [
        event for case in inspection.addresses() for event in inspection.events(case) if event.type == "attempt_lost"
    ]
    assert "charge" in {event.data["activity"] for event in lost}, "none died over an effect=once"
    fault_report(
        injected={f"kills {point}": fire.deaths, "attempts that died": len(lost)},
        useful={"orders done": len(inspection.addresses()), "effects": len(fire.effects())},
        found="nothing lost, no effect=once repeated, every attempt in history",
    )


def test_fault_F1_a_storm_of_kills_over_three_workers_on_one_file(
    tmp_path: Path, ledger: Path, fault_report: FaultReport
) -> None:
    kills = by_length(6, 60)
    fire = Fire(tmp_path, cases=kills * 4, bound=by_length(180.0, 1_500.0))
    draw = random.Random(5)
    workers = [fire.worker() for _ in range(3)]
    held = 0
    try:
        for _ in range(kills):
            goal = len(fire.effects()) + draw.randrange(1, 12)
            until(lambda goal=goal: len(fire.effects()) >= goal or all(w.poll() == 0 for w in workers), "work goes on")  # type: ignore[misc]
            alive = [place for place, worker in enumerate(workers) if worker.poll() is None]
            if not alive:
                break
            with fire.client() as client:
                holding = [place for place in alive if client.query(HELD, [workers[place].pid])[0]["n"]]
            victim = draw.choice(holding or alive)
            workers[victim].kill()
            workers[victim].wait()
            fire.deaths += 1
            with fire.client() as client:  # at least: the others may have taken them over already
                held += client.query(HELD, [workers[victim].pid])[0]["n"]
            workers[victim] = fire.worker()
        assert [worker.wait(fire.bound) for worker in workers] == [0, 0, 0], fire.logged()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    inspection = fire.check()
    assert fire.deaths >= kills // 2
    lost = sum(inspection.count(address, "attempt_lost") for address in inspection.addresses())
    assert held or lost, "every kill met a worker that had nothing: the test would prove nothing"
    fault_report(
        injected={"SIGKILL": fire.deaths, "cases seen held by the dead": held, "attempts that died": lost},
        useful={"orders done": len(inspection.addresses()), "effects": len(fire.effects())},
        found="nothing lost, no effect=once repeated, every attempt in history",
    )


# -- F2 ------------------------------------------------------------------------------------------------

SENDING = """
from longcase import Longcase
from tests.crash.program import orders
async with Longcase([orders], url=f"sqlite:///{path}") as app:
    for n in range(int(arg1)):
        key = f"{arg2}{n}"
        await app.service.start("orders", {"id": key}, idempotency_key=f"start-{n}")
        say("start", n)
        answer = await app.service.signal(f"orders/{key}", "word", {"text": key}, idempotency_key=f"word-{n}")
        say("word", n, answer.duplicate)
say("end")
"""


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_fault_F2_a_client_killed_around_its_write_repeats_with_its_key(
    tmp_path: Path, ledger: Path, fault_report: FaultReport, point: str
) -> None:
    path, count = tmp_path / "cases.db", by_length(3, 12)
    told: set[tuple[str, str]] = set()
    deaths = 0
    for hit in (*range(3, 3 + 2 * count, by_length(3, 1)), 100_000):
        with process(SENDING, str(path), str(count), "o", LONGCASE_FAULT=f"{point}:{hit}") as child:
            while said := line(child).split():
                if said[0] == "word" and (said[0], said[1]) in told:
                    assert said[2] == "True", "a repeat of what was acknowledged is known as one"
                if said[0] != "end":
                    told.add((said[0], said[1]))
            deaths += child.wait() == 137
    assert deaths, "nobody was killed"
    assert told == {(what, str(n)) for what in ("start", "word") for n in range(count)}
    worker = subprocess.run(
        [sys.executable, "-m", "tests.crash.program", f"sqlite:///{path}", str(BOUND)], check=True, timeout=BOUND
    )
    assert worker.returncode == 0
    effects = check_orders(f"sqlite:///{path}", ledger, [f"o{n}" for n in range(count)])
    fault_report(
        injected={f"clients killed {point}": deaths},
        useful={"acknowledged": len(told), "effects": effects},
        found="each start and each word is there once",
    )


# -- F3, F4 ----------------------------------------------------------------------------------------------


def test_fault_F3_a_worker_stopped_in_the_middle_of_its_work_goes_on_when_it_is_continued(
    tmp_path: Path, ledger: Path, fault_report: FaultReport
) -> None:
    """On SQLite stopped is not dead: its cases wait for it, others go on, nothing is done twice."""
    fire = Fire(tmp_path, cases=by_length(16, 60))
    workers = [fire.worker() for _ in range(2)]
    stops = overtaken = 0
    try:
        with fire.client() as client:
            for number in range(by_length(3, 12)):
                worker, other = workers[number % 2], workers[1 - number % 2]
                goal = len(fire.effects()) + 5
                until(lambda goal=goal: len(fire.effects()) >= goal or not _open(client), "work goes on")  # type: ignore[misc]
                if not stop_outside_its_commits(worker, tmp_path / "cases.db"):
                    break
                stops += 1
                seen = len(fire.effects())
                fire.order(2)  # nobody holds these
                until(
                    lambda seen=seen, other=other: len(fire.effects()) > seen or other.poll() is not None,  # type: ignore[misc]
                    "the other goes on",
                )
                overtaken += len(fire.effects()) > seen
                worker.send_signal(signal.SIGCONT)
        assert [worker.wait(BOUND) for worker in workers] == [0, 0], fire.logged()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert overtaken, "no worker was stopped while the other had something to do"
    fire.finish()  # should both have ended before the last orders came
    inspection = fire.check()
    assert sum(inspection.count(address, "attempt_lost") for address in inspection.addresses()) == 0
    fault_report(
        injected={"SIGSTOP and SIGCONT": stops, "while the other went on": overtaken},
        useful={"orders done": len(inspection.addresses()), "effects": len(fire.effects())},
        found="no attempt was taken for lost, none was doubled",
    )


STOPS_IN_ITS_TRANSACTION = """
import signal
store = await open_sqlite(path, Env(), inline=True)
def stop(name):
    if name == "before_commit":
        say("stopping")
        os.kill(os.getpid(), signal.SIGSTOP)
store._committer._point = stop
await store.edit(CaseRef(workflow="orders", key="o1"), do(noted("written after all")))
say("written")
"""


def test_fault_F3_a_process_stopped_in_its_transaction_makes_writers_wait_and_readers_not(
    tmp_path: Path, ledger: Path, fault_report: FaultReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    fire = Fire(tmp_path)
    monkeypatch.setattr(commit_module, "BUSY_SECONDS", 0.2)
    reads = refused = 0
    with fire.client() as client, process(STOPS_IN_ITS_TRANSACTION, str(tmp_path / "cases.db")) as child:
        assert line(child) == "stopping"
        until(lambda: is_stopped(child), "the process stops")
        for number in range(3):
            with pytest.raises(StoreUnavailable, match="locked by another process"):
                client.correct(f"orders/o{number}", {"lines": 3}, reason="while another holds the lock")
            refused += 1
            assert client.show(f"orders/o{number}").state.status == "open"
            reads += 1
        child.send_signal(signal.SIGCONT)
        assert line(child) == "written"
        client.correct("orders/o1", {"lines": 3}, reason="the lock is free")
    fire.finish()
    inspection = fire.check()
    assert inspection.count("orders/o1", "duplicate_ignored") == 3  # a remark, the word, and what was written after all
    fault_report(
        injected={"SIGSTOP under the write lock": 1, "writes refused": refused},
        useful={"orders done": len(inspection.addresses()), "reads meanwhile": reads},
        found="writers are told so after the busy timeout; the stopped write was whole",
    )


def test_fault_F4_timers_go_on_with_the_other_worker_and_none_fires_twice(
    tmp_path: Path, fault_report: FaultReport
) -> None:
    """There is no leader that can be lost: whoever lives fires what is due."""
    each, wanted = by_length(12, 70), 3
    fired = "SELECT count(*) AS n FROM history WHERE type = 'timer_fired'"
    with fleet(tmp_path) as workers, workers.client() as client:
        pair = [workers.worker() for _ in range(2)]
        started = stops = 0
        for number in range(10 * wanted):
            for _ in range(each):
                client.start("naps", {"id": f"n{started}"})
                started += 1
            worker = pair[number % 2]
            assert stop_outside_its_commits(worker, tmp_path / "cases.db"), workers.logged()
            before = client.query(fired)[0]["n"]
            until(
                lambda before=before, worker=worker: (  # type: ignore[misc]
                    client.query(fired)[0]["n"] > before or not _left_to_others(client, worker.pid)
                ),
                "the other worker fires timers",
            )
            stops += client.query(fired)[0]["n"] > before  # else the stopped one held all there was
            worker.send_signal(signal.SIGCONT)
            if stops == wanted:
                break
        assert stops == wanted
        until(lambda: not _open(client), "all are rested")
        for worker in pair:
            worker.terminate()
        assert [worker.wait(BOUND) for worker in pair] == [0, 0], workers.logged()
        inspection = workers.check()
        for number in range(started):
            assert inspection.count(f"naps/n{number}", "timer_fired") == 3
    fault_report(
        injected={"SIGSTOP in the timer sweep": stops}, useful={"timers fired": started * 3}, found="each fired once"
    )


def _open(client: LongcaseClient) -> int:
    rows = client.query("SELECT count(*) AS n FROM cases WHERE status = 'open'")
    return int(rows[0]["n"])


def _left_to_others(client: LongcaseClient, process: int) -> int:
    """Return how many open cases a process does not hold."""
    rows = client.query(
        "SELECT count(*) AS n FROM cases WHERE status = 'open' AND lease NOT IN (SELECT no FROM workers WHERE pid = ?)",
        [process],
    )
    return int(rows[0]["n"])


# -- F5 ------------------------------------------------------------------------------------------------


def running(workers: Fleet, process: int) -> int:
    return sum(int(pid) == process for _, _, _, pid in workers.effects())


@pytest.mark.parametrize("patient", [True, False], ids=["within the grace", "beyond the grace"])
def test_fault_F5_a_deploy_drains_and_gives_back_what_it_holds(
    tmp_path: Path, store_url: str, fault_report: FaultReport, monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", "60")  # nothing is free because a lease has lapsed
    count = 100
    with fleet(tmp_path, store_url) as workers, workers.client() as client:
        for number in range(count):
            client.start("holds", {"id": f"h{number}"})
        old = workers.worker(FAULTS_DRAIN="20" if patient else "0.5")
        until(lambda: running(workers, old.pid) == count, "100 attempts run")
        old.terminate()
        if patient:
            workers.worker()  # the new one works by the time the attempts of the old one end
            (tmp_path / "release").touch()
        assert old.wait(BOUND) == 0, workers.logged()
        leases = client.query("SELECT count(*) AS n FROM cases WHERE lease <> 0")[0]["n"]
        assert leases == 0, "leases are given back at once"
        (tmp_path / "release").touch()
        workers.worker(FAULTS_UNTIL_CLOSED="1").wait(BOUND)
        inspection = workers.check()
        states = [inspection.state(f"holds/h{number}") for number in range(count)]
        assert [state.status for state in states] == ["closed"] * count
        results = {(state.close or {})["result"] for state in states}
        assert results == ({1} if patient else {2})
        lost = sum(inspection.count(state.address, "attempt_lost") for state in states)
        assert lost == (0 if patient else count)
    fault_report(
        injected={"SIGTERM under 100 attempts": 1},
        useful={"cases closed": count},
        found="all 100 recorded by the old worker" if patient else "all 100 taken over by the new worker at once",
    )


# -- F14 -----------------------------------------------------------------------------------------------


def test_fault_F14_two_workers_a_program_and_the_command_line_write_to_one_file(
    tmp_path: Path, ledger: Path, fault_report: FaultReport
) -> None:
    fire = Fire(tmp_path)
    workers = [fire.worker() for _ in range(2)]
    commands = by_length(4, 16)
    count = by_length(4, 12)
    environment = {**os.environ, "LONGCASE_DATABASE_URL": fire.url, "LONGCASE_ACTOR": "ann"}
    told = 0
    with process(SENDING, str(tmp_path / "cases.db"), str(count), "p") as child:
        for number in range(commands):
            done = subprocess.run(
                [sys.executable, "-m", "longcase", "correct", f"orders/o{number % 6}", "lines=3", "--reason", "by hand",
                 "--app", "tests/crash/program.py"],
                env=environment, check=False, capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0 or "closed" in done.stderr, done.stderr
            told += done.returncode == 0
        while said := line(child):
            told += said != "end"
    for worker in workers:
        worker.wait(BOUND)
    fire.finish()
    words = {f"o{n}": f"w{n}" for n in range(fire.cases)}
    keys = [*words, *(f"p{n}" for n in range(count))]
    effects = check_orders(fire.url, ledger, keys, words)
    fault_report(
        injected={"processes on one file": 2 + 1 + commands},
        useful={"acknowledged": told, "orders done": len(keys), "effects": effects},
        found="nothing lost, nothing doubled",
    )


# -- F33 -----------------------------------------------------------------------------------------------


def test_fault_F33_a_poisoned_case_is_quarantined_and_the_good_ones_go_on(
    tmp_path: Path, fault_report: FaultReport
) -> None:
    crashes, good = by_length(5, 7), by_length(20, 200)
    with fleet(tmp_path) as workers, workers.client() as client:
        client.start("pills", {"id": "poison-1"})
        for number in range(good):
            client.start("pills", {"id": f"good-{number}"})
        client.start("pills", {"id": "poison-2"})
        deaths = 0
        while True:
            assert deaths <= 2 * (crashes + 1), "it kills for ever"
            worker = workers.worker(FAULTS_UNTIL_CLOSED="1", FAULTS_CRASHES=str(crashes), FAULTS_APART="0.5")
            if worker.wait(BOUND) == 0:
                break
            deaths += 1
        inspection = workers.check()
        for number in range(good):
            assert inspection.state(f"pills/good-{number}").status == "closed"
        for number in (1, 2):
            (incident,) = inspection.state(f"pills/poison-{number}").incidents.values()
            assert incident["kind"] == "poisoned_activity"
            assert incident["owner"] == "desk"
    fault_report(
        injected={"workers killed by their activity": deaths},
        useful={"good cases closed": good},
        found="two incidents poisoned_activity with their owner",
    )
