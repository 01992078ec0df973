"""The seam between the engine and whoever moves cases (a mover): ours, a test's, somebody else's.

A mover does three things, and nothing else in the package knows which mover runs: it wakes cases
(`Turning.advance`), it carries out the commands that come back, and it reports how attempts ended
(`Attempts`). Wake-ups are hints: they may come twice, late, out of order or never; the store is the
truth. An attempt may be begun by one process and ended by another; its number is its fence.

    commit -> Command("perform") -> Attempts.begin -> Go -> the world -> Attempts.end -> commit

`AttemptsOverTurns` is the attempts' half over `runtime.turns.Turns`. The worker joins it to its turns
(the start of an attempt is in the commit that commanded it), so that a call costs one commit, not two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import field
from typing import Protocol

from longcase.engine.attempts import Failure, Success
from longcase.engine.work import Command, Ended, Item, Verified
from longcase.model.codec import Json
from longcase.record import record
from longcase.runtime.moved import Moved
from longcase.runtime.turns import Turns


@record
class Go:
    """Leave to run one attempt. `number` is the fence: only the current attempt's end counts."""

    case_no: int
    address: str
    call: str
    number: int
    activity: str
    key: str
    input: dict[str, Json]
    undo: bool = False
    undone: Json = None  # for an undo: the result of what it takes back
    details: Json = None  # last heartbeat of the attempt before


@record
class Held:
    """Not now: no slot is free, or the next try is not due. `until` is "" where nobody knows."""

    until: str = ""


@record
class Done:
    """Nothing to do: the call is over, or another attempt is the current one."""


@record
class AskVerify:
    """The outcome of an earlier attempt is unknown: ask the world, do not repeat it."""

    go: Go


@record
class Final:
    """The attempt's end is recorded; nothing of this call is left to run. `moved` holds what follows."""

    moved: list[Moved] = field(default_factory=list)


@record
class Again:
    """The attempt failed and the call is tried once more at the instant `after`."""

    after: str
    moved: list[Moved] = field(default_factory=list)


class Turning(Protocol):
    """Written once, over the store; every mover calls it."""

    async def advance(self, cases: Mapping[int, Sequence[Item]], look: AbstractSet[int] = ...) -> list[Moved]:
        """Move cases by the items given, those in `look` also by what the store holds for them."""
        ...


class Attempts(Protocol):
    """Called by whatever process runs an activity."""

    async def begin(self, case_no: int, call: str, number: int) -> Go | Held | Done | AskVerify:
        """Ask leave to run attempt `number` of a call. Asking twice is harmless."""
        ...

    async def end(self, go: Go, outcome: Success | Failure | Verified) -> Final | Again:
        """Report how an attempt ended. A report that comes late or twice changes nothing but the record."""
        ...


class Mover(Protocol):
    """Moves cases: our worker, the shuffled one of the test kit."""

    def wake(self, case_no: int) -> None:
        """Hint that the store holds something for a case; at least once, may be repeated."""
        ...


class AttemptsOverTurns:
    """`Attempts` for one process, over its turns. `worker` is the incarnation that ended the attempts."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    async def begin(self, case_no: int, call: str, number: int) -> Go | Held | Done | AskVerify:
        store = self._turns.store
        row = (await store.load_many([case_no])).get(case_no)
        entry = row.state.calls.get(call) if row is not None else None
        if row is None or entry is None or entry["attempt"] != number:
            return Done()
        commanded = await store.event(case_no, entry["seq"])
        if entry["undoes"]:
            original = await store.event(case_no, commanded.data["of"])
            undone = (await store.event(case_no, commanded.data["result"])).data["result"]
        else:
            original, undone = commanded, None
        go = Go(
            case_no, row.state.address, call, number, entry["activity"], entry["key"], original.data["input"],
            bool(entry["undoes"]), undone, entry.get("details"),
        )  # fmt: skip
        match entry["status"]:
            case "running":
                return go
            case "unknown":
                return AskVerify(go)
            case "ready" | "backoff":
                return Held(entry["next_try"])
        return Done()

    async def end(self, go: Go, outcome: Success | Failure | Verified) -> Final | Again:
        item: Item
        if isinstance(outcome, Verified):
            item = outcome
        else:
            item = Ended(go.call, go.number, outcome, self._turns.worker, self._turns.now())
        moved = await self._turns.advance({go.case_no: [item]}, {go.case_no})
        for entry in moved:
            call = entry.state.calls.get(go.call)
            if call is not None and call["status"] == "backoff":
                return Again(call["next_try"], moved)
        return Final(moved)


__all__ = [
    "Again", "AskVerify", "Attempts", "AttemptsOverTurns", "Command", "Done", "Final", "Go", "Held", "Mover", "Turning",
]  # fmt: skip
