"""Keeping a store well: backup, restore and migration, each on connections of its own.

backup    the online backup API from one snapshot; writers go on meanwhile
restore   the same the other way, into a file that nobody uses
migrate   what is missing of the schema

The check-up is `doctor`'s.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Final

import apsw

from longcase.env import Env
from longcase.errors import FileMissing, StoreCorrupt, StoreUnavailable, UsageError
from longcase.history.event import instant_text
from longcase.store.durable import rename_durably, sync_file
from longcase.store.sqlite import migrate as migrations
from longcase.store.sqlite.connection import (
    check_path,
    connect,
    mapped,
)
from longcase.store.sqlite.workers import Locks

PAGES: Final = 4_096  # copied between two looks at the world
Progress = Callable[[int, int], None]


# -- backup and restore ------------------------------------------------------------------------------


def backup(path: str, target: str, *, force: bool = False, progress: Progress = lambda done, total: None) -> None:
    """Copy a store to `target` while it is in use: one committed state, checked, synced, then renamed.

    Args:
        force: replace a file that is there.
        progress: told the pages done and in all.

    Raises:
        UsageError: `target` is there.
        FileMissing: its folder is not there.
        StoreUnavailable, StorageFull, StoreCorrupt: of either file; nothing is left at `target`.
    """
    check_path(path, create=False)
    if os.path.realpath(path) == os.path.realpath(target):
        raise UsageError("the backup would replace the store itself", hint="choose another target")
    if os.path.exists(target) and not force:
        raise UsageError(f"{target} is there already", hint="choose another name, or add --force to replace it")
    if not os.path.exists(folder := os.path.dirname(os.path.abspath(target))):
        raise FileMissing(f"there is no folder {folder}", hint=f"mkdir -p {shlex.quote(folder)}")
    check_path(target, create=True)
    with mapped(path), closing(connect(path)) as source:
        migrations.current(source)
        _copy(source, target, progress)


def restore(
    path: str, source: str, env: Env, *, force: bool = False, progress: Progress = lambda done, total: None
) -> str:
    """Put a backup in the place of the store at `path`; returns where the old store was set aside, or "".

    Leases of the backup's workers are found dead and voided by the next worker.

    Args:
        source: the backup; it is checked before anything is touched.
        force: set aside a store that is there; its workers must be stopped all the same.

    Raises:
        FileMissing: there is no backup of that name.
        UsageError: a store is there and `force` is off.
        StoreCorrupt: the backup is damaged or no store.
        SchemaMismatch: the backup is of a newer release.
        StoreUnavailable: the store is in use.
    """
    if not os.path.exists(source):
        raise FileMissing(f"there is no backup at {source}", hint="name the backup's file: longcase restore FILE")
    check_path(source, create=False)
    check_path(path, create=True)
    if os.path.realpath(path) == os.path.realpath(source):
        raise UsageError("the backup and the store are the same file", hint="name the backup's file")
    with mapped(source), closing(connect(source)) as backed_up:
        if migrations.current(backed_up) == 0:
            raise StoreCorrupt(f"{source} is an empty database, not a backup", hint="name the backup's file")
        migrations.plan(backed_up)
        damage = integrity(backed_up)
        if damage:
            raise StoreCorrupt(f"the backup {source} is damaged: {damage[0]}", hint="use an older backup")
        there = os.path.exists(path)
        if there and not force:
            raise UsageError(
                f"a store is at {path} already",
                hint=f"add --force: it is set aside as {path}.before-restore-..., not deleted",
            )
        if there:
            _refuse_in_use(path)
        with _part(path) as part:
            _copy(backed_up, part, progress)
            aside = _set_aside(path, env) if there else ""
            rename_durably(part, path)
    return aside


def _copy(source: apsw.Connection, target: str, progress: Progress) -> None:
    """Copy one snapshot of a database to a new file, check it, and let it appear whole."""
    with _part(target) as part, mapped(target):
        with closing(apsw.Connection(part)) as copy:
            copy.pragma("synchronous", "OFF")  # synced below, in one go
            # An open read keeps the snapshot: without it every commit of others begins the copy anew.
            source.execute("BEGIN")
            try:
                source.execute("SELECT count(*) FROM sqlite_schema").fetchall()
                with copy.backup("main", source, "main") as pages:
                    while not pages.done:
                        pages.step(PAGES)
                        progress(pages.page_count - pages.remaining, pages.page_count)
            finally:
                source.execute("ROLLBACK")
            copy.pragma("journal_mode", "delete")  # one file, nothing beside it
            damage = integrity(copy)
            if damage:
                raise StoreCorrupt(f"the copy of {source.filename} is damaged: {damage[0]}", hint="longcase doctor")
        sync_file(part)
        rename_durably(part, target)


@contextmanager
def _part(target: str) -> Iterator[str]:
    """Yield the name to write `target` under until it is whole; what is left of it is removed."""
    part = f"{target}.part"
    with suppress(FileNotFoundError):
        os.unlink(part)
    try:
        yield part
    finally:
        for name in (part, f"{part}-journal", f"{part}-wal", f"{part}-shm"):
            with suppress(FileNotFoundError):
                os.unlink(name)


def _refuse_in_use(path: str) -> None:
    """Refuse if a process has the store open; else fold its log in, so that it is one file."""
    alive = Locks(path).living()
    used = f"worker {', '.join(map(str, alive))}" if alive else ""
    if not used:
        try:
            with closing(connect(path)) as old:
                old.set_busy_timeout(0)
                # SQLite leaves WAL only for the last connection there is.
                used = "" if old.pragma("journal_mode", "delete") == "delete" else "another process"
        except apsw.BusyError:
            used = "another process"
        except (apsw.CorruptError, apsw.NotADBError):
            pass  # damaged: that is why it is restored
    if used:
        raise StoreUnavailable(f"the store {path} is in use by {used}", hint="stop it, then restore again")


def _set_aside(path: str, env: Env) -> str:
    """Rename the old store and its log; it stays a store that can be opened."""
    stamp = instant_text(env.now()).replace(":", "").replace("-", "")[:15]
    aside = f"{path}.before-restore-{stamp}"
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            os.replace(path + suffix, aside + suffix)
    with suppress(FileNotFoundError):
        os.unlink(f"{path}-shm")
    return aside


# -- schema --------------------------------------------------------------------------------------------


def plan(path: str) -> list[migrations.Migration]:
    """Return the migrations a store lacks, in order; changes nothing."""
    check_path(path, create=False)
    with mapped(path), closing(connect(path)) as connection:
        return migrations.plan(connection)


def script(path: str) -> str:
    """Return the SQL that brings a store to this release's schema by hand; all of it where there is no store yet."""
    if not os.path.exists(path):
        return migrations.script(migrations.migrations())
    return migrations.script(plan(path))


def migrate(path: str, env: Env) -> list[migrations.Migration]:
    """Bring a store to this release's schema; returns what was applied."""
    check_path(path, create=False)
    with mapped(path), closing(connect(path)) as connection:
        return migrations.migrate(connection, instant_text(env.now()), env.signal_point)


def integrity(connection: apsw.Connection) -> list[str]:
    """Return what SQLite itself finds broken: pages, indexes, constraints, references."""
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
        for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchall()[:20]:
            found.append(f"row {row} of {table} refers to a row of {parent} that is not there")
    except apsw.CorruptError as error:
        found = [str(error)]
    return found
