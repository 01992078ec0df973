"""A case in memory, and the turns it takes: one input, run until quiet, then the next (SEMANTICS A1).

A `Resident` holds the folded state and the visit's coroutine. Its turns add events to one list,
which the runtime commits as a whole. A turn that must not be committed raises TurnDiscarded; the
resident is then void, because its coroutine cannot be rewound: the caller rebuilds it.

The next module on the data's way is `advance`, which decides in which order inputs take effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any

from longcase.engine.attempts import completed, unsettled
from longcase.engine.closing import close_result
from longcase.engine.code import WorkflowCode
from longcase.engine.growing import warned_of
from longcase.engine.incidents import (
    TurnDiscarded,
    asked_first,
    failed_calls,
    from_damage,
    from_exception,
    from_fault,
    from_mismatch,
    stays_committed,
)
from longcase.engine.track import Begin
from longcase.engine.visit import Visit
from longcase.errors import ActivityFailed
from longcase.history.calls import last_attempt, untold
from longcase.history.chain import damaged
from longcase.history.event import Event, instant_of, instant_text
from longcase.history.state import CaseState, Incident, apply, may_have_happened
from longcase.model.calendar import due
from longcase.model.codec import Json, codec_for, json_text
from longcase.model.exits import Again, Close
from longcase.model.places import node_id
from longcase.model.workflow import Stage
from longcase.record import record

VISITS_A_TURN = 100


@record(frozen=False)
class Resident:
    """A case in memory. `visit` is None before the first stage, while blocked, and after the close."""

    case_no: int
    code: WorkflowCode
    state: CaseState
    begin: Begin
    visit: Visit | None = None
    emitted: list[Event] = field(default_factory=list)
    notify: list[tuple[int, str, dict[str, Json]]] = field(default_factory=list)  # (case, id, child_closed data)
    cancel_children: list[tuple[str, str, str, str]] = field(default_factory=list)  # (child, workflow, key, reason)

    # -- rebuilding --------------------------------------------------------------------------------

    def rebuild(self, events: Sequence[Event]) -> None:
        """Replay the current visit over its events; afterwards `visit` is parked where they end.

        Raises:
            TurnDiscarded: `code_changed`, if the code does not do what is recorded; `history_damaged`, if what is
                read is not what was recorded.
        """
        if self.state.visit == 0 or self.state.move is not None:
            # An operator's move ends the visit: the way out of `code_changed` must not replay it.
            self._require_object()
            return
        if seq := damaged(events):
            raise from_damage(seq, self.code.workflow.owner.name)
        entered = events[0]
        stage = self.stage_named(entered.data["stage"])
        base = CaseState.from_json(entered.data["snapshot"])
        self._require_object()
        visit = Visit(self.code, stage, base, self.begin, self.emitted)
        visit.replay(events[1:], self._argument(entered.data))
        if visit.mismatch is not None:
            discarded = from_mismatch(visit.mismatch, stage.owner.name)
            visit.discard()
            raise discarded
        # Operational details that replay cannot know (what another process appended as a record)
        # are in the events too, so the replayed state is the state.
        self.state = base
        self.visit = visit
        if visit.fault is not None or visit.finished or self.emitted:
            self.conclude()

    def discard(self) -> None:
        """Drop the coroutine without letting it change anything (A8)."""
        if self.visit is not None:
            self.visit.discard()
            self.visit = None

    def stage_named(self, name: str) -> Stage[Any]:
        """Return the stage or path of that name.

        Raises:
            TurnDiscarded: `code_changed`, if this code has none.
        """
        stage = self.code.stage(name)
        if stage is None:
            raise TurnDiscarded(
                "code_changed",
                f"recorded: stage {name}; attempted: {self.code.workflow.name} has no such stage",
                owner=self.code.workflow.owner.name,
                details={
                    "recorded": f"stage {name}", "attempted": "no stage of that name", "line": "",
                    "hint": f"if it was renamed, deploy it as @{self.code.workflow.variable}.stage(was=({name!r},)) "
                    "and retry; else move",
                },
                unfit=("restart",),
            )  # fmt: skip
        return stage

    def _require_object(self) -> None:
        workflow = self.code.workflow
        try:
            codec_for(workflow.object).decode(self.state.object, f"object of {self.state.key}")
        except Exception as error:
            raise from_exception(error, workflow.owner.name) from None

    def _argument(self, entered: dict[str, Json]) -> Any:
        name = entered.get("signal")
        if not name:
            return entered.get("why")  # of the built-in cancel path alone
        signal = self.code.workflow.signals.get(name)
        return codec_for(signal.body).decode(entered["input"], f"signal {name}") if signal else None

    # -- facts ---------------------------------------------------------------------------------------

    def append(self, event: Event, at: str) -> Event:
        """Fold one event and put it on the list to be committed."""
        state = self.state
        event.seq = state.seq + 1
        event.at = at if at > state.at else state.at
        event.map = self.code.map_number
        if event.visit == 0:
            event.visit = state.visit
        apply(state, event)
        if state.seen_seq != event.seq and self.visit is not None:
            self.visit.records += 1
        self.emitted.append(event)
        return event

    # -- turns ---------------------------------------------------------------------------------------

    def turn(self, event: Event, at: str) -> None:
        """Apply one input and run until quiet.

        Raises:
            TurnDiscarded: nothing of this turn may be committed.
        """
        self.append(event, at)
        if self.visit is not None:
            self.visit.feed(event)
        self.conclude(event)

    def enter_first(self, at: str) -> None:
        """Begin the first visit of a case that has only been accepted so far."""
        self.enter(self.stage_named(self.code.workflow.entry.name), "start", "", at, cause=self.state.seq)
        self.conclude()

    def enter(
        self,
        stage: Stage[Any],
        reason: str,
        node: str,
        at: str,
        *,
        cause: int | None,
        signal: str = "",
        body: Json = None,
        lineage: int = 0,
        reuse: dict[str, Json] | None = None,
        why: str = "",
        stranded: Sequence[dict[str, Json]] = (),
    ) -> None:
        """Begin a visit: the event carries the snapshot that replay starts from."""
        state = self.state
        if state.reuse:
            stranded = [*stranded, *untold(state.reuse, reuse or {})]
        now = instant_of(max(at, state.at))
        number = state.visit + 1
        expect = stage.expect
        expected = (
            instant_text(due(now, expect, stage.owner.calendar or self.code.workflow.owner.calendar)) if expect else ""
        )
        data: dict[str, Json] = {
            "stage": stage.name, "kind": stage.kind, "reason": reason, "from": state.stage if state.visit else "",
            "owner": stage.owner.name, "expected": expected, "lineage": lineage or number, "reuse": reuse or {},
        }  # fmt: skip
        if signal:
            data["signal"] = signal
            data["input"] = body
        if why:
            data["why"] = why
        event = Event(
            "stage_entered", data, number, cause=cause, node=node, n=1 if node else 0, strand="0" if node else ""
        )
        self.append(event, at)
        data["snapshot"] = state.to_json()
        event.text = json_text(data)  # the state goes on changing; the snapshot is taken here
        self.visit = Visit(self.code, stage, state, self.begin, self.emitted)
        self.visit.start(event.at, self._argument(data))
        for kept in stranded:
            told = "its restarted visit has ended without calling it again"
            self.append(stays_committed(state, self.code, kept, told, now, event.seq), at)

    def interrupt(
        self, data: dict[str, Json], at: str, *, actor: str, channel: str, on_behalf: str, cause: int | None
    ) -> Event:
        """End the visit for an exception path, a cancel or a move; the caller enters what follows.

        In this order: record it; cancel and discard the coroutine; withdraw tasks; release children and
        calls; supersede incidents (SEMANTICS A7, B7).
        """
        state = self.state
        visit, self.visit = self.visit, None
        held = [opened["pending"] for opened in state.incidents.values() if opened["pending"]]
        event = self.append(
            Event("interrupted", data, actor=actor, channel=channel, on_behalf=on_behalf, cause=cause), at
        )
        if visit is not None and visit.interrupt():
            self.append(Event("unwind_refused", {"stage": state.stage}, cause=event.seq), at)
        for ref, task in list(state.tasks.items()):
            self.append(
                self._placed("task_withdrawn", {"task": ref, "reason": f"interrupted: {data['why']}"}, task, event.seq),
                at,
            )
        for ref, child in list(state.children.items()):
            if child["awaited"]:
                cancel = child["on_close"] == "cancel"
                self.append(self._placed("child_released", {"child": ref, "cancel": cancel}, child, event.seq), at)
                if cancel:
                    why = f"parent interrupted: {data['why']}"
                    self.cancel_children.append((ref, child["workflow"], child["key"], why))
        for number, opened in list(state.incidents.items()):
            self.append(Event("incident_closed", {"incident": number, "how": "superseded"}, cause=event.seq), at)
            call = opened["call"]
            if call in state.calls and opened["kind"] == "activity_failed" and not self._may_have_happened(opened):
                # It failed for good and nobody waits any more: there is nothing out there to settle.
                self.append(
                    Event("undo_skipped", {"call": call, "status": "nothing", "drop": call}, cause=event.seq), at
                )
        for ref, call_ in list(state.calls.items()):
            if call_["awaited"] and not call_["undoes"]:
                self.append(self._placed("activity_cancelled", {"call": ref, "waits": False}, call_, event.seq), at)
        for pending in held:
            self._release_held(pending, at, event.seq)
        return event

    def _may_have_happened(self, opened: Incident) -> bool:
        """Tell whether the failed call of an incident may have taken an effect that an undo has to find (A4)."""
        entry = self.state.undo.get(opened["call"])
        error = opened["details"].get("error") or {}
        call = self.state.calls.get(opened["call"])
        if entry is None or call is None or not entry["undo"]:
            return False
        return may_have_happened(call, error.get("kind"))

    def _release_held(self, pending: dict[str, Json], at: str, cause: int) -> None:
        """Settle the call whose end an incident held back: the stage that was to see it is gone (A4)."""
        ref = pending.get("call", "")
        call = self.state.calls.get(ref)
        if call is None:
            return
        if pending["type"] == "activity_completed":
            self.append(completed(self.state, ref, call, call["attempt"], pending["result"], "engine"), at)
        elif pending["type"] == "activity_failed":
            self.append(Event("undo_skipped", {"call": ref, "status": "nothing", "drop": ref}, cause=cause), at)

    def _placed(self, kind: str, data: dict[str, Json], place: Any, cause: int) -> Event:
        return Event(kind, data, cause=cause, node=place["node"], n=place.get("n", 1), strand=place.get("strand", "0"))

    def conclude(self, event: Event | None = None) -> None:
        """Look at what the visit came to: still waiting, a next stage, a close, or nothing to commit."""
        for _ in range(VISITS_A_TURN):
            visit = self.visit
            if visit is None:
                return
            owner = visit.stage.owner.name
            if visit.fault is not None:
                raise from_fault(visit.fault, owner)
            if not visit.finished:
                blocked = visit.deadlocked()
                if blocked:
                    raise TurnDiscarded(
                        "deadlock", f"nothing the store knows can wake {visit.stage.name}: {blocked}", owner=owner
                    )
                self._bound(visit)
                return
            broken = visit.broken()
            if broken is not None:
                raise self._broken(*broken, event)
            assert visit.root is not None
            if visit.root.cancelled():
                raise TurnDiscarded("stage_failed", f"{visit.stage.name} cancelled itself", owner=owner)
            error = visit.root.exception()
            if error is not None:
                raise self._lost(error, owner, event)
            alive = visit.dangling(visit.root)
            if alive:
                raise TurnDiscarded("dangling_work", f"{visit.stage.name} returned while {alive}", owner=owner)
            self._leave(visit, visit.root.result())
        raise TurnDiscarded(
            "stage_never_yields",
            f"{VISITS_A_TURN} visits began without one that waits",
            owner=self.code.workflow.owner.name,
        )

    def _broken(self, handler: Stage[Any], error: BaseException | None, event: Event | None) -> TurnDiscarded:
        """Tell why a handler that failed keeps the turn from being committed, and that it was the handler."""
        owner = handler.owner.name
        if error is not None:
            discarded = self._lost(error, owner, event)
        else:
            discarded = TurnDiscarded("stage_failed", f"handler {handler.name} cancelled itself", owner=owner)
        discarded.details["handler"] = handler.name
        return discarded

    def _lost(self, error: BaseException, owner: str, event: Event | None) -> TurnDiscarded:
        """Tell a call that finally failed from a stage that failed (A3)."""
        calls: list[ActivityFailed] = list(failed_calls(error))
        if (
            event is not None
            and event.type == "activity_failed"
            and any(failed.call == event.data["call"] for failed in calls)
        ):
            data = event.data
            activity = self.code.activities.get(data["activity"])
            return TurnDiscarded(
                "activity_failed", f"{data['activity']} failed: {data['error']['type']}: {data['error']['message']}",
                owner=activity.owner.name if activity else owner, node=event.node, call=data["call"],
                details={"error": data["error"], "attempt": last_attempt(data), **asked_first(activity)},
            )  # fmt: skip
        return from_exception(error, owner)

    def _leave(self, visit: Visit, exit_: object) -> None:
        stage = visit.stage
        owner = stage.owner.name
        at = visit.at
        visit.discard()
        match exit_:
            case Close():
                self._close(visit, exit_, at)
            case Again():
                self._enter_from(visit, stage, "again", "again", at)
            case Stage() if name := self.code.exit_name(exit_):
                self._enter_from(visit, exit_, "next", name, at)
            case _:
                raise TurnDiscarded(
                    "stage_failed",
                    f"{stage.name} returned {exit_!r}, expected a stage of {self.code.workflow.name} or a close",
                    owner=owner,
                )

    def _enter_from(self, visit: Visit, stage: Stage[Any], reason: str, exit_name: str, at: str) -> None:
        node = self._exit_node(visit, exit_name)
        self.enter(stage, reason, node, at, cause=visit.cause)

    def _exit_node(self, visit: Visit, name: str) -> str:
        node = node_id(visit.stage.name, (), "exit", name)
        if self.code.nodes and node not in self.code.nodes:
            raise TurnDiscarded(
                "off_map", f"{node} is not on the map", owner=visit.stage.owner.name, details={"node": node}
            )
        return node

    def _close(self, visit: Visit, close: Close, at: str) -> None:
        state = self.state
        owner = visit.stage.owner.name
        node = self._exit_node(visit, f"close:{close.name}")
        open_calls = unsettled(state, close.leave)
        if open_calls:
            names = ", ".join(dict.fromkeys(open_calls.values()))
            left = next(iter(open_calls.values()))
            raise TurnDiscarded(
                "unsettled_close", f"close {close.name} leaves the outcome of {names} open", owner=owner,
                details={
                    "hint": f"await case.undo() before, or close({close.name!r}, leave=[{left!r}])",
                    "calls": list(open_calls),
                },
            )  # fmt: skip
        for ref, child in state.children.items():
            if child["on_close"] == "refuse":
                raise TurnDiscarded(
                    "unsettled_close",
                    f"close {close.name} while child {child['workflow']}/{child['key']} ({ref}) is open",
                    owner=owner,
                )
            if child["on_close"] == "cancel":
                self.cancel_children.append((ref, child["workflow"], child["key"], f"parent closed: {close.name}"))
        for kept in list(state.signals):
            data = {
                "id": kept["id"],
                "signal": kept["signal"],
                "why": f"case closed: {close.name}",
                "body": kept["body"],
            }
            self.append(Event("signal_unhandled", data, cause=visit.cause), at)
        result = close_result(close, owner)
        data = {"close": close.name, "result": result, "reason": close.reason}
        self.append(Event("case_closed", data, cause=visit.cause, node=node, n=1, strand="0"), at)
        self.visit = None
        if state.parent:
            told = {
                "child": state.parent["child"],
                "key": state.key,
                "name": close.name,
                "result": result,
                "reason": close.reason,
            }
            self.notify.append((state.parent["case_no"], f"child-{state.parent['child']}", told))

    def _bound(self, visit: Visit) -> None:
        """Keep a visit and a case from growing without end (B20)."""
        seq, code = self.state.seq, self.code
        if seq < code.first_limit:
            return
        seen = seq - visit.first_seq - visit.records
        warning = warned_of(self.state, seen, code.workflow.history, visit.stage.owner.name)
        if warning is not None:
            self.append(warning, visit.at)
