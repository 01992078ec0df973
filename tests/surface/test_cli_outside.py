"""What surrounds a command: a full disk behind its output, URLs no store has, cases nobody moves, unknown names."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.support.cli import Cli
from tests.surface.claims import claims

from longcase.cli.terminal import LONGEST_ERROR
from longcase.env import Env, VirtualClock
from longcase.store.sqlite.doctor import doctor
from longcase.store.symptom import Symptom
from longcase.testing import Simulation


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_an_answer_that_cannot_be_written_is_one_line_and_status_6(cli: Cli) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}')
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = cli.spawn("list", stdout=full)
    assert done.status == 6
    assert done.err.startswith("error: the answer cannot be written: No space left on device\n")
    assert "bug" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "words", [("list",), ("show", "claims/C-1"), ("worker",), ("dev",), ("start", "claims", '{"id": "C-1"}')]
)
def test_a_store_in_memory_is_refused(cli: Cli, words: tuple[str, ...]) -> None:
    error = cli.refused(2, *words, "--store", "sqlite:///:memory:").error
    assert "share a file" in error["message"]
    assert error["hint"] == "LONGCASE_DATABASE_URL=sqlite:///longcase.db"


def test_options_of_a_url_are_refused(cli: Cli) -> None:
    error = cli.refused(2, "list", "--store", "sqlite:///cases.db?mode=ro").error
    assert "?mode=ro" in error["message"]
    assert error["hint"] == "sqlite:///cases.db"


def test_a_case_that_no_worker_has_taken_up_waits_for_one(cli: Cli) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}')
    shown = cli.ok("show", "claims/C-1", "--json").json
    assert (shown["waiting_on"], shown["whose_move"], shown["since"]) == ("a worker", "desk", shown["started_at"])
    (row,) = cli.ok("list", "--waiting", "worker", "--json").json
    assert (row["waiting_on"], row["whose_move"], row["waiting_since"]) == ("a worker", "desk", row["started_at"])
    assert "a worker" in cli.ok("show", "claims/C-1").out


def test_doctor_counts_the_cases_that_wait_for_a_worker(tmp_path: Path) -> None:
    path = tmp_path / "cases.db"

    def worker_symptoms(at: datetime) -> list[Symptom]:
        return [one for one in doctor(str(path), Env(VirtualClock(at))) if one.name == "worker"]

    with Simulation([claims], path=path) as sim:
        for number in range(3):
            asyncio.run(sim.service.start(claims, {"id": f"C-{number}"}))  # accepted; nobody moves them
        began = sim.now
        (alive,) = worker_symptoms(began + timedelta(seconds=61))
        assert "no worker is alive" not in alive.message, "the simulation is one"
    (early,) = worker_symptoms(began + timedelta(seconds=59))
    assert (early.level, early.message) == ("ok", "no worker is alive, and nothing has waited for one for long")
    (found,) = worker_symptoms(began + timedelta(seconds=61))
    assert (found.level, found.hint) == ("warning", "longcase worker APP")
    assert found.message.startswith("3 cases of claims wait for a worker, the first since ")
    assert found.message.endswith("; no worker is alive")
    (stuck,) = [one for one in doctor(str(path), Env(VirtualClock(began))) if one.name == "stuck"]
    assert stuck.message == "no open case has lost what will move it", "that a worker must come is said above"


def test_an_unknown_workflow_is_named_with_the_near_ones(cli: Cli) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}')
    error = cli.refused(3, "list", "--workflow", "cliams").error
    assert (error["code"], error["hint"]) == ("workflow_not_found", "did you mean claims?")
    assert cli.refused(3, "list", "--workflow", "zzz").error["hint"] == "there: claims"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("amount=x", "/amount: expected a whole number, got 'x'"),
        ("ratio=half", "/ratio: expected a number, got 'half'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_by_the_fields_type(
    cli: Cli, sim: Simulation, word: str, message: str
) -> None:
    sim.start("claims", {"id": "C-1"})
    error = cli.refused(2, "set", "claims/C-1", word).error
    assert message in error["message"]
    assert "offset" not in error["message"]
    cli.ok("set", "claims/C-1", "name=x")


def test_a_huge_error_is_cut_on_the_terminal_and_whole_in_json(cli: Cli) -> None:
    body = '{"id": "C-1", ' + ", ".join(f'"unknown_field_{n}_{"x" * 60}": 1' for n in range(40)) + "}"
    whole = cli.refused(2, "start", "claims", body).error["message"]
    assert len(whole) > LONGEST_ERROR
    printed = cli("start", "claims", body).err
    assert whole[:LONGEST_ERROR] in printed
    assert "more characters: --json" in printed
    assert len(printed.split("\n\nhint:")[0]) < LONGEST_ERROR + 60
