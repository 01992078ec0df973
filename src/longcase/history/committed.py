"""Calls whose transaction is committed, and what has become of their results."""

from __future__ import annotations

from collections.abc import Iterable

from longcase.history.state import CaseState


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
