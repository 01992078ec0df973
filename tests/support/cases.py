"""Builders of what an engine would hand to a store: starts, turns, inputs; and a store to hand it to."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

from longcase.env import Env, VirtualClock
from longcase.history.event import Event, instant_text
from longcase.history.state import CaseState, apply
from longcase.store.records import CaseRow, CaseWrite, DedupKey, Edit, Input, Locked, NewCase, Started

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
NOON_TEXT = instant_text(NOON)


def new_env(seed: int = 7) -> Env:
    """Return an environment that stands still at noon."""
    return Env(VirtualClock(NOON), seed=seed)


def new_case(
    key: str, *, workflow: str = "onboarding", dedup: DedupKey | None = None, again: bool = False, **more: Any
) -> NewCase:
    """Return a case to be started; `more` are fields of its object."""
    data = {
        "uid": f"uid-{key}", "tenant": "main", "workflow": workflow, "key": key, "stage": "intake", "owner": "sales",
        "expected": "2026-04-01T00:00:00.000000Z", "object": {"id": key, **more},
    }  # fmt: skip
    return NewCase(Event("case_started", data, actor="person:ada", channel="api"), dedup, again)


def entered(stage: str = "intake", visit: int = 1, **more: Any) -> Event:
    data = {
        "stage": stage, "kind": "stage", "lineage": visit, "owner": "sales", "reason": "start", "from": "",
        "expected": "2026-03-09T00:00:00.000000Z", **more,
    }  # fmt: skip
    return Event("stage_entered", data, visit)


def receive(name: str = "paper", ref: str = "1.r1") -> Event:
    data = {"receive": ref, "signal": name, "expected": "2026-03-05T00:00:00.000000Z", "whose": "desk"}
    return Event("receive_opened", data, 1, node="intake/receive:paper", n=1, strand="0")


def noted(text: str = "hello") -> Event:
    """Return an unseen event: a repeated message that was ignored."""
    return Event("duplicate_ignored", {"key": text}, actor="person:bob", channel="api")


def corrected(**patch: Any) -> Event:
    """Return a seen event from outside."""
    return Event("corrected", {"patch": patch, "reason": "typo", "before": {}}, actor="person:bob", channel="cli")


def closed(name: str = "active") -> Event:
    return Event("case_closed", {"close": name, "result": None, "reason": ""}, 1)


def scheduled(call: str = "1.c1", *, attempt: int = 1, worker: int = 1, **more: Any) -> Event:
    data = {
        "call": call, "activity": "check_registry", "digest": "d", "input": {}, "key": f"key-{call}", "nth": 1,
        "owner": "integrations", "system": "registry", "expected": "2026-03-02T13:00:00.000000Z", "deadline": "",
        "start_by": "", "attempt": attempt, "worker": worker, **more,
    }  # fmt: skip
    return Event("activity_scheduled", data, 1, node="intake/activity:check_registry", n=1, strand="0")


def completed(call: str = "1.c1", attempt: int = 1, result: Any = "ok") -> Event:
    data = {"call": call, "activity": "check_registry", "attempt": attempt, "result": result}
    return Event(
        "activity_completed", data, 1, actor="worker:1", node="intake/activity:check_registry", n=1, strand="0"
    )


def asked(task: str = "1.q1", **more: Any) -> Event:
    """Return an approval that two people must give."""
    request = {
        "kind": "approval", "question": "Sign off?", "quorum": 2, "answers": ["approved", "rejected"], "form": None,
        "field": "", "fields": ["id"], "constants": {}, "of": "credit", "whose": ["credit"],
        "expected": "2026-03-04T12:00:00.000000Z", "reminders": ["2026-03-03T12:00:00.000000Z"],
        "ladder": [{"at": "2026-03-03T18:00:00.000000Z", "to": "senior", "reassign": False}],
        "expires_at": "2026-03-04T12:00:00.000000Z", "expires_answer": "rejected", "members": {},
        "shown": '{"fields":{"id":"k1"}}', "digest": "d1", **more,
    }  # fmt: skip
    data = {"task": task, "kind": "approval", "shape": "s", "round": 1, "request": request}
    return Event("task_opened", data, 1, node="intake/approval:sign-off", n=1, strand="0")


def voted(by: str, answer: str = "approved", task: str = "1.q1", *, decides: bool = False) -> Event:
    vote = {"by": by, "answer": answer, "reason": "fine", "at": NOON_TEXT, "digest": "d1"}
    data = {"task": task, "vote": vote, "decides": decides, "shown": '{"fields":{"id":"k1"}}', "question": "Sign off?"}
    return Event("vote_given", data, 1, actor=f"person:{by}", channel="api")


def decided(task: str = "1.q1", answer: str = "approved", by: tuple[str, ...] = ("ann", "ben")) -> Event:
    data = {"task": task, "answer": answer, "reason": "fine", "by": list(by), "expired": False}
    return Event("task_decided", data, 1, actor="person:ben")


def incident(name: str = "i9", *, blocks: bool = True, call: str = "") -> Event:
    data = {
        "incident": name, "kind": "stage_failed", "owner": "sales", "message": "KeyError: 'x'", "cause": 1,
        "due": "2026-03-02T16:00:00.000000Z", "call": call, "blocks": blocks, "pending": None, "repairs": ["retry"],
        "details": {},
    }  # fmt: skip
    return Event("incident_opened", data, 1)


def signal(id_: str, body: Any = None) -> Input:
    data = {"signal": "paper", "sender": "person:bob", "body": body}
    return Input(id_, "signal_received", data, "person:bob", "api")


def received(item: Input) -> Event:
    """Return the event an input becomes in the turn that applies it."""
    data = {**item.data, "id": item.id, "accepted_at": item.accepted_at}
    return Event(item.type, data, 1, actor=item.actor, channel=item.channel)


def turn(base: CaseRow | Started, *events: Event, at: str = NOON_TEXT, **more: Any) -> CaseWrite:
    """Return the write of a turn computed on `base`, as an engine numbers and folds it."""
    state = copy.deepcopy(base.state)
    write = CaseWrite(base.case_no, state.seq, state.seen_seq, list(events), state, **more)
    for event in events:
        event.seq = state.seq + 1
        event.at = max(event.at or at, state.at)
        apply(state, event)
    return write


def first_turn(new: NewCase, *events: Event, **more: Any) -> CaseWrite:
    """Return the write that starts a case together with its first turn."""
    new.started.seq, new.started.at = 1, NOON_TEXT
    state = CaseState()
    apply(state, new.started)
    write = turn(Started(0, False, state), *events, **more)
    write.new = new
    return write


def do(*events: Event, **more: Any) -> Any:
    """Return a unit of work for `Store.edit` that appends events and answers with the state's seq before."""

    def decide(locked: Locked) -> Edit[int]:
        return Edit(locked.state.seq, list(events), **more)

    return decide
