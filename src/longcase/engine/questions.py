"""From a stage's question to the task record: all instants frozen, everything the store needs to
judge an answer without the workflow's code (SEMANTICS A11)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from longcase.history.event import instant_text
from longcase.history.state import Task
from longcase.model.calendar import Calendar, due
from longcase.model.codec import Json, canonical_json, digest
from longcase.model.host import RequireRequest, TaskRequest
from longcase.model.ladder import Escalation
from longcase.model.people import Owner
from longcase.model.span import Span

REMINDERS = 20  # reminders one task can send; a bound on its record, not a policy


def question_record(
    request: TaskRequest | RequireRequest, stage_owner: Owner, now: datetime, current: Mapping[str, Json]
) -> tuple[dict[str, Json], str]:
    """Return the task record of a request (but for what the fold adds), and the digest of its shape.

    The shape is what must be the same on replay: kind, answers, fields shown, quorum. The wording of
    a question and the spans may change under a waiting case.
    """
    asked = request.of if isinstance(request, TaskRequest) else request.asked_of
    calendar = asked.calendar or stage_owner.calendar
    if isinstance(request, TaskRequest):
        record: dict[str, Json] = {
            "kind": request.kind, "question": request.question, "quorum": request.quorum,
            "answers": list(request.answers), "form": request.form, "field": "",
            "fields": list(request.fields) if request.fields is not None else None,
            "constants": dict(request.constants),
        }  # fmt: skip
        expires = request.expires
    else:
        record = {
            "kind": "require", "question": f"needs {request.field}", "quorum": 1, "answers": [], "form": None,
            "field": request.field, "fields": None, "constants": {},
        }  # fmt: skip
        expires = None
    shape = digest([record["kind"], record["answers"], record["fields"], record["quorum"], record["field"]])
    expires_at = instant_text(due(now, expires[0], calendar)) if expires else ""
    ladder = _ladder(request.escalate, now, calendar)
    expected = instant_text(due(now, request.within, calendar)) if request.within else ""
    record |= {
        "of": asked.name, "whose": [asked.name],
        "expected": expected or expires_at or (str(ladder[0]["at"]) if ladder else ""),
        "reminders": _reminders(request.remind, now, calendar, expires_at), "ladder": ladder,
        "expires_at": expires_at, "expires_answer": expires[1] if expires else "",
        "members": {t.name: list(t.members) for t in (asked, *(level.to for level in request.escalate)) if t.members},
    }  # fmt: skip
    record["shown"] = shown_text(record["fields"], record["constants"], current)
    record["digest"] = digest(record["shown"])
    return record, shape


def shown_text(fields: Any, constants: Mapping[str, Json], current: Mapping[str, Json]) -> str:
    """Return the canonical JSON of what a task shows, projected from the object as it is now."""
    return canonical_json({"fields": {name: current.get(name) for name in fields or ()}, "constants": dict(constants)})


def is_stale(task: Task, current: Mapping[str, Json]) -> bool:
    """Tell whether what the task shows has changed since it was last shown."""
    return shown_text(task["fields"], task["constants"], current) != task["shown"]


def _ladder(levels: tuple[Escalation, ...], now: datetime, calendar: Calendar | None) -> list[dict[str, Json]]:
    climbs: list[dict[str, Json]] = [
        {"at": instant_text(due(now, level.after, calendar)), "to": level.to.name, "reassign": level.reassign}
        for level in levels
    ]
    return sorted(climbs, key=lambda climb: str(climb["at"]))


def _reminders(every: Span | None, now: datetime, calendar: Calendar | None, until: str) -> list[str]:
    if every is None:
        return []
    instants: list[str] = []
    at = now
    for _ in range(REMINDERS):
        at = due(at, every, calendar)
        text = instant_text(at)
        if until and text >= until:
            break
        instants.append(text)
    return instants
