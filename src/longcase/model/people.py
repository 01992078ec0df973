"""Who is accountable and what can be down: teams and outside systems."""

from __future__ import annotations

from dataclasses import field
from datetime import timedelta

from longcase.errors import DefinitionError
from longcase.model.calendar import Calendar
from longcase.model.expected import check_kind, check_names
from longcase.model.names import check_name, composed
from longcase.model.policy import check_limits
from longcase.record import record


@record
class Team:
    """A team or a person that can own work.

    Args:
        name: how the owner is known in every list and event (`[A-Za-z0-9._:-]`, 1 to 128).
        calendar: the working hours that business time of this owner is counted in.
        members: names of people, `"ann"` (or `"person:ann"`, which is the same). If given, only they may
            decide tasks of the team; if empty, whoever decides is recorded as unverified.
    """

    name: str
    calendar: Calendar | None = None
    members: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        check_name(self.name, "team")
        if isinstance(self.members, str):
            raise DefinitionError(
                f"team {self.name}: members is one string, expected a tuple of names",
                hint=f'Team("{self.name}", members=("{self.members}",))',
            )
        check_names(f"team {self.name}", "members", self.members)
        check_kind(
            f"team {self.name}", "calendar", self.calendar, Calendar, "a Calendar",
            'calendar=Calendar("NL", tz="Europe/Amsterdam")',
        )  # fmt: skip
        members = tuple(composed(member).removeprefix("person:") for member in self.members)
        object.__setattr__(self, "members", members)


Owner = Team


@record
class System:
    """An outside system that can be down (an ERP, a registry). Activities name the one they touch.

    Args:
        name: how the system is known (`[A-Za-z0-9._:-]`, 1 to 128).
        owner: the team to turn to when it is down.
        concurrency: most attempts running against it at once in one worker; None is no limit.
        rate: most attempts begun per span against it in one worker, as `(count, span)`.
    """

    name: str
    owner: Owner
    concurrency: int | None = None
    rate: tuple[int, timedelta] | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "system")
        if not isinstance(self.owner, Owner):
            raise DefinitionError(
                f"system {self.name}: owner is {self.owner!r}, expected a Team", hint='owner=Team("it")'
            )
        check_limits(f"system {self.name}", self.concurrency, self.rate)
