"""`list` looks for a page among the cases that come next before it asks of all; the answers are the same."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.cases import closed, entered, new_case, receive, turn

from longcase.service import queries
from longcase.service.queries import Which, list_cases

CASES = 12
NARROWED = [
    Which(status="all"),
    Which(),
    Which(workflow="claims"),
    Which(workflow="claims", status="closed"),
    Which(workflow="nowhere", status="all"),
    Which(waiting="signal"),
]


async def _fill(store: Any) -> None:
    flows = ["claims" if number % 3 == 0 else "onboarding" for number in range(CASES)]
    started = await store.start([new_case(f"k{number}", workflow=flow) for number, flow in enumerate(flows)])
    ends = [[closed()] if number % 4 == 3 else [] for number in range(CASES)]
    await store.write([turn(base, entered(), receive(), *end) for base, end in zip(started, ends, strict=True)])


async def _pages(store: Any, which: Which, limit: int) -> list[int]:
    found: list[int] = []
    while True:
        after = found[-1] if found else 0
        page = await list_cases(
            store, "main", Which(which.workflow, waiting=which.waiting, status=which.status, after=after, limit=limit)
        )
        found += [row["case_no"] for row in page[:limit]]
        if len(page) <= limit:
            return found


@pytest.mark.parametrize("near", [1, 4, 2_000])
async def test_every_page_holds_what_comes_next_however_few_are_looked_at_first(
    store: Any, near: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _fill(store)
    monkeypatch.setattr(queries, "NEAR", near)
    rows = await store.query("SELECT case_no, workflow, status, waiting_for FROM case_overview ORDER BY case_no")
    for which in NARROWED:
        wanted = [
            row["case_no"] for row in rows
            if which.workflow in ("", row["workflow"]) and which.status in ("all", row["status"])
            and which.waiting in ("", row["waiting_for"])
        ]  # fmt: skip
        for limit in (1, 2, 5):
            assert await _pages(store, which, limit) == wanted, (which, limit)


async def test_a_page_that_the_next_cases_fill_is_not_sorted_out_of_all(store: Any) -> None:
    asked: list[str] = []
    query = store.query

    async def heard(sql: str, parameters: Any = ()) -> Any:
        asked.append(sql)
        return await query(sql, parameters)

    await _fill(store)
    store.query = heard
    assert len(await list_cases(store, "main", Which(workflow="onboarding", limit=3))) == 4
    (sql,) = asked
    assert ":near" in sql
    asked.clear()
    assert len(await list_cases(store, "main", Which(workflow="onboarding", limit=30))) < 30
    assert len(asked) == 2
