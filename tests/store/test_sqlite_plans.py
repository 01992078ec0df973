"""The statements that run all day find their rows by an index; a lost index fails here, not in production."""

from __future__ import annotations

import apsw
import pytest

from longcase.store import rows
from longcase.store.sqlite import SqliteStore, fleet, store, transaction, workers, writing


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (fleet._DUE.format(only=""), "cases_to_wake"),
        (fleet._NEXT_WAKE, "cases_to_wake"),
        (store._BY_KEY, "cases_by_key"),
        (f"{rows.SELECT_CASE} WHERE case_no = ?", "INTEGER PRIMARY KEY"),
        (store._INBOX, "sqlite_autoindex_inbox_1"),
        (store._INBOXES, "sqlite_autoindex_inbox_1"),
        (store._VISIT_BEGIN, "history_visits"),
        (
            f"SELECT {rows.EVENT_COLUMNS} FROM history WHERE case_no = ? AND seq > ? ORDER BY seq",
            "sqlite_autoindex_history_1",
        ),
        (transaction._ANY_BY_KEY, "cases_by_key"),
        (writing._HEAD, "INTEGER PRIMARY KEY"),
        (workers._FREE_SOME, "cases_leased"),
        (
            "SELECT workflow, stage, count(*) FROM cases WHERE status = 'open' GROUP BY tenant, workflow, stage",
            "cases_open",
        ),
        ("SELECT * FROM attempts WHERE case_no = 1", "sqlite_autoindex_history_1"),
        ("SELECT * FROM timeline WHERE case_no = 1 ORDER BY event", "sqlite_autoindex_history_1"),
    ],
)
async def test_a_statement_of_every_minute_has_its_index(store: SqliteStore, sql: str, index: str) -> None:
    connection = apsw.Connection(store.path)
    bindings = (None,) * sql.count("?")
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", bindings)]
    connection.close()
    assert any(index in step for step in plan), plan
    large = [step for step in plan if step.startswith("SCAN") and "workers" not in step and "json_each" not in step]
    assert all("USING" in step for step in large), plan


def test_the_number_of_cases_freed_at_once_is_bounded() -> None:
    assert 0 < workers.RECOVERY_CHUNK <= 1_000
