"""What follows from the end of an attempt, and which attempts are to begin."""

from __future__ import annotations

from typing import Final

from longcase.engine import attempts
from longcase.engine.attempts import Failure, Success, Verdict
from longcase.engine.incidents import TurnDiscarded, asked_first, incident, stays_committed
from longcase.engine.undoing import Undoing
from longcase.engine.work import Accepted, Command, Ended, Verified
from longcase.history.committed import kept_outcomes
from longcase.history.event import Event, instant_of, instant_text
from longcase.history.redoing import is_held
from longcase.history.state import Call, CaseState, blocked, may_have_happened, undo_entry
from longcase.model.codec import Json

_BEGINNING: Final = frozenset({"attempt_started", "activity_scheduled", "undo_started"})  # may begin an attempt
_RETURNED: Final = frozenset({"contract_changed", "result_not_encodable"})  # the function has run to its end


class Outcomes(Undoing):
    """Ended and verified attempts, those of dead workers, and those that wait to begin."""

    def _ended(self, item: Ended) -> None:
        state = self.state
        call = state.calls.get(item.call)
        if call is None or not attempts.outcome_counts(state, item.call, item.number):
            result = item.outcome.result if isinstance(item.outcome, Success) else None
            kind = "success" if isinstance(item.outcome, Success) else "failure"
            self.resident.append(
                attempts.refused(state, item.call, item.number, kind, item.worker, result), self.work.now
            )
            return
        if isinstance(item.outcome, Failure):
            self._failed(item.call, call, item.outcome, item.worker)
            return
        if blocked(state) and call["awaited"] and not call["undoes"]:
            if not attempts.left_open(state, item.call):
                self.result.kept.append(item)
                return
            call = {**call, "awaited": False}
        more: dict[str, Json] = {"once": True} if self._is_once(call) else {}
        event = attempts.completed(
            state, item.call, call, item.number, item.outcome.result, f"worker:{item.worker}", **more
        )
        if event.type == "activity_completed":
            self._turn(event, item.at)
            return
        self.resident.append(event, self.work.now)
        self._late(event, call, item.outcome.result)
        self._undo()

    def _late(self, event: Event, call: Call, result: Json) -> None:
        """Open an incident where a call nobody waits for took an effect that nothing takes back (A4)."""
        state, activity = self.state, self._activity(call)
        if (
            event.type == "result_late"
            and state.status == "open"
            and activity is not None
            and activity.undo_activity is None
            and (activity.transaction or activity.effect in ("once", "repeatable"))
        ):
            late = TurnDiscarded(
                "late_effect",
                f"{call['activity']} took effect after the case had stopped waiting for it, and has no undo",
                owner=activity.owner.name, node=call["node"], details={"result": result},
            )  # fmt: skip
            now = instant_of(self.work.now)
            opened = incident(state, late, now, self.resident.code, cause=event.seq, blocks=False)
            self.resident.append(opened, self.work.now)

    def _replaced(self, event: Event) -> None:
        """Open an incident where a restarted visit has made a call with other arguments than those committed (A12)."""
        state, rows = self.state, event.data["instead"]
        if state.status != "open" or rows["name"] not in state.reuse:
            return
        kept = {"result": state.reuse[rows["name"]]["result"], "rows": rows}
        why = "its restarted visit calls it with other arguments"
        now = instant_of(self.work.now)
        self.resident.append(stays_committed(state, self.resident.code, kept, why, now, event.seq), self.work.now)

    def _failed(self, ref: str, call: Call, failure: Failure, worker: int) -> None:
        state = self.state
        activity = self._activity(call)
        now = instant_of(self.work.now)
        verdict = attempts.judge(activity, call, failure, now, self.work.draw())
        if verdict.follow == "again" and call.get("stopping"):
            verdict = Verdict("lost")  # the stage waits for the end of just this attempt (cancel="wait")
        if blocked(state) and attempts.left_open(state, ref):
            call = {**call, "awaited": False}
        actor = f"worker:{worker}"
        if verdict.follow == "lost" and call["awaited"] and not call["undoes"]:
            if blocked(state):
                self.result.kept.append(Ended(ref, call["attempt"], failure, worker, self.work.now))
                return
            self._turn(attempts.lost(state, ref, call, failure, actor), self.work.now)
            return
        if not call["awaited"] and not call["undoes"]:
            if verdict.follow in ("again", "lost"):
                # The stage stopped waiting: a failed attempt is not tried again for nobody.
                verdict = for_nobody(state, ref, failure)
            elif ref in state.redone and not _can_be_undone(state, ref):
                verdict = Verdict("lost")  # whatever it returned: it was called anew, and cannot be taken back
        event = self.resident.append(attempts.failed_attempt(state, ref, call, failure, verdict, actor), self.work.now)
        owner = activity.owner.name if activity is not None else call["owner"]
        details: dict[str, Json] = {
            "error": failure.to_json(),
            "attempt": call["attempt"],
            "activity": call["activity"],
        }
        message = f"{call['activity']}: {failure.type}: {failure.message}"
        kind = ""
        if verdict.follow == "incident":
            kind = verdict.incident
            if kind in _RETURNED:
                details |= asked_first(activity)
        elif verdict.follow == "unknown":
            if activity is not None and activity.verify_function is not None:
                self.result.commands.append(Command("verify", self.resident.case_no, ref, call["attempt"]))
            else:
                kind = "outcome_unknown"
                message = f"{call['activity']}: attempt {call['attempt']} may have taken effect ({failure.message})"
        elif verdict.follow == "lost" and call["undoes"]:
            kind = "activity_failed"
        if kind:
            self._call_incident(kind, message, owner, ref, call, details, event.seq)
        if verdict.follow == "lost":
            self._undo()

    def _verified(self, item: Verified) -> None:
        state = self.state
        call = state.calls.get(item.call)
        if call is None or call["attempt"] != item.number or call["status"] != "unknown":
            return
        if item.answer == "happened":
            if blocked(state) and call["awaited"] and not call["undoes"]:
                self.result.kept.append(item)
                return
            event = attempts.completed(state, item.call, call, item.number, item.result, "engine", verified=True)
            if event.type == "activity_completed":
                self._turn(event, item.at)
            else:
                self.resident.append(event, self.work.now)
                self._undo()
            return
        if item.answer == "not_happened":
            again = call["awaited"] or bool(call["undoes"])
            pause = attempts.cut_off_again(self._activity(call), call, self.work.draw()) if again else None
            at = "" if pause is None else instant_text(instant_of(self.work.now) + pause)
            data: dict[str, Json] = {"call": item.call, "attempt": item.number, "happened": False, "next_try": at}
            event = self.resident.append(attempts.place(state, call, Event("attempt_verified", data)), self.work.now)
            if not again:
                self.resident.append(
                    Event("undo_skipped", {"call": item.call, "status": "nothing", "drop": item.call}), self.work.now
                )
                self._undo()
            elif pause is None:
                message = f"{call['activity']}: {call['attempt']} attempts were cut off, and none of them took effect"
                details: dict[str, Json] = {"attempt": item.number, "error": call.get("error")}
                self._call_incident("poisoned_activity", message, call["owner"], item.call, call, details, event.seq)
            return
        message = (
            f"{call['activity']}: attempt {call['attempt']} may have taken effect, "
            f"and verify could not tell: {item.why}"
        )
        self._call_incident(
            "outcome_unknown",
            message,
            call["owner"],
            item.call,
            call,
            {"attempt": item.number, "why": item.why},
            state.seq,
        )

    def _sweep_dead(self) -> None:
        """Settle the attempts of workers that are certainly dead, and ask about unknown outcomes again."""
        dead = self.work.dead
        doubtful = [
            (ref, call)
            for ref, call in self.state.calls.items()
            if call["status"] == "unknown" or (call["status"] == "running" and dead(call["worker"]))
        ]
        if not doubtful:
            return
        # An outcome that waits in the inbox or inside an incident is known: its attempt was not lost with the worker.
        known = {item.data.get("call") for item in self.work.items if isinstance(item, Accepted)}
        known |= kept_outcomes(self.state).keys()
        for ref, call in doubtful:
            if ref in known or (call["status"] == "running" and call.get("committed") == call["attempt"]):
                continue
            if call["status"] == "running":
                worker = call["worker"]
                failure = Failure("lost", "WorkerLost", f"worker {worker} died during attempt {call['attempt']}")
                self._failed(ref, call, failure, worker)
            elif (
                call["status"] == "unknown"
                and not self._has_incident(ref)
                and self._wants_answer(call)
                and self._granted(ref, call)
            ):
                self.result.commands.append(Command("verify", self.resident.case_no, ref, call["attempt"]))

    def _wants_answer(self, call: Call) -> bool:
        """Tell whether somebody waits for the outcome now; an unawaited call is asked about when an undo needs it."""
        activity = self._activity(call)
        can_tell = activity is not None and activity.verify_function is not None
        return call["awaited"] or bool(call["undoes"]) or can_tell

    def _begin(self) -> None:
        """Begin what waits for an attempt, and hand over what this advance has begun."""
        state, now = self.state, self.work.now
        waiting = [
            (ref, call)
            for ref, call in state.calls.items()
            if call["status"] == "ready" or (call["status"] == "backoff" and call["next_try"] <= now)
        ]
        for ref, call in waiting:
            if state.status != "open" and not call["undoes"]:
                continue
            if ("asked_as" in call or "after" in call) and is_held(state, call):
                continue
            activity = self._activity(call)
            if activity is None:
                failure = Failure(
                    "unknown_activity", "UnknownActivity", f"no activity named {call['activity']} is loaded"
                )
                self._failed(ref, call, failure, 0)
                continue
            lost = call.get("lost", 0)
            worker = self.resident.begin(activity, True, lost) if self._granted(ref, call) else 0
            if worker:
                self.resident.append(attempts.begun(state, ref, call, worker), now)
        for event in self.resident.emitted:
            kind = event.type
            if kind in _BEGINNING:
                if "instead" in event.data:
                    self._replaced(event)
                self._hand_over(event.data)
            elif kind == "activity_cancelled" and state.status == "open":
                # An await that was cancelled, by stage code or by an interrupt, asks its attempt to stop (B4).
                ref = event.data["call"]
                stopped = state.calls.get(ref)
                if stopped is not None and stopped["status"] == "running":
                    self._stop([(ref, stopped["attempt"])])

    def _hand_over(self, begun: dict[str, Json]) -> None:
        """Have the attempt performed that an event of this advance began, if it is still the current one."""
        ref, number = begun["call"], begun["attempt"]
        call = self.state.calls.get(ref)
        if number and call is not None and call["status"] == "running" and call["attempt"] == number:
            self.result.commands.append(Command("perform", self.resident.case_no, ref, number))


def for_nobody(state: CaseState, ref: str, failure: Failure) -> Verdict:
    """Judge the failure of a call that no stage code waits for: it is not tried again, but may need settling."""
    unknown = may_have_happened(state.calls[ref], failure.kind) and undo_entry(state, ref) is not None
    if unknown and ref in state.redone:
        unknown = _can_be_undone(state, ref)
    return Verdict("unknown" if unknown else "lost")


def _can_be_undone(state: CaseState, ref: str) -> bool:
    entry = undo_entry(state, ref)
    return entry is not None and bool(entry["undo"])
