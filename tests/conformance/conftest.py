"""Every store there is. A new one is added here and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.cases import new_env

from longcase.env import Env
from longcase.store.sqlite import open_sqlite

Opener = Callable[[Path, Env], Awaitable[Any]]

OPENERS: dict[str, Opener] = {
    "sqlite": lambda folder, env: open_sqlite(str(folder / "longcase.db"), env),
    "sqlite-inline": lambda folder, env: open_sqlite(str(folder / "longcase.db"), env, inline=True),
    "sqlite-memory": lambda folder, env: open_sqlite(":memory:", env),
}


@pytest.fixture
def env() -> Env:
    return new_env()


@pytest.fixture(params=OPENERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path, env: Env) -> AsyncIterator[Any]:
    opened = await OPENERS[request.param](tmp_path, env)
    yield opened
    await opened.close()
