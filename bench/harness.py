"""What every workload needs: a fresh store, processes to kill, and its line of JSON. Next: `inside`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
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

Line = dict[str, Any]


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
