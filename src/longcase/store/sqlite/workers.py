"""Worker incarnations: an OS lock beside the database says for certain who is alive.

Each incarnation holds an exclusive flock on `<db>-workers/<no>.lock` from before its row can be seen
until it leaves or dies; the kernel drops the lock with the process, however it died. So a lock that
can be had, or a file that is gone, is certain death, and a paused process is never taken for dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from longcase.errors import StoreUnavailable, WorkerForgotten
from longcase.store.kept import Told, in_log, said_by
from longcase.store.records import WorkerRow
from longcase.store.rows import text_of
from longcase.store.sqlite.connection import MEMORY
from longcase.store.sqlite.queues import left
from longcase.store.sqlite.transaction import Transaction

RECOVERY_CHUNK: Final = 500  # cases set free in one transaction, so that others get their turn

_WORKERS: Final = """
SELECT no, host, pid, started_at, beat_at, (SELECT count(*) FROM cases WHERE lease = no AND lease <> 0),
    CAST(codes AS BLOB), CAST(queues AS BLOB)
FROM workers ORDER BY no
"""
_JOIN: Final = """
INSERT INTO workers (no, host, pid, started_at, beat_at, lock_file, codes, queues) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
# `lease <> 0` lets SQLite use the index over the leased cases alone.
_NEXT_WORKFLOW: Final = "SELECT min(workflow) FROM cases WHERE lease = ? AND lease <> 0 AND workflow > ?"
_FREE_SOME: Final = """
UPDATE cases SET lease = 0, wake_at = CASE status WHEN 'open' THEN ? ELSE wake_at END
WHERE case_no IN (SELECT case_no FROM cases WHERE lease = ? AND lease <> 0 AND workflow = ? LIMIT ?)
"""
DECLINED: Final = "SELECT code FROM declined WHERE case_no = ? AND visit = ?"
_FORGET: Final = """
DELETE FROM workers WHERE no = ? AND NOT EXISTS (SELECT 1 FROM cases WHERE lease = ? AND lease <> 0)
"""


class Locks:
    """The lock files beside one database."""

    def __init__(self, path: str) -> None:
        self._folder = "" if path == MEMORY else f"{path}-workers"
        self._held: dict[int, int] = {}  # worker -> file descriptor

    @property
    def held(self) -> list[int]:
        return list(self._held)

    def living(self) -> list[int]:
        """Return the incarnations, of any process, whose lock file is held."""
        if not self._folder or not os.path.isdir(self._folder):
            return []
        numbers = [
            int(name[:-5]) for name in os.listdir(self._folder) if name.endswith(".lock") and name[:-5].isdigit()
        ]
        return sorted(number for number in numbers if self.alive(number))

    def file(self, worker: int) -> str:
        return os.path.join(self._folder, f"{worker}.lock") if self._folder else ""

    def take(self, worker: int) -> None:
        """Take the lock of an incarnation of this process."""
        if not self._folder:
            self._held[worker] = -1
            return
        try:
            os.makedirs(self._folder, exist_ok=True)
            descriptor = os.open(self.file(worker), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        except OSError as error:
            raise StoreUnavailable(
                f"the lock file of worker {worker} cannot be made: {error}", hint=f"ls -ld {self._folder}"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:
            os.close(descriptor)
            raise StoreUnavailable(f"worker {worker} cannot be locked: {error}", hint="longcase doctor") from error
        self._held[worker] = descriptor

    def drop(self, worker: int) -> None:
        """Give up the lock and remove its file; harmless for an incarnation that has none."""
        descriptor = self._held.pop(worker, None)
        if not self._folder:
            return
        with suppress(OSError):  # gone already, or not ours to remove: a file without a holder is death too
            os.unlink(self.file(worker))
        if descriptor is not None:
            os.close(descriptor)

    def alive(self, worker: int) -> bool:
        """Tell whether an incarnation's process lives. Only certain death is False."""
        if worker in self._held:
            return True
        if not self._folder:
            return False
        try:
            descriptor = os.open(self.file(worker), os.O_RDONLY)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # not certain
        try:
            # Shared: two processes that look at once do not take each other for the worker.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            return True
        finally:
            os.close(descriptor)
        return False


def join(tx: Transaction, locks: Locks, host: str, pid: int, codes: Mapping[str, str], queues: Sequence[str]) -> int:
    """Register an incarnation; its lock is held before others can see its row."""
    row = tx.execute("SELECT seq FROM sqlite_sequence WHERE name = 'workers'").fetchone()
    worker = (row[0] if row else 0) + 1
    locks.take(worker)
    try:
        about = (text_of(dict(codes), "codes"), text_of(list(queues), "queues"))
        tx.execute(_JOIN, (worker, host, pid, tx.now, tx.now, locks.file(worker), *about))
    except BaseException:
        locks.drop(worker)
        raise
    return worker


def leave(tx: Transaction, worker: int) -> None:
    """Give back every lease and remove the incarnation's row."""
    # Whoever takes such a case over settles what it was leased for, so it wants a turn now.
    tx.execute("UPDATE cases SET lease = 0, wake_at = ? WHERE lease = ? AND lease <> 0", (tx.now, worker))
    _gone(tx, worker)
    tx.execute("DELETE FROM workers WHERE no = ?", (worker,))


def beat(tx: Transaction, worker: int) -> None:
    """Note that the incarnation is well. For the eye only: the lock says who is alive."""
    tx.execute("UPDATE workers SET beat_at = ? WHERE no = ?", (tx.now, worker))
    if not tx.cursor.connection.changes():  # its lock file was taken away, and others took it for dead
        raise WorkerForgotten(f"worker {worker} is not registered any more", hint="longcase workers")


def free_some(tx: Transaction, worker: int) -> int:
    """Void leases of a dead incarnation, some cases at a time; returns how many.

    Each workflow gets its share of every step: one with many cases does not keep the others waiting.
    """
    workflows: list[str] = []
    while name := tx.execute(_NEXT_WORKFLOW, (worker, workflows[-1] if workflows else "")).get:
        workflows.append(name)
    freed = 0
    for name in workflows:
        tx.execute(_FREE_SOME, (tx.now, worker, name, max(1, RECOVERY_CHUNK // len(workflows))))
        freed += tx.cursor.connection.changes()
    return freed


def forget(tx: Transaction, worker: int) -> None:
    """Remove a dead incarnation, unless it still holds leases."""
    _gone(tx, worker)
    tx.execute(_FORGET, (worker, worker))


def _gone(tx: Transaction, worker: int) -> None:
    """Free what the incarnation had besides leases."""
    left(tx, worker)
    # Its code may have been the last one that others could leave cases to: they find out again.
    tx.execute("DELETE FROM declined")


def decline(tx: Transaction, case_no: int, visit: int, code: str, worker: int) -> frozenset[str]:
    """Note that a code does not replay a visit, and give the case back."""
    tx.execute("INSERT INTO declined VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (case_no, visit, code))
    tx.execute("UPDATE cases SET lease = 0 WHERE case_no = ? AND lease = ?", (case_no, worker))
    found = tx.execute(DECLINED, (case_no, visit))
    return frozenset(row[0] for row in found)


def undecline(tx: Transaction, case_no: int) -> None:
    """Forget who declined a case."""
    tx.execute("DELETE FROM declined WHERE case_no = ?", (case_no,))


def rows_of(read: Callable[[str], list[tuple[Any, ...]]], locks: Locks, told: Told = in_log) -> list[WorkerRow]:
    """Return every registered incarnation, oldest first; `told` is told what of them is damaged."""
    found = read(_WORKERS)
    return [
        WorkerRow(no, host, pid, started, beat, locks.alive(no), leases, *said_by(no, codes, queues, told))
        for no, host, pid, started, beat, leases, codes, queues in found
    ]
