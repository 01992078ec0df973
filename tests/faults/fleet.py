"""Worker processes over one store that are killed, stopped and continued; see `program`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash.inspection import Inspection
from tests.faults import program
from tests.faults.watching import until

from longcase.client import LongcaseClient


class Fleet:
    """Workers of `tests.faults.program` over one store.

    Args:
        folder: of the test: the ledger, the log, the SQLite file.
        url: the store's; a SQLite file in the folder unless given.
    """

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.url = url or f"sqlite:///{folder / 'cases.db'}"
        self.workers: list[subprocess.Popen[bytes]] = []

    def client(self) -> LongcaseClient:
        return LongcaseClient(program.WORKFLOWS, url=self.url, actor="person:tester")

    def worker(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker; returns when it works."""
        with open(self.folder / "log", "ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.program", self.url],
                env={**os.environ, "FAULTS_FOLDER": str(self.folder), **environment},
                stderr=log,
            )
        self.workers.append(worker)
        sign = self.folder / f"working-{worker.pid}"
        until(lambda: sign.exists() or worker.poll() is not None, "the worker begins")
        return worker

    def effects(self) -> list[list[str]]:
        """Return the ledger's lines: what, key, attempt, process."""
        return program.effects(self.folder)

    def logged(self) -> str:
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    def check(self) -> Inspection:
        """Hold the invariants, and the ledger against the history."""
        inspection = Inspection(self.url)
        assert inspection.broken_invariants() == []
        recorded = inspection.attempts()
        for what, key, number, _ in self.effects():
            assert (key, int(number)) in recorded, f"{what}: attempt {number} is not in history"
        return inspection

    def end(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            worker.wait()


@contextmanager
def fleet(folder: Path, url: str = "") -> Iterator[Fleet]:
    """Yield a fleet whose workers are ended with the block."""
    made = Fleet(folder, url)
    try:
        yield made
    finally:
        made.end()
