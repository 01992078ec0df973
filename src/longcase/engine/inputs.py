"""What was accepted from outside: signals, cancels, people's outcomes, children's closes, an operator's move."""

from __future__ import annotations

from typing import Any

from longcase.engine import attempts
from longcase.engine.attempts import Failure
from longcase.engine.clocks import Clocks
from longcase.engine.incidents import TurnDiscarded, damaged_input, incident
from longcase.engine.outcomes import for_nobody
from longcase.engine.work import Accepted, Command
from longcase.history.event import Event, instant_of
from longcase.history.state import CaseState, blocked
from longcase.model.codec import Json
from longcase.model.workflow import ExceptionPath


class Inputs(Clocks):
    """Applies inputs of the inbox, and the moves of operators."""

    def _is_plain_signal(self, item: Accepted) -> bool:
        signal = item.type == "signal_received" and not item.damaged
        return signal and item.data["signal"] not in self.resident.code.workflow.paths

    def _is_refused(self, item: Accepted) -> bool:
        """Tell whether an open incident is of the turn that was to apply the input."""
        return any(opened["details"].get("input") == item.id for opened in self.state.incidents.values())

    def _accepted(self, item: Accepted) -> bool:
        state = self.state
        if state.status == "closed":
            call = state.calls.get(item.data.get("call", ""))
            if call is not None and call.get("committed"):
                return self._outcome(item)
            self._unhandled(item, f"case closed: {(state.close or {}).get('name', '')}")
            return True
        if self._is_refused(item):
            self._answered(item)
            return False  # refused, and nothing has been repaired since: what comes after it may go first
        if item.damaged:
            return self._damaged(item)
        match item.type:
            case "signal_received":
                path = self.resident.code.workflow.paths.get(item.data["signal"])
                if path is not None:
                    return self._exception(item, path)
                handler = self.resident.code.workflow.handlers.get(item.data["signal"])
                if handler is not None and item.id in self.left:
                    self._unhandled(
                        item, f"its handler {handler.stage.name} could not begin, and an operator moved the case"
                    )
                    return True
            case "interrupted":
                if state.kind == "path" and not blocked(state):
                    return False  # paths are not interruptible: it waits for the path's end (B7)
                self._interrupt(item, self.resident.code.cancel_path, "", None)
                return True
            case "activity_completed" | "activity_failed":
                return self._outcome(item)
            case "task_decided":
                if item.data["task"] not in state.tasks:
                    self._unhandled(item, "the task is no longer open")
                    return True
            case "child_closed":
                if item.data["child"] not in state.children:
                    self._unhandled(item, "nobody waits for the child")
                    return True
            case "child_refused":
                self._child_refused(item)
                return True
        if blocked(state):
            return False
        self._turn(self._event(item), item.at)
        return True

    def _damaged(self, item: Accepted) -> bool:
        """Hold the case at an input that is not what was accepted; it is put aside where an operator moves the case."""
        if item.id in self.past:
            self._unhandled(item, "it is not what was accepted, and an operator moved the case")
            return True
        if blocked(self.state):
            return False
        raise damaged_input(item.no, item.id, item.type, self.resident.code.workflow.owner.name)

    def _event(self, item: Accepted) -> Event:
        data = dict(item.data)
        if item.type == "signal_received":
            data["accepted_at"] = item.at
            data["id"] = item.id
        event = Event(
            item.type, data, actor=item.actor, channel=item.channel, on_behalf=item.on_behalf, cause=item.cause
        )
        place: Any = self.state.tasks.get(data.get("task", "")) or self.state.children.get(data.get("child", ""))
        if place is not None:
            event.node, event.n, event.strand = place["node"], place.get("n", 1), place.get("strand", "0")
            event.cause = item.cause or place["seq"]
        return event

    def _outcome(self, item: Accepted) -> bool:
        """Apply an operator's outcome of a call, or one that waited behind an incident."""
        state = self.state
        ref = item.data["call"]
        call = state.calls.get(ref)
        if call is None:
            if item.channel != "engine" or not item.id.startswith(f"end-{ref}-"):
                self._unhandled(item, "the call is no longer open")
            return True  # else a restart has recorded the result when it kept it for the visit that began anew
        if blocked(state) and call["awaited"] and not call["undoes"]:
            if not attempts.left_open(state, ref):
                self._answered(item)
                return False
            call = {**call, "awaited": False}
        if state.status == "closed":
            call = {**call, "awaited": False}
        number = call["attempt"]
        if item.type == "activity_completed":
            more: dict[str, Json] = {"by": item.actor, "why": item.data.get("why", "")}
            if self._is_once(call):
                more["once"] = True
            event = attempts.completed(state, ref, call, number, item.data["result"], item.actor, **more)
            if call["status"] == "running" and call.get("committed") != number:
                self.result.commands.append(Command("stop", self.resident.case_no, ref, number))
        else:
            error = item.data["error"]
            failure = Failure(error["kind"], error["type"], error["message"], tuple(error.get("bases", ())))
            if call["awaited"] or call["undoes"]:
                event = attempts.lost(state, ref, call, failure, item.actor)
            else:
                event = attempts.failed_attempt(state, ref, call, failure, for_nobody(state, ref, failure), item.actor)
        event.channel = item.channel
        if event.type in ("activity_completed", "activity_failed"):
            self._turn(event, item.at)
        else:
            self.resident.append(event, self.work.now)
            if call.get("committed"):  # no person has said so: its own transaction has
                self._late(event, call, item.data.get("result"))
        return True

    def _answered(self, item: Accepted) -> None:
        for event in answered(self.state, item):
            self.resident.append(event, self.work.now)

    def _child_refused(self, item: Accepted) -> None:
        """A child's key names a live case of somebody else: nobody will ever tell the stage of its close (B22)."""
        state = self.state
        child = state.children.get(item.data["child"])
        if child is None:
            self._unhandled(item, "the child is no longer wanted")
            return
        address = f"{child['workflow']}/{child['key']}"
        taken = TurnDiscarded(
            "child_key_taken", f"child {address} was not started: a live case that is not this one's child has its key",
            owner=state.owner, node=child["node"],
            details={"child": item.data["child"], "workflow": child["workflow"], "key": child["key"]},
        )  # fmt: skip
        now = instant_of(self.work.now)
        # Where stage code waits for the child only a restart, a move or a cancel can go on.
        event = incident(state, taken, now, self.resident.code, cause=child["seq"], blocks=child["awaited"])
        if not child["awaited"]:
            event.data["repairs"] = ["skip", *event.data["repairs"]]
        self.resident.append(event, self.work.now)

    def _unhandled(self, item: Accepted, why: str) -> None:
        data = {
            "id": item.id,
            "signal": item.data.get("signal", item.type),
            "why": why,
            "body": item.data.get("body", item.data),
        }
        event = Event(
            "signal_unhandled", data, actor=item.actor, channel=item.channel, on_behalf=item.on_behalf, cause=item.cause
        )
        self.resident.append(event, self.work.now)

    # -- exception paths, cancel, moves ------------------------------------------------------------------

    def _exception(self, item: Accepted, path: ExceptionPath[Any]) -> bool:
        state = self.state
        if item.id in self.past:
            self._unhandled(item, f"its path {path.stage.name} could not begin, and an operator moved the case")
            return True
        if state.kind == "path":
            return False
        if path.during and state.stage not in [stage.name for stage in path.during]:
            self._unhandled(item, f"no exception path for {item.data['signal']} during {state.stage}")
            return True
        self._interrupt(item, path.stage, item.data["signal"], item.data["body"])
        return True

    def _interrupt(self, item: Accepted, stage: Any, signal: str, body: Json) -> None:
        data: dict[str, Json] = {
            "by": "signal" if signal else "cancel", "path": stage.name, "signal": signal, "id": item.id,
            "why": signal or item.data.get("reason", "") or "cancelled", "body": body,
            "sender": item.data.get("sender", ""),
            "accepted_at": item.at,
        }  # fmt: skip
        event = self.resident.interrupt(
            data, self.work.now, actor=item.actor, channel=item.channel, on_behalf=item.on_behalf, cause=item.cause
        )
        why = str(data["why"]) if self.resident.code.is_told_why(stage) else ""
        self.resident.enter(stage, "exception", "", self.work.now, cause=event.seq, signal=signal, body=body, why=why)
        self.resident.conclude()

    def _moved(self) -> None:
        """Carry out an operator's move: end the visit and enter the stage it names."""
        move = self.state.move
        # The incident that blocks is of this move, or opened beside it: a move closes those that were open before.
        if move is None or self.state.status == "closed" or blocked(self.state):
            return
        stage = self.resident.stage_named(str(move["to"]))
        lineage = self.state.lineage if move["restart"] else 0
        reuse = move["reuse"]
        self.past = tuple(move.get("past", ()))
        self.left = () if move["restart"] else self.past
        data: dict[str, Json] = {
            "by": "move",
            "path": stage.name,
            "signal": "",
            "id": "",
            "why": "moved by an operator",
            "body": None,
        }
        event = self.resident.interrupt(
            data, self.work.now, actor="engine", channel="engine", on_behalf="", cause=move["seq"]
        )
        reason = "restart" if move["restart"] else "moved"
        told = move.get("told", {})
        self.resident.enter(
            stage, reason, "", self.work.now, cause=event.seq, lineage=lineage, reuse=reuse,
            signal=told.get("signal", ""), body=told.get("input"), why=told.get("why", ""),
            stranded=move.get("stranded", ()),
        )  # fmt: skip
        self.resident.conclude()
        self.result.applied += 1


def answered(state: CaseState, item: Accepted) -> list[Event]:
    """Return the ends of the incidents of a call whose result was accepted and has to wait for another incident.

    Their owner has acted: he would else be asked for what he has given, and giving it again would do nothing.
    """
    if item.type != "activity_completed" or item.damaged:
        return []
    data: dict[str, Json] = {"how": "answered", "reason": item.data.get("why", "")}
    return [
        Event(
            "incident_closed", {"incident": number, **data}, actor=item.actor, channel=item.channel,
            on_behalf=item.on_behalf, cause=state.seen_seq,
        )
        for number, opened in state.incidents.items()
        if opened["call"] == item.data["call"]
    ]  # fmt: skip
