"""A store under fire: orders in flight, workers that are started and killed, and a look at what is left.

Used by the crash tests and the fault suite, on any store that a URL names.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.crash import program
from tests.crash.inspection import Inspection

from longcase.client import LongcaseClient

CASES = 6
BOUND = 90.0  # seconds a run may take before the test says it is stuck
POINTS = (  # where a worker may be killed, in the order of a round
    "before_claim",
    "before_record",
    "after_record",
    "before_commit",
    "after_commit",
    "before_effect",
    "after_effect",
)


class Fire:
    """Starts orders and sends each two remarks and its word, the last of each twice.

    The outside ledger and what was told are the witnesses.

    Args:
        folder: of the test; the ledger lies there.
        url: the store's; a SQLite file in the folder unless given.
        cases: how many orders.
        bound: seconds after which a worker ends although cases are open.
    """

    def __init__(self, folder: Path, url: str = "", cases: int = CASES, bound: float = BOUND) -> None:
        self.url = url or f"sqlite:///{folder / 'cases.db'}"
        self.ledger = folder / "ledger"
        self.log = folder / "log"
        self.cases = 0
        self.bound = bound
        self.deaths = 0
        self.order(cases)

    def order(self, cases: int) -> None:
        """Start so many orders more."""
        with self.client() as client:
            for number in range(self.cases, self.cases + cases):
                client.start("orders", {"id": f"o{number}", "lines": 3})
                for text in ("a", "b", "b"):
                    client.signal(f"orders/o{number}", "remark", {"text": text}, idempotency_key=f"r{number}{text}")
                for repeat in range(2):
                    said = client.signal(
                        f"orders/o{number}", "word", {"text": f"w{number}"}, idempotency_key=f"k{number}"
                    )
                    assert said.duplicate == bool(repeat)
        self.cases += cases

    def client(self) -> LongcaseClient:
        return LongcaseClient([program.orders], url=self.url, actor="person:tester")

    def worker(
        self, fault: str = "", *, file_limit: int | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a worker that ends when no case is open; what it logs is added to `log`.

        Args:
            fault: its LONGCASE_FAULT.
            file_limit: bytes a file it writes may have; `resource.prlimit` lifts that later.
        """
        named = {"CRASH_LEDGER": str(self.ledger), "LONGCASE_FAULT": fault}
        with open(self.log, "ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.program", self.url, str(self.bound)],
                env={**os.environ, **named, **(environment or {})},
                stderr=log,
            )
        if file_limit is not None:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
        return worker

    def logged(self) -> str:
        """Return what the workers have logged so far."""
        return self.log.read_text() if self.log.exists() else ""

    def finish(self) -> None:
        """Let an unharmed worker bring everything to its end."""
        assert self.worker().wait(self.bound) == 0, self.logged()

    def until_dead(self, fault: str) -> bool:
        """Run a worker with a fault; True if the fault struck, False if it ended before."""
        code = self.worker(fault).wait(self.bound)
        assert code in (0, 137), (code, self.logged())
        self.deaths += code == 137
        return code == 137

    def effects(self) -> list[list[str]]:
        """Return the ledger's lines: what, key, attempt."""
        return [line.split() for line in self.ledger.read_text().splitlines()] if self.ledger.exists() else []

    def check(self) -> Inspection:
        """Hold every promise against the store, the ledger and what the client was told."""
        lines = self.effects()
        keys: dict[str, set[str]] = {}
        for what, key, _ in lines:
            keys.setdefault(what, set()).add(key)
        expected = {f"{what}:o{n}" for n in range(self.cases) for what in ("pack", "charge")}
        expected |= {f"pick:o{n}:{line}" for n in range(self.cases) for line in range(3)}
        expected |= {f"note:o{n}:{text}" for n in range(self.cases) for text in "ab"}
        assert set(keys) == expected  # nothing lost, nothing invented
        assert all(len(found) == 1 for found in keys.values())  # one key a call, over all attempts and crashes (I20)
        charges = [what for what, _, _ in lines if what.startswith("charge:")]
        assert len(charges) == self.cases  # effect="once" is never repeated blindly
        inspection = Inspection(self.url)
        for number in range(self.cases):
            state = inspection.state(f"orders/o{number}")
            assert state.status == "closed", inspection.waits(f"orders/o{number}")
            assert state.close == {"name": "done", "result": f"w{number}", "reason": ""}
            assert state.object["paid"] == f"receipt-o{number}"
            assert inspection.count(f"orders/o{number}", "signal_consumed") == 1
            assert state.object["remarks"] == ["a", "b"]  # B8: each handled once, one after the other
            assert inspection.count(f"orders/o{number}", "handler_started") == 2
            assert inspection.count(f"orders/o{number}", "handler_ended") == 2
        # Every attempt of the world is in history (I16).
        recorded = inspection.attempts()
        for _, key, attempt in lines:
            assert (key, int(attempt)) in recorded, (key, attempt)
        assert inspection.broken_invariants() == []
        return inspection
