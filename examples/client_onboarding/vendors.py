"""Two outside systems that fail as vendors do: a company registry and the bank's core ledger.

Nothing of Longcase is used here but `attempt()`, which tells a stub which try it is looking at, so
that the same seed brings the same trouble. Settings, all with a default:

    ONBOARDING_LEDGER    the ledger's own SQLite file         core-ledger.db
    ONBOARDING_FAILING   share of calls that fail, 0 to 1     0.3
    ONBOARDING_SEED      which calls fail                     7
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from pathlib import Path
from typing import Any

import apsw  # the SQLite that Longcase carries: the standard library's one beside it would drop its locks

from longcase import attempt

TAKEN_SHARE = 0.3  # of the ledger's failures: the account is opened, but its answer is lost
OUTAGE_SHARE = 0.03  # of the clients: their account falls into a maintenance window, longer than all tries


class ServiceUnavailable(Exception):
    """503: try again later."""


class GatewayTimeout(Exception):
    """No answer in time. Whether the call took effect, nobody knows."""


class UnknownEntity(Exception):
    """The registry knows no such company: asking again would not help."""


def chance(*parts: object) -> random.Random:
    """Return dice that fall the same way for the same seed and parts, in every process."""
    return random.Random("/".join(map(str, (os.environ.get("ONBOARDING_SEED", "7"), *parts))))


def failing() -> float:
    """Return the share of calls that fail."""
    return float(os.environ.get("ONBOARDING_FAILING", "0.3"))


class CompanyRegistry:
    """Answers slowly, sometimes with an error, sometimes with another shape than promised."""

    async def look_up(self, legal_entity: str) -> dict[str, Any]:
        """Return what the registry says of a company: `{"rating": "A" | "B" | "C"}`."""
        # Trouble hangs on the company and the number of the try, not on when it is asked.
        number = attempt().number
        dice = chance("registry", legal_entity, number)
        await asyncio.sleep(dice.uniform(0.002, 0.040) if dice.random() < 0.9 else 0.150)
        if dice.random() < failing():
            if dice.random() < 0.5:
                raise ServiceUnavailable("company-registry: 503 Service Unavailable")
            raise GatewayTimeout("company-registry: no answer in time")
        if not legal_entity.startswith("NL-"):
            raise UnknownEntity(f"company-registry: no company {legal_entity}")
        rating = chance("rating", legal_entity).choice("AABBC")
        if "renamed" in legal_entity and number == 1:
            return {"score": rating}  # a release at the vendor's, rolled back an hour later
        return {"rating": rating}


class CoreLedger:
    """Keeps accounts in a file of its own: one row for each, under the caller's idempotency key.

    Before or after it did its work it may fail; a repeated call under the same key is answered with
    the account that is there. `calls` counts them all, so that anybody can see what was repeated.
    """

    def __init__(self) -> None:
        self._local = threading.local()

    def open_account(self, client: str, key: str) -> str:
        """Open an account, or return the one this key has opened."""
        number = attempt().number
        dice = chance("ledger", client, number)
        fails = dice.random() < failing()
        lost_answer = dice.random() < TAKEN_SHARE
        if fails and not lost_answer:
            raise ServiceUnavailable("core-ledger: 503 Service Unavailable")
        if number <= 5 and chance("outage", client).random() < OUTAGE_SHARE:
            raise ServiceUnavailable("core-ledger: 503 closed for maintenance")
        account = self._account_of(key, client)
        if fails:
            raise GatewayTimeout("core-ledger: no answer in time")
        return account

    def close_account(self, account: str, client: str, key: str) -> None:
        """Close an account; closing a closed one changes nothing."""
        if chance("ledger-close", client, attempt().number).random() < failing():
            raise ServiceUnavailable("core-ledger: 503 Service Unavailable")
        self._connection().execute("UPDATE accounts SET closed = 1 WHERE account = ?", (account,))

    def _account_of(self, key: str, client: str) -> str:
        """Return the account of a key, opened now if there is none; all in one transaction."""
        connection = self._connection()
        # By a statement: `with connection:` would hold Python's lock while it waits for SQLite's.
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute("INSERT INTO calls (key, client) VALUES (?, ?)", (key, client))
            known = connection.execute("SELECT account FROM accounts WHERE key = ?", (key,)).fetchall()
            if known:
                account = str(known[0][0])
            else:
                count: Any = connection.execute("SELECT count(*) FROM accounts").fetchall()[0][0]
                account = f"NL00BANK{count + 1:07d}"
                connection.execute(
                    "INSERT INTO accounts (key, client, account) VALUES (?, ?, ?)", (key, client, account)
                )
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return account

    def _connection(self) -> apsw.Connection:
        """Return this thread's connection to the ledger's file."""
        path = os.environ.get("ONBOARDING_LEDGER", "core-ledger.db")
        if getattr(self._local, "path", None) != path:
            self._local.connection = open_ledger(path)
            self._local.path = path
        connection: apsw.Connection = self._local.connection
        return connection


def open_ledger(path: str | Path) -> apsw.Connection:
    """Open the ledger's file, making it if it is not there."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(10_000)
    # A cursor stops at the first row, and setting journal_mode returns one: `for` runs all statements.
    for _ in connection.execute("""
        PRAGMA journal_mode = WAL;
        PRAGMA synchronous = FULL;
        CREATE TABLE IF NOT EXISTS accounts (
            key TEXT PRIMARY KEY, client TEXT NOT NULL, account TEXT NOT NULL UNIQUE, closed INTEGER NOT NULL DEFAULT 0
        );
        CREATE TABLE IF NOT EXISTS calls (key TEXT NOT NULL, client TEXT NOT NULL);
    """):
        pass
    return connection


company_registry = CompanyRegistry()
core_ledger = CoreLedger()
