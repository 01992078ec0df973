"""Mending a case: data it waited for, corrections, and the repairs of an incident; each with who and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from longcase.engine import redoing
from longcase.engine import repair as repairs
from longcase.engine.code import WorkflowCode
from longcase.engine.corrections import in_flight
from longcase.engine.repair import Repair
from longcase.engine.tasks import Actor
from longcase.errors import InvalidInput, RepairRefused, StoreCorrupt, UsageError
from longcase.history.chain import damaged
from longcase.history.event import Event
from longcase.history.state import Call, CaseState
from longcase.model.codec import Json, codec_for
from longcase.model.names import printable
from longcase.model.strict_json import BODY_BYTES, check_json
from longcase.model.workflow import Stage
from longcase.service.door import Accepted, Door, checked_name, checked_reason, same_case
from longcase.store.records import CaseRow, Edit, Input, Locked

READS = 20  # times that a repair looks what calls were called with, where the case goes on calling meanwhile

CalledWith = Callable[[Call], dict[str, Json]]


class _Unread(Exception):
    """What calls were called with has not been read yet: the events at these places hold it."""

    def __init__(self, places: list[tuple[int, int]]) -> None:
        super().__init__(places)
        self.places = places


def _reader(locked: Locked, known: Mapping[tuple[int, int], dict[str, Json]]) -> CalledWith:
    """Return what looks up the input of a call of a locked case; an unknown one is asked for, with all others."""

    def called_with(call: Call) -> dict[str, Json]:
        found = known.get((locked.case_no, call["seq"]))
        if found is None:
            places = [(locked.case_no, other["seq"]) for _, other in in_flight(locked.state)]
            raise _Unread([place for place in places if place not in known])
        return found

    return called_with


class Mending(Door):
    """The part of the door that operators mend cases at."""

    async def set_fields(
        self, address: str, fields: Mapping[str, Json], *, actor: Actor | None = None, reason: str = "data provided"
    ) -> Accepted:
        """Provide data a case has been waiting for; wakes it with no further click.

        As `correct` without `pin`: what the stage writes later stands.
        """
        return await self.correct(address, fields, reason=reason, actor=actor, pin=False)

    async def correct(
        self, address: str, fields: Mapping[str, Json], *, reason: str, actor: Actor | None = None, pin: bool = True
    ) -> Accepted:
        """Correct fields of the object: recorded with who, why, before and after.

        With `pin`, a write of the running visit to the same fields becomes an incident instead of
        overwriting the correction (SEMANTICS B9). A call in flight that was called with one of them is marked
        (`input_corrected`, in the same transaction), and `redo` has it called anew.

        Effects: `corrected`, and an answer that was given to what is shown otherwise now becomes stale; in one
            transaction, durable on return. The object is changed at once, also while no worker runs.
        Raises: InvalidInput (the object would not fit its model), CaseNotFound, CaseClosed, WorkflowNotFound.
        """
        who = self._who(actor)
        ref = self.ref(address)
        code = self.codes.get(ref.workflow)
        _stated("correct", reason)

        def judge(locked: Locked, called_with: CalledWith) -> Repair:
            patch = self._valid_patch(code, locked.state, fields)
            key_field = code.workflow.key_field if code is not None else ""
            return repairs.correct(
                locked.state, patch, who, reason, pin=pin, key_field=key_field, called_with=called_with
            )

        return await self._repair_calls(address, judge, who)

    async def redo(
        self,
        address: str,
        *,
        call: str | None = None,
        arguments: Mapping[str, Json] | None = None,
        never_happened: bool = False,
        reason: str | None = None,
        actor: Actor | None = None,
    ) -> Accepted:
        """Have a call in flight called anew, with what was corrected since, under an idempotency key of its own.

        What it was called with before is settled first: a running attempt is asked to stop, and its end awaited; what
        took effect is undone where there is an undo; what nobody knows is asked, of `verify` or of a person. Then the
        new call begins, and stage code gets its outcome. Its undo will get the arguments that were really used.

        Args:
            call: which, as `show` names it or by its activity; needed where several calls were called with what was
                corrected.
            arguments: by name, as JSON; for what `show` says may have been taken from a corrected field.
            never_happened: you have looked outside, and no attempt of the call took effect.

        Effects: `call_redone`, and `incident_closed` if it stood in an incident, in one transaction.
        Raises: RepairRefused (nothing in flight was called with what was corrected; the same arguments; its end waits
        for a worker; an effect that must not be repeated is not settled); CaseClosed; InvalidInput; WorkflowNotFound.
        """
        why = "" if reason is None else _stated("redo", reason)
        given = check_json(dict(arguments or {}), what="arguments", max_bytes=BODY_BYTES)
        who = self._who(actor)
        activities = self.loaded(self.ref(address).workflow).activities

        def judge(locked: Locked, called_with: CalledWith) -> Repair:
            ref, entry = redoing.meant(locked.state, call)
            for waiting in locked.pending:
                if waiting.data.get("call") == ref:
                    raise RepairRefused(
                        f"{address}: the end of {entry['activity']} ({ref}) was accepted from {waiting.actor} at "
                        f"{waiting.accepted_at}, and waits for a worker",
                        hint=f"longcase show {address}",
                    )
            return redoing.redo(
                locked.state, ref, called_with(entry), given, activities.get(entry["activity"]), who, why, locked.now,
                never_happened=never_happened,
            )  # fmt: skip

        return await self._repair_calls(address, judge, who)

    async def _repair_calls(self, address: str, judge: Callable[[Locked, CalledWith], Repair], who: Actor) -> Accepted:
        """Write what a repair judges right that must know what calls were called with; that is read before."""
        known: dict[tuple[int, int], dict[str, Json]] = {}
        for _ in range(READS):
            try:
                return await self._repair(address, lambda locked: judge(locked, _reader(locked, known)), who)
            except _Unread as unread:
                for case_no, seq in unread.places:
                    known[case_no, seq] = (await self.store.event(case_no, seq)).data["input"]
        raise UsageError(f"{address} goes on calling meanwhile", hint=f"longcase show {address}, then again")

    def _valid_patch(self, code: WorkflowCode | None, state: CaseState, fields: Mapping[str, Json]) -> dict[str, Json]:
        if not isinstance(fields, Mapping):
            told = f"correction of {state.address}: expected a dict of fields, got {printable(fields)}"
            raise InvalidInput(told, reason="not_an_object", hint=f'{{"{next(iter(state.object))}": ...}}')
        what = f"correction of {state.address}"
        check_json(dict(fields), what=what, max_bytes=BODY_BYTES)
        if code is None:
            unknown = [name for name in fields if name not in state.object]
            if unknown:
                raise InvalidInput(
                    f"{state.address}: unknown field {', '.join(unknown)}",
                    reason="does_not_fit",
                    hint=f"its fields: {', '.join(state.object)}",
                )
            return dict(fields)
        codec = codec_for(code.workflow.object)
        whole = codec.encode(codec.decode({**state.object, **fields}, what), what)
        return {name: whole[name] for name in fields}

    async def retry(
        self, address: str, *, incident: str | None = None, reason: str | None = None, actor: Actor | None = None
    ) -> Accepted:
        """Try the incident's call again with fresh attempts under the same key, or its input once more.

        Args:
            incident: its number, as `show` names it; not needed if only one is open. As in the repairs below.
            reason: why, in at most 2,000 characters; it stands in the history.

        Effects: `call_retried` if it is of a call, and `incident_closed`; durable on return. A worker does the rest.
        Raises: RepairRefused (no such incident, or `retry` does not apply to it), CaseNotFound, CaseClosed.
        """
        why = "" if reason is None else _stated("retry", reason)
        who = self._who(actor)
        return await self._repair(
            address, lambda locked: repairs.retry(locked.state, incident, who, why, locked.now), who
        )

    async def skip(
        self, address: str, *, incident: str | None = None, reason: str | None = None, actor: Actor | None = None
    ) -> Accepted:
        """Go on without the incident's call, where its result may be None; an incident of no call is acknowledged.

        Effects: the stage gets None for it, in a turn of a worker, which closes the incident; leaving a compensation
            undone, and acknowledging, are recorded at once.
        Raises: RepairRefused (it does not apply, or the result is never None), CaseNotFound, CaseClosed.
        """
        why = "" if reason is None else _stated("skip", reason)
        who = self._who(actor)
        code = self.codes.get(self.ref(address).workflow)
        return await self._repair(address, lambda locked: repairs.skip(locked.state, incident, who, why, code), who)

    async def set_result(
        self,
        address: str,
        result: Json,
        *,
        incident: str | None = None,
        reason: str | None = None,
        actor: Actor | None = None,
    ) -> Accepted:
        """Supply the result of the incident's call, as JSON; its failed attempts stay on record.

        Effects: the result is accepted, durable on return; a worker applies it, which closes the incident.
        Raises: RepairRefused (it does not apply, or the incident is of no call), InvalidInput (it does not fit the
            declared type), CaseNotFound, CaseClosed.
        """
        why = "" if reason is None else _stated("set-result", reason)
        check_json(result, what="result", max_bytes=BODY_BYTES)
        who = self._who(actor)
        code = self.codes.get(self.ref(address).workflow)
        return await self._repair(
            address, lambda locked: repairs.set_result(locked.state, incident, result, why, code), who
        )

    async def move(
        self, address: str, stage: Stage[Any] | str, *, reason: str, repeat: bool = False, actor: Actor | None = None
    ) -> Accepted:
        """Move a case to another stage; its visit ends, nothing is undone.

        Where the case was in that stage before, calls with the same arguments are made again under their old keys.

        Args:
            repeat: enter it although its last visit has called an activity with `effect="once"`, and will again.

        Effects: `moved`, and `incident_closed` for each incident that blocks the case, durable on return; the visit
            ends and the next begins in a turn of a worker.
        Raises: RepairRefused (such a call would be made again), UsageError (the workflow has no such stage),
            CaseNotFound, CaseClosed, StoreCorrupt.
        """
        _stated("move", reason)
        who = self._who(actor)
        code = self.codes.get(self.ref(address).workflow)
        name = checked_name(stage, Stage, "stage", code.workflow.stages if code is not None else ())
        row = await self.row(address)
        earlier = await self._last_visit_of(row, name)

        def judge(locked: Locked) -> Repair:
            if name in (row.state.stage, locked.state.stage):  # its last visit may have got new calls
                _still_as_read(address, row.state, locked.state)
            return repairs.move(locked.state, name, who, reason, code, earlier, _committed(locked), repeat=repeat)

        return await self._repair(address, judge, who, row)

    async def _last_visit_of(self, row: CaseRow, stage: str) -> list[Event]:
        """Return the events of the case's latest visit of a stage, if there was one.

        Raises:
            StoreCorrupt: one of them is not what was recorded.
        """
        events = await self.store.events(row.case_no)
        visits = [event.visit for event in events if event.type == "stage_entered" and event.data.get("stage") == stage]
        return _sound(row, [event for event in events if visits and event.visit == visits[-1]])

    async def restart(self, address: str, *, reason: str, actor: Actor | None = None) -> Accepted:
        """Begin the current visit anew, reusing what its calls have already returned; the others keep their keys.

        The signals that the visit has consumed are there again, in order.

        Effects: as of `move`, to the stage the case is in.
        Raises: RepairRefused (a call has committed its transaction and its result is gone), CaseNotFound, CaseClosed,
            StoreCorrupt.
        """
        _stated("restart", reason)
        who = self._who(actor)
        code = self.codes.get(self.ref(address).workflow)
        row = await self.row(address)
        events = _sound(row, await self.store.events(row.case_no, visit=row.state.visit))

        def judge(locked: Locked) -> Repair:
            _still_as_read(address, row.state, locked.state)
            return repairs.restart(locked.state, events, who, reason, code, _committed(locked))

        return await self._repair(address, judge, who, row)

    async def cancel(self, address: str, *, reason: str, actor: Actor | None = None) -> Accepted:
        """Cancel a case by its cancel path; without one it is undone, then closed as "cancelled".

        Effects: `cancel_requested`, durable on return; a worker interrupts the visit. In an exception path it waits for
            the path's end. Asked again it changes nothing.
        Raises: CaseNotFound, CaseClosed.
        """
        _stated("cancel", reason)
        who = self._who(actor)
        return await self._repair(address, lambda locked: repairs.cancel(locked.state, who, reason), who)

    async def _repair(
        self, address: str, judge: Callable[[Locked], Repair], who: Actor, row: CaseRow | None = None
    ) -> Accepted:
        """Write what a repair judges right. A judgement by a row that was read before is for just that case."""

        def decide(locked: Locked) -> Edit[Accepted]:
            repair = judge(locked)
            if _is_repeat(repair, locked):
                return Edit(Accepted(address, duplicate=True, did=repair.did))
            inputs = [
                # The call is part of it: a result alone is no event, so the next one comes at the same seq.
                Input(
                    f"repair-{locked.state.seq}-{position}-{data.get('call', '')}",
                    kind, data, who.name, who.channel, on_behalf=who.on_behalf,
                )
                for position, (kind, data) in enumerate(repair.inputs)
            ]  # fmt: skip
            return Edit(Accepted(address, did=repair.did), repair.events, inputs, wake=True)

        return await self._edit(self.ref(address) if row is None else same_case(row), decide)


def _sound(row: CaseRow, visit: list[Event]) -> list[Event]:
    """Return the events of a visit whose calls are to be taken over.

    Raises:
        StoreCorrupt: one of them is not what was recorded.
    """
    if seq := damaged(visit):
        raise StoreCorrupt(
            f"{row.state.address}: event {seq} is not what was recorded, so no call can be taken over from its visit",
            hint="longcase restore BACKUP; or move the case to a stage it was not in, or cancel it",
        )
    return visit


def _still_as_read(address: str, read: CaseState, locked: CaseState) -> None:
    """Refuse a repair that was prepared from events which are no longer all there are of the visit."""
    moved = locked.visit != read.visit or locked.seen_seq != read.seen_seq
    # A call that was called anew since is seen by no turn, and its key must be found again.
    if moved or any(call["seq"] > read.seq for call in locked.calls.values()):
        raise UsageError(f"{address} has moved meanwhile", hint=f"longcase show {address}, then again")


def _committed(locked: Locked) -> dict[str, Json]:
    """Return the results, by call, that transactions have committed and no turn has applied yet."""
    done = {ref for ref, call in locked.state.calls.items() if call.get("committed")}
    if not done:
        return {}  # the inbox is not read for nothing: ten thousand inputs may wait there
    ended = [item.data for item in locked.pending if item.type == "activity_completed" and not item.damaged]
    return {data["call"]: data["result"] for data in ended if data["call"] in done}


def _is_repeat(repair: Repair, locked: Locked) -> bool:
    """Tell whether the result a repair supplies has been accepted before, and waits for its turn.

    Raises:
        RepairRefused: another result of the call waits; it was accepted, and stands.
    """
    if repair.events:
        return False
    pending = [item for item in locked.pending if item.type == "activity_completed" and not item.damaged]
    waiting = {item.data["call"]: item for item in pending}
    for _, data in repair.inputs:
        before = waiting.get(data["call"])
        if before is None:
            return False
        if before.data["result"] != data["result"]:
            address = locked.state.address
            raise RepairRefused(
                f"{address}: a result of that call was accepted from {before.actor} at {before.accepted_at}, "
                "and waits for a worker",
                hint=f"longcase show {address}",
            )
    return bool(repair.inputs)


def _stated(command: str, reason: str) -> str:
    """Return the reason of a repair; whoever reads the history later has nothing else to go by."""
    if not checked_reason(reason).strip():
        raise UsageError(f"{command} was given an empty reason", hint="--reason 'agreed with the customer by phone'")
    return reason
