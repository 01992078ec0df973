"""What every workload needs: a fresh store, a watch on what closes, clocks, memory, and its line of JSON."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from machine import Limits, limits, postgres_limits
from server import Postgres, postgres
from usage import folder_bytes

from longcase import Longcase, Workflow

CHUNK = 500  # cases accepted in one transaction by the workloads that start many
Line = dict[str, Any]


class Watch:
    """Notes when a case's close is durable: it sits on the store's `write`, in the worker's process."""

    def __init__(self, longcase: Longcase) -> None:
        self.closed: dict[int, float] = {}  # case -> wall clock at which the commit was answered
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._count: tuple[int, asyncio.Future[None]] | None = None
        self._write = longcase.store.write
        # The one place where bench reaches between worker and store: polling would disturb what it measures.
        setattr(longcase.store, "write", self._noting)  # noqa: B010

    async def _noting(self, writes: Sequence[Any], **options: Any) -> Any:
        outcomes = await self._write(writes, **options)
        now = time.time()
        for write, outcome in zip(writes, outcomes, strict=True):
            if outcome.outcome == "done" and write.state.status == "closed":
                self.closed.setdefault(outcome.case_no, now)
                future = self._waiting.pop(outcome.case_no, None)
                if future is not None:
                    future.set_result(None)
        if self._count is not None and len(self.closed) >= self._count[0]:
            self._count[1].set_result(None)
            self._count = None
        return outcomes

    async def close_of(self, case_no: int) -> None:
        """Wait until a case's close is durable."""
        if case_no not in self.closed:
            self._waiting[case_no] = asyncio.get_running_loop().create_future()
            await self._waiting[case_no]

    async def closes(self, count: int) -> None:
        """Wait until `count` cases have closed in all."""
        if len(self.closed) < count:
            self._count = (count, asyncio.get_running_loop().create_future())
            await self._count[1]


class Place:
    """A temporary folder for one workload, the limits of its disk, and the stores in it or on a server."""

    def __init__(self, folder: Path, server: Postgres | None = None) -> None:
        self.folder = folder
        self.server = server
        self.store = "sqlite" if server is None else "postgres"
        self.limits: Limits = limits(folder) if server is None else postgres_limits(folder, server.database("raw"))

    def url(self, name: str = "cases") -> str:
        """Return the URL of a store of this workload's own."""
        return f"sqlite:///{self.folder / name}.db" if self.server is None else self.server.database(f"bench_{name}")

    def open(self, *workflows: Workflow[Any]) -> Longcase:
        return Longcase(workflows, url=self.url())

    def disk(self, name: str) -> int:
        """Return the bytes a store takes on disk; on PostgreSQL those of all its databases."""
        return folder_bytes(self.folder, f"{name}.db*") if self.server is None else self.server.disk()

    def server_cpu_s(self) -> float:
        """Return the CPU seconds of the database server, 0 where there is none."""
        return 0.0 if self.server is None else self.server.cpu_s()


async def start_all(longcase: Longcase, workflow: Workflow[Any], bodies: Sequence[Any]) -> list[int]:
    """Accept cases in transactions of CHUNK; returns their numbers."""
    numbers: list[int] = []
    service = longcase.service
    for first in range(0, len(bodies), CHUNK):
        new = [service.new_case(workflow, body) for body in bodies[first : first + CHUNK]]
        numbers += [receipt.case_no for receipt in await service.start_prepared(new)]
    return numbers


async def count(longcase: Longcase, condition: str) -> int:
    """Count cases, as any SQL tool would."""
    rows = await longcase.service.query(f"SELECT count(*) AS n FROM cases WHERE {condition}")
    number: int = rows[0]["n"]
    return number


async def until(longcase: Longcase, condition: str, cases: int, *, within: float = 300.0) -> bool:
    """Look every 20 ms until so many cases fulfil the condition; False if they do not in time."""
    end = time.monotonic() + within
    while await count(longcase, condition) < cases:
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.02)
    return True


def cpu_s() -> float:
    """Return this process's CPU seconds, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rss_bytes() -> int:
    """Return the resident memory of this process, after a garbage collection."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1_024
    raise OSError("no VmRSS in /proc/self/status")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def p50(values: Sequence[float]) -> float:
    return statistics.median(values)


def main(workload: str, measure: Callable[[Place, bool], Awaitable[Line]]) -> None:
    """Run one workload in this process and print its line; exit status 1 if what it did was wrong."""
    parser = argparse.ArgumentParser(description=f"workload {workload}; see bench/README.md")
    parser.add_argument("--quick", action="store_true", help="a small size, to see that it works")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    options = parser.parse_args()
    quick: bool = options.quick
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="longcase-bench-"))
        place = Place(Path(name), stack.enter_context(postgres()) if options.store == "postgres" else None)
        line = asyncio.run(_measured(place, quick, measure))
    wrong = line.pop("wrong")
    told = {"workload": workload, "store": place.store, **line, "correct": not wrong, "wrong": wrong, "quick": quick}
    print(json.dumps({**told, "machine": place.limits.line()}), flush=True)
    sys.exit(1 if wrong else 0)


async def _measured(place: Place, quick: bool, measure: Callable[[Place, bool], Awaitable[Line]]) -> Line:
    return await measure(place, quick)


def wrong(**expectations: bool) -> list[str]:
    """Return the names of the expectations that do not hold."""
    return [name for name, holds in expectations.items() if not holds]


class Child:
    """A worker process of child.py: `ask` reads its answer, `kill` is SIGKILL, `end` lets it drain."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def spawn(cls, url: str, *role: str, **environment: str) -> Child:
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, str(Path(__file__).with_name("child.py")), url, *role)
        env = {**os.environ, **environment}
        return cls(await asyncio.create_subprocess_exec(*command, env=env, stdin=pipe, stdout=pipe))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self) -> Line:
        """Wait for the process's answer."""
        assert self._process.stdout is not None
        text = await self._process.stdout.readline()
        if not text:
            raise RuntimeError("the worker process ended without an answer; its errors stand above")
        answer: Line = json.loads(text)
        return answer

    async def kill(self) -> float:
        """Kill it as a power cut would; returns the instant (time.monotonic)."""
        self._process.send_signal(signal.SIGKILL)
        instant = time.monotonic()
        await self._process.wait()
        return instant

    async def end(self) -> None:
        """Let it finish and leave."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
