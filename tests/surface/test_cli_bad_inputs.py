"""BAD-INPUTS at the CLI's and the Python API's doors, named by row: a stable code, a status, no traceback."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.cli import Cli

from longcase.errors import InvalidInput, UsageError
from longcase.testing import Simulation

START = ("start", "claims")
JSON_ROWS = [
    ("row_01_empty", b"", "invalid_json"),
    ("row_02_open_brace", b"{", "invalid_json"),
    ("row_03_trailing_bytes", b'{"id": "C-1"} x', "invalid_json"),
    ("row_04_bom", b'\xef\xbb\xbf{"id": "C-1"}', "invalid_json"),
    ("row_04_utf16", '{"id": "C-1"}'.encode("utf-16"), "invalid_json"),
    ("row_05_nan", b'{"id": "C-1", "ratio": NaN}', "non_finite_number"),
    ("row_06_infinity", b'{"id": "C-1", "ratio": -Infinity}', "non_finite_number"),
    ("row_07_1e400", b'{"id": "C-1", "ratio": 1e400}', "non_finite_number"),
    ("row_10_2_63", b'{"id": "C-1", "amount": 9223372036854775808}', "number_out_of_range"),
    ("row_11_5000_digits", b'{"id": "C-1", "amount": ' + b"9" * 5000 + b"}", "number_out_of_range"),
    ("row_13_nul", b'{"id": "C-1", "name": "\\u0000"}', "invalid_text"),
    ("row_13_nul_in_a_key", b'{"id": "C-1", "a\\u0000": 1}', "invalid_text"),
    ("row_14_lone_surrogate", b'{"id": "C-1", "name": "\\ud800"}', "invalid_text"),
    ("row_15_no_utf8", b'{"id": "C-1", "name": "\xff"}', "invalid_text"),
    ("row_16_overlong", b'{"id": "C-1", "name": "\xc0\x80"}', "invalid_text"),
    ("row_17_duplicate_key", b'{"id": "C-1", "amount":1,"amount":9}', "duplicate_key"),
    ("row_18_depth", b"[" * 100_000, "too_deep"),
    ("row_19_many_keys", b"{" + b",".join(b'"k%d":1' % n for n in range(200_000)) + b"}", "too_large"),
    ("row_20_too_big", b'{"id": "C-1", "name": "' + b"x" * 1_100_000 + b'"}', "too_large"),
]
JSON_IDS = [row[0] for row in JSON_ROWS]


@pytest.mark.parametrize(("row", "body", "reason"), JSON_ROWS, ids=JSON_IDS)
def test_rows_1_to_20_at_start(cli: Cli, row: str, body: bytes, reason: str) -> None:
    error = cli.refused(2, *START, "-", stdin=body).error
    assert (error["code"], error["details"]["reason"]) == ("invalid_input", reason)
    assert cli("list", "--json").out.strip() in ("", "[]")  # nothing was started


@pytest.mark.parametrize(("row", "body", "reason"), JSON_ROWS, ids=JSON_IDS)
@pytest.mark.parametrize("door", ["signal", "decide", "set-result"])
def test_rows_1_to_20_at_every_other_door(cli: Cli, row: str, body: bytes, reason: str, door: str) -> None:
    words = {
        "signal": ("signal", "claims/C-1", "noted", "-"),
        "decide": ("decide", "claims/C-1", "-"),
        "set-result": ("set-result", "claims/C-1", "-"),
    }[door]
    assert cli.refused(2, *words, stdin=body).error["details"]["reason"] == reason


def test_row_20_a_signal_has_its_own_cap(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1"})
    body = b'{"text": "' + b"x" * 300_000 + b'"}'
    assert cli.refused(2, "signal", "claims/C-1", "noted", "-", stdin=body).error["details"]["reason"] == "too_large"
    cli.ok(*START, "-", stdin=b'{"id": "C-2", "name": "' + b"x" * 300_000 + b'"}')


def test_rows_8_and_9_minus_zero_and_great_integers(cli: Cli) -> None:
    cli.ok(*START, '{"id": "C-1", "amount": 9007199254740993, "ratio": -0.0}')
    cli.ok(*START, '{"id": "C-2", "amount": 9223372036854775807}')
    shown = cli.ok("show", "claims/C-1", "--json")
    assert '"amount": 9007199254740993' in shown.out
    assert math.copysign(1, shown.json["object"]["ratio"]) == 1
    assert cli.ok("show", "claims/C-2", "--json").json["object"]["amount"] == 2**63 - 1


@pytest.mark.parametrize(
    ("row", "word", "reason"),
    [
        ("row_07", "amount=1e400", "non_finite_number"),
        ("row_10", "amount=9223372036854775808", "number_out_of_range"),
        ("row_13", 'name:="\\u0000"', "invalid_text"),
        ("row_15", "name=\udcff", "invalid_text"),
        ("row_17", 'tags=[{"a":1,"a":2}]', "duplicate_key"),
        ("row_25", "nmae=x", "does_not_fit"),
        ("row_26", 'amount="1"', "does_not_fit"),
        ("row_26", "amount=true", "does_not_fit"),
        ("row_40", "due=2026-02-30", "does_not_fit"),
    ],
)
def test_fields_set_on_the_command_line_keep_the_same_rules(
    cli: Cli, sim: Simulation, row: str, word: str, reason: str
) -> None:
    sim.start("claims", {"id": "C-1"})
    for words in (("set", "claims/C-1", word), ("correct", "claims/C-1", word, "--reason", "x")):
        assert cli.refused(2, *words).error["details"]["reason"] == reason
    assert len(cli.ok("history", "claims/C-1", "--json").lines) == 3


PYTHON_ROWS: list[tuple[str, Any, str]] = [
    ("row_05_nan", {"id": "C", "ratio": math.nan}, "non_finite_number"),
    ("row_06_infinity", {"id": "C", "ratio": math.inf}, "non_finite_number"),
    ("row_10_2_63", {"id": "C", "amount": 2**63}, "number_out_of_range"),
    ("row_11_5000_digits", {"id": "C", "amount": 9**5240}, "number_out_of_range"),
    ("row_12_money_as_a_float", {"id": "C", "price": 0.1}, "does_not_fit"),
    ("row_13_nul", {"id": "C", "name": "\x00"}, "invalid_text"),
    ("row_14_surrogate", {"id": "C", "name": "\ud800"}, "invalid_text"),
    ("row_18_depth", {"id": "C", "tags": [[[]] * 1]}, "does_not_fit"),
    ("row_25_unknown_field", {"id": "C", "extra": 1}, "does_not_fit"),
    ("row_26_wrong_type", {"id": "C", "amount": "1_000"}, "does_not_fit"),
    ("row_26_wrong_type", {"id": "C", "amount": True}, "does_not_fit"),
    ("row_27_missing_field", {"name": "x"}, "does_not_fit"),
    ("row_40_no_such_day", {"id": "C", "due": "2026-02-30"}, "does_not_fit"),
    ("row_41_no_zone", {"id": "C", "at": "2026-01-01T00:00:00"}, "does_not_fit"),
    ("row_42_year_10000", {"id": "C", "due": "10000-01-01"}, "does_not_fit"),
    ("row_43_week_date", {"id": "C", "due": "2026-W01-1"}, "does_not_fit"),
]


@pytest.mark.parametrize(("row", "body", "reason"), PYTHON_ROWS, ids=[row[0] for row in PYTHON_ROWS])
def test_rows_5_to_43_at_the_python_api(sim: Simulation, row: str, body: Any, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        sim.start("claims", body)
    assert caught.value.reason == reason
    assert sim.query("SELECT count(*) AS n FROM case_overview")[0]["n"] == 0


def test_row_12_money_is_text_and_stays_exact(cli: Cli) -> None:
    error = cli.refused(2, *START, '{"id": "C-1", "price": 0.1}').error
    assert (error["details"]["problems"][0][0], error["hint"]) == ("/price", 'send it as text: "0.1"')
    cli.ok(*START, '{"id": "C-1", "price": "0.10"}')
    cli.ok(*START, '{"id": "C-2", "price": 3}')
    assert cli.ok("show", "claims/C-1", "--json").json["object"]["price"] == "0.10"


def test_rows_25_to_27_name_each_place_by_json_pointer(cli: Cli) -> None:
    error = cli.refused(2, *START, '{"amount": "1", "extra": 1}').error
    assert {place for place, _ in error["details"]["problems"]} == {"/amount", "/extra", "/id"}


KEYS = ["", " ", "x" * 300, "../../x", "a/b", "a%2Fb", "a\nb", "a\u202eb", "a\u200bb", "\u0410BC"]


@pytest.mark.parametrize("key", KEYS)
def test_rows_28_to_31_business_keys(cli: Cli, sim: Simulation, key: str) -> None:
    with pytest.raises(UsageError, match="business key"):
        sim.start("claims", {"id": key})
    import json

    error = cli.refused(2, *START, json.dumps({"id": key})).error
    assert error["code"] == "usage"
    assert "\u202e" not in error["message"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "a\nb", "\u00e9", "x" * 10_000])
def test_rows_28_and_34_idempotency_keys(cli: Cli, key: str) -> None:
    assert "idempotency key" in cli.refused(2, *START, '{"id": "C-1"}', "--key", key).error["message"]


def test_row_35_signal_to_an_unknown_case(cli: Cli, sim: Simulation) -> None:
    assert cli.refused(3, "signal", "claims/C-1", "noted", '{"text": "x"}').error["code"] == "case_not_found"


def test_row_36_signal_to_a_closed_case_stands_in_its_history(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    sim.decide("claims/C-1", "rejected", by="ann")
    error = cli.refused(4, "signal", "claims/C-1", "noted", '{"text": "x"}').error
    assert error["code"] == "case_closed"
    assert "closed: rejected" in error["message"]
    assert cli.ok("history", "claims/C-1", "--json").lines[-1]["type"] == "signal_refused"


def test_row_39_a_signal_nobody_declared(cli: Cli, sim: Simulation) -> None:
    sim.start("claims", {"id": "C-1"})
    error = cli.refused(2, "signal", "claims/C-1", "notde", "{}").error
    assert (error["code"], error["hint"]) == ("unknown_signal", "declared: noted, dropped")


@pytest.mark.parametrize("text", ["-1", "-1d", "1e300d", "P1M", "P1Y", "11000d", ""])
def test_rows_44_to_46_spans(text: str) -> None:
    from longcase.model.span import parse_span

    with pytest.raises(UsageError):
        parse_span(text)


# -- rows 89 to 92: the command line itself ---------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lisst",), "Did you mean 'list'"),
        (("list", "--overdeu"), "--overdeu"),
        (("show",), "Missing argument 'CASE'"),
        (("list", "--limit", "many"), "--limit"),
        (("list", "--limit", "0"), "limit 0, expected 1 to 1000"),
        (("list", "--limit", "1000000000"), "expected 1 to 1000"),
        (("list", "--status", "shut"), "expected open, closed or all"),
        (("show", "C-1"), "expected workflow/key"),
        (("show", "claims/a b"), "business key"),
        ((*START,), "no business object"),
        ((*START, "[]"), "expected a JSON object, got a list"),
        ((*START, "{}", "--csv", "x.csv"), "--csv goes with neither"),
        (("set", "claims/C-1", "iban"), "'iban' sets no field"),
        (("retry",), "Missing argument"),
        (("cancel", "claims/C-1"), "--reason"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_row_89_a_call_that_is_wrong_is_status_2(cli: Cli, sim: Simulation, words: tuple[str, ...], said: str) -> None:
    assert said in cli.refused(2, *words).error["message"]
    plain = cli(*words)
    assert plain.status == 2
    assert plain.err.startswith("error: ")
    assert plain.out == ""


def test_row_89_the_workflows_module(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (cli.folder / "raises_claims.py").write_text("x = 1\nraise ValueError('not today')\n")
    (cli.folder / "empty_claims.py").write_text("")
    (cli.folder / "no-name.py").write_text("")
    body = '{"id": "C-1"}'
    for app, status, said in (
        ("nowhere.py", 3, "there is no file nowhere.py"),
        ("empty_claim.py", 3, "did you mean empty_claims.py?"),
        ("no_such_module_at_all", 3, "there is no module"),
        ("raises_claims.py", 2, "not today"),
        ("empty_claims.py", 2, "declares no workflow"),
        ("no-name.py", 2, "rename the file"),
        (".", 2, "is a directory"),
        ("a b", 2, "neither a path nor a module's name"),
    ):
        error = cli.refused(status, *START, body, "--app", app).error
        assert said in error["message"] + error.get("hint", ""), (app, error)
    monkeypatch.delenv("LONGCASE_APP")
    assert "--app" in cli.refused(2, *START, body).error["hint"]
    assert not cli.db.exists()


def test_row_89_a_workflow_that_is_not_loaded_is_not_found(cli: Cli) -> None:
    assert cli.refused(3, "start", "claim", '{"id": "C-1"}').error["code"] == "workflow_not_found"
    (cli.folder / "rows.csv").write_text("id\nC-1\n")
    assert "did you mean claims?" in cli.refused(3, "start", "claim", "--csv", "rows.csv").error["hint"]


def test_row_93_the_stores_url(cli: Cli) -> None:
    error = cli.refused(2, "list", "--store", "mysql://me:secret@db/x").error
    assert "me:***@db" in error["message"]
    assert "secret" not in str(error)
    assert cli.refused(2, "list", "--store", f"sqlite:///{cli.folder}").error["code"] == "usage"
    (cli.folder / "notes.db").write_text("these are no cases")
    assert cli.refused(6, "list", "--store", f"sqlite:///{cli.folder}/notes.db").error["code"] == "store_corrupt"
    assert cli.refused(6, "list").error["code"] == "store_unavailable"
    assert cli.refused(6, "list", "--store", "sqlite:////no/such/folder/x.db").error["code"] == "store_unavailable"


@pytest.mark.parametrize(
    ("name", "content", "status", "said"),
    [
        ("missing.csv", None, 3, "there is no file"),
        (".", None, 2, "is a directory"),
        ("empty.csv", b"", 2, "is empty"),
        ("latin.csv", b"id,name\nC-1,\xe9\n", 2, "line 2: byte 0xe9 is no UTF-8"),
        ("typo.csv", b"id,nmae\nC-1,x\n", 2, "/nmae: unknown field"),
        ("twice.csv", b"id,id\nC-1,x\n", 2, "twice"),
        ("nokey.csv", b"name\nx\n", 2, "no column id"),
        ("quote.csv", b'"id\n', 2, "line 1"),
    ],
)
def test_row_90_files(cli: Cli, name: str, content: bytes | None, status: int, said: str) -> None:
    if content is not None:
        (cli.folder / name).write_bytes(content)
    assert said in cli.refused(status, *START, "--csv", name).error["message"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_row_90_a_file_without_the_right_to_read_it(cli: Cli) -> None:
    (cli.folder / "rows.csv").write_text("id\nC-1\n")
    (cli.folder / "rows.csv").chmod(0)
    assert cli.refused(5, *START, "--csv", "rows.csv").error["code"] == "file_refused"


def test_row_91_stdin_closed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    for words in ((*START, "-"), (*START, "--csv", "-"), ("decide", "claims/C-1", "-")):
        assert "no standard input" in cli.refused(2, *words).error["message"]


def test_a_bug_is_one_line_and_a_traceback_only_on_demand(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.ok(*START, '{"id": "C-1"}')
    (cli.folder / "cases.db-workers").mkdir(exist_ok=True)
    import longcase.service.service as door

    def broken(*words: object) -> object:
        raise ZeroDivisionError("the sky fell")

    monkeypatch.setattr(door, "waits", broken)
    error = cli.refused(70, "show", "claims/C-1").error
    assert error["message"] == "a bug of Longcase: ZeroDivisionError: the sky fell"
    assert "LONGCASE_DEBUG=1" in error["hint"]
    monkeypatch.setenv("LONGCASE_DEBUG", "1")
    assert "Traceback" in cli("show", "claims/C-1").err


def test_the_file_with_the_workflows_may_lie_in_a_package(cli: Cli) -> None:
    package = cli.folder / "claimswork" / "inner"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "names.py").write_text("NAME = 'packed'\n")
    source = (Path(__file__).parent / "claims.py").read_text()
    (package / "flow.py").write_text(
        "from .names import NAME\n"
        + source.replace('"claims"', "NAME").replace("from __future__ import annotations\n", "")
    )
    assert cli.ok("describe", "claimswork/inner/flow.py", "--json").json["module"] == "claimswork.inner.flow"
    assert cli.ok("describe", "claimswork.inner.flow", "--json").json["workflows"][0]["name"] == "packed"


@pytest.mark.parametrize("number", ["-1", "9223372036854775808", "99999999999999999999"])
def test_a_number_that_no_case_or_event_has_is_refused(cli: Cli, number: str) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}')
    for words in (("list", "--after", number), ("history", "claims/C-1", "--after", number)):
        assert "--after" in cli.refused(2, *words).error["message"]
    assert cli.ok("list", "--after", "9223372036854775807").out == "no open case\n"


def test_a_backup_that_is_not_there_is_named_as_one(cli: Cli) -> None:
    error = cli.refused(3, "restore", "monday.db").error
    assert (error["code"], error["message"], error["hint"]) == (
        "file_not_found", "there is no backup at monday.db", "name the backup's file: longcase restore FILE",
    )  # fmt: skip


def test_rows_89_92_what_is_not_found_ends_with_3_whatever_command_names_it(cli: Cli) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}')
    error = cli.refused(3, "backup", "there/is/no/folder.db").error
    assert (error["code"], error["hint"]) == ("file_not_found", f"mkdir -p {cli.folder / 'there/is/no'}")
    assert cli.refused(3, "keep", "clams").error["hint"] == "did you mean claims?"
    assert cli.ok("keep", "claims").out == "claims: for ever\n"
    for words in (("verify", "--file", "no.jsonl"), ("start", "claims", "--csv", "no.csv")):
        assert cli.refused(3, *words).error["code"] == "file_not_found"
    assert cli.refused(3, "check", "no.py").error["code"] == "app_not_found"
