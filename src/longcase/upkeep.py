"""Keeping a store well, by its URL: check-up, backup, restore, schema. Each is the office of the store's own kind."""

from __future__ import annotations

from collections.abc import Coroutine
from importlib.resources import files
from typing import Any, TypeVar

from longcase.env import Env
from longcase.opening import is_postgres, postgres_office, store_path, store_url
from longcase.runtime.driving import Driver
from longcase.store.migrations import Migration
from longcase.store.sqlite import maintenance
from longcase.store.sqlite.doctor import doctor
from longcase.store.sqlite.maintenance import Progress
from longcase.store.symptom import Symptom

T = TypeVar("T")


def examine_store(url: str | None, env: Env) -> list[Symptom]:
    """Return what may hurt a store, and what is well."""
    url = store_url(url)
    if is_postgres(url):
        return _drive(url, postgres_office("doctor").doctor(url, env))
    return doctor(store_path(url), env)


def backup_store(
    url: str | None, target: str, *, force: bool = False, progress: Progress = lambda done, total: None
) -> None:
    """Copy a store to `target` while it is in use.

    Raises:
        UsageError: it is a PostgreSQL database: the hint is its own command.
    """
    url = store_url(url)
    if is_postgres(url):
        raise postgres_office("maintenance").refuse_backup(url, target)
    maintenance.backup(store_path(url), target, force=force, progress=progress)


def restore_store(
    url: str | None, source: str, env: Env, *, force: bool = False, progress: Progress = lambda done, total: None
) -> str:
    """Put a backup in the place of a store; returns where the old one was set aside, or "".

    Raises:
        UsageError: it is a PostgreSQL database: the hint is its own command.
    """
    url = store_url(url)
    if is_postgres(url):
        raise postgres_office("maintenance").refuse_restore(url, source)
    return maintenance.restore(store_path(url), source, env, force=force, progress=progress)


def missing_migrations(url: str | None) -> list[Migration]:
    """Return the schema changes a store lacks, in order; changes nothing."""
    url = store_url(url)
    if is_postgres(url):
        return _drive(url, postgres_office("maintenance").plan(url))
    return maintenance.plan(store_path(url))


def migration_script(url: str | None) -> str:
    """Return the SQL that brings a store to this release's schema by hand, "" if nothing is missing."""
    url = store_url(url)
    if is_postgres(url):
        text: str = _drive(url, postgres_office("maintenance").script(url))
        return text
    return maintenance.script(store_path(url))


def roles_script() -> str:
    """Return the SQL that makes the roles with least rights in PostgreSQL."""
    text: str = files("longcase.store").joinpath("postgres", "roles.sql").read_text("utf-8")
    return text


def migrate_store(url: str | None, env: Env) -> list[Migration]:
    """Bring a store to this release's schema; returns what was applied."""
    url = store_url(url)
    if is_postgres(url):
        return _drive(url, postgres_office("maintenance").migrate(url, env))
    return maintenance.migrate(store_path(url), env)


def _drive(url: str, work: Coroutine[Any, Any, T]) -> T:
    driver = Driver(url)
    try:
        done: T = driver(work)
        return done
    finally:
        driver.close()
