"""A disk that fails on demand: an apsw VFS between SQLite and the real file system."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw


class Disk:
    """What the disk does: counts operations, and fails from the n-th on, once or for ever.

    operations: "sync", "write" or both; error: the class apsw knows the failure by.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.base = apsw.vfs_names()[0]  # the default until now; below this one
        self.counted = 0
        self.failed = 0
        self.slowed = 0
        self.fail_at = 0
        self.forever = False
        self.error: type[apsw.Error] = apsw.IOError
        self.code = apsw.SQLITE_IOERR
        self.operations = frozenset({"sync", "write"})
        self.gate: threading.Event | None = None  # while set: every sync waits for it
        self.slow = 0.0  # seconds that every sync takes

    def fail(self, at: int, *, forever: bool = False, full: bool = False, on: str = "sync write") -> None:
        """Fail the n-th operation from now, of the kinds named, once or from then on until `heal`."""
        self.counted = 0
        self.fail_at, self.forever = at, forever
        self.error, self.code = (apsw.FullError, apsw.SQLITE_FULL) if full else (apsw.IOError, apsw.SQLITE_IOERR)
        self.operations = frozenset(on.split())

    def heal(self) -> None:
        self.fail_at = 0

    def did(self, operation: str) -> None:
        if self.gate is not None and operation == "sync":
            self.gate.wait(30)
        if self.slow and operation == "sync":
            self.slowed += 1
            time.sleep(self.slow)  # the fault itself
        if operation not in self.operations:
            return
        self.counted += 1
        if self.fail_at and (self.counted == self.fail_at or (self.forever and self.counted > self.fail_at)):
            self.failed += 1
            error: Any = self.error("injected")
            error.result = error.extendedresult = self.code
            raise error


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, filename: Any, flags: Any) -> None:
        super().__init__(disk.base, filename, flags)
        self._disk = disk

    def xWrite(self, data: Any, offset: int) -> None:
        self._disk.did("write")
        super().xWrite(data, offset)

    def xRead(self, amount: int, offset: int) -> Any:
        self._disk.did("read")
        return super().xRead(amount, offset)

    def xSync(self, flags: int) -> None:
        self._disk.did("sync")
        super().xSync(flags)


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk, default: bool) -> None:
        self._disk = disk
        super().__init__(disk.name, disk.base, makedefault=default)

    def xOpen(self, name: Any, flags: Any) -> Any:
        return _File(self._disk, name, flags)


@contextmanager
def failing_disk(name: str, *, default: bool = False) -> Iterator[Disk]:
    """Register a disk under a name for as long as the block lasts; `default`: all files are opened on it."""
    disk = Disk(name)
    vfs = _Vfs(disk, default)
    try:
        yield disk
    finally:
        vfs.unregister()
