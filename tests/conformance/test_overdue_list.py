"""`list --overdue` names the cases that the view `overdue` names, without unfolding the waits of every open case."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import apsw
import pytest
from tests.support.cases import closed, entered, incident, new_case, new_env, receive, turn
from tests.support.postgres import run_sql

from longcase.env import RealClock
from longcase.opening import open_store
from longcase.service.queries import MAYBE_LATE, Which, list_cases
from longcase.store.settings import clock_setting

THEN = datetime(2026, 3, 6, tzinfo=UTC)
LATER = "2026-03-08T00:00:00.000000Z"
EARLIER = "2026-03-04T00:00:00.000000Z"


def opened(due: str) -> Any:
    event = incident()
    event.data["due"] = due
    return event


def waits(expected: str) -> Any:
    event = receive()
    event.data["expected"] = expected
    return event


STORIES: dict[str, tuple[Any, ...]] = {
    "late-wait": (entered(), waits(EARLIER)),
    "in-time": (entered(), waits(LATER)),
    "no-end": (entered(expected=""), waits("")),
    "late-stage": (entered(expected=EARLIER), waits(LATER)),
    "late-behind-incident": (entered(), waits(EARLIER), opened(LATER)),
    "incident-in-time": (entered(), waits(LATER), opened(LATER)),
    "late-incident": (entered(), waits(LATER), opened(EARLIER)),
    "incident-in-time-2": (entered(), waits(LATER), opened(LATER)),
    "closed": (entered(expected=EARLIER), waits(EARLIER), closed()),
    "late-behind-incident-2": (entered(), waits(EARLIER), opened(LATER)),
}


async def fill(store: Any) -> None:
    started = await store.start([new_case(key) for key in STORIES])
    pairs = zip(started, STORIES.values(), strict=True)
    await store.write([turn(base, *events) for base, events in pairs])
    await store.set_setting("clock", clock_setting(RealClock().now().timestamp(), THEN, 1e-9))


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
async def test_what_is_listed_is_what_the_view_has(store: Any, limit: int) -> None:
    await fill(store)
    seen = await store.query("SELECT DISTINCT key, case_no FROM overdue ORDER BY case_no")
    late = ["late-wait", "late-stage", "late-behind-incident", "late-incident", "late-behind-incident-2"]
    assert [row["key"] for row in seen] == late
    listed: list[str] = []
    after = 0
    while True:
        page = await list_cases(store, "main", Which(overdue=True, after=after, limit=limit))
        listed += [row["case"].removeprefix("onboarding/") for row in page[:limit]]
        if len(page) <= limit:
            break
        after = page[limit - 1]["case_no"]
    assert listed == late
    assert await list_cases(store, "main", Which(overdue=True, status="closed")) == []
    assert len(await list_cases(store, "main", Which(overdue=True, status="all"))) == len(late)


async def test_no_wait_is_unfolded_to_look_for_what_is_late(store_kind: str, store_url: str) -> None:
    await (await open_store(store_url, new_env())).close()
    wanted = f"SELECT case_no FROM case_overview WHERE {MAYBE_LATE} ORDER BY case_no"
    for sql, unfolds in ((wanted, False), ("SELECT case_no FROM overdue", True)):
        if store_kind == "postgres":
            plan = "\n".join(row[0] for row in run_sql(store_url, f"EXPLAIN {sql}"))
        else:
            connection = apsw.Connection(store_url.removeprefix("sqlite:///"))
            plan = "\n".join(str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}"))
            connection.close()
        assert ("json_each" in plan) is unfolds, plan
