"""One advance in progress: the case it moves, the work it was given, what has come of it so far."""

from __future__ import annotations

from typing import Any

from longcase.engine.incidents import TurnDiscarded, incident
from longcase.engine.turn import Resident
from longcase.engine.work import Accepted, Advance, Command, Item, Stopped, Work
from longcase.history.event import instant_of
from longcase.history.state import Call
from longcase.model.activity import Activity
from longcase.model.codec import Json


class Progress:
    """What every part of an advance needs. `advance` puts the parts together."""

    def __init__(self, resident: Resident, work: Work) -> None:
        self.resident = resident
        self.state = resident.state
        self.work = work
        self.result = Advance()
        self.current: Item | None = None
        self.past: tuple[str, ...] = ()  # inputs that were refused where an operator moved the case away
        self.left: tuple[str, ...] = ()  # the same, but for a restart: its visit takes them again

    def _step(self) -> None:
        if self.work.limit is not None and self.result.applied >= self.work.limit:
            raise Stopped

    def _stop(self, calls: list[tuple[str, int]]) -> None:
        self.result.commands.extend(Command("stop", self.resident.case_no, ref, number) for ref, number in calls)

    def _activity(self, call: Call) -> Activity[..., Any] | None:
        return self.resident.code.activities.get(call["activity"])

    def _is_once(self, call: Call) -> bool:
        activity = self._activity(call)
        return activity is not None and activity.once_per != "call"

    def _granted(self, ref: str, call: Call) -> bool:
        return self.work.granted(self.resident.case_no, ref, call)

    def _has_incident(self, ref: str) -> bool:
        return any(opened["call"] == ref for opened in self.state.incidents.values())

    def _is_told(self, ref: str) -> bool:
        """Tell whether an outcome of the call has been accepted and waits: nobody need be asked for it."""
        return any(
            isinstance(item, Accepted) and item.data.get("call") == ref and item.no not in self.result.taken
            for item in self.work.items
        )

    def _call_incident(
        self, kind: str, message: str, owner: str, ref: str, call: Call, details: dict[str, Json], cause: int
    ) -> None:
        opened = TurnDiscarded(kind, message, owner=owner, node=call["node"], call=ref, details=details)
        event = incident(self.state, opened, instant_of(self.work.now), self.resident.code, cause=cause)
        self.resident.append(event, self.work.now)
