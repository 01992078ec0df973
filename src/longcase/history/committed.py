"""Calls that have ended and whose outcome no turn has applied: who keeps it, and whether it is still there."""

from __future__ import annotations

from collections.abc import Iterable

from longcase.history.state import CaseState


def kept_outcomes(state: CaseState) -> dict[str, str]:
    """Return of the calls that have ended, and whose outcome an open incident keeps, that incident's name.

    The turn that was to apply it was not written, so no event tells of it: such a call is still `running` or `unknown`.
    """
    found: dict[str, str] = {}
    for number, opened in state.incidents.items():
        ref = (opened["pending"] or {}).get("call", "")
        if ref in state.calls:
            found.setdefault(ref, number)
        elif refused := opened["details"].get("input"):  # in the inbox, where a transaction has put it
            ended = (one for one, call in state.calls.items() if refused == f"end-{one}-{call['attempt']}")
            if one := next(ended, ""):
                found.setdefault(one, number)
    return found


def results_gone(state: CaseState, there: Iterable[str]) -> list[str]:
    """Return the calls that have committed their transaction, and whose result nothing holds any more.

    Args:
        there: the calls with an outcome in the case's inbox.
    """
    kept = {*there, *(held.get("call") for held in (opened["pending"] for opened in state.incidents.values()) if held)}
    return [
        ref
        for ref, call in state.calls.items()
        if call["status"] == "running" and call.get("committed") == call["attempt"] and ref not in kept
    ]
