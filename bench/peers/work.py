"""What every peer's workflows do, and what a peer's adapter must offer: shared by all, standard library only.

The workflows, the same for every peer:

    chain   `size` steps, one after another; returns the sum of their results
    fan     `size` steps at once; returns the sum of their results
    parked  waits for one signal; returns 0
    nap     waits until an instant; returns 0
    pay     `size` steps, one after another, each of which writes to the effect log; returns the sum

A step is one durable asynchronous activity that does `step(number)` or `book(case, number)` and nothing else.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

EFFECTS = "LONGCASE_BENCH_EFFECTS"  # names the effect log of W8
DATA = "LONGCASE_BENCH_DATA"  # the data folder of the PostgreSQL server that the database is on
DAY = 86_400.0  # how long a parked workflow is ready to wait, in seconds
stamps: list[float] = []  # when each step of this process ran


class Job(NamedTuple):
    """One workflow to be started."""

    id: str
    size: int = 1
    due: float = 0.0  # instant (time.time) at which a nap ends


class End(NamedTuple):
    """How a workflow ended: what it returned, and when this process learnt that the end is durable."""

    result: int
    at: float  # time.time


class Place(NamedTuple):
    """Where a peer works: a fresh folder, the kind of store, and the URL of a fresh database if it needs one."""

    folder: Path
    store: str
    url: str


def step(number: int) -> int:
    """Do a step's work, which is none."""
    stamps.append(time.perf_counter())
    return number


def book(case: str, number: int) -> int:
    """Append `case:number` to the effect log, in one write that survives the process."""
    descriptor = os.open(os.environ[EFFECTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{case}:{number}\n".encode())
    finally:
        os.close(descriptor)
    return number


def data_folder() -> Path:
    """Return where the PostgreSQL server keeps tables: its write-ahead log is not in there."""
    return Path(os.environ[DATA]) / "base"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Peer(Protocol):
    """What the driver asks of an adapter; each adapter module has a class `Adapter` like this.

    `serve` and `stop` are called in the driver's process only, around everything else; `open` and `close` in
    each process that works. Servers that `serve` starts are children of the driver: their CPU is counted.
    """

    def __init__(self, place: Place) -> None: ...

    async def serve(self) -> None:
        """Start the peer's server, where it has one of its own."""

    async def stop(self) -> None:
        """Stop it."""

    async def open(self) -> None:
        """Start a worker in this process and connect to the store."""

    async def close(self) -> None:
        """Let the worker finish and leave."""

    async def start(self, flow: str, jobs: Sequence[Job]) -> None:
        """Start workflows; when it returns, all are accepted durably."""

    async def ends(self, flow: str, ids: Sequence[str]) -> dict[str, End]:
        """Wait until all of these have ended; also of those that another process started."""
        ...

    async def until_waiting(self, flow: str, count: int) -> None:
        """Wait until `count` workflows of `parked` or `nap` wait, as the store tells."""

    async def signal(self, ident: str) -> None:
        """Send a parked workflow its signal."""

    def disk(self) -> int:
        """Return the bytes the peer's store takes."""
        ...
