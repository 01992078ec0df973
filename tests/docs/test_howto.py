"""The how-to pages: their programs compile or run, their queries answer, their CSV starts cases."""

from __future__ import annotations

import ast
import csv
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.docs.pages import DOCS, ROOT, Block, blocks, name
from tests.docs.terminal import commands, terminal

from longcase import days
from longcase.cli.loading import load_app

HOWTO = sorted((DOCS / "howto").glob("*.md"))
ONBOARDING = [block.text for block in blocks(DOCS / "tutorial.md", "python") if block.file == "onboarding.py"]


@pytest.mark.parametrize("page", HOWTO, ids=name)
def test_every_program_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block.text, f"{name(page)}:{block.line}")


def test_the_tests_of_test_with_simulate_pass(tmp_path: Path) -> None:
    files: dict[str, list[str]] = {}
    for block in blocks(DOCS / "howto" / "test-with-simulate.md", "python"):
        files.setdefault(block.file, []).append(block.text)
    assert set(files) == {"test_orders.py", "orders.py"}
    with terminal(tmp_path) as shell:
        for file, pieces in files.items():
            shell.write(file, pieces)
        shell.run("longcase check orders.py")
        assert "6 passed" in shell.run("pytest -q test_orders.py")


def test_the_programs_of_child_cases_are_sound_and_their_tests_pass(tmp_path: Path) -> None:
    files = {block.file: block.text for block in blocks(DOCS / "howto" / "child-cases.md", "python")}
    assert set(files) == {"vendors.py", "orders.py", "test_orders.py"}
    with terminal(tmp_path) as shell:
        for file, text in files.items():
            shell.write(file, [text])
        shell.run("longcase check orders.py,vendors.py")
        assert "3 passed" in shell.run("pytest -q test_orders.py")


def test_the_program_of_react_to_signals_is_sound_and_its_tests_pass(tmp_path: Path) -> None:
    files = {block.file: block.text for block in blocks(DOCS / "howto" / "react-to-signals.md", "python")}
    assert set(files) == {"orders.py", "test_orders.py"}
    with terminal(tmp_path) as shell:
        for file, text in files.items():
            shell.write(file, [text])
        shell.run("longcase check orders.py")
        assert "on remark, beside any stage: remarked" in shell.run("longcase map orders.py")
        assert "3 passed" in shell.run("pytest -q test_orders.py")


def test_the_programs_of_write_to_your_tables_are_sound_and_their_tests_pass(tmp_path: Path) -> None:
    files = {block.file: block.text for block in blocks(DOCS / "howto" / "write-to-your-tables.md", "python")}
    assert set(files) == {"invoicing.py", "test_invoicing.py"}
    with terminal(tmp_path) as shell:
        for file, text in files.items():
            shell.write(file, [text])
        shell.run("longcase check invoicing.py")
        assert "rows, by its transaction" in shell.run("longcase describe invoicing.py")
        assert "2 passed" in shell.run("pytest -q test_invoicing.py")


def test_the_program_of_call_outside_systems_is_sound_and_its_tests_pass(tmp_path: Path) -> None:
    files = {block.file: block.text for block in blocks(DOCS / "howto" / "call-outside-systems.md", "python")}
    assert set(files) == {"paying.py", "test_paying.py"}
    with terminal(tmp_path) as shell:
        for file, text in files.items():
            shell.write(file, [text])
        shell.run("longcase check paying.py")
        shell.run(f"{sys.executable} -m mypy --strict paying.py")
        assert "once, verified" in shell.run("longcase describe paying.py pay")
        assert "4 passed" in shell.run("pytest -q test_paying.py")


def test_the_program_of_ask_people_is_sound_and_its_tests_pass(tmp_path: Path) -> None:
    files = {block.file: block.text for block in blocks(DOCS / "howto" / "ask-people.md", "python") if block.file}
    assert set(files) == {"claims.py", "test_claims.py"}
    with terminal(tmp_path) as shell:
        for file, text in files.items():
            shell.write(file, [text])
        shell.run("longcase check claims.py")
        shell.run(f"{sys.executable} -m mypy --strict claims.py")
        assert "2 passed" in shell.run("pytest -q test_claims.py")


@pytest.mark.parametrize("door", ["commands", "Python"])
def test_people_answer_as_ask_people_says(tmp_path: Path, door: str) -> None:
    page = DOCS / "howto" / "ask-people.md"
    program, answer = (
        next(block.text for block in blocks(page, "python") if what in block.text)
        for what in ("# claims.py", "LongcaseClient(")
    )
    awaited = {"{": "Assess the damage", "transfer": "How do we settle?", "iban": "needs iban"}
    with terminal(tmp_path) as shell:
        shell.write("claims.py", [program])
        (tmp_path / "answer.py").write_text(answer)
        shell.run("export LONGCASE_APP=claims.py")
        shell.run("longcase dev &")
        shell.run("""longcase start claims '{"id": "C-1", "amount": "900"}'""")
        (typed,) = blocks(page, "sh")
        for command in commands(typed.text):
            for what in (what for word, what in awaited.items() if word in command):
                shell.printed = ""
                shell.expect("longcase show claims/C-1", Block("text", f"waiting on {what}", 0))
            by_program = door == "Python" and "{" in command
            shell.run(f"{sys.executable} answer.py" if by_program else command)
        shell.printed = ""
        shell.expect("longcase show claims/C-1", Block("text", "status closed: paid", 0))


def test_every_query_of_ask_with_sql_answers(tmp_path: Path, simulate: Any) -> None:
    page = DOCS / "howto" / "ask-with-sql.md"
    queries = [block.text for block in blocks(page, "sql")]
    assert len(queries) >= 5
    with terminal(tmp_path) as shell:
        shell.write("onboarding.py", ONBOARDING)
    module = load_app(str(tmp_path / "onboarding.py"))
    sim = simulate(module, fakes={module.check_registry: lambda legal_entity: "B"})
    case = sim.start(module.onboarding, {"id": "C-1", "name": "Acme", "legal_entity": "Acme BV"})
    sim.start(module.onboarding, {"id": "C-2", "name": "Best"})
    sim.decide(case, "approved", by="ann")
    sim.advance(days(3))
    rows = [sim.query(query) for query in queries]
    assert [len(found) > 0 for found in rows[1:]] == [True] * (len(rows) - 1)  # the first asks the real clock
    assert rows[2][0]["person"] == "ann"


def test_a_csv_starts_cases_and_says_what_became_of_each_row(tmp_path: Path) -> None:
    make, *_ = next(b.text for b in blocks(DOCS / "howto" / "start-from-csv.md", "sh")).splitlines()
    with terminal(tmp_path) as shell:
        shell.write("onboarding.py", ONBOARDING)
        shell.run("export LONGCASE_APP=onboarding.py")
        shell.run(make)
        shell.run("longcase start client-onboarding --csv clients.csv --results results.csv || test $? = 5")
        assert "C-101" in shell.run("longcase list")
        results = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
        assert [row["did"] for row in results] == ["started", "started", "refused"]


def test_a_store_is_backed_up_and_restored_as_the_page_says(tmp_path: Path) -> None:
    page = blocks(DOCS / "howto" / "backup-and-restore.md", "sh")
    with terminal(tmp_path) as shell:
        shell.write("onboarding.py", ONBOARDING)
        shell.run("""longcase start client-onboarding '{"id": "C-1", "name": "Acme"}' --app onboarding.py""")
        shell.play(page)
        assert "C-1" in shell.run("longcase list")


def test_an_older_sqlite_can_read_a_store(tmp_path: Path) -> None:
    """Another tool's library parses every view at open: one it cannot parse shuts it out of the whole file."""
    with terminal(tmp_path) as shell:
        shell.write("onboarding.py", ONBOARDING)
        shell.run("""longcase start client-onboarding '{"id": "C-1", "name": "Acme"}' --app onboarding.py""")
        script = (
            "import sqlite3; c = sqlite3.connect('file:longcase.db?mode=ro', uri=True); "
            "views = [r[0] for r in c.execute(\"SELECT name FROM sqlite_master WHERE type = 'view'\")]; "
            "[c.execute(f'SELECT * FROM {v}').fetchall() for v in views]; print(len(views), 'views')"
        )
        assert " views" in shell.run(f'{sys.executable} -c "{script.replace(chr(34), chr(92) + chr(34))}"')


def test_the_programs_that_use_the_python_api_run(tmp_path: Path) -> None:
    """They are run against a store with one incident, which the first of them repairs."""
    programs = {
        name(page): block.text
        for page in HOWTO
        for block in blocks(page, "python")
        if "LongcaseClient(" in block.text or "asyncio.run(" in block.text
        if page.stem != "ask-people"  # of another workflow: test_people_answer_as_ask_people_says
    }
    assert len(programs) == 4
    with terminal(tmp_path) as shell:
        shell.write("onboarding.py", ONBOARDING)
        (tmp_path / "registry.json").write_text("{}")
        fields = '{"id": "C-1", "name": "Acme", "legal_entity": "Acme BV"}'
        shell.run(f"longcase start client-onboarding '{fields}' --app onboarding.py")
        shell.run("longcase dev onboarding.py &")
        shown = Block("text", "  what applies: retry, set-result, correct, restart, move, cancel", 0)
        shell.printed = shell.run("longcase show client-onboarding/C-1")
        shell.expect("longcase show client-onboarding/C-1", shown)
        (tmp_path / "registry.json").write_text('{"Acme BV": "B"}')
        for page, program in programs.items():
            file = tmp_path / f"{Path(page).stem.replace('-', '_')}.py"
            file.write_text(program)
            shell.run(f"{sys.executable} {file.name}")
        shell.expect(
            "longcase show client-onboarding/C-1", Block("text", "waiting on Sign off the credit line? (0 of 2)", 0)
        )


def test_the_pages_of_the_examples_are_found() -> None:
    assert len(list(ROOT.glob("examples/*/README.md"))) == 2
