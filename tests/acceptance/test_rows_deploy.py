"""ACCEPTANCE row D3: after a deploy the unaffected cases go on, the others are held, as `deploy check` had said."""

from __future__ import annotations

from types import ModuleType

import pytest
from tests.rules.support import closed, declare, incident

from longcase.app import Longcase
from longcase.errors import WorkflowNotFound
from longcase.runtime.rehearsal import Rehearsal
from longcase.testing import Simulation

PLACES = ("first", "rated", "priced", "signed", "named", "noted")
EACH = 50

STEPS = """
@activity(owner=banking)
async def rate(order: str) -> str: return "A"
@activity(owner=banking)
async def price(order: str) -> str: return "7"
@activity(owner=banking)
async def sign(order: str) -> str: return "signed"
@activity(owner=banking)
async def {name}(order: str) -> str: return "named"

goes = wf.signal("goes", Go)

@wf.stage(expect=days(9))
async def desk_work(case: Case[Order]) -> Next:
    if case.object.note == "first":
        await case.receive(goes, label="first", within=days(9))
    await rate(case.key)
    if case.object.note == "rated":
        await case.receive(goes, label="rated", within=days(9))
    {removed}
    if case.object.note == "priced":
        await case.receive(goes, label="priced", within=days(9))
    {inserted}
    await sign(case.key)
    if case.object.note == "signed":
        await case.receive(goes, label="signed", within=days(9))
    await {name}(case.key)
    if case.object.note == "named":
        await case.receive(goes, label="named", within=days(9))
    return closing

@wf.stage(expect=days(9))
async def closing(case: Case[Order]) -> Next:
    if case.object.note == "noted":
        await case.receive(goes, label="noted", within=days(9))
    return wf.close("done")
"""


def release(*, inserted: str = "pass", removed: str = "await price(case.key)", name: str = "call") -> ModuleType:
    """Return one release of the code; the new one renames a step, inserts one and removes one."""
    return declare(STEPS.format(inserted=inserted, removed=removed, name=name))


NEW = {"inserted": 'await rate.labelled("again")(case.key)', "removed": "pass", "name": "phone"}
AFFECTED = {"priced", "signed", "named"}  # the removed step lies behind all three, the renamed one behind the last
STANDS = """
SELECT c.case_no, c.status, count(*) AS events FROM cases AS c JOIN history AS h ON h.case_no = c.case_no
GROUP BY c.case_no, c.status ORDER BY c.case_no
"""


def rehearsed(sim: Simulation, url: str, code: ModuleType, workflow: str = "") -> Rehearsal:
    """Do what `longcase deploy check` does, on the simulation's store, and see that it writes nothing."""

    async def work() -> Rehearsal:
        async with Longcase([code.wf], url=url, env=sim.env, inline=sim._inline, create=False) as other:
            return await other.rehearse(workflow)

    before, maps = sim.query(STANDS), sim.query("SELECT count(*) AS n FROM maps")
    found = sim._do(work())
    assert (sim.query(STANDS), sim.query("SELECT count(*) AS n FROM maps")) == (before, maps)
    return found


def test_row_D3_deploy_check_names_exactly_the_cases_that_new_code_would_hold(store_url: str) -> None:
    old = release()
    with Simulation([old.wf], url=store_url) as sim:
        places = {
            sim.start("order", {"id": f"{place}-{n}", "note": place}): place for place in PLACES for n in range(EACH)
        }
        same = rehearsed(sim, store_url, old)
        assert (same.fits, same.held) == (len(places), [])
        told = rehearsed(sim, store_url, release(**NEW))
        now = sim.now
    held = {one.case: one for one in told.held}
    assert set(held) == {case for case, place in places.items() if place in AFFECTED}
    assert told.fits == len(places) - len(held)
    assert {one.kind for one in told.held} == {"code_changed"}
    removed = held["order/priced-0"]
    assert (removed.stage, removed.visit) == ("desk_work", 1)
    assert "price" in removed.why, "what is recorded stands beside what is attempted"
    with Simulation([release(**NEW).wf], url=store_url, now=now) as sim:
        for case in places:
            sim.signal(case, "goes", {"n": 1})
        for case, place in places.items():
            if place in AFFECTED:
                opened = incident(sim, case)
                assert (opened["kind"], opened["message"]) == ("code_changed", held[case].why)
            else:
                assert closed(sim, case) == "done"


def test_row_D3_each_change_is_found_where_it_lies(store_url: str) -> None:
    """Renamed, inserted and removed apart."""
    with Simulation([release().wf], url=store_url) as sim:
        for place in PLACES:
            sim.start("order", {"id": place, "note": place})
        for change, affected in {
            "removed": {"priced", "signed", "named"}, "inserted": {"signed", "named"}, "name": {"named"},
        }.items():  # fmt: skip
            found = rehearsed(sim, store_url, release(**{change: NEW[change]}))
            assert {one.case for one in found.held} == {f"order/{place}" for place in affected}, change


def test_row_D3_what_is_not_replayed_is_counted(store_url: str) -> None:
    """Cases at an incident, and cases of workflows that the code does not have."""
    with Simulation([release().wf], url=store_url) as sim:
        for place in PLACES:
            sim.start("order", {"id": place, "note": place})
        now = sim.now
    with Simulation([release(**NEW).wf], url=store_url, now=now) as sim:
        sim.signal("order/named", "goes", {"n": 1})
        found = rehearsed(sim, store_url, release(**NEW))
        assert (found.fits, len(found.held), found.in_incident) == (3, 2, 1)
        other = declare("""
wf = Workflow("others", object=Order, key="id", owner=desk, expect=days(5))
@wf.stage(expect=days(9))
async def only(case: Case[Order]) -> Next:
    return wf.close("done")
""")
        found = rehearsed(sim, store_url, other)
        assert (found.fits, found.held, found.not_loaded) == (0, [], {"order": 6})
        with pytest.raises(WorkflowNotFound, match="workflow order is not loaded"):
            rehearsed(sim, store_url, other, "order")
