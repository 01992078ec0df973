"""A disk that fails on demand: an apsw VFS between SQLite and the real file system."""

from __future__ import annotations

import threading
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
        self.counted = 0
        self.fail_at = 0
        self.forever = False
        self.error: type[apsw.Error] = apsw.IOError
        self.code = apsw.SQLITE_IOERR
        self.operations = frozenset({"sync", "write"})
        self.gate: threading.Event | None = None  # while set: every sync waits for it

    def fail(self, at: int, *, forever: bool = False, full: bool = False, on: str = "sync write") -> None:
        self.counted = 0
        self.fail_at, self.forever = at, forever
        self.error, self.code = (apsw.FullError, apsw.SQLITE_FULL) if full else (apsw.IOError, apsw.SQLITE_IOERR)
        self.operations = frozenset(on.split())

    def heal(self) -> None:
        self.fail_at = 0

    def did(self, operation: str) -> None:
        if self.gate is not None and operation == "sync":
            self.gate.wait(30)
        if operation not in self.operations:
            return
        self.counted += 1
        if self.fail_at and (self.counted == self.fail_at or (self.forever and self.counted > self.fail_at)):
            error = self.error("injected")
            error.result = error.extendedresult = self.code
            raise error


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, filename: Any, flags: Any) -> None:
        super().__init__("", filename, flags)
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
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__(disk.name, "")

    def xOpen(self, name: Any, flags: Any) -> Any:
        return _File(self._disk, name, flags)


@contextmanager
def failing_disk(name: str) -> Iterator[Disk]:
    """Register a disk under a name for as long as the block lasts."""
    disk = Disk(name)
    vfs = _Vfs(disk)
    try:
        yield disk
    finally:
        vfs.unregister()
