"""A claim reads as many cases as it takes, however many are due: else a thousand timers of one second take minutes."""

from __future__ import annotations

import json
from typing import Any

from tests.support.cases import new_case

from longcase.store.postgres import PostgresStore, fleet
from longcase.store.postgres.connection import Address, connect

DUE = 300
TAKEN = 5
LATER = "2999-01-01T00:00:00.000000Z"


async def test_a_claim_goes_along_the_due_cases_and_stops_when_it_has_enough(
    store: PostgresStore, postgres_url: str
) -> None:
    worker = await store.join("here", 1)
    await store.start([new_case(f"k{number}") for number in range(DUE)])
    due = fleet._DUE.format(only=fleet._ONLY, lock="FOR NO KEY UPDATE SKIP LOCKED")
    connection = await connect(Address.of(postgres_url))  # with the settings of those that claim
    try:
        await connection.execute(f"PREPARE claim (text, bigint, bigint, text[]) AS {fleet._LEASE.format(due=due)}")
        explained = await connection.fetchval(
            f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE claim('{LATER}', {worker}, {TAKEN}, '{{onboarding}}')"
        )
    finally:
        await connection.close()
    nodes = _nodes(json.loads(explained)[0]["Plan"])
    assert not [node["Node Type"] for node in nodes if "Sort" in node["Node Type"] or "Bitmap" in node["Node Type"]]
    (scan,) = [node for node in nodes if node.get("Index Name") == "cases_to_wake"]
    assert scan["Actual Rows"] <= TAKEN + 1
    assert len(await store.ready(LATER, worker, DUE, ("onboarding",))) == DUE


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in _nodes(child))]
