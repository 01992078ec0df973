"""The fold of tasks: asked, taken, answered, reminded, ended."""

from __future__ import annotations

from typing import cast

from longcase.history.event import Event
from longcase.history.records import CaseState, Task
from longcase.history.reducers import on
from longcase.model.codec import Json


@on("task_opened")
def _task_opened(state: CaseState, event: Event) -> None:
    data = event.data
    state.rounds[event.node] = data["round"]
    task: dict[str, Json] = {
        **data["request"], "node": event.node, "n": event.n, "strand": event.strand, "visit": event.visit,
        "round": data["round"], "seq": event.seq, "status": "ready", "claimed_by": "", "since": event.at,
        "votes": [], "level": 0,
    }  # fmt: skip
    state.tasks[data["task"]] = cast(Task, task)


@on("task_claimed")
def _task_claimed(state: CaseState, event: Event) -> None:
    task = state.tasks[event.data["task"]]
    task["status"] = "reserved"
    task["claimed_by"] = event.data["by"]


@on("task_released")
def _task_released(state: CaseState, event: Event) -> None:
    task = state.tasks[event.data["task"]]
    task["status"] = "ready"
    task["claimed_by"] = ""


@on("vote_given")
def _vote_given(state: CaseState, event: Event) -> None:
    task = state.tasks[event.data["task"]]
    vote = event.data["vote"]
    if "before" in event.data:  # the person had answered otherwise: one answer stands, both are recorded
        task["votes"] = [earlier for earlier in task["votes"] if earlier["by"] != vote["by"]]
    task["votes"].append(vote)
    if event.data["decides"]:
        # The answer stands from here on; `task_decided` tells the stage in its next turn.
        task["status"] = "decided"


@on("task_expired")
def _task_expired(state: CaseState, event: Event) -> None:
    state.tasks[event.data["task"]]["status"] = "expired"


@on("vote_stale")
def _vote_stale(state: CaseState, event: Event) -> None:
    task = state.tasks[event.data["task"]]
    task["votes"] = [vote for vote in task["votes"] if vote["digest"] == event.data["digest"]]
    task["shown"] = event.data["shown"]
    task["digest"] = event.data["digest"]


@on("task_reminded")
def _task_reminded(state: CaseState, event: Event) -> None:
    task = state.tasks[event.data["task"]]
    task["reminders"] = task["reminders"][1:]  # the list is the event's that opened the task: never changed


@on("task_escalated")
def _task_escalated(state: CaseState, event: Event) -> None:
    data = event.data
    task = state.tasks[data["task"]]
    task["level"] = data["level"]
    task["whose"] = [data["to"]] if data["reassign"] else [*task["whose"], data["to"]]


@on("task_decided")
def _task_decided(state: CaseState, event: Event) -> None:
    _end_task(state, event, "decided")


@on("task_met")
def _task_met(state: CaseState, event: Event) -> None:
    _end_task(state, event, "decided")


@on("task_withdrawn")
def _task_withdrawn(state: CaseState, event: Event) -> None:
    _end_task(state, event, "withdrawn")


def _end_task(state: CaseState, event: Event, status: str) -> None:
    task = state.tasks.pop(event.data["task"], None)
    if task is None:
        return
    task["status"] = status
    task["outcome"] = {**{k: v for k, v in event.data.items() if k != "task"}, "at": event.at, "seq": event.seq}
    state.ended_tasks[event.data["task"]] = task
