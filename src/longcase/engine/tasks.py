"""The task machine: reminders, escalations, expiry, claims and votes, as facts about a locked case.

It lives beside the store's lock and needs no workflow code, so that any process may accept an
answer (SEMANTICS B1, A11). A vote that decides makes the answer stand at once; the stage learns of
it by an input, in its next turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from longcase.engine.questions import is_stale, shown_text
from longcase.errors import (
    AlreadyDecided,
    AlreadyExpired,
    LongcaseError,
    RefusedError,
    StaleDecision,
    TaskNotFound,
    UsageError,
)
from longcase.history.event import Event
from longcase.history.state import CaseState, Task, Vote
from longcase.model.codec import Json, digest
from longcase.record import record


@record
class Actor:
    """Who acts: `person:NAME` and the like, on whose behalf, and by which channel."""

    name: str
    channel: str = "api"
    on_behalf: str = ""

    @property
    def person(self) -> str:
        """The name without its kind: `anna` of `person:anna`."""
        return self.name.partition(":")[2] or self.name


def due_actions(state: CaseState, now: str) -> Iterator[tuple[str, Event]]:
    """Yield `(due instant, event)` for what the tasks' clocks owe by `now`; not in order between tasks.

    An expiry is `task_expired`; the caller adds the input that tells the stage (`expiry_outcome`).
    """
    for ref, task in state.tasks.items():
        if task["status"] in ("decided", "expired"):
            continue
        until = min(now, task["expires_at"]) if task["expires_at"] else now
        for at in task["reminders"]:
            if at > until:
                break
            yield (
                at,
                _event(state, "task_reminded", {"task": ref, "due": at, "whose": list(task["whose"])}, task, "timer"),
            )
        for position, climb in enumerate(task["ladder"][task["level"] :], start=task["level"] + 1):
            if climb["at"] > until:
                break
            data = {
                "task": ref,
                "level": position,
                "to": climb["to"],
                "reassign": climb["reassign"],
                "due": climb["at"],
            }
            yield str(climb["at"]), _event(state, "task_escalated", data, task, "timer")
        if task["expires_at"] and task["expires_at"] <= now:
            data = {"task": ref, "answer": task["expires_answer"], "due": task["expires_at"]}
            yield task["expires_at"], _event(state, "task_expired", data, task, "timer")


def expiry_outcome(task: Task, ref: str) -> dict[str, Json]:
    """Return the data of the `task_decided` input that an expiry leads to."""
    return {
        "task": ref, "answer": task["expires_answer"], "reason": f"nobody decided by {task['expires_at']}",
        "by": [], "expired": True,
    }  # fmt: skip


@record(frozen=False)
class Answered:
    """What an answer leads to: events to append, the stage's input if it decides, or a refusal."""

    events: list[Event]
    outcome: dict[str, Json] | None = None
    refusal: LongcaseError | None = None
    remaining: int = 0
    before: str = ""  # what the person had answered, where the answer stands instead of that


def answer_task(
    state: CaseState,
    ref: str,
    actor: Actor,
    answer: Json,
    reason: str,
    shown_digest: str | None,
    now: str,
) -> Answered:
    """Judge one person's answer to an open task. `state` is after the task clocks have run.

    Order of the checks: known, still open, allowed, fresh, a possible answer. Every refusal is recorded.
    Whoever has answered may answer otherwise as long as nothing is decided: the newer answer stands instead.
    """
    task = state.tasks.get(ref)
    if task is None or task["kind"] == "require":
        raise TaskNotFound(f"{state.address} has no open task {ref}", hint=f"longcase tasks --case {state.address}")

    def refuse(error: LongcaseError) -> Answered:
        data = {
            "task": ref,
            "by": actor.person,
            "answer": answer,
            "reason": reason,
            "refused": error.code,
            "why": error.message,
        }
        return Answered([_event(state, "vote_refused", data, task, actor.name, actor)], refusal=error)

    if task["status"] == "decided":
        last = task["votes"][-1]
        if any(vote["by"] == actor.person and vote["answer"] == _text(answer) for vote in task["votes"]):
            return Answered([])  # the same receipt for the same click
        return refuse(
            AlreadyDecided(
                f'"{task["question"]}" is already decided by {last["by"]} at {last["at"]}: {last["answer"]}',
                hint=f"longcase history {state.address}",
            )
        )
    if task["status"] == "expired" or (task["expires_at"] and task["expires_at"] <= now):
        return refuse(
            AlreadyExpired(
                f'"{task["question"]}" has already expired at {task["expires_at"]}: {task["expires_answer"]} stands',
                hint=f"longcase show {state.address}",
            )
        )
    allowed = _refused_person(task, actor.person)
    if allowed:
        return refuse(RefusedError(allowed, hint=f"longcase tasks --case {state.address}"))
    fresh = shown_again(state, ref)
    current = task["digest"] if fresh is None else fresh.data["digest"]
    if shown_digest is not None and shown_digest != current:
        refusal = refuse(
            StaleDecision(
                f'"{task["question"]}": what was shown has changed since', hint=f"longcase tasks --case {state.address}"
            )
        )
        return Answered([*([fresh] if fresh else []), *refusal.events], refusal=refusal.refusal)
    return _vote(state, ref, task, actor, answer, reason, fresh, now)


def _vote(
    state: CaseState, ref: str, task: Task, actor: Actor, answer: Json, reason: str, fresh: Event | None, now: str
) -> Answered:
    """Count an answer that may be given. `fresh` is the record of what is shown having changed, if it has."""
    events: list[Event] = [] if fresh is None else [fresh]
    stale, current = ([], task["digest"]) if fresh is None else (fresh.data["asked_again"], fresh.data["digest"])
    votes = [vote for vote in task["votes"] if vote["by"] not in stale]
    earlier = next((vote for vote in votes if vote["by"] == actor.person), None)
    if earlier is not None and earlier["answer"] == _text(answer):
        return Answered(events, remaining=_remaining(task, votes, earlier))
    if task["answers"] and answer not in task["answers"]:
        raise UsageError(
            f'"{task["question"]}": {answer!r} is no answer, expected one of {", ".join(task["answers"])}',
            hint=f"longcase decide {state.address} {task['answers'][0]}",
        )
    vote: Vote = {"by": actor.person, "answer": _text(answer), "reason": reason, "at": now, "digest": current}
    votes = [*(other for other in votes if other is not earlier), vote]
    decided = decides(task, votes)
    fresh_view = current == task["digest"]
    shown_now = task["shown"] if fresh_view else shown_text(task["fields"], task["constants"], state.object)
    given = {
        "task": ref, "vote": vote, "decides": decided, "shown": shown_now, "question": task["question"],
        "verified": any(actor.person in task["members"].get(team, ()) for team in task["whose"]),
    }  # fmt: skip
    before = earlier["answer"] if earlier is not None else ""
    if before:
        given["before"] = before
    events.append(_event(state, "vote_given", given, task, actor.name, actor))
    if not decided:
        return Answered(events, remaining=_remaining(task, votes, vote), before=before)
    outcome = {
        "task": ref, "answer": answer, "reason": reason,
        "by": [v["by"] for v in votes if v["answer"] == vote["answer"]], "expired": False,
    }  # fmt: skip
    return Answered(events, outcome, before=before)


def shown_again(state: CaseState, ref: str) -> Event | None:
    """Return the record of what a task shows having changed, or None: votes on the old do not count (A11)."""
    task = state.tasks[ref]
    if task["status"] in ("decided", "expired") or not is_stale(task, state.object):
        return None
    shown = shown_text(task["fields"], task["constants"], state.object)
    fresh = digest(shown)
    stale = [vote["by"] for vote in task["votes"] if vote["digest"] != fresh]
    data = {"task": ref, "shown": shown, "digest": fresh, "was": task["shown"], "asked_again": stale}
    return _event(state, "vote_stale", data, task, "engine")


def decides(task: Task, votes: list[Vote]) -> bool:
    """Tell whether the last vote decides: a first rejection or return, or `quorum` equal answers."""
    last = votes[-1]
    if task["kind"] == "approval" and last["answer"] != "approved":
        return True
    return len({vote["by"] for vote in votes if vote["answer"] == last["answer"]}) >= task["quorum"]


def _remaining(task: Task, votes: list[Vote], vote: Vote) -> int:
    return task["quorum"] - sum(other["answer"] == vote["answer"] for other in votes)


def claim_task(state: CaseState, ref: str, actor: Actor) -> Event:
    """Return the event of a person taking a task; refused if another holds it."""
    task = _open(state, ref)
    why = _refused_person(task, actor.person)
    if why:
        raise RefusedError(why, hint=f"longcase tasks --case {state.address}")
    if task["claimed_by"] and task["claimed_by"] != actor.person:
        raise AlreadyDecided(f'"{task["question"]}" is taken by {task["claimed_by"]}', hint="ask them to release it")
    return _event(state, "task_claimed", {"task": ref, "by": actor.person}, task, actor.name, actor)


def release_task(state: CaseState, ref: str, actor: Actor) -> Event:
    """Return the event of a person giving a task back."""
    task = _open(state, ref)
    return _event(state, "task_released", {"task": ref, "by": actor.person}, task, actor.name, actor)


def _open(state: CaseState, ref: str) -> Task:
    task = state.tasks.get(ref)
    if task is None or task["status"] in ("decided", "expired"):
        raise TaskNotFound(f"{state.address} has no open task {ref}", hint=f"longcase tasks --case {state.address}")
    return task


def _refused_person(task: Task, person: str) -> str:
    """Say why a person may not answer, where the candidates name their members; else ""."""
    if not task["members"]:
        return ""
    named = [member for team in task["whose"] for member in task["members"].get(team, ())]
    unnamed = [team for team in task["whose"] if team not in task["members"]]
    if person in named or unnamed:
        return ""
    teams = "; ".join(f"{team} ({', '.join(task['members'][team])})" for team in task["whose"])
    return f'{person} may not answer "{task["question"]}": it is asked of {teams}'


def _text(answer: Json) -> str:
    return answer if isinstance(answer, str) else "filled"


def _event(
    state: CaseState, kind: str, data: dict[str, Any], task: Task, actor: str, who: Actor | None = None
) -> Event:
    return Event(
        kind, data, state.visit, actor=actor,
        on_behalf=who.on_behalf if who else "", channel=who.channel if who else "engine",
        cause=task["seq"], node=task["node"], n=task["n"], strand=task["strand"],
    )  # fmt: skip
