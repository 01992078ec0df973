"""Which calls in flight were called with what is corrected now (SEMANTICS B9), read from what they were called with.

An argument, or a value inside one, was taken from a corrected field if it has its value from before the correction
and its name, or is a list or a structure equal to it. In doubt are a value of the same name that differs, and an equal
text or number of another name: these are told, and never replaced by themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import field
from typing import Any

from longcase.engine.attempts import place
from longcase.history.event import Event
from longcase.history.redoing import same
from longcase.history.state import Call, CaseState
from longcase.model.codec import Json, dump_json
from longcase.record import record

Place = list[str | int]  # of a value: the argument, then names and positions inside it


def in_flight(state: CaseState) -> Iterator[tuple[str, Call]]:
    """Yield the calls that stage code waits for: running, waiting for a try or a worker, or in an incident.

    One whose transaction is committed has ended: its result only waits for a turn.
    """
    for ref, call in state.calls.items():
        if call["awaited"] and not call["undoes"] and not call.get("stopping") and "committed" not in call:
            yield ref, call


def input_corrected(
    state: CaseState, patch: Mapping[str, Json], inputs: Callable[[Call], dict[str, Json]]
) -> list[Event]:
    """Return the marks of the calls that were called with a field which `patch` corrects; one that has none is left.

    They are placed where their calls stand on the map, and caused by the correction, the event before them.
    """
    parts = list(_parts(state.object, patch))
    marks = []
    for ref, call in in_flight(state):
        found = _Found(parts)
        marked: dict[str, Json] = call.get("corrected", {"changes": [], "doubts": []})
        for name, value in with_changes(inputs(call), marked["changes"]).items():
            found.look(value, [name], None)
        found.again(marked["doubts"])
        if found.changes or found.doubts:
            fields = dict.fromkeys(one["field"] for one in (*found.changes, *found.doubts))
            data: dict[str, Json] = {
                "call": ref, "activity": call["activity"], "fields": list(fields),
                "changes": found.changes, "doubts": found.doubts,
            }  # fmt: skip
            mark = place(state, call, Event("input_corrected", data))
            mark.cause = state.seq + 1
            marks.append(mark)
    return marks


def with_changes(arguments: dict[str, Json], changes: Sequence[Mapping[str, Any]]) -> dict[str, Json]:
    """Return arguments with values replaced; those given are not changed."""
    if not changes:
        return arguments
    changed: dict[str, Json] = json.loads(dump_json(arguments))
    for change in changes:
        inside: Any = changed
        for step in change["at"][:-1]:
            inside = inside[step]
        inside[change["at"][-1]] = change["after"]
    return changed


@record
class _Part:
    """A corrected field of the object, or what differs inside one."""

    path: tuple[str, ...]
    before: Json
    after: Json
    beside: Set[str]  # the fields of the structure it stands in

    @property
    def name(self) -> str:
        return self.path[-1]


def _parts(before: Mapping[str, Json], after: Mapping[str, Json], path: tuple[str, ...] = ()) -> Iterator[_Part]:
    beside = frozenset(before)
    for name, value in after.items():
        old = before.get(name)
        if same(old, value):
            continue
        yield _Part((*path, name), old, value, beside)
        if isinstance(old, dict) and isinstance(value, dict):
            yield from _parts(old, {key: value[key] for key in value if key in old}, (*path, name))


@record(frozen=False)
class _Found:
    """What of a call's arguments is corrected, and what may be."""

    parts: Sequence[_Part]
    changes: list[Json] = field(default_factory=list)
    doubts: list[Json] = field(default_factory=list)

    def look(self, value: Json, at: Place, inside: Set[str] | None) -> None:
        """Look at a value; `inside` are the fields of the structure it stands in, None of an argument itself."""
        part = self._taken(value, at[-1], inside)
        if part is not None:
            change = {"at": at, "field": ".".join(part.path), "before": value, "after": part.after}
            self.changes.append(change)
            return
        before = len(self.changes)
        if isinstance(value, dict):
            for name, item in value.items():
                self.look(item, [*at, name], value.keys())
        elif isinstance(value, list):
            for position, item in enumerate(value):
                self.look(item, [*at, position], frozenset())
        if len(self.changes) == before:
            for part in self.parts:
                if _perhaps(part, value, at[-1]):
                    self._doubt(at, ".".join(part.path), value, part.after)

    def again(self, doubts: Sequence[Mapping[str, Any]]) -> None:
        """Say of what was in doubt before what its field is now."""
        told = [(doubt["at"], doubt["field"]) for doubt in self.doubts]
        after = {".".join(part.path): part.after for part in self.parts}
        for doubt in doubts:
            if doubt["field"] in after and (doubt["at"], doubt["field"]) not in told:
                self._doubt(doubt["at"], doubt["field"], doubt["value"], after[doubt["field"]])

    def _doubt(self, at: Place, name: str, value: Json, after: Json) -> None:
        self.doubts.append({"at": at, "field": name, "value": value, "after": after})

    def _taken(self, value: Json, name: str | int, inside: Set[str] | None) -> _Part | None:
        """Return the part that a value was certainly taken from."""
        equal = [part for part in self.parts if same(part.before, value)]
        for part in equal:
            if part.name == name and (inside is None or part.beside <= inside):
                return part
        if isinstance(value, (dict, list)) and value and all(same(part.after, equal[0].after) for part in equal):
            return equal[0] if equal else None
        return None


def _perhaps(part: _Part, value: Json, name: str | int) -> bool:
    """Tell whether a value may have been taken from a part. What is equal to many things says nothing."""
    if part.name == name:
        return not same(value, part.after)
    telling = not isinstance(value, bool) and value not in (None, "", [], {})
    return telling and same(value, part.before)
