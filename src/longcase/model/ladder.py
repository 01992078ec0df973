"""What happens when a wait runs late: the levels of a ladder, each with whom it brings in."""

from __future__ import annotations

from collections.abc import Sequence

from longcase.model.people import Owner
from longcase.model.span import Span
from longcase.record import record


@record
class Escalation:
    """One level of a ladder: `after` the wait began, `to` becomes a candidate and is told.

    With `reassign=True` the level replaces whose move it is instead of adding to it; the case's
    accountable owner never changes by an escalation (SEMANTICS section 6).
    """

    after: Span
    to: Owner
    reassign: bool = False


Ladder = Sequence[tuple[Span, Owner] | Escalation]


def escalations(ladder: Ladder) -> tuple[Escalation, ...]:
    """Return a ladder's levels as Escalation records, in the order given."""
    return tuple(level if isinstance(level, Escalation) else Escalation(*level) for level in ladder)
