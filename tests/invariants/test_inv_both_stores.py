"""I3, I9, I10, I12, I30, I32, I33, I44 through the public face, on each kind of store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from tests.invariants.program import Paper, Word, orders, pulled, signing, slow, vendor
from tests.rules.support import closed, every

from longcase import Longcase, LongcaseClient, days, hours
from longcase.errors import IdempotencyConflict
from longcase.history.event import instant_of
from longcase.history.state import CaseState, apply
from longcase.insight.verify import verify
from longcase.testing import Simulation

CASES = 30


def test_inv_09_one_key_means_one_message(store_url: str) -> None:
    """The same body gets the same answer; another body under the key is refused and nothing of it is applied."""
    with LongcaseClient([orders, signing], url=store_url, actor="person:ann") as client:
        for paper in ("1", "2"):
            client.start(orders, {"id": paper})
        assert not client.signal("orders/1", "word", {"n": 1}, idempotency_key="k").duplicate
        assert client.signal("orders/1", "word", {"n": 1}, idempotency_key="k").duplicate
        with pytest.raises(IdempotencyConflict) as told:
            client.signal("orders/1", "word", {"n": 2}, idempotency_key="k")
        assert told.value.code == "idempotency_conflict"
        assert "k" in str(told.value)
        assert not client.signal("orders/2", "word", {"n": 2}, idempotency_key="k").duplicate, "of another recipient"
        client.start(signing, {"id": "1"}, idempotency_key="s")
        assert client.start(signing, {"id": "1"}, idempotency_key="s").existing
        with pytest.raises(IdempotencyConflict):
            client.start(signing, {"id": "2"}, idempotency_key="s")
        started = {row["key"] for row in client.query("SELECT key FROM cases WHERE workflow = 'signing'")}
        assert started == {"1"}
        rows = client.query("SELECT case_no, data FROM inbox")
        assert len(rows) == 2, "one message a case"


async def test_inv_12_of_many_starts_at_once_one_makes_the_case(store_url: str) -> None:
    """Several programs, each with its own connection to the store, start the same keys at the same time."""
    doors = [await Longcase([orders], url=store_url).open() for _ in range(4)]
    try:
        keys = [f"{number}" for number in range(10)]
        receipts = await asyncio.gather(*(door.service.start(orders, Paper(id=key)) for key in keys for door in doors))
        made = [receipt for receipt in receipts if not receipt.existing]
        assert sorted(receipt.address for receipt in made) == sorted(f"orders/{key}" for key in keys)
        rows = await doors[0].service.query("SELECT count(*) AS n FROM cases")
        assert rows[0]["n"] == len(keys)
    finally:
        for door in doors:
            await door.close()


@pytest.mark.usefixtures("each_store")
@pytest.mark.parametrize("ends", ["by its stage", "by a cancel"])
def test_inv_10_a_signal_that_was_accepted_is_consumed_or_listed_as_unhandled_with_its_reason(ends: str) -> None:
    with Simulation([orders]) as sim:
        case = sim.start(orders, Paper(id="1"))
        with sim.together():
            keys = [sim.signal(case, "word", {"n": n}) and n for n in range(4)]
            if ends == "by a cancel":
                sim.cancel(case, reason="no longer wanted")
        sim.advance(days(1))
        assert sim.state(case).status == "closed"
        heard = [event for event in sim.history(case) if event.type == "signal_consumed"]
        unheard = every(sim, case, "signal_unhandled")
        assert len(heard) == (1 if ends == "by its stage" else 0)
        assert len(heard) + len(unheard) == len(keys)
        assert sorted(event.data["body"]["n"] for event in unheard) == keys[len(heard) :]
        assert all(event.data["why"] for event in unheard)
        assert sim.query("SELECT count(*) AS n FROM inbox") == [{"n": 0}]


@pytest.mark.usefixtures("each_store")
def test_inv_03_inv_30_inv_33_after_every_turn_the_row_is_the_fold_one_state_one_owner_and_who_did_it() -> None:
    """Looked at after each step: the row that is there, and the history folded event by event."""
    with Simulation([orders, signing]) as sim:
        steps: list[Callable[[], object]] = [
            lambda: sim.start(orders, Paper(id="1")),
            lambda: sim.start(signing, Paper(id="1", quorum=2)),
            lambda: sim.start(signing, Paper(id="2")),
            lambda: sim.decide("signing/1", "approved", by="ann"),
            lambda: sim.signal("signing/2", pulled, Word()),
            lambda: sim.correct("signing/1", text="final", reason="a typo"),
            lambda: sim.advance(hours(9)),
            lambda: sim.signal("orders/1", "word", {"n": 1}),
            lambda: sim.advance(days(2)),
        ]
        seen: set[str] = set()
        for step in steps:
            step()
            for row in sim.query("SELECT workflow, key, stage, owner, status, seq FROM cases"):
                case = f"{row['workflow']}/{row['key']}"
                folded = CaseState()
                for event in sim.history(case):
                    apply(folded, event)
                    assert folded.stage, (case, event)
                    assert folded.owner, (case, event)
                    assert re.match(r"(person|service|worker|timer|engine)(:.+|$)", event.actor), (case, event)
                    assert (event.cause or 0) < event.seq, (case, event)
                    seen.add(event.actor.partition(":")[0])
                now = (folded.stage, folded.owner, folded.status, folded.seq)
                assert now == (row["stage"], row["owner"], row["status"], row["seq"]), case
        assert seen >= {"person", "worker", "engine"} or seen >= {"person", "timer", "engine"}, seen
        assert sim._do(findings(sim)) == []


@pytest.mark.usefixtures("each_store")
@pytest.mark.parametrize("outage", [False, True])
def test_inv_32_a_missed_deadline_climbs_each_level_once_in_order(outage: bool) -> None:
    """Also when nobody was there for all of them: what is owed is then done in the order it was due."""
    with Simulation([signing]) as sim:
        case = sim.start(signing, Paper(id="1"))
        began = sim.now
        (wait,) = sim.waits(case)
        assert wait.expected, "a person is asked until an instant"
        if outage:
            sim.clock.advance(timedelta(hours=20))
            sim.crash()
            sim.run()
        else:
            for _ in range(20):
                sim.advance(hours(1))
        events = [e for e in sim.history(case) if e.type in ("task_reminded", "task_escalated", "task_expired")]
        owed = [(instant_of(event.data["due"]) - began) / timedelta(hours=1) for event in events]
        assert owed == sorted(owed)
        steps = [(e.type, due) for e, due in zip(events, owed, strict=True) if e.type != "task_reminded"]
        assert steps == [("task_escalated", 2), ("task_expired", 10)]
        reminded = [due for e, due in zip(events, owed, strict=True) if e.type == "task_reminded"]
        assert reminded == list(range(1, 1 + len(reminded))), "each once"
        assert len(reminded) in (9, 10), "every hour until it expires"
        assert [event.data["level"] for event in every(sim, case, "task_escalated")] == [1]
        assert closed(sim, case) == "refused"


@pytest.mark.usefixtures("each_store")
@pytest.mark.parametrize("live", [512, 0])
def test_inv_44_without_faults_every_case_ends_or_says_what_it_waits_for(live: int) -> None:
    """After one run nothing can move by itself; within the definitions' own deadlines every case is over."""
    with Simulation([orders, signing, slow], live=live, fakes={}) as sim:
        sim.fake(vendor, lambda paper: f"seen {paper}")
        with sim.together():
            for n in range(CASES):
                sim.start(orders, Paper(id=f"{n}"))
                sim.start(signing, Paper(id=f"{n}", quorum=1 + n % 2))
                sim.start(slow, Paper(id=f"{n}"))
        for row in sim.query("SELECT workflow, key, status, wait_kind, incident_count FROM cases"):
            case = f"{row['workflow']}/{row['key']}"
            assert row["status"] == "closed" or row["wait_kind"], f"{case} is open and waits for nothing"
            assert row["incident_count"] == 0
        assert sim._do(sim._app.store.ready(sim.now.isoformat(), 0, 10)) == []
        for n in range(0, CASES, 3):
            sim.signal(f"signing/{n}", pulled, Word())
        sim.advance(days(1))  # naps of eight hours, expiries of ten
        for n in range(CASES):
            sim.signal(f"orders/{n}", "word", {"n": n})
        left = sim.query("SELECT workflow, key FROM cases WHERE status = 'open'")
        assert left == []
        assert sim._do(findings(sim)) == []


async def findings(sim: Simulation) -> list[str]:
    return [str(finding) async for finding in verify(sim._app.store)]  # type: ignore[arg-type]
