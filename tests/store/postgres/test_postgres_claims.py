"""A claim reads as many cases as it takes, however many are due: else a thousand timers of one second take minutes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from tests.support.cases import new_case

from longcase.store.postgres import PostgresStore, fleet
from longcase.store.postgres.connection import Address, connect

DUE = 300
TAKEN = 5
LATER = "2999-01-01T00:00:00.000000Z"
# Statistics tell PostgreSQL which way of joining is dear; with each forbidden in turn it shows what else it has.
WAYS = ("", "nestloop", "hashjoin", "mergejoin", "nestloop hashjoin", "nestloop mergejoin")


@pytest.mark.parametrize("workflows", [None, ("onboarding",)])
async def test_a_claim_goes_along_the_due_cases_and_stops_when_it_has_enough(
    store: PostgresStore, postgres_url: str, workflows: Sequence[str] | None
) -> None:
    worker = await store.join("here", 1, codes={"onboarding": "mine"})
    await store.start([new_case(f"k{number}") for number in range(DUE)])
    await store.decline(1, 1, "other", 0)
    connection = await connect(Address.of(postgres_url))  # with the settings of those that claim
    try:
        for known in ("nothing", "all"):
            if known == "all":
                await connection.execute("ANALYZE")
            for way in WAYS:
                plan = await explained_claim(connection, worker, workflows, way)
                scans = [node for node in nodes(plan) if reads_cases(node)]
                assert [node["Index Name"] for node in scans] == ["cases_to_wake", "cases_pkey"], (known, way)
                assert sum(node["Actual Rows"] * node["Actual Loops"] for node in scans) == 2 * TAKEN, (known, way)
                gathered = [node["Node Type"] for node in nodes(plan) if _gathers(node)]
                assert not gathered, (known, way)
    finally:
        await connection.close()
    assert len(await store.ready(LATER, worker, DUE, workflows)) == DUE


async def explained_claim(
    connection: Any, worker: int, workflows: Sequence[str] | None, forbidden: str
) -> dict[str, Any]:
    """Return the plan by which a claim was made, and what it read; the claim is rolled back."""
    only = "" if workflows is None else fleet._ONLY
    due = fleet._DUE.format(only=only, lock="FOR NO KEY UPDATE SKIP LOCKED")
    types, values = "text, bigint, bigint", f"'{LATER}', {worker}, {TAKEN}"
    if workflows is not None:
        types, values = f"{types}, text[]", f"{values}, '{{{','.join(workflows)}}}'"
    begun = connection.transaction()
    await begun.start()
    try:
        for way in forbidden.split():
            await connection.execute(f"SET LOCAL enable_{way} = off")
        await connection.execute(f"PREPARE claim ({types}) AS {fleet._LEASE.format(due=due)}")
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE claim({values})")
        await connection.execute("DEALLOCATE claim")
    finally:
        await begun.rollback()
    found: dict[str, Any] = json.loads(explained)[0]["Plan"]
    return found


def reads_cases(node: dict[str, Any]) -> bool:
    return "Scan" in node["Node Type"] and node.get("Relation Name") == "cases"


def _gathers(node: dict[str, Any]) -> bool:
    """Tell whether a part reads cases to the end before it hands on the first."""
    gathering = any(kind in node["Node Type"] for kind in ("Sort", "Hash", "Bitmap", "Materialize"))
    return gathering and any(reads_cases(part) for part in nodes(node))


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]
