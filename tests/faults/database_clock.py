"""A clock of the database that a test can set: it stands before PostgreSQL's own in the search path."""

from __future__ import annotations

from tests.support.postgres import migrate, run_sql

_CLOCK = (
    "CREATE SCHEMA machine",
    "CREATE TABLE machine.clock (ahead interval NOT NULL)",
    "INSERT INTO machine.clock VALUES ('0')",
    """
    CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
    AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM machine.clock'
    """,
    """
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database());
    END $$
    """,
)


def make_store(url: str) -> None:
    """Make an empty store, whose schema goes by the clock that can be set, in an empty database."""
    run_sql(url, *_CLOCK)
    migrate(url)


def set_clock(url: str, ahead: str) -> None:
    """Set the clock so far ahead of the machine's own, as PostgreSQL writes a span."""
    run_sql(url, f"UPDATE machine.clock SET ahead = '{ahead}'")
