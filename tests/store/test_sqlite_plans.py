"""The statements that run all day find their rows by an index; a lost index fails here, not in production."""

from __future__ import annotations

import apsw
import pytest

from longcase.service import queries
from longcase.store import rows
from longcase.store.records import CaseRef
from longcase.store.sqlite import SqliteStore, fleet, store, transaction, workers, writing


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (fleet._DUE.format(only=""), "cases_to_wake"),
        (fleet._NEXT_WAKE, "cases_to_wake"),
        (store._BY_KEY, "cases_by_key"),
        (f"{rows.SELECT_CASE} WHERE case_no = ?", "INTEGER PRIMARY KEY"),
        (store.INBOX.format(columns=rows.INPUT_COLUMNS), "sqlite_autoindex_inbox_1"),
        (store._INBOXES.format(columns=rows.INPUT_COLUMNS), "sqlite_autoindex_inbox_1"),
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
    large = [step for step in plan if step.startswith("SCAN") and "workers" not in step and "VIRTUAL TABLE" not in step]
    assert all("USING" in step for step in large), plan


def test_the_number_of_cases_freed_at_once_is_bounded() -> None:
    assert 0 < workers.RECOVERY_CHUNK <= 1_000


async def test_a_statement_is_planned_once_whatever_is_bound_to_it(store: SqliteStore) -> None:
    async def look(key: str) -> None:
        await store.load(CaseRef(0, "order", key))
        await store.ready(f"2026-01-05T09:00:00.00000{key}Z", 0, 10, ["order"])

    await look("1")
    planned: list[tuple[str | None, ...]] = []

    def planning(operation: int, *names: str | None) -> int:
        planned.append(names)
        return apsw.SQLITE_OK

    assert store._reader is not None
    store._reader.authorizer = planning  # asked whenever a statement is prepared
    await look("2")
    assert planned, "setting it has everything prepared anew"
    planned.clear()
    await look("3")
    store._reader.authorizer = None
    assert not planned


async def test_the_first_page_of_a_list_is_read_in_the_order_of_the_cases_and_not_sorted(store: SqliteStore) -> None:
    where = "WHERE tenant = 'main' AND case_no > :after AND workflow = 'claims' AND status = 'open' ORDER BY case_no"
    connection = apsw.Connection(store.path)
    plan = [
        row[3]
        for row in connection.execute(f"EXPLAIN QUERY PLAN {queries._CASES_NEAR} {where}", {"after": 0, "near": 9})
    ]
    connection.close()
    assert any("SEARCH cases USING INTEGER PRIMARY KEY" in step for step in plan), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan
