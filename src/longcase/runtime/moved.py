"""What a batch of turns hands on: from preparing to writing, and from writing to whoever carries it out."""

from __future__ import annotations

from dataclasses import field

from longcase.engine.code import WorkflowCode
from longcase.engine.turn import Resident
from longcase.engine.work import Advance, Command, Item
from longcase.errors import UnavailableError
from longcase.history.event import Event
from longcase.history.state import CaseState
from longcase.record import record
from longcase.runtime.limits import Slot
from longcase.store.records import CaseWrite


@record(frozen=False)
class Moved:
    """What became of one case in a commit: commands to carry out, and whether it wants more."""

    case_no: int
    state: CaseState
    code: WorkflowCode
    events: list[Event]
    commands: list[Command]
    left: list[Item] = field(default_factory=list)  # outcomes not applied yet; give them to the next advance
    again: bool = False
    wake_at: str = ""
    refused: tuple[str, ...] = ()  # limits that held back attempts of the case
    queued: bool = False  # calls of it may wait in a queue
    others: bool = False  # the same commit may have made another case ready


@record(frozen=False)
class Reserved:
    """The slots that the turns of one preparation have taken, and the limits that refused one."""

    taken: list[Slot] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)


@record(frozen=False)
class Prepared:
    """One case whose turns are computed and not written yet."""

    resident: Resident
    result: Advance
    items: list[Item]
    write: CaseWrite | None  # None: there is nothing to write
    reserved: Reserved
    left: list[Item]
    more: bool
    untaken: int  # inbox inputs that had to stay there
    look_again: bool = False  # it only keeps what has ended: the case itself is looked at next


@record
class Refused:
    """Why a case cannot be moved on here: the kind of its incident, and what it says."""

    kind: str
    error: Exception | None


@record(frozen=False)
class Batch:
    """The cases of one round of an advance, each with what has ended of it in this process."""

    items: dict[int, list[Item]] = field(default_factory=dict)
    looking: set[int] = field(default_factory=set)  # those to be read from the store
    refused: dict[int, Refused] = field(default_factory=dict)  # those to be held
    unavailable: UnavailableError | None = None  # why one comes again, if the store had no time for it

    def add(self, case_no: int, items: list[Item], refused: Refused | None = None) -> None:
        """Have a case looked at anew."""
        self.items[case_no] = items
        self.looking.add(case_no)
        if refused is not None:
            self.refused[case_no] = refused
