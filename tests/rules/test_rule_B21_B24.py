"""B21 to B24, to the letter: what the chain covers, children, moves, chance and ids."""

from __future__ import annotations

import asyncio
from copy import copy
from pathlib import Path
from typing import Any

from tests.rules.support import Go, Order, closed, credit, declare, desk, every, in_both, incident
from tests.rules.test_rule_B16_B24 import MODEL
from tests.rules.test_rule_B20 import monitoring

from longcase import Case, Next, Workflow, days, hours, minutes
from longcase.history import chain
from longcase.history.event import Event
from longcase.testing import Simulation


def test_rule_B21_the_hash_covers_the_hash_before_the_payloads_digest_and_every_column() -> None:
    event = Event(
        "timer_set", {}, 1, "2026-01-05T09:00:00.000000Z", "person:ann", "person:ben", "cli", 3, 2, "work/pause:x",
        1, "0", 7,
    )  # fmt: skip
    event.salt, event.text = "salt", "{}"
    event.digest = chain.payload_digest(event.salt, event.text)
    hashes = {chain.link(chain.GENESIS, event), chain.link(b"\x01" * 32, event)}
    changes: dict[str, Any] = {
        "type": "timer_fired", "visit": 2, "at": "2026-01-05T09:00:00.000001Z", "actor": "person:eve", "on_behalf": "",
        "channel": "api", "cause": 4, "map": 3, "node": "work/pause:y", "n": 2, "strand": "1", "seq": 8, "version": 2,
        "digest": chain.payload_digest("other salt", "{}"),
    }  # fmt: skip
    for name, value in changes.items():
        other = copy(event)
        setattr(other, name, value)
        hashes.add(chain.link(chain.GENESIS, other))
    assert len(hashes) == 2 + len(changes)
    assert chain.payload_digest("salt", "{}") != chain.payload_digest("salt", "[]")


def test_rule_B21_an_event_that_was_put_into_the_chain_is_found() -> None:
    long = monitoring()
    with Simulation([long]) as sim:
        case = sim.start(long, Order(id="1"))
        events = sim.history(case)
        assert chain.damaged(events) == 0
        events[1].actor = "person:eve"
        assert chain.damaged(events) == 2
        events = sim.history(case)
        events[2].text = '{"receive":"1.r9"}'
        assert chain.damaged(events) == 3


parents = Workflow("parents", object=Order, key="id", owner=desk, expect=days(5))
children = Workflow("children", object=Order, key="id", owner=credit, expect=days(2))
finish = children.signal("finish", Go)


@children.stage
async def child_work(case: Case[Order]) -> Next:
    await case.receive(finish)
    return children.close("finished")


@parents.stage
async def awaits(case: Case[Order]) -> Next:
    try:
        async with asyncio.timeout(60):
            await case.child(children, Order(id="c"), within=hours(3), on_close="leave")
    except TimeoutError:
        await case.pause(hours(1), because="without it")
    return parents.close("done")


def test_rule_B22_a_parent_waits_as_long_as_it_said_and_it_is_its_own_move() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(parents, Order(id="p"))
        (wait,) = [wait for wait in sim.waits(case) if wait.kind == "child"]
        assert (wait.whose, wait.expected[:16]) == ("desk", "2026-01-05T12:00")

    in_both(scenario, parents, children)


def test_rule_B22_a_child_that_may_go_on_is_not_cancelled_with_the_await() -> None:
    def scenario(sim: Simulation) -> None:
        case = sim.start(parents, Order(id="p"))
        sim.advance(minutes(2))
        assert [wait.what for wait in sim.waits(case)] == ["without it"]
        sim.signal("children/c", finish, Go())
        assert closed(sim, "children/c") == "finished"
        assert every(sim, case, "signal_unhandled")[0].data["why"] == "nobody waits for the child"
        assert "child_closed" not in sim.types(case)

    in_both(scenario, parents, children)


def test_rule_B23_a_move_is_no_way_round_an_object_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "cases.db"
    with Simulation([declare(MODEL.format(field="iban: str | None = None")).things], path=path) as sim:
        sim.start("things", {"id": "old"})
        now = sim.now
    with Simulation([declare(MODEL.format(field="iban: str")).things], path=path, now=now) as sim:
        sim.move("things/old", "work")
        assert incident(sim, "things/old")["kind"] == "object_invalid"
        assert sim.state("things/old").visit == 1, "the stage was not entered"
        sim.correct("things/old", iban="NL2")
        sim.retry("things/old")
        assert sim.state("things/old").visit == 2


def test_rule_B23_an_object_that_does_not_fit_is_found_also_where_the_stage_does_not_look_at_it(
    tmp_path: Path,
) -> None:
    path, model = tmp_path / "cases.db", MODEL.replace("case.object.id", "1")
    with Simulation([declare(model.format(field="iban: str | None = None")).things], path=path) as sim:
        sim.start("things", {"id": "old"})
        now = sim.now
    with Simulation([declare(model.format(field="iban: str")).things], path=path, now=now) as sim:
        sim.signal("things/old", "go", {"n": 1})
        assert incident(sim, "things/old")["kind"] == "object_invalid"


chance = Workflow("chance", object=Order, key="id", owner=desk, expect=days(5))


@chance.stage
async def draws(case: Case[Order]) -> Next:
    drawn = case.random()
    return chance.close("drawn", result=[drawn.random(), drawn.random(), str(case.uuid()), str(case.uuid())])


def test_rule_B24_every_draw_and_every_id_of_every_case_is_another_one() -> None:
    with Simulation([chance]) as sim:
        found = [(sim.state(sim.start(chance, Order(id=f"{n}"))).close or {})["result"] for n in range(2)]
        assert len({value for drawn in found for value in drawn}) == 8
