"""The demo's last page: what became of the cases, and whether every promise held.

All figures come from Longcase's own history, but those that only the outside knows: what the driver
sent twice, and what stands in the bank's ledger.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onboarding import onboarding
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from vendors import open_ledger

from longcase import Longcase
from longcase.history.chain import GENESIS, link, payload_digest
from longcase.history.state import fold

MEANING = {
    "active": "account opened",
    "declined": "by credit, or by nobody in time",
    "withdrawn": "the customer left; what was done is undone",
}


@dataclass(slots=True)
class Told:
    """What only the driver knows."""

    cases: int
    acts: int = 0
    kills: int = 0
    days: float = 0.0
    seconds: float = 0.0
    repeats: Counter[str] = field(default_factory=Counter)
    too_late: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Books:
    """The bank's ledger beside the cases that should stand in it."""

    open: int
    closed: int
    doubled: list[str]
    missing: list[str]
    left_open: list[str]
    repeated_calls: int


async def print_report(app: Longcase, told: Told, folder: Path) -> int:
    """Print the tables; returns 0 if every promise held, 1 if one was broken."""
    console = Console(highlight=False, soft_wrap=True) if not sys.stdout.isatty() else Console(highlight=False)
    ends = await _ends(app)
    books = _books(folder / "ledger.db", await _closes(app))
    bad_histories, events = await _verify(app)
    console.print()
    console.print(_outcomes(ends, told))
    console.print(await _trouble(app, told))
    broken = _broken(ends, told, books, bad_histories)
    console.print(_promises(books, told, sum(ends.values()), len(bad_histories), events, ends.get("", 0)))
    for line in broken:
        console.print(f"BROKEN: {line}")
    if not broken:
        console.print("Every promise held.\n")
    address = await _eventful(app)
    _look_further(console, folder, address)
    return 1 if broken else 0


def _look_further(console: Console, folder: Path, address: str) -> None:
    longcase = _command()
    console.print("Look further:")
    console.print(f"  export LONGCASE_DATABASE_URL=sqlite:///{folder / 'cases.db'}")
    console.print(f"  {longcase} show {address}")
    console.print(f"  {longcase} history {address}")
    console.print(f"  {longcase} map {os.path.relpath(Path(__file__).with_name('onboarding.py'))}")


def _broken(ends: Counter[str], told: Told, books: Books, bad_histories: list[str]) -> list[str]:
    """Name every promise that did not hold."""
    broken = [f"{name}: more than one account" for name in books.doubled]
    broken += [f"{name}: active, but the ledger has no such account" for name in books.missing]
    broken += [f"{name}: not active, but its account is open" for name in books.left_open]
    broken += [f"{name}: the history does not verify" for name in bad_histories]
    lost = told.cases - sum(ends.values())
    if lost:
        broken.append(f"{lost} cases were started and are not in the store")
    if ends.get(""):
        broken.append(f"{ends['']} cases did not come to an end in time")
    return broken


# -- what the store says ---------------------------------------------------------------------------


async def _ends(app: Longcase) -> Counter[str]:
    rows = await app.service.query(
        "SELECT coalesce(closed_as, '') AS name, count(*) AS n FROM case_overview GROUP BY 1"
    )
    return Counter({row["name"]: row["n"] for row in rows})


async def _closes(app: Longcase) -> dict[str, Any]:
    """Return the account of each active case, None for a case that has none to have."""
    rows = await app.service.query("SELECT key, closed_as FROM case_overview")
    results = await app.service.query(
        "SELECT key, data ->> 'result' AS result FROM timeline WHERE what = 'case_closed'"
    )
    result = {row["key"]: row["result"] for row in results}
    return {row["key"]: result.get(row["key"]) if row["closed_as"] == "active" else None for row in rows}


async def _events(app: Longcase) -> Counter[str]:
    rows = await app.service.query("SELECT what, count(*) AS n FROM timeline GROUP BY what")
    return Counter({row["what"]: row["n"] for row in rows})


async def _grouped(app: Longcase, sql: str) -> str:
    """Return "a 3, b 1" for a query that gives name and n."""
    return ", ".join(f"{row['name']} {row['n']}" for row in await app.service.query(sql))


async def _eventful(app: Longcase) -> str:
    """Return the address of the case that went through most."""
    rows = await app.service.query(
        "SELECT workflow || '/' || key AS address FROM case_overview ORDER BY events DESC, key LIMIT 1"
    )
    return str(rows[0]["address"]) if rows else f"{onboarding.name}/C-0042"


async def _verify(app: Longcase) -> tuple[list[str], int]:
    """Check every history: no gap, chain unbroken, and its fold equal to the row of the case."""
    bad: list[str] = []
    count = 0
    for row in await app.service.query("SELECT case_no, key FROM case_overview ORDER BY case_no"):
        events = await app.store.events(row["case_no"])
        stored = (await app.store.load_many([row["case_no"]]))[row["case_no"]]
        count += len(events)
        head = GENESIS
        sound = True
        for seq, event in enumerate(events, start=1):
            sound &= event.seq == seq and event.digest == payload_digest(event.salt, event.text)
            head = link(head, event)
            sound &= head == event.hash
        sound &= head == stored.hash and fold(events).to_json() == stored.state.to_json()
        if not sound:
            bad.append(row["key"])
    return bad, count


def _books(path: Path, accounts: dict[str, Any]) -> Books:
    """Read the bank's ledger and compare it with the cases."""
    connection = open_ledger(path)
    try:
        rows = list(connection.execute("SELECT client, account, closed FROM accounts"))
        counted: Any = connection.execute("SELECT count(*), count(DISTINCT key) FROM calls").fetchall()
    finally:
        connection.close()
    per_client = Counter(client for client, _, _ in rows)
    in_ledger = {(client, account) for client, account, closed in rows if not closed}
    return Books(
        open=len(in_ledger),
        closed=len(rows) - len(in_ledger),
        doubled=sorted(client for client, n in per_client.items() if n > 1),
        missing=sorted(key for key, account in accounts.items() if account and (key, account) not in in_ledger),
        left_open=sorted(client for client, account in in_ledger if accounts.get(client) != account),
        repeated_calls=counted[0][0] - counted[0][1],
    )


# -- the tables --------------------------------------------------------------------------------------


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, show_header=False, pad_edge=False)
    table.add_column(justify="left", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="left", overflow="fold")
    return table


def _outcomes(ends: Counter[str], told: Told) -> Table:
    table = _table(f"{told.cases} cases, {told.days:.0f} days in {told.seconds:.0f} seconds")
    for name, n in ends.most_common():
        table.add_row(name or "still open", str(n), MEANING.get(name, ""))
    return table


async def _trouble(app: Longcase, told: Told) -> Table:
    happened = await _events(app)
    failed = happened["attempt_failed"] + happened["activity_failed"]
    calls = (await app.service.query("SELECT count(*) AS n FROM attempts"))[0]["n"]
    climbed = await _grouped(
        app,
        "SELECT data ->> 'to' AS name, count(*) AS n FROM timeline WHERE what = 'task_escalated' GROUP BY 1 ORDER BY 1",
    )
    kinds = await _grouped(app, "SELECT kind AS name, count(*) AS n FROM incidents GROUP BY 1 ORDER BY 1")
    still = (await app.service.query("SELECT count(*) AS n FROM incidents WHERE closed_at IS NULL"))[0]["n"]
    opened = happened["incident_opened"]
    late = ", ".join(f"{name} {n}" for name, n in sorted(told.too_late.items()))
    repeats = ", ".join(f"{name} {n}" for name, n in sorted(told.repeats.items()) if n)
    table = _table("What went wrong, and what became of it")
    table.add_row("calls to vendors", str(calls), "every try is in the history")
    table.add_row("calls that failed", str(failed), f"tried again by their policy: {happened['attempt_failed']}")
    table.add_row(
        "workers killed", str(told.kills), f"SIGKILL; calls cut short and made again: {happened['attempt_lost']}"
    )
    table.add_row("reminders", str(happened["task_reminded"]), "")
    table.add_row("escalations", str(happened["task_escalated"]), climbed)
    table.add_row("sign-offs that expired", str(happened["task_expired"]), "the declared answer stands: rejected")
    table.add_row("duplicates ignored", str(sum(told.repeats.values())), repeats)
    table.add_row("came too late", str(sum(told.too_late.values())), f"{late}; refused" if late else "")
    table.add_row("incidents", str(opened), kinds)
    table.add_row("incidents repaired", str(opened - still), "by the operator, through the service")
    return table


def _promises(books: Books, told: Told, there: int, unverified: int, events: int, still_open: int) -> Table:
    table = _table("What was promised")
    table.add_row(
        "accounts in the bank's ledger", str(books.open), f"one row per account, {len(books.doubled)} doubled"
    )
    table.add_row("accounts closed again", str(books.closed), f"by undo; {len(books.left_open)} left open")
    table.add_row(
        "repeated calls it recognised",
        str(books.repeated_calls),
        "by their key: the answer was lost, the account was there",
    )
    table.add_row("cases lost", str(told.cases - there), f"{still_open} still open")
    table.add_row("histories verified", f"{there - unverified}", f"of {there}, {events} events")
    return table


def _command() -> str:
    """Return how to call the command line from here."""
    beside = Path(sys.executable).with_name("longcase")
    if not beside.exists() or str(beside.parent) in os.environ.get("PATH", "").split(os.pathsep):
        return "longcase"
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)
