"""What the README shows a stranger runs as it stands there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.pages import ROOT, blocks
from tests.docs.terminal import SOURCE, terminal

README = ROOT / "README.md"


def test_the_commands_of_the_readme_do_what_it_says(tmp_path: Path) -> None:
    with terminal(tmp_path) as shell:
        shell.play(blocks(README))


def test_the_test_of_the_readme_passes(tmp_path: Path) -> None:
    with terminal(tmp_path) as shell:
        for block in blocks(README, "python"):
            if block.file:
                shell.write(block.file, [block.text])
        assert "1 passed" in shell.run("pytest -q test_app.py")


def test_the_programs_of_the_readme_are_tested_in_a_clone_too(tmp_path: Path) -> None:
    """A reader who stands in the clone writes them beside our own settings of pytest."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with terminal(tmp_path) as shell:
        for block in blocks(README, "python"):
            if block.file:
                shell.write(block.file, [block.text])
        assert "1 passed" in shell.run("pytest -q test_app.py")


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md", "docs/howto/test-with-simulate.md"])
def test_the_program_type_checks(tmp_path: Path, page: str) -> None:
    programs: dict[str, list[str]] = {}
    for block in blocks(ROOT / page, "python"):
        if block.file and not block.file.startswith("test_"):
            programs.setdefault(block.file, []).append(block.text)
    with terminal(tmp_path) as shell:
        for file, pieces in programs.items():
            shell.write(file, pieces)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), *programs],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "Success" in checked.stdout


def test_the_first_fifty_lines_show_a_workflow_and_the_command_that_runs_it() -> None:
    first = "\n".join(README.read_text().splitlines()[:50])
    assert "case.approval(" in first
    assert "make demo" in first
    assert "kill -9" in first
