"""A command line to type at, and a mover on its store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cli import CLAIMS, Cli, freeze

from longcase.cli.loading import load_app
from longcase.testing import Simulation


@pytest.fixture
def cli(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> Cli:
    """A command line in an empty folder; on every kind of store where the test, or its module, takes `store_url`."""
    url = request.getfixturevalue("store_url") if "store_url" in request.fixturenames else ""
    return Cli(tmp_path, monkeypatch, capsys, url)


@pytest.fixture
def sim(cli: Cli) -> Iterator[Simulation]:
    """A mover on the command line's store; its clock is the store's, and stands still for the CLI too."""
    with Simulation([load_app(str(CLAIMS))], url=cli.url) as simulation:
        freeze(cli, simulation)
        yield simulation
