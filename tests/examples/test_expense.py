"""The expense declarations: the report of Longcase's history equals the log's own figures, whatever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from longcase.env import Env
from longcase.insight.conform import conform
from longcase.insight.verify import verify
from longcase.store.sqlite import open_sqlite
from longcase.store.sqlite.connection import connect

ROOT = Path(__file__).parents[2]
RUN = ROOT / "examples" / "expense_declarations" / "run.py"
DATA = Path(os.environ.get("LONGCASE_TEST_DATA") or ROOT.parent / "shared" / "data")
LOG = DATA / "expense-declarations.csv.gz"
needs_data = pytest.mark.skipif(
    not LOG.exists(), reason=f"no {LOG.name} in {DATA}: set LONGCASE_TEST_DATA to the folder that holds it"
)

WORDS = {
    "V": ("Declaration SAVED by EMPLOYEE", "EMPLOYEE"),
    "S": ("Declaration SUBMITTED by EMPLOYEE", "EMPLOYEE"),
    "rE": ("Declaration REJECTED by EMPLOYEE", "EMPLOYEE"),
    "aP": ("Declaration APPROVED by PRE_APPROVER", "PRE_APPROVER"),
    "rP": ("Declaration REJECTED by PRE_APPROVER", "PRE_APPROVER"),
    "aA": ("Declaration APPROVED by ADMINISTRATION", "ADMINISTRATION"),
    "rA": ("Declaration REJECTED by ADMINISTRATION", "ADMINISTRATION"),
    "aB": ("Declaration APPROVED by BUDGET OWNER", "BUDGET OWNER"),
    "rB": ("Declaration REJECTED by BUDGET OWNER", "BUDGET OWNER"),
    "F": ("Declaration FINAL_APPROVED by SUPERVISOR", "SUPERVISOR"),
    "rS": ("Declaration REJECTED by SUPERVISOR", "SUPERVISOR"),
    "rM": ("Declaration REJECTED by MISSING", "MISSING"),
    "R": ("Request Payment", "UNDEFINED"),
    "P": ("Payment Handled", "UNDEFINED"),
}
# One case each; the odd paths of the real log among them.
PATHS = (
    "S aA F R P",
    "S aP F R P",
    "S aA aB F R P",
    "S rA rE S aA F R P",
    "S rA S aA rB rE S rP rE S F R P",  # submitted again without being taken back
    "S F rM S F R P",  # sent back after the final approval, in no known role
    "S F R rM",  # and after the payment was requested
    "S rS R P rE",  # paid without a final approval; taken back when it was closed
    "V R P",  # paid without having been submitted
    "S aA rS S aA F P",  # paid without a request
    "S rE",
    "V",
)
FIGURES = {
    "cases": 12,
    "events": sum(len(path.split()) for path in PATHS),
    "submissions": 16,
    "approved_pre_approver": 1,
    "approved_administration": 6,
    "approved_budget_owner": 1,
    "final_approved": 9,
    "rejected_pre_approver": 1,
    "rejected_budget_owner": 1,
    "rejected_supervisor": 2,
    "rejected_missing": 2,
    "rejected_administration": 2,
    "taken_back": 5,
    "paid": 9,
    "never_final_approved": 4,
    "paid_after_submissions": {"0": 1, "1": 4, "2": 3, "4": 1},
    "paid_without_final_approval": ["case7", "case8"],
    "last_event": {
        "Payment Handled": 8,
        "Declaration REJECTED by EMPLOYEE": 2,
        "Declaration REJECTED by MISSING": 1,
        "Declaration SAVED by EMPLOYEE": 1,
    },
}
REAL_FIGURES = {
    "cases": 10357,
    "events": 55628,
    "submissions": 11371,
    "approved_pre_approver": 685,
    "approved_administration": 8061,
    "approved_budget_owner": 2747,
    "final_approved": 9999,
    "rejected_pre_approver": 86,
    "rejected_budget_owner": 57,
    "rejected_supervisor": 286,
    "rejected_missing": 89,
    "rejected_administration": 936,
    "taken_back": 1350,
    "paid": 9912,
    "never_final_approved": 419,
    "paid_after_submissions": {"0": 1, "1": 8945, "2": 845, "3": 109, "4": 10, "5": 1, "7": 1},
    "paid_without_final_approval": ["declaration95149", "declaration90815"],
    "last_event": {
        "Payment Handled": 9911,
        "Declaration REJECTED by EMPLOYEE": 284,
        "Declaration SAVED by EMPLOYEE": 134,
        "Declaration REJECTED by MISSING": 28,
    },
}


# One after the other on one store: around the commits of starts, signals, turns and moves.
FAULTS = ("after_commit:3", "before_commit:6", "after_commit:20", "before_commit:25", "after_commit:21")


def log_of(paths: tuple[str, ...], file: Path) -> Path:
    """Write a log in which the cases overlap, each with one step every three hours."""
    lines = ["case,at,event,by_role,amount,event_id"]
    for number, path in enumerate(paths):
        at = datetime(2026, 3, 2, 9, tzinfo=UTC) + timedelta(hours=number)
        for position, step in enumerate(path.split()):
            event, role = WORDS[step]
            instant = at + timedelta(hours=3 * position)
            lines.append(f"case{number},{instant.isoformat()},{event},{role},{10 + number}.50,st {number}_{position}")
    file.write_text("\n".join(lines) + "\n")
    return file


def command(data: Path, store: Path, *more: str) -> list[str]:
    return [sys.executable, str(RUN), "--data", str(data), "--store", str(store), *more]


def play(data: Path, store: Path, *more: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    """Run the example to its end, or to the named fault."""
    environment = {**os.environ, "LONGCASE_FAULT": fault}
    return subprocess.run(
        command(data, store, *more), capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1800
    )


def reported(run: subprocess.CompletedProcess[str]) -> tuple[str, dict[str, Any]]:
    """Return the report's text and its figures, without the time it took."""
    assert run.returncode == 0, run.stderr
    text, _, last = run.stdout.strip().rpartition("\n")
    figures = json.loads(last)
    assert figures.pop("wall_s") >= 0
    return text, figures


def asked(store: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = connect(str(store))
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()


def verified(store: Path) -> list[str]:
    """Return what `longcase verify` and `longcase map --conform` find wrong in a store."""

    async def findings() -> list[str]:
        opened = await open_sqlite(str(store), Env(), inline=True, create=False)
        try:
            broken = [str(finding) async for finding in verify(opened)]
            conformance = await conform(opened)
            assert conformance.placed > 0
            return broken + [str(event) for event in [*conformance.off, *conformance.order]]
        finally:
            await opened.close()

    return asyncio.run(findings())


def test_every_kind_of_path_is_reported(tmp_path: Path) -> None:
    text, figures = reported(play(log_of(PATHS, tmp_path / "log.csv"), tmp_path / "cases.db"))
    assert figures == FIGURES
    assert list(figures) == list(FIGURES)
    assert "incidents" not in text


def test_the_report_of_a_store_can_be_printed_again(tmp_path: Path) -> None:
    store = tmp_path / "cases.db"
    text, figures = reported(play(log_of(PATHS, tmp_path / "log.csv"), store))
    line = [sys.executable, str(RUN.with_name("report.py")), "--store"]
    again = subprocess.run([*line, str(store)], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert again.stdout == f"{text}\n{json.dumps(figures)}\n"
    missing = subprocess.run([*line, str(tmp_path / "no.db")], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert missing.returncode == 1
    assert "no store at" in missing.stderr


def test_what_the_workflow_does_not_model_is_in_the_report_and_in_the_history(tmp_path: Path) -> None:
    store = tmp_path / "cases.db"
    text, _ = reported(play(log_of(PATHS, tmp_path / "log.csv"), store))
    moves = asked(
        store,
        "SELECT key, data ->> 'from', data ->> 'to', data ->> 'reason', actor "
        "FROM timeline WHERE what = 'moved' ORDER BY key",
    )
    assert moves == [
        ("case5", "approved", "review", "recorded: Declaration REJECTED by MISSING", "person:operator"),
        ("case6", "paying", "review", "recorded: Declaration REJECTED by MISSING", "person:operator"),
        ("case7", "returned", "approved", "recorded: Request Payment", "person:operator"),
        ("case8", "draft", "approved", "recorded: Request Payment", "person:operator"),
        ("case9", "approved", "paying", "recorded: Payment Handled", "person:operator"),
    ]
    for _, begin, to, reason, _ in moves:
        assert f"moved from {begin} to {to} by an operator: {reason}" in text
    assert asked(store, "SELECT key, data ->> 'signal' FROM timeline WHERE what = 'signal_refused'") == [
        ("case7", "taken-back")
    ]
    assert "refused by a case closed as paid: taken-back" in text


def test_every_step_stands_in_the_history_at_its_recorded_instant(tmp_path: Path) -> None:
    log, store = log_of(PATHS, tmp_path / "log.csv"), tmp_path / "cases.db"
    reported(play(log, store))
    recorded = {
        (case, event_id.replace(" ", "%20"), at.replace("+00:00", ".000000Z"))
        for case, at, _, _, _, event_id in (line.split(",") for line in log.read_text().splitlines()[1:])
    }
    kept = asked(
        store,
        "SELECT key, substr(data ->> 'id', instr(data ->> 'id', ':') + 1), at FROM timeline "
        "WHERE what IN ('signal_received', 'signal_refused') OR (what = 'interrupted' AND data ->> 'signal' <> '')",
    )
    assert len(kept) == len(recorded)
    assert set(kept) == recorded


def test_killed_at_any_point_it_ends_with_the_same_report(tmp_path: Path) -> None:
    log = log_of(PATHS, tmp_path / "log.csv")
    expected = reported(play(log, tmp_path / "uncrashed.db"))
    store = tmp_path / "cases.db"
    for fault in FAULTS:
        killed = play(log, store, fault=fault)
        assert killed.returncode == 137, killed.stderr
    assert reported(play(log, store)) == expected
    assert asked(store, "SELECT count(*) FROM timeline WHERE what = 'duplicate_ignored'") == [(0,)]
    history = "SELECT key, event, what, at FROM timeline ORDER BY key, event"
    assert asked(store, history) == asked(tmp_path / "uncrashed.db", history)
    assert verified(store) == []
    assert reported(play(log, store)) == expected  # nothing is left to do, nothing is done twice


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "case1,2026-03-02T09:00:00,Request Payment,UNDEFINED,1.00,e1",
            "line 2: '2026-03-02T09:00:00' has no time zone",
        ),
        ("case1,2026-03-02T09:00:00Z,Declaration EATEN by DOG,DOG,1.00,e1", "line 2: event 'Declaration EATEN by DOG'"),
    ],
)
def test_a_line_that_is_no_step_is_named(tmp_path: Path, line: str, told: str) -> None:
    log = tmp_path / "log.csv"
    log.write_text(f"case,at,event,by_role,amount,event_id\n{line}\n")
    run = play(log, tmp_path / "cases.db")
    assert run.returncode == 1
    assert told in run.stderr
    assert not (tmp_path / "cases.db").exists()


def test_a_store_of_another_log_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "cases.db"
    reported(play(log_of(PATHS[:2], tmp_path / "log.csv"), store))
    run = play(log_of(PATHS[:1], tmp_path / "other.csv"), store)
    assert run.returncode == 1
    assert "holds another log: case1 is not in this one" in run.stderr


@needs_data
def test_killed_in_the_middle_of_the_real_log_it_ends_with_the_same_report(tmp_path: Path) -> None:
    limit = ("--limit", "150")
    expected = reported(play(LOG, tmp_path / "uncrashed.db", *limit))
    store = tmp_path / "cases.db"
    with subprocess.Popen(
        command(LOG, store, *limit), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:  # ends with the process, which ends by itself if it is not killed
            if line.startswith("[####################"):
                run.send_signal(signal.SIGKILL)
                break
    assert run.returncode == -signal.SIGKILL
    assert asked(store, "SELECT count(*) FROM case_overview")[0][0] > 0
    assert reported(play(LOG, store, *limit)) == expected
    assert verified(store) == []
    assert expected[1]["cases"] == 150


@needs_data
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_log_gives_every_published_figure(tmp_path: Path) -> None:
    text, figures = reported(play(LOG, tmp_path / "cases.db"))
    assert figures == REAL_FIGURES
    assert "incidents" not in text
    assert verified(tmp_path / "cases.db") == []
    assert asked(tmp_path / "cases.db", "SELECT count(*) FROM timeline WHERE what = 'signal_unhandled'") == [(0,)]
