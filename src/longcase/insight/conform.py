"""Conformance over a store: every event lies on the map it was made under, in an order the map allows.

Membership is one anti-join over the stored maps and must return no row. Order is a finding apart,
mostly a change of the code. Reads; decides nothing.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, Final

from longcase.history.event import CATALOGUE
from longcase.model.map import WorkflowMap, order_findings
from longcase.record import record
from longcase.store.kept import beside_damage, kept
from longcase.store.port import Store

SHOWN: Final = 100  # findings of each kind that are kept; the counts are whole
CASES: Final = 200  # read at once

_OFF: Final = """
WITH placed AS (
    SELECT h.case_no, h.seq, h.type, h.node, CASE WHEN h.map > 0 THEN h.map ELSE (
        SELECT e.map FROM history AS e
        WHERE e.case_no = h.case_no AND e.visit = h.visit AND e.type = 'stage_entered' LIMIT 1
    ) END AS map
    FROM history AS h JOIN cases AS c ON c.case_no = h.case_no
    WHERE h.node <> '' AND (:workflow = '' OR c.workflow = :workflow)
)
SELECT c.workflow || '/' || c.key AS address, c.tenant, p.seq, p.type, p.node, p.map
FROM placed AS p JOIN cases AS c ON c.case_no = p.case_no
LEFT JOIN map_nodes AS m ON m.map = p.map AND m.node = p.node
WHERE m.node IS NULL
"""
_COUNT: Final = """
SELECT count(*) AS events, count(DISTINCT h.case_no) AS cases,
       coalesce(sum(CASE WHEN h.node <> '' THEN 1 ELSE 0 END), 0) AS placed
FROM history AS h JOIN cases AS c ON c.case_no = h.case_no WHERE :workflow = '' OR c.workflow = :workflow
"""
_PLACES: Final = """
SELECT h.case_no, c.workflow || '/' || c.key AS address, c.tenant, h.visit, h.seq, h.type, h.map, h.node, h.n, h.strand
FROM history AS h JOIN cases AS c ON c.case_no = h.case_no
WHERE h.case_no > :after AND h.case_no <= :until AND h.node <> '' AND h.map > 0
  AND (:workflow = '' OR c.workflow = :workflow)
ORDER BY h.case_no, h.seq
"""


@record(frozen=False)
class Conformance:
    """What was looked at and what does not lie on the map."""

    cases: int = 0
    events: int = 0
    placed: int = 0  # events that carry a place
    off_map: int = 0
    off: list[dict[str, Any]] = field(default_factory=list)
    out_of_order: int = 0
    order: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)  # maps that cannot be read: the order of their visits is not known

    def to_json(self) -> dict[str, Any]:
        """Return it as the faces print it."""
        return {
            "cases": self.cases, "events": self.events, "placed": self.placed, "off_map": self.off_map,
            "out_of_order": self.out_of_order, "off": self.off, "order": self.order, "damaged": self.damaged,
        }  # fmt: skip


async def conform(store: Store, workflow: str = "") -> Conformance:
    """Compare every stored event with the map of its visit; of one workflow, or of all; of every tenant."""
    which = {"workflow": workflow}
    counted = (await store.query(_COUNT, which))[0]
    found = Conformance(counted["cases"], counted["events"], counted["placed"])
    off = await store.query(_OFF, which)
    found.off_map, found.off = len(off), off[:SHOWN]
    maps: dict[int, WorkflowMap] = {}
    for row in await store.query("SELECT number, workflow, graph FROM maps ORDER BY number"):
        with beside_damage(lambda damage: found.damaged.append(damage.message)):
            what = f"map {row['number']} of {row['workflow']}"
            maps[row["number"]] = kept(row["graph"], what, WorkflowMap.from_json)
    last = (await store.query("SELECT coalesce(max(case_no), 0) AS last FROM cases"))[0]["last"]
    for after in range(0, last, CASES):
        rows = await store.query(_PLACES, {**which, "after": after, "until": after + CASES})
        visits: dict[tuple[int, int, int], list[tuple[str, int, str]]] = {}
        cases: dict[int, dict[str, str]] = {}
        for row in rows:
            if CATALOGUE[row["type"]].road == "emitted" and row["type"] != "stage_entered" and row["map"] in maps:
                place = (row["node"], row["n"], row["strand"])
                visits.setdefault((row["case_no"], row["visit"], row["map"]), []).append(place)
                cases[row["case_no"]] = {"address": row["address"], "tenant": row["tenant"]}
        for (case_no, visit, number), places in visits.items():
            for finding in order_findings(maps[number], places):
                found.out_of_order += 1
                if len(found.order) < SHOWN:
                    found.order.append({**cases[case_no], "visit": visit, "map": number, "what": str(finding)})
    return found
