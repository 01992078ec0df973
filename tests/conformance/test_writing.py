"""Writing turns: both roads of SEMANTICS A2, and what one turn does to other cases."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from tests.support.cases import (
    NOON_TEXT,
    asked,
    closed,
    completed,
    corrected,
    decided,
    do,
    entered,
    first_turn,
    incident,
    new_case,
    noted,
    receive,
    received,
    scheduled,
    signal,
    turn,
    voted,
)

from longcase.errors import BugError, InvalidInput
from longcase.history.state import fold
from longcase.insight.verify import verify
from longcase.store.records import CaseRef, CaseWrite, DedupKey, Input, Started

LATER = "2026-03-02T15:00:00.000000Z"


async def start(store: Any, key: str = "k1") -> Started:
    (started,) = await store.start([new_case(key)])
    return started


async def findings(store: Any) -> list[str]:
    return [str(finding) async for finding in verify(store)]


async def test_a_turn_is_appended_and_folded_into_the_row(store: Any) -> None:
    started, worker = await start(store), await store.join("here", 1)
    (written,) = await store.write([turn(started, entered(), receive(), lease=worker, wake_at=LATER)])
    assert (written.outcome, written.interleaved, written.pending) == ("done", False, 0)
    row = await store.load(CaseRef(started.case_no))
    assert row.state == written.state
    assert (row.lease, row.wake_at, row.state.seq) == (worker, LATER, 3)
    events = await store.events(started.case_no)
    assert [event.seq for event in events] == [1, 2, 3]
    assert fold(events) == row.state


async def test_inv_01_inv_03_inv_39_hold_of_what_was_written(store: Any) -> None:
    first, second = await store.start([new_case("k1"), new_case("k2")])
    await store.write([turn(first, entered(), asked()), turn(second, entered(), scheduled(), lease=1)])
    await store.edit(CaseRef(first.case_no), do(voted("ann"), corrected(name="Acme")))
    assert await findings(store) == []


async def test_rule_A2_a_seen_event_in_between_makes_the_turn_stale(store: Any) -> None:
    base = await start(store)
    late = turn(base, entered(), receive())
    await store.edit(CaseRef(base.case_no), do(corrected(name="Acme")))
    (written,) = await store.write([late])
    assert written.outcome == "stale"
    assert [event.type for event in await store.events(base.case_no)] == ["case_started", "corrected"]


async def test_rule_A2_unseen_events_in_between_are_kept_before_the_turn(store: Any) -> None:
    base = await start(store)
    await store.write([turn(base, entered())])
    row = await store.load(CaseRef(base.case_no))
    late = turn(row, receive())
    await store.edit(CaseRef(base.case_no), do(noted()))
    (written,) = await store.write([late])
    assert (written.outcome, written.interleaved) == ("done", True)
    types = [event.type for event in await store.events(base.case_no)]
    assert types == ["case_started", "stage_entered", "duplicate_ignored", "receive_opened"]
    row = await store.load(CaseRef(base.case_no))
    assert written.state == row.state
    assert row.state.receives["1.r1"]["seq"] == 4
    assert await findings(store) == []


async def test_rule_A2_the_wake_that_came_with_an_unseen_event_survives_the_turn(store: Any) -> None:
    base = await start(store)
    await store.write([turn(base, entered())])
    row = await store.load(CaseRef(base.case_no))
    late = turn(row, receive(), wake_at=LATER)
    await store.edit(CaseRef(base.case_no), do(noted(), wake=True))
    await store.write([late])
    assert (await store.load(CaseRef(base.case_no))).wake_at == NOON_TEXT


async def test_rule_B2_a_snapshot_is_not_put_after_what_it_does_not_know(store: Any) -> None:
    base = await start(store)
    late = turn(base, entered(snapshot={"seq": 2}))
    await store.edit(CaseRef(base.case_no), do(noted()))
    (written,) = await store.write([late])
    assert written.outcome == "stale"


async def test_one_losing_case_does_not_fail_its_batch(store: Any) -> None:
    cases = await store.start([new_case(f"k{i}") for i in range(3)])
    turns = [turn(base, entered(), receive()) for base in cases]
    await store.edit(CaseRef(cases[1].case_no), do(corrected(name="Acme")))
    written = await store.write(turns)
    assert [one.outcome for one in written] == ["done", "stale", "done"]
    assert await findings(store) == []


async def test_a_turn_on_a_case_that_closed_is_stale(store: Any) -> None:
    base = await start(store)
    late = turn(base, entered(), receive())
    await store.write([turn(base, entered(), closed())])
    (written,) = await store.write([late])
    assert written.outcome == "stale"


async def test_a_turn_computed_on_what_was_never_stored_is_stale(store: Any) -> None:
    base = await start(store)
    row = Started(base.case_no, False, copy.deepcopy(base.state))
    lost = turn(row, noted())  # never written
    (written,) = await store.write([turn(Started(base.case_no, False, lost.state), noted("after"))])
    assert written.outcome == "stale"


async def test_a_closed_case_takes_records_but_nothing_a_stage_would_see(store: Any) -> None:
    base = await start(store)
    await store.write([turn(base, entered(), closed())])
    row = await store.load(CaseRef(base.case_no))
    record, seen = turn(row, noted()), turn(row, receive())
    assert [one.outcome for one in await store.write([seen])] == ["stale"]
    assert [one.outcome for one in await store.write([record])] == ["done"]


async def test_the_second_of_two_callers_with_the_same_case_is_stale(store: Any) -> None:
    base = await start(store)
    first, second = turn(base, entered()), turn(base, entered(), receive())
    outcomes = await asyncio.gather(store.write([first]), store.write([second]))
    assert sorted(written[0].outcome for written in outcomes) == ["done", "stale"]


async def test_a_case_twice_in_one_call_is_refused(store: Any) -> None:
    base = await start(store)
    with pytest.raises(BugError, match="twice"):
        await store.write([turn(base, entered()), turn(base, entered())])


async def test_a_turn_whose_data_is_no_json_writes_nothing_of_its_call(store: Any) -> None:
    good, bad = await store.start([new_case("k1"), new_case("k2")])
    with pytest.raises(InvalidInput, match="JSON"):
        await store.write([turn(good, entered()), turn(bad, entered(), completed(result="\ud800"))])
    assert (await store.load(CaseRef(good.case_no))).state.seq == 1


async def test_with_partial_only_the_bad_case_fails(store: Any) -> None:
    good, bad, wrong = await store.start([new_case("k1"), new_case("k2"), new_case("k3")])
    ownerless = turn(wrong, entered(owner=""))
    turns = [turn(good, entered(), receive()), turn(bad, entered(), completed(result="\ud800")), ownerless]
    written = await store.write(turns, partial=True)
    assert [one.outcome for one in written] == ["done", "failed", "failed"]
    assert isinstance(written[1].error, InvalidInput)
    assert [(await store.load(CaseRef(n.case_no))).state.seq for n in (good, bad, wrong)] == [3, 1, 1]
    assert await findings(store) == []


async def test_one_callers_bad_turn_does_not_fail_anothers(store: Any) -> None:
    good, bad = await store.start([new_case("k1"), new_case("k2")])
    first, second = await asyncio.gather(
        store.write([turn(good, entered())]), store.write([turn(bad, entered(owner=""))]), return_exceptions=True
    )
    assert first[0].outcome == "done"
    assert isinstance(second, BugError)


async def test_a_write_without_events_changes_lease_and_wake_only(store: Any) -> None:
    base, worker = await start(store), await store.join("here", 1)
    before = await store.load(CaseRef(base.case_no))
    (written,) = await store.write([turn(base, lease=worker, wake_at=LATER)])
    after = await store.load(CaseRef(base.case_no))
    assert written.outcome == "done"
    assert (after.lease, after.wake_at) == (worker, LATER)
    assert (after.state, after.hash) == (before.state, before.hash)


async def test_the_instant_of_an_event_never_goes_back(store: Any, env: Any) -> None:
    base = await start(store)
    await store.write([turn(base, entered())])
    row = await store.load(CaseRef(base.case_no))
    late = turn(row, receive())
    env.clock.set(env.clock.now().replace(hour=14))
    await store.edit(CaseRef(base.case_no), do(noted()))
    await store.write([late])
    instants = [event.at for event in await store.events(base.case_no)]
    assert instants == sorted(instants)
    assert instants[-1] == "2026-03-02T14:00:00.000000Z"


# -- inbox -----------------------------------------------------------------------------------------


async def test_inv_08_an_applied_input_leaves_the_inbox_with_its_turn(store: Any) -> None:
    base = await start(store)
    ref = CaseRef(base.case_no)
    await store.edit(ref, do(inputs=[signal("s-1"), signal("s-2")]))
    one, two = await store.inbox(base.case_no)
    assert (one.id, two.id) == ("s-1", "s-2")
    (written,) = await store.write([turn(base, entered(), received(one), taken=[one.no])])
    assert (written.outcome, written.pending) == ("done", 1)
    assert [item.id for item in await store.inbox(base.case_no)] == ["s-2"]
    assert await findings(store) == []


async def test_inv_08_a_stale_turn_leaves_its_inputs_in_the_inbox(store: Any) -> None:
    base = await start(store)
    ref = CaseRef(base.case_no)
    await store.edit(ref, do(inputs=[signal("s-1")]))
    (item,) = await store.inbox(base.case_no)
    late = turn(base, entered(), received(item), taken=[item.no])
    await store.edit(ref, do(corrected(name="Acme")))
    (written,) = await store.write([late])
    assert written.outcome == "stale"
    assert [item.id for item in await store.inbox(base.case_no)] == ["s-1"]


async def test_a_case_whose_inbox_is_not_empty_wants_a_turn_now(store: Any) -> None:
    base = await start(store)
    await store.edit(CaseRef(base.case_no), do(inputs=[signal("s-1")]))
    await store.write([turn(base, entered(), receive(), wake_at=LATER)])
    assert (await store.load(CaseRef(base.case_no))).wake_at == NOON_TEXT


async def test_an_input_the_turn_has_heard_of_does_not_wake_the_case(store: Any) -> None:
    base = await start(store)
    await store.edit(CaseRef(base.case_no), do(inputs=[signal("s-1")]))
    (item,) = await store.inbox(base.case_no)
    await store.write([turn(base, entered(), receive(), wake_at=LATER, heard=item.no)])
    assert (await store.load(CaseRef(base.case_no))).wake_at == LATER
    await store.edit(CaseRef(base.case_no), do(inputs=[signal("s-2")]))
    row = await store.load(CaseRef(base.case_no))
    await store.write([turn(row, noted(), wake_at=LATER, heard=item.no)])
    assert (await store.load(CaseRef(base.case_no))).wake_at == NOON_TEXT


async def test_an_input_waits_quietly_while_an_incident_blocks_the_case(store: Any) -> None:
    base = await start(store)
    await store.edit(CaseRef(base.case_no), do(inputs=[signal("s-1")]))
    (written,) = await store.write([turn(base, entered(), incident())])
    assert written.pending == 1
    assert (await store.load(CaseRef(base.case_no))).wake_at == ""


async def test_an_outcome_the_case_keeps_for_later_counts_as_pending(store: Any) -> None:
    base = await start(store)
    kept = Input("end-1.c1-1", "activity_completed", {"call": "1.c1", "result": 1}, "worker:1", "engine")
    (written,) = await store.write([turn(base, entered(), incident(), notify=[(base.case_no, kept)])])
    assert written.pending == 1
    assert [item.id for item in await store.inbox(base.case_no)] == ["end-1.c1-1"]


# -- other cases -----------------------------------------------------------------------------------


async def test_children_are_started_in_the_same_transaction(store: Any) -> None:
    base = await start(store)
    child = new_case("c1", workflow="check", dedup=DedupKey(f"child:{base.case_no}", "1.k1", ""))
    child.started.data["parent"] = {"case_no": base.case_no, "child": "1.k1"}
    (written,) = await store.write([turn(base, entered(), children=[child])])
    row = await store.load(CaseRef(workflow="check", key="c1"))
    assert [one.case_no for one in written.children] == [row.case_no]
    assert row.state.parent == {"case_no": base.case_no, "child": "1.k1"}
    assert row.case_no in await store.ready(NOON_TEXT, 0, 10)


async def test_a_child_is_started_once_however_often_its_turn_is_repeated(store: Any) -> None:
    base = await start(store)
    dedup = DedupKey(f"child:{base.case_no}", "1.k1", "")
    await store.write([turn(base, entered(), children=[new_case("c1", workflow="check", dedup=dedup)])])
    row = await store.load(CaseRef(base.case_no))
    (written,) = await store.write([turn(row, noted(), children=[new_case("c1", workflow="check", dedup=dedup)])])
    assert [one.existing for one in written.children] == [True]


async def test_a_stale_turn_starts_no_child(store: Any) -> None:
    base = await start(store)
    late = turn(base, entered(), children=[new_case("c1", workflow="check")])
    await store.edit(CaseRef(base.case_no), do(corrected(name="Acme")))
    await store.write([late])
    assert await store.load(CaseRef(workflow="check", key="c1")) is None


async def test_a_close_tells_the_parent_and_wakes_it(store: Any) -> None:
    parent, child = await store.start([new_case("p"), new_case("c")])
    await store.write([turn(parent, entered(), receive())])
    told = Input("child-1.k1", "child_closed", {"child": "1.k1"}, "engine", "engine")
    await store.write([turn(child, entered(), closed(), notify=[(parent.case_no, told)])])
    assert [item.id for item in await store.inbox(parent.case_no)] == ["child-1.k1"]
    assert (await store.load(CaseRef(parent.case_no))).wake_at == NOON_TEXT


async def test_a_close_tells_a_closed_parent_nothing(store: Any) -> None:
    parent, child = await store.start([new_case("p"), new_case("c")])
    await store.write([turn(parent, entered(), closed())])
    told = Input("child-1.k1", "child_closed", {"child": "1.k1"}, "engine", "engine")
    await store.write([turn(child, entered(), closed(), notify=[(parent.case_no, told)])])
    assert await store.inbox(parent.case_no) == []


async def test_a_child_to_be_cancelled_is_asked_and_woken(store: Any) -> None:
    (parent,) = await store.start([new_case("p")])
    new = new_case("c", workflow="check")
    new.started.data["parent"] = {"case_no": parent.case_no, "child": "1.k1"}
    (written,) = await store.write([turn(parent, entered(), receive(), children=[new])])
    child = written.children[0]
    await store.write([turn(child, entered(), receive())])
    cancel = [("1.k1", "check", "c", "parent closed"), ("1.k2", "check", "unknown", "parent closed")]
    row = await store.load(CaseRef(parent.case_no))
    await store.write([turn(row, noted(), cancel_children=cancel)])
    row = await store.load(CaseRef(child.case_no))
    assert row.state.cancel is not None
    assert row.state.cancel["reason"] == "parent closed"
    assert row.wake_at == NOON_TEXT
    assert await findings(store) == []


async def test_a_stranger_under_a_childs_key_is_not_cancelled_and_the_parent_is_told(store: Any) -> None:
    parent, stranger = await store.start([new_case("p"), new_case("c", workflow="check")])
    new = new_case("c", workflow="check", dedup=DedupKey("child:p", "1.k1", ""), again=True)
    new.started.data["parent"] = {"case_no": parent.case_no, "child": "1.k1"}
    (written,) = await store.write([turn(parent, entered(), children=[new])])
    assert (written.children[0].case_no, written.pending) == (stranger.case_no, 1)
    (told,) = await store.inbox(parent.case_no)
    assert (told.type, told.data) == ("child_refused", {"child": "1.k1"})
    row = await store.load(CaseRef(parent.case_no))
    await store.write([turn(row, noted(), cancel_children=[("1.k1", "check", "c", "parent closed")])])
    assert (await store.load(CaseRef(stranger.case_no))).state.cancel is None


async def test_a_case_is_started_together_with_its_first_turn(store: Any) -> None:
    child = new_case("c1", workflow="check")
    child.started.data["parent"] = {"case_no": 0, "child": "1.k1"}
    worker = await store.join("here", 1)
    (written,) = await store.write([first_turn(new_case("k1"), entered(), receive(), lease=worker, children=[child])])
    row = await store.load(CaseRef(workflow="onboarding", key="k1"))
    assert (written.outcome, written.case_no) == ("done", row.case_no)
    assert (row.state.seq, row.lease, row.wake_at) == (3, worker, "")
    started = await store.load(CaseRef(workflow="check", key="c1"))
    assert started.state.parent["case_no"] == row.case_no
    assert await findings(store) == []


async def test_a_first_turn_on_a_live_key_is_answered_with_that_case(store: Any) -> None:
    base = await start(store)
    (written,) = await store.write([first_turn(new_case("k1"), entered(), receive())])
    assert (written.outcome, written.case_no) == ("existing", base.case_no)
    assert (await store.load(CaseRef(base.case_no))).state.seq == 1


async def test_two_first_turns_of_one_key_in_one_call_make_one_case(store: Any) -> None:
    written = await store.write([first_turn(new_case("k1"), entered()), first_turn(new_case("k1"), entered())])
    assert [one.outcome for one in written] == ["done", "existing"]


# -- tasks -----------------------------------------------------------------------------------------


async def test_tasks_can_be_asked_for_from_their_opening_to_their_answer(store: Any) -> None:
    base = await start(store)
    await store.write([turn(base, entered(), asked())])
    await store.edit(CaseRef(base.case_no), do(voted("ann"), voted("ben", decides=True)))
    tasks = await store.query("SELECT task_no, status, question, of_team, answer FROM tasks")
    assert tasks == [{"task_no": 1, "status": "decided", "question": "Sign off?", "of_team": "credit", "answer": ""}]
    row = await store.load(CaseRef(base.case_no))
    (written,) = await store.write([turn(row, decided(), receive())])
    assert written.state.ended_tasks == {}
    tasks = await store.query("SELECT task_no, status, answer, decided_at, decided_by FROM tasks")
    assert tasks == [
        {
            "task_no": 1,
            "status": "decided",
            "answer": "approved",
            "decided_at": NOON_TEXT,
            "decided_by": '["ann","ben"]',
        }
    ]
    assert await findings(store) == []


async def test_many_callers_at_once_lose_nothing(store: Any) -> None:
    cases = await store.start([new_case(f"k{i}") for i in range(20)])

    async def live(base: Started) -> None:
        write: CaseWrite = turn(base, entered(), receive())
        await store.write([write])
        for number in range(5):
            await store.edit(CaseRef(base.case_no), do(noted(str(number))))

    await asyncio.gather(*(live(base) for base in cases))
    rows = await store.load_many([base.case_no for base in cases])
    assert {row.state.seq for row in rows.values()} == {8}
    assert await findings(store) == []


async def test_rule_A2_a_cause_inside_the_turn_moves_with_it(store: Any) -> None:
    base = await start(store)
    await store.write([turn(base, entered())])
    row = await store.load(CaseRef(base.case_no))
    first, second = receive(), receive("letter", "1.r2")
    first.cause, second.cause = 2, 3  # the entry, and the event before it in the turn
    late = turn(row, first, second)
    (bad,) = await store.start([new_case("bad")])
    await store.edit(CaseRef(base.case_no), do(noted()))
    # The other entry fails, so that this one is written a second time, by itself.
    written = await store.write([late, turn(bad, entered(owner=""))], partial=True)
    assert [one.outcome for one in written] == ["done", "failed"]
    causes = [event.cause for event in await store.events(base.case_no, after=3)]
    assert causes == [2, 4]
    assert [finding for finding in await findings(store) if "bad" not in finding] == []
