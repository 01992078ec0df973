"""Know the public holidays of a region, as far as the optional `holidays` package is installed.

A region whose holidays are not known is kept, and a notice says so: nothing here fails, and
nothing is silently a working day. Importing the package takes a third of a second, so it waits
for the first question. Next on the data's way: `calendar`.
"""

from __future__ import annotations

import importlib
import re
from datetime import date
from typing import Any, final

HOLIDAYS_KNOWN_UNTIL = 2100
"""The last year the holidays package knows for most regions; one that ends before gets a notice."""

_REGION = re.compile(r"([A-Z]{2})(?:-([A-Z0-9]{1,4}))?")


def is_region(name: str) -> bool:
    """Tell whether `name` has the form of a region: an ISO 3166 code in capitals, "NL" or "DE-BY"."""
    return _REGION.fullmatch(name) is not None


@final
class PublicHolidays:
    """The public holidays of one region, read from the optional `holidays` package at first use."""

    __slots__ = ("_notice", "_package", "_years", "region")

    def __init__(self, region: str) -> None:
        self.region = region
        self._package: Any = None
        self._notice: str | None = None
        self._years: dict[int, frozenset[date]] = {}

    @property
    def notice(self) -> str | None:
        """Say which holidays are not known and therefore counted as working days, or None."""
        self._load()
        return self._notice

    def __contains__(self, day: date) -> bool:
        known = self._years.get(day.year)
        if known is None:
            self._load()
            known = frozenset(self._read(day.year)) if self._package else frozenset()
            self._years[day.year] = known
        return day in known

    def _load(self) -> None:
        if self._package or self._notice:
            return
        unknown = "they are counted as working days"
        try:
            # By name, so that neither the type checker nor the import needs the optional package.
            package = importlib.import_module("holidays")
        except ImportError:
            self._notice = f"public holidays of {self.region} are not installed (longcase[calendars]): {unknown}"
            return
        try:
            last_year = self._read(HOLIDAYS_KNOWN_UNTIL, package).end_year
        except NotImplementedError:
            self._notice = f"no public holidays are known for the region {self.region}: {unknown}"
            return
        if last_year < HOLIDAYS_KNOWN_UNTIL:
            self._notice = f"public holidays of {self.region} are known up to {last_year}; after that {unknown}"
        self._package = package

    def _read(self, year: int, package: Any = None) -> Any:
        country, _, subdivision = self.region.partition("-")
        return (package or self._package).country_holidays(country, subdiv=subdivision or None, years=year)

    def __reduce__(self) -> tuple[type[PublicHolidays], tuple[str]]:
        return (PublicHolidays, (self.region,))
