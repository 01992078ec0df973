"""Retention: how long closed cases of a workflow are kept, which may go, and their purge.

A period is a fact of the store, set by whoever answers for it, and needs no code to be loaded: a case of a
workflow that nobody runs any more has its period too. Each tenant has its own. Without one,
cases are kept for ever (decision 0015).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from longcase.engine.tasks import Actor
from longcase.env import Env
from longcase.errors import CasePurged, UsageError
from longcase.history.event import instant_text
from longcase.model.names import MAIN_TENANT, check_name
from longcase.record import record
from longcase.service import queries
from longcase.store.port import Audited, Keeping, Store
from longcase.store.records import CaseRef, Purge, Purged

KEYS_REMEMBERED: Final = timedelta(days=30)  # a message repeated within it gets the answer it had
BATCH: Final = 100  # cases of one transaction
_SETTING: Final = "keep:"
_PERIOD: Final = re.compile(r"\s*(\d{1,4})\s*(y|years?|d|days?)\s*", re.IGNORECASE)
_EXAMPLE: Final = "longcase keep claims '7 years'"

_DUE: Final = """
SELECT reason, count(*) AS cases FROM (
    SELECT CASE
        WHEN export IS NULL THEN 'not exported'
        WHEN held_by IS NOT NULL THEN 'held by ' || held_by
        WHEN coalesce(newest_key_at, '') > :keys THEN 'held by a sender''s key younger than 30 days'
        ELSE ''
    END AS reason
    FROM retention WHERE tenant = :tenant AND workflow = :workflow AND closed_at <= :until
) AS due GROUP BY reason ORDER BY reason
"""
_TOMBSTONE: Final = """
SELECT * FROM purged WHERE tenant = :tenant AND workflow = :workflow AND key = :key ORDER BY case_no DESC LIMIT 1
"""


class KeptStore(Store, Audited, Keeping, Protocol):
    """A store that can export and purge."""


@record
class Period:
    """How long a closed case is kept: whole years of the calendar, or days."""

    years: int = 0
    days: int = 0

    @classmethod
    def parse(cls, text: str) -> Period:
        """Return the period a text names, such as "7 years" or "90 days".

        Raises:
            UsageError: it names none, or less than a day. Months have no fixed length.
        """
        match = _PERIOD.fullmatch(text)
        if match is None or not int(match[1]):
            raise UsageError(f"period {text!r}, expected years or days, one at least", hint=_EXAMPLE)
        number = int(match[1])
        return cls(years=number) if match[2][0] in "yY" else cls(days=number)

    def before(self, now: datetime) -> datetime:
        """Return the instant until which a case was closed that has been kept for this long."""
        then = now - timedelta(days=self.days)
        year = then.year - self.years
        if year < 1:
            return then.replace(year=1, month=1, day=1)
        last = 28 if (then.month, then.day) == (2, 29) else then.day  # the 28th: never a day too early
        return then.replace(year=year, day=last)

    def __str__(self) -> str:
        number, unit = (self.years, "year") if self.years else (self.days, "day")
        return f"{number} {unit}{'s' * (number != 1)}"


@record
class Kept:
    """The period of one workflow, and who set it."""

    workflow: str
    period: Period
    by: str
    at: str


@record
class Due:
    """What a purge finds of one workflow: how many are old enough, how many may go, and why others may not."""

    workflow: str
    period: Period
    until: str
    may_go: int
    stay: dict[str, int]  # by reason


class Retention:
    """The keeper of periods, and the purge."""

    def __init__(self, store: KeptStore, env: Env, actor: Actor, tenant: str = MAIN_TENANT) -> None:
        self._store = store
        self._env = env
        self._actor = actor
        self._tenant = tenant
        self._prefix = _SETTING if tenant == MAIN_TENANT else f"{_SETTING}{tenant}/"  # no name has a slash

    # -- periods ---------------------------------------------------------------------------------------

    async def periods(self) -> list[Kept]:
        """Return the periods that the tenant has set, by workflow."""
        found = await self._store.query("SELECT name FROM settings WHERE name LIKE 'keep:%' ORDER BY name")
        kept = []
        for row in found:
            name = row["name"].removeprefix(self._prefix)
            if not row["name"].startswith(self._prefix) or "/" in name:
                continue  # another tenant's
            value = await self._store.setting(row["name"])
            if value["period"]:
                kept.append(Kept(name, Period.parse(value["period"]), value["by"], value["at"]))
        return kept

    async def keep(self, workflow: str, period: Period | None) -> None:
        """Set how long the tenant's closed cases of a workflow are kept; None is for ever."""
        check_name(workflow, "workflow")
        await self.known(workflow)
        before = await self._store.setting(self._prefix + workflow)
        value = {
            "period": str(period) if period else "", "by": self._actor.name, "at": instant_text(self._env.now()),
            "before": (before or {}).get("period", ""),
        }  # fmt: skip
        await self._store.set_setting(self._prefix + workflow, value)

    async def known(self, workflow: str) -> None:
        """Raise WorkflowNotFound where nothing is known of a workflow, not even a period."""
        if await self._store.setting(self._prefix + workflow) is None:
            await queries.check_workflow(self._store, self._tenant, workflow, ())

    # -- purge -----------------------------------------------------------------------------------------

    async def due(self, workflow: str = "") -> list[Due]:
        """Return what a purge would do, by workflow: the dry run. Changes nothing.

        Raises:
            UsageError: the workflow has no period: its cases are kept for ever.
        """
        kept = [one for one in await self.periods() if workflow in ("", one.workflow)]
        if workflow and not kept:
            await queries.check_workflow(self._store, self._tenant, workflow, ())
            raise UsageError(f"no period is set for {workflow}: its cases are kept for ever", hint=_EXAMPLE)
        return [await self._due(one) for one in kept]

    async def _due(self, kept: Kept) -> Due:
        now = self._env.now()
        until = instant_text(kept.period.before(now))
        values = {
            "tenant": self._tenant, "workflow": kept.workflow, "until": until,
            "keys": instant_text(now - KEYS_REMEMBERED),
        }  # fmt: skip
        counts = {row["reason"]: int(row["cases"]) for row in await self._store.query(_DUE, values)}
        return Due(kept.workflow, kept.period, until, counts.pop("", 0), counts)

    async def purge_some(self, due: Due, reason: str, limit: int = BATCH) -> list[Purged]:
        """Delete up to `limit` cases of one workflow, oldest close first; [] when none is left that may go.

        One transaction: a kill leaves each case whole or gone, and the same call goes on.
        """
        keys = instant_text(self._env.now() - KEYS_REMEMBERED)
        wanted = Purge(self._tenant, due.workflow, due.until, keys, self._actor.name, reason, limit)
        return await self._store.purge(wanted)


async def tombstone(store: Store, ref: CaseRef) -> CasePurged | None:
    """Return what to say of a case that is not there because it was purged, None if it never was."""
    values = {"tenant": ref.tenant, "workflow": ref.workflow, "key": ref.key}
    for row in await store.query(_TOMBSTONE, values):
        return purged_error(row)
    return None


def purged_error(row: dict[str, Any]) -> CasePurged:
    """Return the error that tells of a tombstone."""
    return CasePurged(
        f"{row['workflow']}/{row['key']} was purged on {_day(row['purged_at'])} by {row['by']} ({row['reason']}); "
        f"it was closed as {row['closed_as']} on {_day(row['closed_at'])}; its {row['events']} events are in export "
        f"{row['export']}, {row['file']}",
        hint=f"longcase verify --file {row['file']}",
        **row,
    )


def _day(instant: str) -> str:
    return instant[:10]
