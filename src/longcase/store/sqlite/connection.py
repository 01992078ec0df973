"""Connections to one SQLite file: how they are opened, and what its errors mean to a caller.

Decides nothing about cases. `commit` uses the writer, `store` the reader.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import apsw

from longcase.errors import (
    BugError,
    LongcaseError,
    StorageFull,
    StoreCorrupt,
    StoreUnavailable,
    UsageError,
)
from longcase.store.sqlite.filesystem import network_kind

MEMORY: Final = ":memory:"
APPLICATION_ID: Final = 0x4C43_4153  # "LCAS"; tells `file` and us whose database it is
WAL_LIMIT: Final = 64 * 1024 * 1024  # what the log is cut to when a checkpoint has emptied it
BUSY_SECONDS: Final = 30.0  # how long a writer waits for another process's transaction
STATEMENTS: Final = 512  # prepared ones kept, apsw's most: its ring forgets one that was not used for so many others
_OPEN: Final = apsw.SQLITE_OPEN_READWRITE
_CREATE: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE

# An entry's own fault: the rest of the transaction is sound.
OWN_FAULT: Final = (apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError, apsw.BindingsError, apsw.SQLError)


def wal_is_safe(version: tuple[int, int, int]) -> bool:
    """Tell whether a SQLite is free of the WAL-reset corruption (3.7.0 to 3.51.2; two backports)."""
    return version >= (3, 51, 3) or version in ((3, 44, 6), (3, 50, 7)) or version < (3, 7, 0)


def sqlite_version() -> tuple[int, int, int]:
    """Return the version of the SQLite library in use."""
    major, minor, patch = (int(part) for part in apsw.sqlite_lib_version().split("."))
    return major, minor, patch


def check_path(path: str, *, create: bool) -> None:
    """Refuse a path no store can be opened at, saying what to do.

    Raises:
        UsageError: it is a directory, or the path of no file and `create` is off.
        StoreUnavailable: the directory is missing or may not be written.
    """
    if path == MEMORY:
        return
    folder = os.path.dirname(os.path.abspath(path))
    share = network_kind(folder)
    if share:
        raise StoreUnavailable(
            f"{path} lies on a network share ({share}); its locks do not keep SQLite's files whole",
            hint="use a local disk",
        )
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not os.path.isdir(folder):
            raise StoreUnavailable(
                f"the store's directory {folder} does not exist", hint=f"mkdir -p {folder}"
            ) from None
        if not create:
            raise StoreUnavailable(
                f"there is no store at {path}",
                hint="longcase dev APP makes one there; or mend the path: --store sqlite:///PATH",
            ) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreUnavailable(
                f"the store cannot be created: {folder} may not be written by this user", hint=f"ls -ld {folder}"
            ) from None
        return
    except PermissionError:
        raise StoreUnavailable(f"{path} may not be read by this user", hint=f"ls -ld {folder}") from None
    except NotADirectoryError:
        raise StoreUnavailable(f"{path}: a part of the path is a file, not a directory", hint="mend the path") from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a directory; a store is a file", hint=f"use {os.path.join(path, 'longcase.db')}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise StoreUnavailable(f"{path} may not be read and written by this user", hint=f"ls -l {path}")
    if not os.access(folder, os.W_OK):
        raise StoreUnavailable(
            f"{folder} may not be written by this user; SQLite keeps its log beside the store", hint=f"ls -ld {folder}"
        )


def connect(path: str, *, create: bool = False, synchronous: str = "FULL", vfs: str | None = None) -> apsw.Connection:
    """Open one connection with our pragmas on. The caller maps errors (`mapped`)."""
    connection = apsw.Connection(path, _CREATE if create else _OPEN, vfs=vfs, statementcachesize=STATEMENTS)
    try:
        connection.set_busy_timeout(int(BUSY_SECONDS * 1000))
        # Else SQLite plans anew whenever a value is bound that it has held against a partial index.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        if path != MEMORY:
            safe = wal_is_safe(sqlite_version())
            mode = connection.pragma("journal_mode")
            wanted = "wal" if safe else "delete"
            if mode != wanted:
                holds_store(connection)  # the mode stays in the file: nobody else's is touched
                connection.pragma("journal_mode", wanted)
        connection.pragma("synchronous", synchronous)
        connection.pragma("foreign_keys", True)
        connection.pragma("trusted_schema", False)
        connection.pragma("cache_size", -16_000)
        connection.pragma("temp_store", "MEMORY")
        connection.pragma("journal_size_limit", WAL_LIMIT)
        # An old version of a row is overwritten where its page is written anyway; no cost was measured. Without it
        # a purged case would leave pieces of its earlier versions in the free space of pages.
        connection.pragma("secure_delete", "FAST")
    except BaseException:
        connection.close()
        raise
    return connection


def holds_store(connection: apsw.Connection) -> bool:
    """Tell whether a file holds a store; an empty one does not yet.

    Raises:
        StoreCorrupt: it is somebody else's database. Other programs keep a table of this name too.
    """
    if not connection.execute("SELECT count(*) FROM sqlite_schema").get:
        return False
    if not any(column[1] == "checksum" for column in connection.execute("PRAGMA table_info(schema_migrations)")):
        raise StoreCorrupt(
            f"{connection.filename} is a SQLite database, but not a Longcase store",
            hint="give the store a file of its own",
        )
    return True


@contextmanager
def mapped(path: str) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except apsw.Error as error:
        raise our_error(error, path) from error


def no_text(error: UnicodeDecodeError, path: str) -> StoreCorrupt:
    """Return the error for a text in the store that is no UTF-8: SQLite's driver refuses the whole reading."""
    return StoreCorrupt(
        f"the store {path} holds text that is no UTF-8 any more: {error}",
        hint="longcase restore BACKUP; a case whose row it is in: longcase rebuild CASE",
    )


def our_error(error: BaseException, path: str) -> BaseException:
    """Return the error a caller gets for what SQLite raised; other errors come back as they are."""
    if isinstance(error, LongcaseError) or not isinstance(error, apsw.Error):
        return error
    match error:
        case apsw.ConnectionClosedError() | apsw.CursorClosedError():
            return StoreUnavailable(f"the store {path} is closed", hint="open it again")
        case apsw.BusyError() | apsw.LockedError() | apsw.ProtocolError():
            return StoreUnavailable(
                f"the store {path} is locked by another process for longer than {BUSY_SECONDS:g} s",
                hint="look for a long transaction: an SQL shell with an open BEGIN, a copy or a backup by hand",
            )
        case apsw.FullError():
            return StorageFull(
                f"the disk that holds {path} is full; nothing was half-written",
                hint=f"df -h {os.path.dirname(os.path.abspath(path))}",
            )
        case apsw.NotADBError():
            return StoreCorrupt(
                f"{path} is not a SQLite database", hint="mend the path, or restore a backup: longcase restore BACKUP"
            )
        case apsw.CorruptError():
            return StoreCorrupt(
                f"the store {path} is damaged: {error}", hint="longcase restore BACKUP, then longcase verify"
            )
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            return StoreUnavailable(f"the store {path} may not be written: {error}", hint=f"ls -l {path}*")
        case apsw.IOError() | apsw.CantOpenError() | apsw.NoMemError() | apsw.InterruptError():
            return StoreUnavailable(f"the store {path} cannot be read or written: {error}", hint="longcase doctor")
    return BugError(f"the store {path} refused a statement of ours: {type(error).__name__}: {error}")
