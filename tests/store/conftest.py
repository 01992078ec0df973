"""A SQLite store in a folder of the test, and its environment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.cases import new_env

from longcase.env import Env
from longcase.store.sqlite import SqliteStore, open_sqlite


@pytest.fixture
def env() -> Env:
    return new_env()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "longcase.db")


@pytest.fixture
async def store(path: str, env: Env) -> AsyncIterator[SqliteStore]:
    opened = await open_sqlite(path, env)
    yield opened
    await opened.close()
