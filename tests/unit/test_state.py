"""The state of a case as a fold: what each fact changes, and that nothing else does."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
from tests.support.cases import (
    NOON_TEXT,
    asked,
    closed,
    completed,
    corrected,
    decided,
    entered,
    incident,
    new_case,
    noted,
    receive,
    scheduled,
    voted,
)

from longcase.errors import BugError
from longcase.history.event import CATALOGUE, Event
from longcase.history.state import CaseState, apply, fold
from longcase.history.waits import next_due, waits
from longcase.model.codec import dump_json


def history(*events: Event) -> list[Event]:
    found = [new_case("k1", name="Acme").started, *events]
    for seq, event in enumerate(found, 1):
        event.seq = seq
        event.at = event.at or NOON_TEXT
    return found


def state_of(*events: Event) -> CaseState:
    return fold(history(*events))


LIFE = (entered(), asked(), voted("ann"), scheduled(), completed(), voted("ben", decides=True), decided(), receive())


def test_a_fold_begins_with_the_start() -> None:
    state = state_of()
    assert (state.address, state.stage, state.owner, state.status) == ("onboarding/k1", "intake", "sales", "open")
    assert state.object == {"id": "k1", "name": "Acme"}
    assert (state.seq, state.seen_seq, state.started_at) == (1, 1, NOON_TEXT)


def test_a_gap_in_the_events_is_a_bug() -> None:
    events = history(entered(), receive())
    with pytest.raises(BugError, match="expected 2"):
        fold([events[0], events[2]])


def test_only_seen_events_move_the_seen_seq() -> None:
    state = state_of(entered(), noted(), noted())
    assert (state.seq, state.seen_seq) == (4, 2)


def test_a_fold_in_two_parts_is_the_fold_of_the_whole() -> None:
    events = history(*copy.deepcopy(LIFE))
    whole = fold(copy.deepcopy(events))
    for cut in range(1, len(events)):
        part = copy.deepcopy(events)
        assert fold(part[cut:], fold(part[:cut])) == whole


def test_inv_04_folding_does_not_change_the_events() -> None:
    events = history(*copy.deepcopy(LIFE))
    before = [dump_json(event.data) for event in events]
    fold(events)
    assert [dump_json(event.data) for event in events] == before
    assert fold(events) == fold(events)


def test_a_state_comes_back_from_its_json() -> None:
    for length in range(len(LIFE) + 1):
        state = state_of(*copy.deepcopy(LIFE[:length]))
        state.ended_tasks = {}
        assert CaseState.from_json(copy.deepcopy(state.to_json())) == state


def test_the_object_is_replaced_never_changed_in_place() -> None:
    events = history(entered())
    state = fold(events)
    before = state.object
    event = corrected(name="Apex")
    event.seq, event.at = 3, NOON_TEXT
    apply(state, event)
    assert before == {"id": "k1", "name": "Acme"}
    assert state.object == {"id": "k1", "name": "Apex"}


def test_a_call_is_open_from_its_command_to_its_outcome() -> None:
    state = state_of(entered(), scheduled())
    assert state.calls["1.c1"]["status"] == "running"
    assert [wait.kind for wait in waits(state)] == ["activity"]
    assert state_of(entered(), scheduled(), completed()).calls == {}


def test_votes_gather_until_the_task_is_decided() -> None:
    state = state_of(entered(), asked(), voted("ann"))
    assert [wait.what for wait in waits(state)] == ["Sign off? (1 of 2)"]
    state = state_of(entered(), asked(), voted("ann"), voted("ben", decides=True))
    assert waits(state) == []
    state = state_of(entered(), asked(), voted("ann"), voted("ben", decides=True), decided())
    assert state.tasks == {}
    assert state.ended_tasks["1.q1"]["outcome"]["answer"] == "approved"


def test_the_next_due_instant_is_the_earliest_of_all() -> None:
    assert next_due(state_of(entered(), asked())) == "2026-03-03T12:00:00.000000Z"
    assert next_due(state_of(entered())) == ""


def test_an_incident_is_the_headline_wait() -> None:
    state = state_of(entered(), receive(), incident())
    assert [wait.kind for wait in waits(state)] == ["incident", "signal"]


def test_entering_a_stage_leaves_the_waits_of_the_last_visit() -> None:
    state = state_of(entered(), receive(), scheduled(), entered("review", 2))
    assert (state.stage, state.visit, state.receives) == ("review", 2, {})
    assert state.calls["1.c1"]["awaited"] is False


def test_a_close_keeps_nothing_open_but_what_still_runs() -> None:
    state = state_of(entered(), receive(), scheduled(), incident(), closed("withdrawn"))
    assert (state.status, state.close) == ("closed", {"name": "withdrawn", "result": None, "reason": ""})
    assert (state.receives, state.incidents, list(state.calls)) == ({}, {}, ["1.c1"])
    assert (waits(state), next_due(state)) == ([], "")


def test_every_field_that_is_empty_at_first_may_be_left_out() -> None:
    assert set(CaseState().to_json()) - {"visit"} <= {"tenant", "status", "kind", "history_warned"}
    assert CaseState.from_json({}) == CaseState()
    assert {f.name for f in fields(CaseState)} >= set(CaseState().to_json())


def test_every_event_type_has_a_road_a_place_and_a_meaning() -> None:
    for name, kind in CATALOGUE.items():
        assert kind.name == name
        assert kind.meaning
        assert kind.version >= 1
