"""The first event of a case: what was accepted, by whom, under which key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from longcase.engine.tasks import Actor
from longcase.history.event import Event, instant_text
from longcase.model.calendar import due
from longcase.model.codec import Json
from longcase.model.workflow import Workflow


def case_started(
    workflow: Workflow[Any],
    body: Json,
    *,
    uid: str,
    tenant: str,
    now: datetime,
    actor: Actor,
    parent: Mapping[str, Json] | None = None,
) -> Event:
    """Return the `case_started` event of a validated business object."""
    entry = workflow.entry
    data: dict[str, Json] = {
        "uid": uid, "tenant": tenant, "workflow": workflow.name, "key": body[workflow.key_field], "object": body,
        "stage": entry.name, "owner": entry.owner.name,
        "expected": instant_text(due(now, workflow.expect, workflow.owner.calendar or entry.owner.calendar)),
    }  # fmt: skip
    if parent is not None:
        data["parent"] = dict(parent)
    return Event(
        "case_started",
        data,
        0,
        at=instant_text(now),
        actor=actor.name,
        channel=actor.channel,
        on_behalf=actor.on_behalf,
        seq=1,
    )
