"""Every store there is. A new one is added here and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import stores_of
from tests.support.cases import new_env

from longcase.env import Env
from longcase.opening import open_store

Opener = Callable[[str, Env], Awaitable[Any]]

OPENERS: dict[str, Opener] = {
    "sqlite": lambda url, env: open_store(url, env),
    "sqlite-inline": lambda url, env: open_store(url, env, inline=True),
    "sqlite-memory": lambda url, env: open_store("sqlite:///:memory:", env),
    "postgres": lambda url, env: open_store(url, env),
}


@pytest.fixture
def env() -> Env:
    return new_env()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "opener" in metafunc.fixturenames:
        chosen = stores_of(metafunc.config)
        if metafunc.definition.get_closest_marker("only_sqlite") is not None:
            chosen = [kind for kind in chosen if kind == "sqlite"]
        metafunc.parametrize("opener", [name for name in OPENERS if name.partition("-")[0] in chosen])


@pytest.fixture
async def store(opener: str, request: pytest.FixtureRequest, tmp_path: Path, env: Env) -> AsyncIterator[Any]:
    url = f"sqlite:///{tmp_path / 'longcase.db'}"
    opened = await OPENERS[opener](request.getfixturevalue("postgres_url") if opener == "postgres" else url, env)
    yield opened
    await opened.close()
