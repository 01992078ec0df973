"""What every store does alike for one unit of work on a case: how it is missed, and when it wants a turn afterwards."""

from __future__ import annotations

from typing import Any

from longcase.errors import CaseNotFound
from longcase.history.waits import next_due
from longcase.model.names import of_tenant
from longcase.store.folding import earliest
from longcase.store.records import CaseRef, CaseRow, Edit


def not_found(ref: CaseRef) -> CaseNotFound:
    """Return the error of a reference by which nothing is known."""
    name = f"case {ref.case_no}" if ref.case_no else f"{ref.workflow}/{ref.key}{of_tenant(ref.tenant)}"
    return CaseNotFound(f"no case is known as {name}", hint="longcase list")


def wake_after(row: CaseRow, wanted: Edit[Any], accepted: bool, now: str) -> str:
    """Return when the case wants to be moved, once what was decided is in its state.

    Args:
        accepted: whether an input was accepted that no turn has applied.
    """
    if wanted.wake or accepted:
        return now
    if row.state.status == "open":
        # Kept if it was due already: somebody asked for a turn that has not been taken yet.
        return earliest(row.wake_at, next_due(row.state))
    return row.wake_at
