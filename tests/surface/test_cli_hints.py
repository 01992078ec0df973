"""Every error that a caller can cause ends with its mend."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cli import CLAIMS, SOURCE, Cli

from longcase.testing import Simulation

PACKAGE = Path(SOURCE) / "longcase"
# Nobody but Longcase itself can cause these: a promise that is broken, and what a stage is told of an activity.
NO_CALLERS_FAULT = {"BugError", "ActivityFailed"}
# Raised for numbers that no caller gives: they come out of the store's own rows.
INSIDE = {"no case has the number", "has no event", "needs a key"}


def errors() -> set[str]:
    """Return the names of our error classes, wherever they are declared."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    found = {"LongcaseError"}
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found - NO_CALLERS_FAULT


def without_hint(source: str, names: set[str]) -> Iterator[str]:
    """Yield the calls of those classes that give no hint."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            given = [keyword for keyword in node.keywords if keyword.arg in ("hint", None)]
            empty = [k for k in given if isinstance(k.value, ast.Constant) and not k.value.value]
            if not given or empty:
                yield f"{node.lineno}: {ast.unparse(node)}"


def test_every_error_is_raised_with_its_mend() -> None:
    names = errors()
    assert len(names) > 30
    bare = [
        f"{path.relative_to(PACKAGE)}:{found}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for found in without_hint(path.read_text("utf-8"), names)
        if not any(inside in found for inside in INSIDE)
    ]
    assert bare == []


@pytest.mark.parametrize("call", ["UsageError('x')", "UsageError('x', hint='')"])
def test_an_error_without_a_mend_is_found(call: str) -> None:
    assert len(list(without_hint(f"raise {call}", errors()))) == 1


@pytest.mark.parametrize(
    ("status", "words", "hint"),
    [
        (2, ("start", "claims", "{id: 1}"), "keys and texts in double quotes"),
        (2, ("start", "claims", "[]"), """like '{"id": "C-1"}'"""),
        (2, ("start", "claims", '{"id": "C-9", "id": "C-8"}'), "keep one of them"),
        (2, ("start", "claims", '{"id": "C-9", "amuont": 1}'), "did you mean amount?"),
        (2, ("start", "claims", '{"id": "C-9", "zzz": 1}'), "its fields: id, name, amount"),
        (2, ("start", "claims", "{}"), 'add "id"'),
        (2, ("start", "claims", '{"idd": "C-9"}'), "did you mean id?"),
        (2, ("start", "claims", '{"id": "C-9", "amount": "x"}'), "longcase describe --json"),
        (2, ("set", "claims/C-1", "amount=much"), "like amount=70"),
        (2, ("set", "claims/C-1", "tags=a"), """like tags:='["a", "b"]'"""),
        (2, ("start", "claims", '{"id": "C-9", "amount": "7"}'), 'without quotes: "amount": 7'),
        (2, ("start", "claims", '{"id": "C-9", "name": 7}'), 'in quotes: "name": "7"'),
        (2, ("start", "claims"), """longcase start claims '{"id": "C-1"}'"""),
        (2, ("show", "C-1"), "longcase list"),
        (3, ("export", "x.jsonl", "-w", "cliams"), "did you mean claims?"),
        (3, ("map", "--conform", "-w", "cliams"), "did you mean claims?"),
        (2, ("start", "claims", "--csv", "semicolons.csv"), "id,name,amount"),
        (2, ("start", "claims", "--csv", "utf16.csv"), "iconv -f UTF-16 -t UTF-8 utf16.csv > utf8.csv"),
        (2, ("start", "claims", "--csv", "latin.csv"), "iconv -f WINDOWS-1252 -t UTF-8 latin.csv > utf8.csv"),
        (2, ("list", "--stage", "b\udcfcro"), "locale"),
        (2, ("list", "--as", "b\udcfcro"), "locale"),
        (3, ("start", "claims", "{}", "--app", "clams"), "did you mean claims.py?"),
        (3, ("start", "claims", "--csv", "row.csv"), "did you mean rows.csv?"),
        (3, ("start", "claims", "--csv", "no/such.csv"), "its folder is not there either"),
        (2, ("start", "claims", "--csv", "."), "ls ."),
        (2, ("start", "claims", "--csv", "broken.csv"), "stands in quotes"),
        (3, ("start", "claims", "--csv", "rows.csv", "--results", "no/out.csv"), "mkdir -p no"),
        (3, ("check", "nofile.py"), "ls ."),
        (3, ("check", "clams.py"), "did you mean claims.py?"),
        (3, ("verify", "--file", "nofile.jsonl"), "ls ."),
        (2, ("verify", "--file", "."), "ls ."),
        (6, ("verify", "--file", "rows.csv"), "longcase export"),
        (4, ("signal", "claims/C-2", "noted", '{"text": "x"}'), "longcase history claims/C-2"),
        (4, ("decide", "claims/C-2", "approved", "--as", "bob"), "longcase history claims/C-2"),
        (5, ("decide", "claims/C-3", "approved", "--as", "eve"), "longcase tasks --case claims/C-3"),
    ],
)
def test_the_mend_of_a_wrong_call(cli: Cli, sim: Simulation, status: int, words: tuple[str, ...], hint: str) -> None:
    sim.start("claims", {"id": "C-1"})
    for key in ("C-2", "C-3"):
        sim.start("claims", {"id": key, "amount": 250, "iban": "NL1"})
    sim.decide("claims/C-2", "rejected", by="ann")
    sim.decide("claims/C-3", "approved", by="ann")
    (cli.folder / "rows.csv").write_text("id\nC-7\n")
    (cli.folder / "broken.csv").write_text('"id\n')
    (cli.folder / "semicolons.csv").write_text("id;amount\nC-7;1\n")
    (cli.folder / "utf16.csv").write_text("id\nC-7\n", encoding="utf-16")
    (cli.folder / "latin.csv").write_text("id,name\nC-7,Zoë\n", encoding="cp1252")
    (cli.folder / "claims.py").write_text("")
    assert hint in cli.refused(status, *words).error["hint"]


def test_an_answer_after_the_expiry_says_where_to_look(cli: Cli, sim: Simulation) -> None:
    from longcase import days

    sim.start("claims", {"id": "C-1", "amount": 250, "iban": "NL1"})
    sim.advance(days(3))
    assert cli.refused(4, "decide", "claims/C-1", "approved").error["hint"] == "longcase history claims/C-1"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"hello\n" * 5_000, "its first line is 'hello"),
        (b"", "it is empty"),
        (b"\x00\xff" * 1_000, "its first line is"),
        (b"[1]\n[2]\n", "its first line is '[1]"),
        (b'{"id": "C-1"}\n', "its first line is"),
    ],
    ids=["text", "empty", "bytes", "a list", "other JSON"],
)
def test_a_file_that_is_no_export_is_one_error_that_says_what_was_expected(cli: Cli, data: bytes, said: str) -> None:
    Path("other.jsonl").write_bytes(data)
    error = cli.refused(6, "verify", "--file", "other.jsonl").error
    assert error["code"] == "no_export"
    assert said in error["message"]
    assert error["message"].endswith('expected {"export": 1, ...}')
    plain = cli("verify", "--file", "other.jsonl")
    assert (plain.out, len(plain.err.splitlines())) == ("", 3)


def test_where_no_module_is_named_the_one_that_lies_there_is_offered(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGCASE_APP")
    (cli.folder / "a_helper.py").write_text("import this\n")
    (cli.folder / "orders.py").write_text(CLAIMS.read_text())
    for words in (("worker",), ("start", "claims", "{}"), ("check",), ("describe",)):
        assert "orders.py" in cli.refused(2, *words).error["hint"], words


def test_a_name_typed_in_a_machine_without_utf8_is_read_as_it_was_typed(cli: Cli) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert cli.spawn("start", "claims", '{"id": "C-1"}', "--as", "zoë", env=plain).status == 0
    assert cli.ok("history", "claims/C-1", "--json").lines[0]["actor"] == "person:zoë"
    told = cli.spawn("list", "--stage", "prüfung", env=plain)
    assert (told.status, told.err.splitlines()[0]) == (3, "error: no stage pr\\xfcfung is known here")


def test_a_help_that_nobody_reads_on_is_no_error(cli: Cli) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        assert cli.spawn("--help", stdout=closed).status == 0


def test_ctrl_c_is_told_as_such(cli: Cli) -> None:
    (cli.folder / "halted.py").write_text("raise KeyboardInterrupt\n")
    assert cli.refused(130, "check", "halted.py").error["code"] == "interrupted"
    assert cli("check", "halted.py").err == "error: interrupted\n"


def test_what_a_module_prints_is_no_part_of_the_answer(cli: Cli) -> None:
    (cli.folder / "chatty_claims.py").write_text(CLAIMS.read_text() + 'print("loading")\n')
    told = cli("check", "chatty_claims.py", "--json")
    assert (told.status, told.json, told.err) == (0, [], "loading\n")


@pytest.mark.parametrize(
    ("text", "hint"),
    [("import nosuchpkg.part", "pip install nosuchpkg,"), ("from .other import x", "put an empty __init__.py beside")],
)
def test_a_module_that_lacks_another_one_says_how_to_get_it(cli: Cli, text: str, hint: str) -> None:
    name = f"lacking_{len(text)}.py"
    (cli.folder / name).write_text(f"{text}\n")
    (finding,) = cli("check", name, "--json").json
    assert finding["hint"].startswith(hint)


def test_a_validator_that_fails_over_its_input_is_not_a_bug_of_ours(cli: Cli) -> None:
    source = CLAIMS.read_text().replace(
        "from pydantic import ", "from typing import Annotated\nfrom pydantic import BeforeValidator, "
    )
    source = source.replace(
        '    name: str = ""', '    name: Annotated[str, BeforeValidator(lambda name: name.strip())] = ""'
    )
    (cli.folder / "strict_claims.py").write_text(source)
    error = cli.refused(2, "start", "claims", '{"id": "C-1", "name": 7}', "--app", "strict_claims.py").error
    assert error["code"] == "invalid_input"
    assert "a validator of its type raised AttributeError: 'int' object has no attribute 'strip'" in error["message"]
    assert error["hint"].startswith("raise ValueError in it")


def test_describe_says_what_a_name_is_that_it_does_not_describe(cli: Cli) -> None:
    assert cli.refused(3, "describe", str(CLAIMS), "intake").error["message"].startswith("intake is a stage of claims;")
    assert cli.refused(3, "describe", str(CLAIMS), "dropped").error["hint"] == f"longcase describe {CLAIMS} claims"
    assert cli.refused(3, "describe", str(CLAIMS), "pya").error["hint"] == "did you mean pay?"
    assert cli.refused(3, "describe", str(CLAIMS), "xyz").error["hint"] == "there: claims, pay, is_small"


def test_a_case_of_a_workflow_that_is_not_known_is_told_by_that(cli: Cli) -> None:
    cli.ok("start", "claims", '{"id": "C-1"}')
    for words in (("show",), ("history",)):
        error = cli.refused(3, *words, "clams/C-1").error
        assert (error["code"], error["hint"]) == ("workflow_not_found", "did you mean claims?")
    assert cli.refused(3, "show", "claims/C-2").error["hint"] == "longcase list --workflow claims"


@pytest.mark.only_sqlite
def test_an_export_into_a_folder_that_is_not_there(cli: Cli, sim: Simulation, tmp_path: Path) -> None:
    sim.cancel(sim.start("claims", {"id": "C-1"}))
    error = cli.refused(3, "export", str(tmp_path / "no" / "x.jsonl")).error
    assert (error["code"], error["hint"]) == ("file_not_found", f"mkdir -p {tmp_path / 'no'}")
