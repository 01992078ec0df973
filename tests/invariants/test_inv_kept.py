"""I1 to I5, I8, I10 to I12, I30, I31, I33: what is kept, what is taken in, one state and one owner.

Each test has two halves: nothing is wrong with lives full of trouble, looked at in their middle and at
their end; and a copy broken by hand is named by the check.
"""

from __future__ import annotations

import copy
import dataclasses
from functools import partial

from tests.invariants.lives import (
    a_case,
    broken,
    cases,
    evidence,
    facts,
    findings,
    first,
    happened,
    ids,
    inserted,
    renumbered,
    with_events,
)
from tests.simulation import checks

from longcase.history.chain import GENESIS, link, payload_digest
from longcase.history.event import Event
from longcase.insight import invariants as inv
from longcase.insight.invariants import LiveKeys


def test_inv_01_history_is_numbered_without_gap_or_repeat() -> None:
    assert findings(inv.inv_01) == []
    life, stored = a_case(lambda events: len(events) > 10)
    dropped = copy.deepcopy(stored)
    del dropped.events[4]
    assert [(f.invariant, f.seq) for f in inv.inv_01(facts(life, dropped))] == [("I1", 6)]
    repeated = copy.deepcopy(stored)
    repeated.events.insert(4, copy.deepcopy(repeated.events[4]))
    assert "I1" in {f.invariant for f in inv.inv_01(facts(life, repeated))}
    stored.row["seq"] = len(stored.events) + 1
    assert "the row counts" in next(iter(inv.inv_01(facts(life, stored)))).message


def test_inv_02_what_was_once_written_never_changes() -> None:
    """Hashes noted in the middle of a life stand at its end; a chain forged whole betrays itself by them."""
    noted = 0
    for life in evidence():
        for stored in life.stored:
            known = life.anchors.get(stored.case_no, {})
            noted += len(known)
            assert list(inv.inv_02(facts(life, stored), known)) == []
    assert noted > 500
    life, stored = a_case(lambda events: len(events) > 10)
    anchors = {event.seq: event.hash for event in stored.events}
    stored.events[5].actor = "person:mallory"
    previous = GENESIS
    for event in stored.events:
        event.digest = payload_digest(event.salt, event.text)
        previous = event.hash = link(previous, event)
    assert list(inv.inv_39(facts(life, stored))) == [], "the forged chain holds together"
    assert [f.seq for f in inv.inv_02(facts(life, stored), anchors)] == list(range(6, len(anchors) + 1))


def test_inv_03_the_row_is_the_fold_of_its_history_at_every_moment() -> None:
    looks = sum(life.looks for life in evidence())
    assert looks > 100
    assert [finding for life in evidence() for finding in life.findings] == []
    assert findings(inv.inv_03) == []
    for column in ("status", "stage", "owner", "visit", "wait_whose", "seen_seq"):
        life, stored = a_case(lambda events: len(events) > 10)
        stored.row[column] = 99 if column in ("visit", "seen_seq") else "elsewhere"
        assert [f"column {column}" in f.message for f in inv.inv_03(facts(life, stored))] == [True]
    life, stored = a_case(with_events("task_opened"))
    stored.tasks.pop(next(iter(stored.tasks)))
    assert "missing from the tasks" in next(iter(inv.inv_03(facts(life, stored)))).message


def test_inv_05_no_event_refers_to_one_that_is_not_before_it() -> None:
    assert findings(inv.inv_05) == []
    life, stored = a_case(with_events("activity_completed"))
    event = first(stored, "activity_completed")
    assert event.cause, "a result names its command"
    for wrong in (event.seq, event.seq + 1, 0):
        event.cause = wrong
        assert [f.seq for f in inv.inv_05(facts(life, stored))] == [event.seq]


def test_inv_08_an_acknowledged_signal_is_there_once() -> None:
    """By the clients' own logs, over lost answers and repeats under the same key; and by the tables."""
    for life in evidence():
        assert checks.client_checks(life.sent, life.histories) == []
    assert happened("duplicate_ignored") > 20
    assert findings(inv.inv_08) == []
    life, stored = a_case(with_events("signal_received", "signal_consumed"))
    event = first(stored, "signal_received")
    address = f"{stored.row['workflow']}/{stored.row['key']}"
    gone = [other for other in stored.events if other.data.get("id") != event.data["id"]]
    assert ids(checks.client_checks(life.sent, {**life.histories, address: gone})) >= {"I8"}
    inserted(stored, event, event)
    assert [f.invariant for f in inv.inv_08(facts(life, stored))] == ["I8"]
    assert ids(checks.client_checks(life.sent, {**life.histories, address: stored.events})) >= {"I8"}


def test_inv_10_no_accepted_signal_vanishes_at_the_close() -> None:
    """Whatever was not consumed stands in the history as unhandled, with its reason."""
    told = [event for _, stored in cases() for event in stored.events if event.type == "signal_unhandled"]
    assert len(told) > 50
    assert all(event.data["why"] for event in told)
    life, stored = a_case(with_events("signal_received", "signal_unhandled", "case_closed"))
    assert "I10" not in broken(life, stored)
    received = {event.data["id"] for event in stored.events if event.type == "signal_received"}
    lost = next(e for e in stored.events if e.type == "signal_unhandled" and e.data["id"] in received)
    stored.events.remove(lost)
    assert "I10" in broken(life, renumbered(stored))


def test_inv_11_signals_of_a_name_are_consumed_in_the_order_they_came() -> None:
    assert all(checks.client_checks(life.sent, life.histories) == [] for life in evidence())

    life, stored = a_case(lambda events: _swappable(events) is not None)
    assert "I11" not in broken(life, stored)
    pair = _swappable(stored.events)
    assert pair is not None
    consumed, later = pair
    consumed.data["id"] = later.data["id"]
    assert "I11" in broken(life, stored)
    life, stored = a_case(lambda events: len([e for e in events if e.type == "signal_received"]) > 1)
    one, two = [event for event in stored.events if event.type == "signal_received"][:2]
    one.data, two.data = two.data, one.data
    address = f"{stored.row['workflow']}/{stored.row['key']}"
    assert "I11" in ids(checks.client_checks(life.sent, {**life.histories, address: stored.events}))


def _swappable(events: list[Event]) -> tuple[Event, Event] | None:
    """Return a consumed signal and another of its name that was there too, if there are."""
    kept: list[Event] = []
    for event in events:
        if event.type == "signal_received":
            kept.append(event)
        elif event.type == "signal_consumed":
            same = [e for e in kept if e.data["signal"] == event.data["signal"] and e.data["id"] != event.data["id"]]
            if same:
                return event, same[-1]
            kept = [e for e in kept if e.data["id"] != event.data["id"]]
        elif event.type == "stage_entered":
            kept = [e for e in kept if event.data["reason"] != "restart"]
    return None


def test_inv_12_there_are_never_two_live_cases_of_a_key() -> None:
    """Starts were sent twice and their answers lost; every one of them came to one case."""
    for life in evidence():
        keys = LiveKeys()
        assert [finding for stored in life.stored for finding in keys(facts(life, stored))] == []
        started = [sent["case"] for sent in life.sent if sent["kind"] == "start"]
        assert all(list(life.histories).count(case) == 1 for case in started)
    again = [
        life
        for life in evidence()
        if len({s["case"] for s in life.sent if s["kind"] == "start"}) < sum(s["kind"] == "start" for s in life.sent)
    ]
    assert len(again) > 5
    life, stored = a_case(with_events("case_started"))
    stored.row["status"] = "open"
    keys = LiveKeys()
    twin = dataclasses.replace(copy.deepcopy(stored), case_no=stored.case_no + 900)
    assert list(keys(facts(life, stored))) == []
    assert [f.invariant for f in keys(facts(life, twin))] == ["I12"]
    twin.row["key"] = "  "
    assert "blank" in next(iter(keys(facts(life, twin)))).message


def test_inv_30_one_state_and_one_owner_after_every_event() -> None:
    declared = {"first", "second", "only", "halted", "cancel"}
    for life, stored in cases():
        seen = facts(life, stored)
        assert list(inv.inv_30(seen)) == []
        entered = [event.data["stage"] for event in stored.events if event.type == "stage_entered"]
        assert set(entered) <= declared | {stored.row["stage"]}, entered
    for column in ("owner", "stage"):
        life, stored = a_case(with_events("stage_entered"))
        event = first(stored, "stage_entered")
        event.data[column] = ""
        event.data["snapshot"][column] = ""
        assert event.seq in {f.seq for f in inv.inv_30(facts(life, stored))}, column
    stored.row["owner"] = ""
    assert "the row has no owner" in {f.message for f in inv.inv_30(facts(life, stored))}


def test_inv_31_an_open_case_has_something_that_will_move_it() -> None:
    """Looked at in the middle of every life (`verify` ran there); here a wait is taken away by hand."""
    assert [f for life in evidence() for f in life.findings if f.startswith("I31")] == []
    for opens in ("receive_opened", "timer_set", "task_opened"):
        life, stored = a_case(partial(_has_lonely, opens))
        at = _lonely(stored.events, opens)
        assert at is not None
        stored.inbox = []
        stored.row["wake_at"] = stored.events[at].data["due"] if opens == "timer_set" else ""
        stored.events = stored.events[: at + 1]
        assert list(inv.inv_31(facts(life, stored))) == []
        stored.row["wake_at"] = ""
        del stored.events[at]
        assert [f.invariant for f in inv.inv_31(facts(life, stored))] == ["I31"], opens


def _has_lonely(opens: str, events: list[Event]) -> bool:
    return _lonely(events, opens) is not None


def _lonely(events: list[Event], opens: str) -> int | None:
    """Return the place of the first wait of a case that has no other one."""
    for at, event in enumerate(events):
        if event.type == opens and at and events[at - 1].type in ("stage_entered", "object_changed"):
            before = {e.type for e in events[:at]}
            if before <= {"case_started", "stage_entered", "object_changed", "corrected"}:
                return at
    return None


def test_inv_33_every_event_names_who_did_it() -> None:
    assert findings(inv.inv_33) == []
    kinds = {event.actor.partition(":")[0] for _, stored in cases() for event in stored.events}
    assert kinds == {"person", "service", "worker", "timer", "engine"}
    for actor in ("", "mallory", "root:1"):
        life, stored = a_case(with_events("signal_received"))
        event = first(stored, "signal_received")
        event.actor = actor
        assert [f.seq for f in inv.inv_33(facts(life, stored))] == [event.seq]
    caused = [
        e for _, s in cases() for e in s.events if e.type in ("activity_completed", "timer_fired", "attempt_failed")
    ]
    assert all(event.cause for event in caused), "an outcome names its command"
