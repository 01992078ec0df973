"""The undo an advance moves along: one compensation at a time, newest command first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longcase.engine import attempts
from longcase.engine.progress import Progress
from longcase.engine.work import Command
from longcase.history.event import Event, instant_of, instant_text
from longcase.history.state import blocked
from longcase.model.codec import Json


class Undoing(Progress):
    """Turns, each of which takes a running undo as far as it goes."""

    def _turn(self, event: Event, at: str) -> None:
        """Give the stage an input; without a coroutine (before the first stage) only the fold sees it."""
        self.resident.turn(event, max(at, self.work.now) if at else self.work.now)
        self._undo()

    def _undo(self) -> None:
        """Move a running undo as far as it goes: one compensation at a time, newest command first."""
        for _ in range(10_000):
            state = self.state
            if state.undoing is None or state.status == "closed" or blocked(state):
                return
            step, ref = attempts.undo_steps(state)
            if step == "start":
                self._start_undo(ref, state.undoing)
                return
            if step == "unknown":
                self._settle_unknown(ref)
                return
            if step == "wait":
                return
            undone = [entry["activity"] for entry in reversed(state.undo.values()) if entry["status"] == "undone"]
            data: dict[str, Json] = {"undo": state.undoing["undo"], "undone": undone}
            event = attempts.place(state, state.undoing, Event("undo_finished", data))
            self.resident.turn(event, self.work.now)

    def _redone(self) -> None:
        """Settle the calls that an operator had called anew: what took effect is undone, what nobody knows is asked."""
        state = self.state
        if state.status == "closed":
            return
        for ref, place in list(state.redone.items()):
            entry = state.undo.get(ref)
            if ref in state.calls:
                if state.calls[ref]["status"] != "running":
                    self._settle_unknown(ref)
            elif entry is not None and attempts.compensation(entry) not in state.calls:
                self._start_undo(ref, place)

    def _start_undo(self, ref: str, place: Mapping[str, Any]) -> None:
        state = self.state
        entry = state.undo[ref]
        undo = self.resident.code.activities.get(entry["undo"])
        now = instant_of(self.work.now)
        call = attempts.compensation(entry)
        worker = self.resident.begin(undo) if undo is not None else 0
        data: dict[str, Json] = {
            "call": call, "activity": entry["undo"], "undoes": ref, "of": entry["seq"], "result": entry["result"],
            "key": f"{state.uid}-undo-{ref}", "owner": undo.owner.name if undo else state.owner,
            "system": undo.system.name if undo and undo.system else "",
            "expected": instant_text(now + undo.longest) if undo else "", "deadline": "", "start_by": "",
            "attempt": 1 if worker else 0, "worker": worker,
        }  # fmt: skip
        if undo is not None:
            data |= attempts.where_run(undo)
        self.resident.append(attempts.place(state, place, Event("undo_started", data)), self.work.now)

    def _settle_unknown(self, ref: str) -> None:
        """A call whose outcome is unknown stops the undo until `verify` or a person settles it."""
        call = self.state.calls[ref]
        if call["status"] == "backoff":
            # Its last attempt is known to have failed, and nobody waits for another one.
            data: dict[str, Json] = {"call": ref, "status": "nothing", "drop": ref}
            self.resident.append(Event("undo_skipped", data), self.work.now)
            self._undo()
        elif call["status"] in ("unknown", "incident") and not (self._has_incident(ref) or self._is_told(ref)):
            # An incident of the call that the interrupt superseded has left the outcome as unknown as it was.
            activity = self._activity(call)
            if call["status"] == "incident" or activity is None or activity.verify_function is None:
                message = (
                    f"{call['activity']}: attempt {call['attempt']} may have taken effect; undo waits for the answer"
                )
                self._call_incident(
                    "outcome_unknown", message, call["owner"], ref, call, {"attempt": call["attempt"]}, self.state.seq
                )
            elif self._granted(ref, call):
                # It may have become unknown in this very advance, by the interrupt that gave up its next attempt.
                ask = Command("verify", self.resident.case_no, ref, call["attempt"])
                if ask not in self.result.commands:
                    self.result.commands.append(ask)
