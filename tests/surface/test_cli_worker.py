"""`worker` and `dev` as real processes: they drain when told to stop, and share a scaled clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest
from tests.support.cli import Cli
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("store_url")  # on every kind of store

SLOW = """
from __future__ import annotations
import asyncio
from pathlib import Path
from pydantic import BaseModel
from longcase import Case, Next, Team, Workflow, activity, days

desk = Team("desk")

class Job(BaseModel):
    id: str

@activity(owner=desk, effect="repeatable")
async def work(id: str) -> str:
    Path("began").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return "done"

jobs = Workflow("jobs", object=Job, key="id", owner=desk, expect=days(1))

@jobs.stage(owner=desk, expect=days(1))
async def working(case: Case[Job]) -> Next:
    return jobs.close("done", result=await work(case.object.id))
"""


def test_a_worker_takes_up_what_other_processes_send(cli: Cli) -> None:
    with cli.worker():
        cli.ok("start", "claims", '{"id": "C-1", "amount": 250}')
        cli.until("claims/C-1", lambda case: case["waiting_on"] == "needs iban")
        cli.ok("set", "claims/C-1", "iban=NL1")
        cli.until("claims/C-1", lambda case: case["stage"] == "review")
        cli.ok("decide", "claims/C-1", "rejected")
        closed = cli.until("claims/C-1", lambda case: case["status"] == "closed")
    assert closed["close"]["name"] == "rejected"
    assert cli.ok("map", "--conform", "--json").json["off_map"] == 0
    assert cli.ok("verify", "--json").json["count"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop_lets_running_attempts_end(cli: Cli, number: signal.Signals) -> None:
    (cli.folder / "slow_jobs.py").write_text(SLOW)
    process = cli.process("worker", "slow_jobs.py", "--json")
    assert process.stdout is not None
    hello = json.loads(process.stdout.readline())
    assert (hello["worker"], hello["workflows"]) == (1, ["jobs"])
    cli.ok("start", "jobs", '{"id": "J-1"}', "--app", "slow_jobs.py")
    wait_for(cli.folder / "began")
    process.send_signal(number)
    assert process.stderr is not None
    assert "stopping when 1 running attempt has ended" in process.stderr.readline()
    (cli.folder / "go").touch()
    ended = cli.end(process)
    assert (ended.status, ended.err) == (0, "")
    assert ended.json == {"stopped": 1}
    shown = cli.ok("show", "jobs/J-1", "--json").json
    events = [event["type"] for event in cli.ok("history", "jobs/J-1", "--json").lines]
    assert "activity_completed" in events, (shown, events)
    assert "attempt_lost" not in events


def test_a_second_ctrl_c_stops_at_once(cli: Cli) -> None:
    (cli.folder / "slow_jobs.py").write_text(SLOW)
    process = cli.process("worker", "slow_jobs.py")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    cli.ok("start", "jobs", '{"id": "J-1"}', "--app", "slow_jobs.py")
    wait_for(cli.folder / "began")
    process.send_signal(signal.SIGINT)
    assert "again to stop at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    ended = cli.end(process)
    assert ended.status == 0, ended
    assert "has stopped" in ended.out


def test_dev_says_where_cases_live_and_keeps_a_scaled_clock_for_every_process(cli: Cli) -> None:
    with cli.worker("--factor", "86400", command="dev") as dev:
        assert dev.stdout is not None
        cli.ok("start", "claims", '{"id": "C-1", "amount": 250, "iban": "NL1"}')
        # Two days until the expiry, at a day a second.
        closed = cli.until("claims/C-1", lambda case: case["status"] == "closed")
    assert closed["close"]["name"] == "rejected"
    first = cli.ok("show", "claims/C-1", "--json").json["as_of"]
    second = cli.spawn("show", "claims/C-1", "--json").json["as_of"]
    assert first < second
    assert second > closed["closed_at"]


@pytest.mark.only_sqlite
def test_dev_says_where_cases_live(cli: Cli) -> None:
    process = cli.process("dev")
    assert process.stdout is not None
    assert process.stdout.readline() == f"worker 1 moves claims; cases live in sqlite:///{cli.db}\n"
    process.terminate()
    ended = cli.end(process)
    assert (ended.status, ended.err) == (0, "")
    assert "longcase start claims" in ended.out


@pytest.mark.only_sqlite
def test_a_factor_that_is_none(cli: Cli) -> None:
    for factor in ("0", "-1", "nan", "1e9"):
        assert "factor" in cli.refused(2, "dev", f"--factor={factor}").error["message"]


def test_a_worker_without_workflows_or_store(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCASE_DATABASE_URL", "sqlite:////no/such/folder/x.db")
    assert cli.refused(6, "worker").error["code"] == "store_unavailable"
    monkeypatch.delenv("LONGCASE_APP")
    assert cli.refused(2, "worker").error["code"] == "usage"


@pytest.mark.parametrize(
    "surroundings",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "1"},
        {"HOME": "/nonexistent"},
        {"PYTHONOPTIMIZE": "1"},
        {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "20"},
    ],
)
def test_fault_F42_the_same_answers_in_other_surroundings(cli: Cli, surroundings: dict[str, str]) -> None:
    cli.ok("start", "claims", '{"id": "C-1", "name": "Zo\\u00eb \\u2603"}')
    wanted = cli.ok("show", "claims/C-1", "--json").json
    shown = cli.spawn("show", "claims/C-1", "--json", env=surroundings)
    assert shown.status == 0, shown.err
    if "LC_ALL" not in surroundings:  # an ASCII terminal is shown escapes
        assert shown.json["object"] == wanted["object"]
    assert cli.spawn("show", "claims/C-2", env=surroundings).status == 3


def test_fault_F42_stdin_and_stdout_closed(cli: Cli) -> None:
    command = 'exec 0<&- 1>&-; exec python -m longcase start claims \'{"id": "C-1"}\''
    import sys

    from tests.support.cli import SOURCE

    command = command.replace("python", sys.executable)
    done = subprocess.run(
        ["sh", "-c", command], cwd=cli.folder, env={**os.environ, "PYTHONPATH": SOURCE}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert cli.ok("show", "claims/C-1", "--json").json["status"] == "open"
    done = subprocess.run(
        ["sh", "-c", command.replace('\'{"id": "C-1"}\'', "-")],
        cwd=cli.folder,
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "no standard input" in done.stderr
