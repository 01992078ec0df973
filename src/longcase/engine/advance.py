"""In which order things take effect: due timers first, then the input, by instant (SEMANTICS B1).

`advance` takes everything that has happened to one case since it was last moved (outcomes of
attempts, accepted inputs, clocks) and turns it, one at a time, into events and commands. It asks
nothing of the world; the runtime commits what it returns and carries out the commands.

Its parts stand in rooms of their own, each upon the one before: `work` (the records), `progress`, `undoing`,
`outcomes`, `clocks`, `inputs`.
"""

from __future__ import annotations

from collections.abc import Iterator

from longcase.engine import attempts
from longcase.engine.attempts import Failure, Verdict
from longcase.engine.incidents import TurnDiscarded, incident
from longcase.engine.inputs import Inputs, answered
from longcase.engine.tasks import shown_again
from longcase.engine.turn import Resident
from longcase.engine.work import Accepted, Advance, Ended, Item, Stopped, Verified, Work
from longcase.history.event import instant_of
from longcase.history.state import blocked
from longcase.history.waits import next_due
from longcase.model.codec import Json


def advance(resident: Resident, work: Work) -> Advance:
    """Apply the work to the case, one input a turn.

    Raises:
        TurnDiscarded: an input's turn must not be committed; `Advance.applied` inputs before it are
            lost with the resident. The caller rebuilds it, advances with `limit=applied`, and opens the
            incident when the same input comes first (`refuse_input`).
    """
    run = _Run(resident, work)
    try:
        run.all()
    except Stopped:
        run._begin()  # what the turns before the limit have begun must be carried out
    except TurnDiscarded as discarded:
        discarded.applied = run.result.applied
        discarded.item = run.current
        raise
    return run.result


def refuse_input(resident: Resident, work: Work, discarded: TurnDiscarded, item: Item | None) -> Advance:
    """Open the incident of a turn that was discarded. The resident is fresh and has no visit.

    The input stays unapplied: in the inbox if it came from there (the incident names it, and it is not
    tried again while that is open), else inside the incident. A call's incident that it has answered ends.
    """
    state = resident.state
    now = instant_of(work.now)
    result = Advance()
    pending: Json = None
    if isinstance(item, Ended):
        call = state.calls.get(item.call)
        if call is not None and attempts.outcome_counts(state, item.call, item.number):
            if isinstance(item.outcome, Failure):
                failed = attempts.failed_attempt(
                    state, item.call, call, item.outcome, Verdict("unknown"), f"worker:{item.worker}"
                )
                resident.append(failed, work.now)
                if not discarded.call:
                    pending = {"type": "activity_failed", "call": item.call, "error": item.outcome.to_json()}
            else:
                pending = {"type": "activity_completed", "call": item.call, "result": item.outcome.result}
    elif isinstance(item, Verified):
        pending = {"type": "activity_completed", "call": item.call, "result": item.result}
    elif isinstance(item, Accepted):
        discarded.details = {**discarded.details, "input": item.id}
        for event in answered(state, item):
            resident.append(event, work.now)
    event = incident(state, discarded, now, resident.code, pending=pending)
    resident.append(event, work.now)
    return result


class _Run(Inputs):
    """One advance in progress."""

    def all(self) -> None:
        self._sweep_dead()
        state = self.state
        if state.visit == 0 and state.status == "open" and state.move is None and not blocked(state):
            self.resident.enter_first(self.work.now)
            self.result.applied += 1
        self._moved()
        # Turns of this advance happen at `now`, so clocks they arm are not due before a later item.
        earliest = next_due(state)
        waiting = refused = behind = False
        for item in self.work.items:
            if earliest and earliest <= item.at:
                self._clocks(item.at)
                earliest = next_due(self.state)
            if refused and isinstance(item, Accepted) and self._is_plain_signal(item):
                behind = True  # one that came earlier was refused until just now: it goes first (I11)
                self.result.items_applied += 1
                continue
            self._step()
            self.current = item
            done = self._apply(item)
            if isinstance(item, Accepted):
                if done:
                    self.result.taken.append(item.no)
                else:
                    waiting = True
                    refused = refused or self._is_plain_signal(item)
            if done:  # what waits has not taken effect: what comes behind it is the first input
                self.result.applied += 1
            self.result.items_applied += 1
            self.current = None
        self._clocks(self.work.now)
        if waiting and state.status == "closed":
            self._list_waiting()
        for ref in state.tasks:
            stale = shown_again(state, ref)
            if stale is not None:
                self.resident.append(stale, self.work.now)
        if state.undoing is not None:
            self._step()
            self._undo()
        if state.redone:
            self._redone()
        self._begin()
        if state.status == "closed":
            self._stop_all()
        # An exception that queued behind a path fires when the path has returned a stage (B7).
        unheard = waiting and state.kind == "stage" and any(self._unheard())
        self.result.again = (behind or unheard) and not blocked(state)

    def _unheard(self) -> Iterator[Accepted]:
        """Yield what waits and may be applied; not what an open incident has refused: that waits for its repair."""
        for item in self.work.items:
            if isinstance(item, Accepted) and item.no not in self.result.taken and not self._is_refused(item):
                yield item

    def _list_waiting(self) -> None:
        """List what queued behind an exception path that then closed the case (B7, B17)."""
        for item in self.work.items:
            if isinstance(item, Accepted) and item.no not in self.result.taken and self._accepted(item):
                self.result.taken.append(item.no)

    def _apply(self, item: Item) -> bool:
        """Apply one item; False leaves an accepted input where it is."""
        match item:
            case Ended():
                self._ended(item)
                return True
            case Verified():
                self._verified(item)
                return True
            case Accepted():
                return self._accepted(item)

    def _stop_all(self) -> None:
        asked = {command.call for command in self.result.commands if command.kind == "stop"}
        running = [(ref, call) for ref, call in self.state.calls.items() if call["status"] == "running"]
        self._stop([(ref, call["attempt"]) for ref, call in running if ref not in asked])
