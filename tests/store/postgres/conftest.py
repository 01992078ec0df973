"""A PostgreSQL store in a database of the test, and its environment."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.support.cases import new_env

from longcase.env import Env
from longcase.store.postgres import PostgresStore, open_postgres


@pytest.fixture
def env() -> Env:
    return new_env()


@pytest.fixture
async def store(postgres_url: str, env: Env) -> AsyncIterator[PostgresStore]:
    opened = await open_postgres(postgres_url, env)
    yield opened
    await opened.close()


@pytest.fixture
async def other(postgres_url: str, env: Env) -> AsyncIterator[PostgresStore]:
    """Another process's store on the same database."""
    opened = await open_postgres(postgres_url, env)
    yield opened
    await opened.close()
