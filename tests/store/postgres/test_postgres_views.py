"""The documented views are the same on both stores: a report that runs on one runs on the other."""

from __future__ import annotations

import asyncio

from tests.support.postgres import run_sql

from longcase.env import Env
from longcase.store.sqlite import open_sqlite

COLUMNS = """
SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema = 'public' AND table_name IN (SELECT viewname FROM pg_views WHERE schemaname = 'public')
ORDER BY table_name, ordinal_position
"""


async def test_both_stores_have_the_same_views_with_the_same_columns(postgres_url: str) -> None:
    there: dict[str, list[str]] = {}
    for view, column in await asyncio.to_thread(run_sql, postgres_url, COLUMNS):
        there.setdefault(view, []).append(column)
    store = await open_sqlite(":memory:", Env())
    here = {}
    for row in await store.query("SELECT name FROM sqlite_schema WHERE type = 'view'"):
        columns = await store.query("SELECT name FROM pragma_table_info(?)", (row["name"],))
        here[row["name"]] = [column["name"] for column in columns]
    await store.close()
    assert len(here) > 12
    assert there == here
