"""Every command, from start to repair to keeping the store; `--json` on each of them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from tests.support.cli import CLAIMS, Cli

from longcase import days
from longcase.testing import Simulation

pytestmark = pytest.mark.usefixtures("store_url")  # on every kind of store


def test_start_answers_with_the_case_and_again_with_the_one_that_is_there(cli: Cli) -> None:
    assert cli.ok("start", "claims", '{"id": "C-1", "amount": 5}').out.startswith("claims/C-1: started\n")
    assert cli.ok("start", "claims", '{"id": "C-1", "amount": 6}', "--json").json == {
        "case": "claims/C-1", "case_no": 1, "did": "existing", "status": "open", "differs": ["amount"],
    }  # fmt: skip


def test_start_reads_stdin(cli: Cli) -> None:
    assert cli.ok("start", "claims", "-", "--json", stdin=b'{"id": "C-9"}\r\n').json["case"] == "claims/C-9"


def test_start_again_begins_anew_after_a_close(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    sim.decide("claims/C-1", "rejected", by="ann")
    assert cli.ok("start", "claims", '{"id": "C-1"}', "--json").json["status"] == "closed"
    assert cli.ok("start", "claims", '{"id": "C-1"}', "--again", "--json").json["did"] == "started"


def test_rows_32_33_an_idempotency_key_with_another_body_is_a_conflict(cli: Cli) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}', "--key", "k1")
    assert cli.ok("start", "claims", '{"id": "C-1"}', "--key", "k1", "--json").json["did"] == "existing"
    error = cli.refused(4, "start", "claims", '{"id": "C-2"}', "--key", "k1").error
    assert error["code"] == "idempotency_conflict"


def test_signal_is_kept_deduplicated_and_said(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1"})
    assert cli.ok("signal", "claims/C-1", "noted", '{"text": "hello"}', "--key", "m1").out == "claims/C-1: accepted\n"
    again = cli.ok("signal", "claims/C-1", "noted", '{"text": "hello"}', "--key", "m1", "--json").json
    assert again["duplicate"] is True
    assert cli.ok("show", "claims/C-1", "--json").json["pending_inputs"] == 1
    sim.run()
    assert cli.ok("show", "claims/C-1", "--json").json["kept_signals"] == ["noted"]


def test_set_takes_text_for_text_fields_and_json_for_others(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1"})
    cli.ok("set", "claims/C-1", "iban=123", "amount=250", 'tags=["a"]', 'name:="x"', "due=2026-02-01")
    shown = cli.ok("show", "claims/C-1", "--json").json["object"]
    assert {n: shown[n] for n in ("iban", "amount", "tags", "name", "due")} == {
        "iban": "123", "amount": 250, "tags": ["a"], "name": "x", "due": "2026-02-01",
    }  # fmt: skip
    sim.run()
    assert cli.ok("show", "claims/C-1", "--json").json["stage"] == "review"


def test_decide_counts_the_quorum_and_a_second_answer_gets_a_clear_reply(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    assert cli.ok("decide", "claims/C-1", "approved").out == "claims/C-1: recorded; 1 more needed\n"
    assert "Pay it? (1 of 2)" in cli.ok("tasks").out
    assert list(cli.ok("tasks", "--json").json[0]["answered"].values()) == ["approved"]
    assert cli.ok("decide", "claims/C-1", "approved", "--as", "bob").out == "claims/C-1: decided\n"
    error = cli.refused(4, "decide", "claims/C-1", "rejected", "--as", "bob").error
    assert error["code"] == "already_decided"
    assert "already decided by bob at 2026-01-05" in error["message"]


def test_decide_of_somebody_who_is_not_asked_is_refused_and_recorded(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    assert cli.refused(5, "decide", "claims/C-1", "approved", "--as", "eve").error["code"] == "refused"
    assert cli.ok("history", "claims/C-1", "--json").lines[-1]["type"] == "vote_refused"


def test_decide_on_something_else_than_was_shown_is_stale(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    digest = cli.ok("tasks", "--json").json[0]["digest"]
    cli.ok("correct", "claims/C-1", "amount=900", "--reason", "typo")
    assert cli.refused(4, "decide", "claims/C-1", "approved", "--shown", digest).error["code"] == "stale"


def test_decide_after_the_expiry_says_what_stands(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    sim.advance(days(3))
    error = cli.refused(4, "decide", "claims/C-1", "approved").error
    assert error["code"] == "already_expired"
    assert "rejected stands" in error["message"]


def test_the_repairs_of_an_incident(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 5, "iban": "NL1"})
    assert cli.refused(5, "skip", "claims/C-1").error["hint"].startswith("longcase set-result claims/C-1")
    assert cli.ok("retry", "claims/C-1", "--reason", "the bank is back").out == "claims/C-1: retried activity_failed\n"
    sim.run()
    assert "incident" in cli.ok("show", "claims/C-1").out
    wrong = cli.refused(2, "set-result", "claims/C-1", "17").error
    assert wrong["code"] == "invalid_input"
    assert cli.ok("set-result", "claims/C-1", '"R-1"', "--reason", "by phone", "--json").json["duplicate"] is False
    sim.run()
    assert cli.ok("show", "claims/C-1", "--json").json["close"] == {"name": "paid", "result": "R-1", "reason": ""}


def test_a_correction_names_the_call_that_was_called_with_it_and_redo_calls_it_anew(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 5, "iban": "NL1"})
    assert cli.refused(5, "redo", "claims/C-1").error["message"].startswith("claims/C-1: there is nothing to redo")
    told = cli.ok("correct", "claims/C-1", "amount=7", "--reason", "typo").out
    assert told == "claims/C-1: corrected: amount; pay was called with what it was before: longcase show claims/C-1\n"
    shown = cli.ok("show", "claims/C-1", "--store", cli.url).out
    assert "pay (2.c1) was called with amount=5, corrected to 7, by person:ann on " in shown
    assert f"; redo: longcase redo --store {shlex.quote(cli.url)} claims/C-1\n" in shown
    (marked,) = cli.ok("show", "claims/C-1", "--json").json["input_corrected"]
    assert (marked["call"], marked["activity"], marked["by"]) == ("2.c1", "pay", "person:ann")
    assert marked["changes"] == [{"at": ["amount"], "field": "amount", "before": 5, "after": 7}]
    assert "pay (2.c1) was called with amount=5, corrected to 7" in cli.ok("history", "claims/C-1").out
    assert cli.refused(2, "redo", "claims/C-1", "--with", '{"sum": 7}').error["hint"] == "its arguments: iban, amount"
    assert cli.refused(2, "redo", "claims/C-1", "--with", "[]").error["code"] == "invalid_input"
    for given, like in (("iban=NL2", '{"iban": "NL2"}'), ("amount=5", '{"amount": 5}'), ("5", '{"iban": "NL2"}')):
        hint = cli.refused(2, "redo", "claims/C-1", "--with", given).error["hint"]
        assert hint == f"like --with '{like}'"
    assert cli.refused(2, "redo", "claims/C-1", "--with", '{"iban": 5}').error["hint"] == 'in quotes: "5"'
    assert cli.refused(5, "redo", "claims/C-1", "--call", "pax").error["hint"] == "name one: --call 2.c1"
    like = cli.refused(2, "correct", "claims/C-1", "amount:=abc", "--reason", "typo").error["hint"]
    assert like == "like amount=70"
    assert cli.refused(2, "redo", "claims/C-1", "--reason", " ").error["code"] == "usage"
    answer = cli.ok(
        "redo", "claims/C-1", "--call", "pay", "--with", '{"iban": "NL2"}', "--reason", "typo", "--json"
    ).json
    assert answer["did"] == 'pay is called with iban="NL2", amount=7'
    sim.run()
    assert "had pay called anew with iban=NL2, amount=7: typo" in cli.ok("history", "claims/C-1").out
    assert [i["call"] for i in cli.ok("show", "claims/C-1", "--json").json["incidents"].values()] == ["2.c1-redo1"]


def test_move_restart_correct_and_cancel(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1"})
    cli.ok("move", "claims/C-1", "review", "--reason", "iban by mail")
    sim.run()
    assert cli.ok("show", "claims/C-1", "--json").json["stage"] == "review"
    cli.ok("restart", "claims/C-1", "--reason", "ask again")
    sim.run()
    assert cli.ok("show", "claims/C-1", "--json").json["visit"] == 3
    assert cli.ok("correct", "claims/C-1", "amount=7", "--reason", "typo").out == "claims/C-1: corrected: amount\n"
    corrected = cli.ok("history", "claims/C-1", "--json").lines[-1]
    assert (corrected["actor"], corrected["channel"]) == ("person:ann", "cli")
    assert (corrected["data"]["before"], corrected["data"]["reason"]) == ({"amount": 0}, "typo")
    cli.ok("cancel", "claims/C-1", "--reason", "withdrawn")
    sim.run()
    assert cli.ok("show", "claims/C-1", "--json").json["close"]["name"] == "cancelled"
    assert cli.refused(4, "cancel", "claims/C-1", "--reason", "again").error["code"] == "case_closed"


def test_move_to_a_stage_that_is_not_there(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1"})
    assert "intake, review, payment" in cli.refused(2, "move", "claims/C-1", "reviwe", "--reason", "x").error["hint"]


@pytest.mark.parametrize(
    ("person", "actor"),
    [("bob", "person:bob"), ("service:crm", "service:crm"), ("Zoë@x", "person:Zoë@x")],
)
def test_who_acts(cli: Cli, person: str, actor: str) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}', "--as", person)
    assert cli.ok("history", "claims/C-1", "--json").lines[0]["actor"] == actor


def test_who_acts_is_the_user_of_the_machine_where_nobody_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGCASE_ACTOR")
    monkeypatch.setenv("LOGNAME", "carla")
    cli.ok("start", "claims", '{"id": "C-1"}')
    assert cli.ok("history", "claims/C-1", "--json").lines[0]["actor"] == "person:carla"
    assert cli.refused(2, "start", "claims", '{"id": "C-2"}', "--as", "a b").error["code"] == "usage"


# -- definitions -----------------------------------------------------------------------------------


def test_check_of_a_good_module_prints_nothing(cli: Cli) -> None:
    assert cli.ok("check", str(CLAIMS)).out == ""
    assert cli.ok("check", "--json").json == []


def test_check_prints_file_line_code_and_mend_of_everything_at_once(cli: Cli) -> None:
    source = CLAIMS.read_text().replace(
        "    receipt = await pay(", "    import time; time.sleep(1)\n    receipt = await pay("
    )
    (cli.folder / "bad_claims.py").write_text(source.replace('return claims.close("paid", result=receipt)', "receipt"))
    result = cli("check", "bad_claims.py")
    assert result.status == 2
    assert "bad_claims.py:" in result.out
    assert "stage_falls_off" in result.out
    assert {finding["severity"] for finding in cli("check", "bad_claims.py", "--json").json} == {"error"}


def test_check_of_a_module_that_cannot_be_imported_is_a_finding(cli: Cli) -> None:
    (cli.folder / "broken_claims.py").write_text("import nowhere_to_be_found\n")
    result = cli("check", "broken_claims.py", "--json")
    assert result.status == 2
    assert [(finding["code"], finding["line"]) for finding in result.json] == [("not_importable", 1)]


def test_row_B2_describe_prints_input_output_effect_owner_and_policies(cli: Cli) -> None:
    out = cli.ok("describe").out
    for words in (
        "activity pay: Pay the claim.", "iban: str, amount: int", "output", "repeatable", "desk", "bank",
        "at most 1 attempt,", "start-to-close 5 minutes", "workflow claims: Claim by id",
        "on dropped: drop, owner desk", "decision is_small: Is it small?", "P-1 v1",
    ):  # fmt: skip
        assert words in out, words
    one = cli.ok("describe", str(CLAIMS), "pay", "--json").json
    assert [activity["name"] for activity in one["activities"]] == ["pay"]
    assert one["workflows"] == []
    assert one["activities"][0]["input"]["amount"] == {"type": "integer"}


def test_describe_says_that_an_effect_can_be_verified(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "paying.py").write_text(
        "from longcase import Team, activity\n"
        "async def was_paid() -> int: ...\n"
        "@activity(owner=Team('desk'), effect='once', verify=was_paid)\n"
        "async def pay() -> int: ...\n"
    )
    assert "once, verified\n" in cli.ok("describe", str(tmp_path / "paying.py")).out


def test_map_as_text_mermaid_and_json(cli: Cli) -> None:
    assert "pay" in cli.ok("map").out
    assert cli.ok("map", "--mermaid").out.startswith("flowchart")
    (one,) = cli.ok("map", str(CLAIMS), "--json").json
    assert one["workflow"] == "claims"
    assert len(one["fingerprint"]) == 64


@pytest.mark.only_sqlite
def test_map_conform_finds_every_event_on_its_map_and_one_that_is_not(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    sim.decide("claims/C-1", "approved", by="ann")
    sim.decide("claims/C-1", "returned", by="bob")
    sim.start("claims", {"id": "C-2", "amount": 5, "iban": "NL1"})
    sim.signal("claims/C-2", "dropped", {"text": "no"})
    found = cli.ok("map", "--conform", "--json").json
    assert (found["cases"], found["off_map"], found["out_of_order"]) == (2, 0, 0), found
    assert found["placed"] > 10
    sim._do(sim._app.store._committer.run(lambda tx: tx.execute("DELETE FROM map_nodes WHERE node LIKE '%pay'")))  # type: ignore[attr-defined]
    result = cli("map", "--conform", "--json")
    assert result.status == 5
    assert result.json["off_map"] > 0


# -- keeping ---------------------------------------------------------------------------------------


@pytest.mark.only_sqlite
def test_row_G2_a_status_edited_by_hand_is_named_and_rebuilt(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1"})
    assert cli.ok("verify").out == "1 case, 0 findings\n"
    sim._do(sim._app.store._committer.run(lambda tx: tx.execute("UPDATE cases SET stage = 'payment'")))  # type: ignore[attr-defined]
    result = cli("verify")
    assert result.status == 6
    assert "I3: claims/C-1 (case 1)" in result.out
    assert result.err == "hint: longcase rebuild claims/C-1\n"
    assert cli.ok("rebuild", "--json").json == {"rebuilt": ["claims/C-1"]}
    assert cli.ok("verify", "--json").json == {"cases": 1, "findings": [], "count": 0}


@pytest.mark.only_sqlite
def test_backup_and_restore(cli: Cli) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}')
    cli.ok("backup", "kept.db")
    cli.ok("start", "claims", '{"id": "C-2"}')
    assert "--force" in cli.refused(2, "backup", "kept.db").error["hint"]
    assert "--force" in cli.refused(2, "restore", "kept.db").error["hint"]
    aside = cli.ok("restore", "kept.db", "--force", "--json").json["set_aside"]
    assert Path(aside).is_file()
    assert [row["case"] for row in cli.ok("list", "--json").json] == ["claims/C-1"]


@pytest.mark.only_sqlite
def test_doctor_and_migrate(cli: Cli) -> None:
    assert cli("doctor").status == 6
    cli.ok("start", "claims", '{"id": "C-1"}')
    assert {symptom["level"] for symptom in cli.ok("doctor", "--json").json} <= {"ok", "warning"}
    assert cli.ok("migrate", "--check").out == "the schema is this release's; nothing to do\n"
    assert cli.ok("migrate", "--plan", "--json").json == {"missing": []}
    assert cli.ok("migrate", "--json").json == {"applied": []}


# -- the frame -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "worker"])
@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("import sys; sys.exit(0)", 2, "ends the program while it is imported: SystemExit: 0"),
        ("import sys; sys.exit('bye')", 2, "ends the program while it is imported: SystemExit: bye"),
        ("\0", 2, "source code string cannot contain null bytes"),
    ],
)
def test_a_module_that_ends_the_program_or_is_none_is_told_as_such(
    cli: Cli, command: str, text: str, status: int, said: str
) -> None:
    (cli.folder / "odd.py").write_text(text)
    told = cli(command, "odd.py")
    assert told.status == status
    assert said in told.out + told.err
    assert "importlib" not in told.out + told.err


def test_a_file_that_is_no_module_is_named_as_it_is(cli: Cli) -> None:
    (cli.folder / "notes.txt").write_text("x")
    assert "is no Python file" in cli.refused(2, "check", "./notes.txt").error["message"]


def test_a_start_of_a_workflow_that_is_misspelt_names_the_near_one(cli: Cli) -> None:
    for words in (("start", "cliams", "{}"), ("signal", "cliams/1", "x"), ("set", "cliams/1", "name=x")):
        error = cli.refused(3, *words).error
        assert error["hint"] == "did you mean claims?"


def test_without_a_command_the_help_is_printed_and_the_status_is_that_of_a_wrong_call(cli: Cli) -> None:
    told = cli()
    assert (told.status, told.err) == (2, "")
    assert "Usage: longcase [OPTIONS] COMMAND" in told.out


def test_every_command_takes_json_as_app_and_store(cli: Cli) -> None:
    import typer

    from longcase.cli.main import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == {
        "dev", "worker", "workers", "start", "list", "show", "history", "signal", "set", "tasks", "decide", "retry",
        "redo", "skip", "set-result", "move", "restart", "correct", "cancel", "check", "deploy", "describe", "map",
        "verify", "rebuild", "doctor", "backup", "restore", "migrate", "keep", "export", "purge",
    }  # fmt: skip
    for command in commands.values():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--as", "--app", "--store"} <= options, command.name
        assert command.help, command.name


def test_version_and_module(cli: Cli) -> None:
    assert cli.ok("--version").out == "longcase 0.1.0\n"
    assert cli.spawn("--version").out == "longcase 0.1.0\n"


def test_light_commands_import_no_terminal_library_and_no_compiler(cli: Cli) -> None:
    code = (
        "import sys; from longcase.cli.main import run_command; run_command(['list', '--json']);"
        "print([m for m in ('rich.table', 'rich.progress', 'longcase.model.check', 'longcase.insight.conform',"
        " 'longcase.cli.csv_import') if m in sys.modules])"
    )
    cli.ok("start", "claims", '{"id": "C-1"}')
    import os
    import subprocess
    import sys

    from tests.support.cli import SOURCE

    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.splitlines()[-1] == "[]"
    assert json.loads(out.splitlines()[0])[0]["case"] == "claims/C-1"


def test_the_store_may_be_named_as_a_file(cli: Cli) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}', "--store", "other.db")
    assert [row["case"] for row in cli.ok("list", "--json", "--store", "sqlite:///other.db").json] == ["claims/C-1"]
    assert not cli.db.exists()


def test_every_command_that_a_hint_names_is_there() -> None:
    import re

    import typer
    from tests.support.cli import SOURCE

    from longcase.cli.main import app

    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = {
        (path.name, word)
        for path in (Path(SOURCE) / "longcase").rglob("*.py")
        for word in re.findall(r"[\"'`]longcase ([a-z][a-z-]+)", path.read_text("utf-8"))
    }
    assert {(file, word) for file, word in named if word not in commands} == set()
