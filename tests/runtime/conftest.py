"""An empty store, and a world in which nothing has happened yet."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runtime.attempts import reset


@pytest.fixture
def path(tmp_path: Path) -> Path:
    reset()
    return tmp_path / "cases.db"


@pytest.fixture
def url(store_url: str) -> str:
    """Return the URL of an empty store of each kind."""
    reset()
    return store_url
