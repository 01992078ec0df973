"""The tutorial does what it says, from the first line to the last."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.pages import DOCS, blocks
from tests.docs.terminal import terminal

TUTORIAL = DOCS / "tutorial.md"


def test_every_python_block_names_its_file() -> None:
    assert [block.line for block in blocks(TUTORIAL, "python") if not block.file] == []


@pytest.mark.slow
def test_a_reader_can_follow_the_tutorial(tmp_path: Path) -> None:
    with terminal(tmp_path) as shell:
        shell.play(blocks(TUTORIAL))
        assert len((tmp_path / "ledger.csv").read_text().splitlines()) == 2
