"""The tutorial does what it says, from the first line to the last."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.pages import DOCS, blocks, merged
from tests.docs.terminal import terminal

from longcase.cli.loading import load_app
from longcase.model.check import check_module

TUTORIAL = DOCS / "tutorial.md"


def test_every_python_block_names_its_file() -> None:
    assert [block.line for block in blocks(TUTORIAL, "python") if not block.file] == []


@pytest.mark.slow
def test_a_reader_can_follow_the_tutorial(tmp_path: Path) -> None:
    with terminal(tmp_path) as shell:
        shell.play(blocks(TUTORIAL))
        assert len((tmp_path / "ledger.csv").read_text().splitlines()) == 2


def test_the_program_is_whole_after_every_section(tmp_path: Path) -> None:
    """Nothing is used before it is introduced: what stands there so far passes `longcase check`."""
    lines = TUTORIAL.read_text().splitlines()
    program = [block for block in blocks(TUTORIAL, "python") if block.file == "onboarding.py"]
    ends = [number for number, line in enumerate(lines, 1) if line.startswith("## ")]
    checked = 0
    for section, end in enumerate(ends):
        pieces = [block.text for block in program if block.line < end]
        if len(pieces) > checked:
            checked = len(pieces)
            file = tmp_path / f"onboarding_{section}.py"
            file.write_text(merged(pieces))
            found = [str(finding) for finding in check_module(load_app(str(file))) if finding.severity == "error"]
            assert found == [], f"after section {section}"
    assert checked == len(program) > 6
