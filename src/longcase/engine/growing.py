"""How long a history has grown, beside what its workflow allows (SEMANTICS B20)."""

from __future__ import annotations

from longcase.engine.incidents import TurnDiscarded
from longcase.history.event import Event
from longcase.history.state import CaseState
from longcase.model.growth import CASE_MOST, VISIT_MOST, HistoryLimits


def warned_of(state: CaseState, seen: int, limits: HistoryLimits, owner: str) -> Event | None:
    """Return the warning that is due now, if any.

    Args:
        seen: events of the visit that its replay compares.
        owner: of the stage that waits.

    Raises:
        TurnDiscarded: `history_too_long`, a limit at which the case stops is reached.
    """
    if seen >= limits.visit_stops:
        more = f"HistoryLimits(visit_stops={min(limits.visit_stops * 2, VISIT_MOST)})"
        raise TurnDiscarded(
            "history_too_long", f"the visit has {seen:,} events to replay, its limit is {limits.visit_stops:,}",
            owner=owner,
            details={
                "hint": f"return case.again() now and then, and move this case to {state.stage} anew; "
                f"or Workflow(..., history={more}), then retry"
            },
        )  # fmt: skip
    if state.seq >= limits.case_stops and state.kind == "stage":  # a path may end: how else would the case be closed
        more = f"HistoryLimits(case_stops={min(limits.case_stops * 2, CASE_MOST)})"
        raise TurnDiscarded(
            "history_too_long", f"the case has {state.seq:,} events, its limit is {limits.case_stops:,}", owner=owner,
            details={"hint": f"cancel it and start another; or Workflow(..., history={more}), then retry"},
        )  # fmt: skip
    grown = {"visit": seen >= limits.visit_warns, "case": state.seq >= limits.case_warns}
    news = [what for what, is_long in grown.items() if is_long and what not in state.warned]
    return Event("visit_warned", {"of": news, "visit_events": seen, "case_events": state.seq}) if news else None
