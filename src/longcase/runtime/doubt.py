"""Commits whose answer was lost: what they began is carried out if they did happen, and given back if not.

The store is asked when the case moves next: its row says whether the attempt is the call's current one.
"""

from __future__ import annotations

from collections.abc import Sequence

from longcase.engine.work import Command
from longcase.history.state import CaseState
from longcase.runtime.limits import Slot, Slots
from longcase.runtime.moved import Moved, Prepared


class Doubt:
    """The attempts of one worker that were begun in commits of unknown outcome."""

    def __init__(self, worker: int, slots: Slots) -> None:
        self._worker = worker
        self._slots = slots
        self._given_up = False
        self._begun: dict[int, dict[tuple[str, int], Slot]] = {}

    def __contains__(self, case_no: int) -> bool:
        return case_no in self._begun

    def note(self, entry: Prepared) -> None:
        """Remember what a commit of unknown outcome began: if it did happen, nobody else runs these attempts."""
        resident = entry.resident
        begun = self._begun.setdefault(resident.case_no, {})
        assert entry.write is not None
        taken = list(entry.reserved.taken)
        for event in entry.write.events:
            if event.data.get("worker") == self._worker and event.data.get("attempt"):
                call = resident.state.calls.get(event.data["call"])
                name = event.data.get("activity") or (call["activity"] if call is not None else "")
                activity = resident.code.activities[name]
                slot = next((slot for slot in taken if slot.activity is activity), Slot(activity))
                if slot in taken:
                    taken.remove(slot)
                begun[event.data["call"], event.data["attempt"]] = slot
        if self._given_up:
            self.give_up()

    def carry_later(self, moved: Sequence[Moved]) -> None:
        """Keep the commands of cases that did move when another case of the batch failed."""
        for entry in moved:
            for command in entry.commands:
                call = entry.state.calls.get(command.call)
                if command.kind == "perform" and call is not None:
                    begun = self._begun.setdefault(entry.case_no, {})
                    begun[command.call, command.number] = Slot(entry.code.activities[call["activity"]])
        if self._given_up:
            self.give_up()

    def give_up(self) -> None:
        """Give back every slot, also of what is noted later: the worker was forgotten, others settle its attempts."""
        self._given_up = True
        for begun in self._begun.values():
            for slot in begun.values():
                self._slots.give_up(slot)
        self._begun.clear()

    def resolve(self, case_no: int, state: CaseState, commanded: Sequence[Command] = ()) -> list[Command]:
        """Return what must still be carried out of commits whose answer was lost, beside what is `commanded` now."""
        again = {(command.call, command.number) for command in commanded if command.kind == "perform"}
        commands: list[Command] = []
        for (ref, number), slot in self._begun.pop(case_no, {}).items():
            call = state.calls.get(ref)
            if (
                (ref, number) not in again  # else that commit did not happen, and this one has a slot of its own
                and call is not None
                and call["status"] == "running"
                and call["attempt"] == number
                and call["worker"] == self._worker
            ):
                commands.append(Command("perform", case_no, ref, number))
            else:
                self._slots.give_up(slot)
        return commands
