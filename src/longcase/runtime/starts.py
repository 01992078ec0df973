"""Starting cases together with their first turn, in one transaction: a start without a second commit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from longcase.engine.code import WorkflowCode
from longcase.env import Env
from longcase.errors import CaseNotFound, LongcaseError, UnavailableError
from longcase.history.event import instant_text
from longcase.history.state import CaseState, apply
from longcase.runtime.composing import Writes
from longcase.runtime.doubt import Doubt
from longcase.runtime.landing import Landing
from longcase.runtime.moved import Moved, Prepared, Reserved
from longcase.runtime.residents import Residents
from longcase.store.port import Store
from longcase.store.records import CaseRef, Edit, NewCase, Started, Written, differing

log = logging.getLogger("longcase.runtime")


class Starts:
    """First turns of one mover."""

    def __init__(
        self, env: Env, codes: Mapping[str, WorkflowCode], residents: Residents, writes: Writes, doubt: Doubt,
        landing: Landing,
    ) -> None:  # fmt: skip
        self._env = env
        self._codes = codes
        self._residents = residents
        self._writes = writes
        self._doubt = doubt
        self._landing = landing
        self._unsure: list[Prepared] = []
        self._given_up = False

    async def start(self, store: Store, new: Sequence[NewCase]) -> tuple[list[Started], list[Moved]]:
        """Accept cases and run each to its first wait, in one transaction.

        A case whose first turn cannot be committed is accepted all the same; its next turn opens the incident.
        """
        now = instant_text(self._env.now())  # one reading of the clock serves the batch
        entries = {place: entry for place, one in enumerate(new) if (entry := self._first_turn(one, now)) is not None}
        try:
            outcomes = await store.write(
                [entry.write for entry in entries.values() if entry.write is not None], partial=True
            )
        except BaseException as error:
            # A caller who gives up does not cancel what is queued: also his cases may be there.
            refused = isinstance(error, LongcaseError) and not isinstance(error, UnavailableError)
            for entry in entries.values():
                entry.resident.discard()
                if refused or self._given_up:
                    self._residents.give_back(entry.reserved)
                else:
                    self._unsure.append(entry)
            raise
        answers: dict[int, Started] = {}
        moved: list[Moved] = []
        for (place, entry), outcome in zip(entries.items(), outcomes, strict=True):
            answer = self._started(new[place], entry, outcome, moved)
            if answer is not None:
                answers[place] = answer
        plain = [place for place in range(len(new)) if place not in answers]
        if plain:
            try:
                answers |= zip(plain, await store.start([new[place] for place in plain]), strict=True)
            except BaseException:
                # Those that were begun are carried out all the same, although their caller hears of none.
                self._unsure += [entry for entry in entries.values() if entry.resident.case_no]
                if self._given_up:
                    self.give_up()
                raise
        return [answers[place] for place in range(len(new))], moved

    def _first_turn(self, new: NewCase, now: str) -> Prepared | None:
        """Compute a new case's first turn; None if it cannot be committed and the case is only to be accepted."""
        started = new.started
        state = CaseState()
        started.seq, started.at = 1, now
        apply(state, started)
        resident = self._residents.new(0, self._codes[started.data["workflow"]], state)
        reserved = Reserved()
        try:
            result = self._residents.run(resident, (), self._residents.work(now), False, reserved)
            write = self._writes.of(resident, result, 1, 1, now, False, None, False)
        except Exception as error:
            log.info("%s: first turn left for later: %s", state.address, error)
            resident.discard()
            self._residents.give_back(reserved)
            started.seq, started.at = 0, ""
            return None
        assert write is not None
        write.new = new
        return Prepared(resident, result, [], write, reserved, [], False, 0)

    def _started(self, new: NewCase, entry: Prepared, outcome: Written, moved: list[Moved]) -> Started | None:
        resident = entry.resident
        state = outcome.state or resident.state
        if outcome.outcome != "done":
            resident.discard()
            self._residents.give_back(entry.reserved)
            if outcome.outcome != "existing":
                return None  # accepted without its first turn
            return Started(outcome.case_no, True, state, differing(state.object, new.started.data["object"]))
        resident.case_no = outcome.case_no
        for command in entry.result.commands:
            command.case_no = outcome.case_no
        self._residents.put(resident)  # in place of another, if the worker's own round has read the case meanwhile
        moved.append(self._landing.written(entry, outcome))
        return Started(outcome.case_no, False, state)

    def give_up(self) -> None:
        """Give back every slot, also of starts that fail later: the worker was forgotten, others go on with them."""
        self._given_up = True
        for entry in self._unsure:
            self._residents.give_back(entry.reserved)
        self._unsure.clear()

    async def look_up(self, store: Store) -> list[int]:
        """Look up starts whose commit's answer was lost; returns the cases whose attempts must be carried out."""
        found: list[int] = []
        for entry in list(self._unsure):
            state = entry.resident.state
            try:
                found_no, uid = await _there(store, CaseRef(0, state.workflow, state.key, state.tenant))
            except UnavailableError:
                if not found:
                    raise
                break  # those that were found must be carried out; the others are looked up next time
            if self._given_up:
                break
            if entry not in self._unsure:
                continue  # looked up by another call meanwhile
            self._unsure.remove(entry)
            if uid == state.uid:
                entry.resident.case_no = found_no
                self._doubt.note(entry)
                self._residents.evict(found_no)
                found.append(found_no)
            else:
                self._residents.give_back(entry.reserved)
        return found


async def _there(store: Store, ref: CaseRef) -> tuple[int, str]:
    """Return the number and the uid of a case, (0, "") if there is none.

    By way of the commit, not of a read: a start that is still being written is waited for.
    """
    try:
        return await store.edit(ref, lambda locked: Edit((locked.case_no, locked.state.uid)))
    except CaseNotFound:
        return 0, ""
