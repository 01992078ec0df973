"""A disk whose power can be cut: an apsw VFS that remembers what is on the platter and what only in the cache.

Everything goes through to the real files, so that the program under test runs as always. Beside that
the VFS keeps, of each file, the bytes as of its last sync and the writes since. A cut makes an image of
what a machine may find after the power came back: of each sector of 512 bytes either the synced bytes
or those of any write since (writes are dropped, reordered and torn), of the length any since, and of a
file that was never synced perhaps nothing. The shared memory file is never synced: an image holds junk
in its place, or nothing.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512


@dataclass
class Platter:
    """One file: what is durable, and what was done to it since."""

    durable: bytes = b""
    exists: bool = False  # durably: it was synced once, or was there before
    deleted: bool = False  # asked for and not yet durable
    since: list[tuple[int, bytes] | int] = field(default_factory=list)  # (offset, data) of a write, a length

    def sync(self) -> None:
        content = bytearray(self.durable)
        for did in self.since:
            if isinstance(did, int):
                del content[did:]
                content.extend(bytes(did - len(content)))
            else:
                _put(content, *did)
        self.durable, self.exists, self.since = bytes(content), True, []

    def after_a_cut(self, draw: random.Random) -> bytes | None:
        """Return what the file may hold after a power cut, None if it may be gone."""
        if (not self.exists or self.deleted) and draw.random() < 0.5:
            return None
        keep = draw.choice((0.0, 0.5, 0.9, 1.0))  # of each sector written since
        content = bytearray(self.durable)
        done = list(self.since)
        if draw.random() < 0.5:
            draw.shuffle(done)
        for did in done:
            if isinstance(did, int):
                if draw.random() < keep:
                    del content[did:]
                    content.extend(bytes(did - len(content)))
                continue
            offset, data = did
            for begin in range(0, len(data), SECTOR):
                if draw.random() < keep:
                    _put(content, offset + begin, data[begin : begin + SECTOR])
        return bytes(content)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class Power:
    """The disk's memory; `on_operation` is called at every write and sync, before it is done."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.base = apsw.vfs_names()[0]  # the default until now; below this one
        self.files: dict[str, Platter] = {}
        self.operations = 0
        self.on_operation: Callable[[], None] | None = None
        self._lock = threading.RLock()

    def image(self, path: str, folder: Path, draw: random.Random) -> Path:
        """Write what may be left of the database at `path` into a folder; returns the copy's path."""
        folder.mkdir()
        copy = folder / os.path.basename(path)
        with self._lock:
            for suffix in ("", "-wal", "-journal"):
                file = self.files.get(path + suffix)
                content = file.after_a_cut(draw) if file is not None else None
                if content is not None:
                    Path(f"{copy}{suffix}").write_bytes(content)
        if draw.random() < 0.5:
            Path(f"{copy}-shm").write_bytes(draw.randbytes(draw.choice((100, 32768, 40000))))
        return copy

    def did(self, name: str, operation: tuple[int, bytes] | int | None) -> None:
        """Note a write (offset, data), a truncation (length) or a sync (None)."""
        with self._lock:
            self.operations += 1
            if self.on_operation is not None:
                self.on_operation()
            file = self.files.setdefault(name, Platter())
            if operation is None:
                if not file.exists:
                    # SQLite syncs the folder with the first sync of a file it has made: earlier deletions are durable.
                    for gone in [other for other, its in self.files.items() if its.deleted and other != name]:
                        del self.files[gone]
                file.sync()
            else:
                file.since.append(operation)

    def opened(self, name: str) -> None:
        """Take a file that is there at its first opening as durable."""
        with self._lock:
            file = self.files.get(name)
            if file is None or (file.deleted and not os.path.exists(name)):
                there = os.path.exists(name)
                content = Path(name).read_bytes() if there else b""
                self.files[name] = Platter(content, there and bool(content))

    def removed(self, name: str, durably: bool) -> None:
        with self._lock:
            file = self.files.get(name)
            if file is not None:
                file.deleted = True
                if durably:
                    del self.files[name]


class _File(apsw.VFSFile):
    def __init__(self, power: Power, filename: Any, flags: Any) -> None:
        self._power = power
        self._name = str(filename.filename() if hasattr(filename, "filename") else filename or "")
        if self._name:
            power.opened(self._name)
        super().__init__(power.base, filename, flags)

    def xWrite(self, data: Any, offset: int) -> None:
        if self._name:
            self._power.did(self._name, (offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, length: int) -> None:
        if self._name:
            self._power.did(self._name, length)
        super().xTruncate(length)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        if self._name:
            self._power.did(self._name, None)


class _Vfs(apsw.VFS):
    def __init__(self, power: Power) -> None:
        self._power = power
        super().__init__(power.name, power.base, makedefault=True)

    def xOpen(self, name: Any, flags: Any) -> Any:
        return _File(self._power, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self._power.removed(filename, syncdir)


@contextmanager
def cuttable_power(name: str) -> Iterator[Power]:
    """Put every database that is opened inside the block on a disk whose power can be cut."""
    power = Power(name)
    vfs = _Vfs(power)
    try:
        yield power
    finally:
        vfs.unregister()
