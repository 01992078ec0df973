"""How long the histories of a workflow may grow: where they warn, and where the case stops."""

from __future__ import annotations

from typing import Final

from longcase.errors import DefinitionError
from longcase.model.names import printable
from longcase.record import record

VISIT_MOST: Final = 100_000  # a visit is replayed whole, at some 0.05 ms an event, and a turn has ten seconds
CASE_MOST: Final = 1_000_000


@record
class HistoryLimits:
    """How many events the histories of a workflow may have.

    Of a visit those count that its replay compares; attempts, answers, reminders and other records do not. Of a case
    every event counts. `Workflow(..., history=HistoryLimits(case_stops=200_000))` sets one and keeps the others.

    Args:
        visit_warns: events of one visit, 1 to 100,000, from which its history has the warning `visit_warned`.
        visit_stops: events of one visit, `visit_warns` to 100,000, from which it does not wait again: the turn is
            refused, and the case has the incident `history_too_long`. A stage that stays open for long returns
            `case.again()` before that.
        case_warns: events of one case, 1 to 1,000,000, from which it is warned of, once.
        case_stops: events of one case, `case_warns` to 1,000,000, from which no stage of it waits again: the same
            incident. Exception paths and `cancel` go on, so that the case can be closed.

    Effects: the limits are those of the code that moves the case, and no part of its history. Another release with
        others replays what is recorded as it stands; `retry` goes on under the new ones.

    Raises:
        DefinitionError: a limit is no whole number in its range, or a stop is below its warning; the author mends it.

    Source: SEMANTICS B20.
    """

    visit_warns: int = 1_000
    visit_stops: int = 40_000
    case_warns: int = 10_000
    case_stops: int = 50_000

    def __post_init__(self) -> None:
        _check("visit", self.visit_warns, self.visit_stops, VISIT_MOST, "HistoryLimits(visit_stops=40_000)")
        _check("case", self.case_warns, self.case_stops, CASE_MOST, "HistoryLimits(case_stops=200_000)")

    @property
    def first(self) -> int:
        """The fewest events of a case at which any of the limits can be reached."""
        return min(self.visit_warns, self.case_warns)


def _check(what: str, warns: object, stops: object, most: int, hint: str) -> None:
    events = []
    for name, value in ((f"{what}_warns", warns), (f"{what}_stops", stops)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise DefinitionError(f"HistoryLimits({name}={printable(value)}): expected 1 to {most:,} events", hint=hint)
        events.append(value)
    if events[0] > events[1]:
        raise DefinitionError(
            f"HistoryLimits: {what}_warns={warns} is above {what}_stops={stops}, expected the warning first",
            hint=f"HistoryLimits({what}_warns={stops}, {what}_stops={warns})",
        )
