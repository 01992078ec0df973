"""What falls due: stage timers, the clocks of tasks, and the limits of calls, in due order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from longcase.engine import attempts
from longcase.engine.attempts import Failure
from longcase.engine.outcomes import Outcomes
from longcase.engine.tasks import due_actions, expiry_outcome
from longcase.history.event import Event, instant_of
from longcase.history.state import Call, blocked
from longcase.history.waits import next_due
from longcase.model.codec import Json


class Clocks(Outcomes):
    """Lets what is due take effect."""

    def _clocks(self, until: str) -> None:
        """Let everything due by `until` take effect, in due order."""
        for _ in range(10_000):
            earliest = next_due(self.state)
            if not earliest or earliest > until:
                return
            first = min(self._due(until), key=lambda found: found[0], default=None)
            if first is None:
                return
            self._step()
            first[1]()
            self.result.applied += 1

    def _due(self, until: str) -> Iterator[tuple[tuple[str, int], Callable[[], None]]]:
        state = self.state
        stopped = blocked(state)
        if not stopped:
            for ref, timer in state.timers.items():
                if timer["due"] <= until:
                    yield (timer["due"], timer["seq"]), lambda ref=ref, timer=timer: self._fire(ref, timer)  # type: ignore[misc]
        for at, event in due_actions(state, until):
            if event.type == "task_expired" and stopped:
                continue
            yield (at, event.cause or 0), lambda event=event: self._task_clock(event)  # type: ignore[misc]
        for ref, call in state.calls.items():
            bounded = call["status"] in ("ready", "backoff") or (call["status"] == "running" and call["awaited"])
            if bounded and not stopped:
                start_by = call["start_by"] if call["attempt"] == 0 else ""
                limit = min((instant for instant in (call["deadline"], start_by) if instant), default="")
                if limit and limit <= until:
                    yield (limit, call["seq"]), lambda ref=ref, call=call, limit=limit: self._too_late(ref, call, limit)  # type: ignore[misc]

    def _fire(self, ref: str, timer: Any) -> None:
        late = (instant_of(self.work.now) - instant_of(timer["due"])).total_seconds()
        data: dict[str, Json] = {"timer": ref, "due": timer["due"], "late_s": round(late, 6)}
        event = attempts.place(self.state, timer, Event("timer_fired", data, actor="timer"))
        self._turn(event, self.work.now)

    def _task_clock(self, event: Event) -> None:
        ref = event.data["task"]
        task = self.state.tasks[ref]
        self.resident.append(event, self.work.now)
        if event.type == "task_expired":
            decided = Event(
                "task_decided",
                expiry_outcome(task, ref),
                actor="timer",
                cause=event.seq,
                node=task["node"],
                n=task["n"],
                strand=task["strand"],
            )
            self._turn(decided, self.work.now)

    def _too_late(self, ref: str, call: Call, limit: str) -> None:
        if limit == call["deadline"]:
            failure = Failure("timeout", "ScheduleToClose", f"not done by {limit}")
        else:
            failure = Failure("timeout", "ScheduleToStart", f"no attempt had begun by {limit}")
        if call["status"] == "running":
            self._stop([(ref, call["attempt"])])
            activity = self._activity(call)
            if activity is not None and activity.effect == "once":
                self._failed(ref, call, failure, call["worker"])  # it may have taken effect: that is asked first
                return
        if call["awaited"] and not call["undoes"]:
            runs = call["status"] == "running"
            self._turn(attempts.lost(self.state, ref, call, failure, "timer", runs=runs), self.work.now)
        else:
            data: dict[str, Json] = {"call": ref, "status": "nothing", "drop": ref}
            self.resident.append(Event("undo_skipped", data, actor="timer"), self.work.now)
