"""Rows and records: every field of a state has one home, and a narrow update misses none."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

from longcase.history.event import CATALOGUE
from longcase.history.reducers import REDUCERS
from longcase.history.state import CaseState
from longcase.store import rows


def test_every_field_of_a_state_has_one_home() -> None:
    homes = [field for _, field in rows._FOLDED] + ["object", *rows._REST, "ended_tasks"]
    assert sorted(homes) == sorted(field.name for field in fields(CaseState))


def test_a_field_that_may_be_left_out_is_empty_by_default() -> None:
    assert not any(getattr(CaseState(), name) for name in rows._REST)


def test_events_that_change_a_column_outside_a_turns_update_are_known() -> None:
    every_turn = {"seq", "seen_seq", "at"}
    watched = {field for _, field in rows._FOLDED if field not in every_turn} | {"object", "close"}
    assignment = re.compile(rf"state\.({'|'.join(watched)})\b[^=\n]*=(?!=)")
    changing = {name for name, reduce in REDUCERS.items() if assignment.search(inspect.getsource(reduce))}
    assert changing <= rows.WIDE
    assert set(CATALOGUE) >= rows.WIDE
