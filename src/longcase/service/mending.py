"""Mending a case: data it waited for, corrections, and the repairs of an incident; each with who and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from longcase.engine import repair as repairs
from longcase.engine.code import WorkflowCode
from longcase.engine.repair import Repair
from longcase.engine.tasks import Actor
from longcase.errors import InvalidInput, RepairRefused, UsageError
from longcase.history.event import Event
from longcase.history.state import CaseState
from longcase.model.codec import Json, codec_for
from longcase.model.strict_json import check_json
from longcase.model.workflow import Stage
from longcase.service.door import Accepted, Door, same_case
from longcase.store.records import CaseRow, Edit, Input, Locked


class Mending(Door):
    """The part of the door that operators mend cases at."""

    async def set_fields(
        self, address: str, fields: Mapping[str, Json], *, actor: Actor | None = None, reason: str = "data provided"
    ) -> Accepted:
        """Provide data a case has been waiting for; wakes it with no further click."""
        return await self.correct(address, fields, reason=reason, actor=actor, pin=False)

    async def correct(
        self, address: str, fields: Mapping[str, Json], *, reason: str, actor: Actor | None = None, pin: bool = True
    ) -> Accepted:
        """Correct fields of the object: recorded with who, why, before and after.

        With `pin`, a write of the running visit to the same fields becomes an incident instead of
        overwriting the correction (SEMANTICS B9).
        """
        who = self._who(actor)
        ref = self.ref(address)
        code = self.codes.get(ref.workflow)
        _stated("correct", reason)

        def judge(locked: Locked) -> Repair:
            patch = self._valid_patch(code, locked.state, fields)
            key_field = code.workflow.key_field if code is not None else ""
            return repairs.correct(locked.state, patch, who, reason, pin=pin, key_field=key_field)

        return await self._repair(address, judge, who)

    def _valid_patch(self, code: WorkflowCode | None, state: CaseState, fields: Mapping[str, Json]) -> dict[str, Json]:
        check_json(dict(fields), what=f"correction of {state.address}")
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
        what = f"correction of {state.address}"
        whole = codec.encode(codec.decode({**state.object, **fields}, what), what)
        return {name: whole[name] for name in fields}

    async def retry(
        self, address: str, *, incident: str | None = None, reason: str | None = None, actor: Actor | None = None
    ) -> Accepted:
        """Try the incident's call again with fresh attempts under the same key, or its input once more."""
        why = "" if reason is None else _stated("retry", reason)
        who = self._who(actor)
        return await self._repair(
            address, lambda locked: repairs.retry(locked.state, incident, who, why, locked.now), who
        )

    async def skip(
        self, address: str, *, incident: str | None = None, reason: str | None = None, actor: Actor | None = None
    ) -> Accepted:
        """Go on without the incident's call, where its result may be None."""
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
        """Supply the result of the incident's call."""
        why = "" if reason is None else _stated("set-result", reason)
        check_json(result, what="result")
        who = self._who(actor)
        code = self.codes.get(self.ref(address).workflow)
        return await self._repair(
            address, lambda locked: repairs.set_result(locked.state, incident, result, why, code), who
        )

    async def move(self, address: str, stage: Stage[Any] | str, *, reason: str, actor: Actor | None = None) -> Accepted:
        """Move a case to another stage; its visit ends, nothing is undone."""
        _stated("move", reason)
        who = self._who(actor)
        name = stage if isinstance(stage, str) else stage.name
        code = self.codes.get(self.ref(address).workflow)
        row = await self.row(address)
        earlier = await self._last_visit_of(row, name)
        return await self._repair(
            address,
            lambda locked: repairs.move(locked.state, name, who, reason, code, earlier, _committed(locked)),
            who,
            row,
        )

    async def _last_visit_of(self, row: CaseRow, stage: str) -> list[Event]:
        """Return the events of the case's latest visit of a stage, if there was one."""
        events = await self.store.events(row.case_no)
        visits = [event.visit for event in events if event.type == "stage_entered" and event.data["stage"] == stage]
        return [event for event in events if visits and event.visit == visits[-1]]

    async def restart(self, address: str, *, reason: str, actor: Actor | None = None) -> Accepted:
        """Begin the current visit anew, reusing what its calls have already returned."""
        _stated("restart", reason)
        who = self._who(actor)
        code = self.codes.get(self.ref(address).workflow)
        row = await self.row(address)
        events = await self.store.events(row.case_no, visit=row.state.visit)

        def judge(locked: Locked) -> Repair:
            if locked.state.visit != row.state.visit or locked.state.seen_seq != row.state.seen_seq:
                raise UsageError(f"{address} has moved meanwhile", hint=f"longcase show {address}, then again")
            return repairs.restart(locked.state, events, who, reason, code, _committed(locked))

        return await self._repair(address, judge, who, row)

    async def cancel(self, address: str, *, reason: str, actor: Actor | None = None) -> Accepted:
        """Cancel a case by its cancel path."""
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


def _committed(locked: Locked) -> dict[str, Json]:
    """Return the results, by call, that transactions have committed and no turn has applied yet."""
    done = {ref for ref, call in locked.state.calls.items() if call.get("committed")}
    if not done:
        return {}  # the inbox is not read for nothing: ten thousand inputs may wait there
    ended = [item.data for item in locked.pending if item.type == "activity_completed"]
    return {data["call"]: data["result"] for data in ended if data["call"] in done}


def _is_repeat(repair: Repair, locked: Locked) -> bool:
    """Tell whether the result a repair supplies has been accepted before, and waits for its turn.

    Raises:
        RepairRefused: another result of the call waits; it was accepted, and stands.
    """
    if repair.events:
        return False
    waiting = {item.data["call"]: item for item in locked.pending if item.type == "activity_completed"}
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
    if not reason.strip():
        raise UsageError(f"{command} was given an empty reason", hint="--reason 'agreed with the customer by phone'")
    return reason
