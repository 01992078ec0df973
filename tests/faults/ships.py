"""A fleet under faults: several worker processes over one store, a client beside them, an outside ledger.

The orders are those of `tests.crash.program`. `python -m tests.faults.ships URL` is one worker, which
moves cases until it gets SIGTERM. A worker that ended is replaced, as a service manager does.
SHIPS_SKEW in its environment sets its clock wrong by so many seconds; with SHIPS_STOPS it stops itself
before the first attempt that it is to begin; after SHIPS_CRASHES deaths by one
call it is given up (far fewer than in earnest).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from tests.crash import program
from tests.faults.life import BOUND, Life
from tests.faults.poison import poison

from longcase import Longcase
from longcase.engine import attempts
from longcase.env import Env, RealClock

WORKFLOWS = (program.orders, poison)
STEP = 0.05  # seconds between looks at a fleet
TRIES = 200  # orders that are sent to meet a worker at work
_AT_WORK = "SELECT no, pid FROM workers WHERE no IN (SELECT lease FROM cases WHERE lease <> 0)"
_HELD = "SELECT count(*) AS n FROM cases WHERE lease = ?"


class Ships:
    """Worker processes, as many as `size`, each replaced when it has ended."""

    def __init__(self, url: str, folder: Path, size: int) -> None:
        self.url = url
        self.ledger = folder / "ledger"
        self._log = folder / "workers.log"
        self._size = size
        self.workers: list[subprocess.Popen[bytes]] = []
        self.began = self.killed = 0
        self.ended: list[int] = []  # exit codes of those that were replaced

    def start_one(self, url: str = "", **environment: str) -> subprocess.Popen[bytes]:
        """Start one more worker, on another URL of the same store if one is given."""
        with self._log.open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.ships", url or self.url],
                env={**os.environ, "CRASH_LEDGER": str(self.ledger), **environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.workers.append(worker)
        self.began += 1
        return worker

    def keep_up(self) -> None:
        """Replace the workers that have ended."""
        for worker in [worker for worker in self.workers if worker.poll() is not None]:
            self.workers.remove(worker)
            self.ended.append(worker.returncode)
        while len(self.workers) < self._size:
            self.start_one()

    async def at_work(
        self, life: Life, orders: Iterator[str], *among: subprocess.Popen[bytes]
    ) -> tuple[subprocess.Popen[bytes], int]:
        """Send orders until a worker, one of these if any are named, is met that holds one.

        Returns:
            it and the number of its incarnation.
        """
        for _ in range(TRIES):
            await life.order(next(orders))
            while await life.open_orders():
                rows = await life.insist(lambda: life.longcase.service.query(_AT_WORK))
                numbers = {row["pid"]: int(row["no"]) for row in rows}
                for worker in among or self.workers:
                    if worker.pid in numbers and worker.poll() is None:
                        return worker, numbers[worker.pid]
                self.keep_up()
                await asyncio.sleep(0.001)
        raise AssertionError(f"no worker was met at work in {TRIES} orders: the test would prove nothing")

    async def kill_at_work(self, life: Life, orders: Iterator[str]) -> int:
        """Kill workers until one died over its work; returns how many cases it held. Each is replaced."""
        held = 0
        while not held:
            worker, number = await self.at_work(life, orders)
            worker.send_signal(signal.SIGKILL)
            await asyncio.to_thread(worker.wait, BOUND)
            self.killed += 1
            # Nobody takes them before its lease has lapsed: what it holds now it held when it died.
            (left,) = await life.insist(partial(life.longcase.service.query, _HELD, [number]))
            held = int(left["n"])
            self.keep_up()
        return held

    def said(self) -> str:
        """Return what the workers wrote."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def until_said(self, words: str, times: int) -> None:
        """Wait until the workers have said something so many times."""
        end = time.monotonic() + BOUND
        while self.said().count(words) < times:
            assert time.monotonic() < end, f"not said {times} times: {words}\n{self.said()[-4000:]}"
            time.sleep(STEP)

    def until_ready(self, worker: subprocess.Popen[bytes]) -> None:
        """Wait until a worker can be asked to stop, or has ended."""
        end = time.monotonic() + BOUND
        while worker.poll() is None and f"process {worker.pid} works" not in self.said():
            assert time.monotonic() < end, self.said()[-4000:]
            time.sleep(STEP)

    def stop(self) -> list[int]:
        """Ask all to stop, and return their exit codes."""
        for worker in self.workers:
            worker.send_signal(signal.SIGCONT)
            self.until_ready(worker)
            worker.terminate()
        return [worker.wait(BOUND) for worker in self.workers]


@contextmanager
def fleet(url: str, folder: Path, size: int) -> Iterator[Ships]:
    """Run a fleet for the length of the block; no worker outlives it."""
    ships = Ships(url, folder, size)
    try:
        ships.keep_up()
        yield ships
    finally:
        for worker in ships.workers:
            worker.kill()
            worker.wait()


@asynccontextmanager
async def door(url: str) -> AsyncIterator[Life]:
    """Open the store for a client; no worker runs in this process."""
    async with Longcase(WORKFLOWS, url=url) as longcase:
        yield Life(longcase)


async def nothing() -> None:
    """Do no harm."""


def fresh_orders() -> Iterator[str]:
    """Return keys of orders, as many as a test takes to find workers at work."""
    return (f"x{number}" for number in itertools.count())


def sent(life: Life) -> list[str]:
    """Return the keys of the orders a client was told of."""
    return [key for what, key in life.told if what == "start"]


async def sail(
    life: Life,
    ships: Ships,
    keys: list[str],
    harm: Callable[[], Awaitable[object]],
    every: float = 0.3,
    harms: int = 0,
) -> None:
    """Send orders, and do harm every now and then, until all of them are closed.

    Args:
        harms: how often harm is done at least; the orders are spread over it, however fast they are.
    """
    done = 0

    async def send() -> None:
        for number, key in enumerate(keys, 1):
            while done < harms * number // len(keys):
                await asyncio.sleep(STEP)
            await life.order(key)

    sending = asyncio.ensure_future(send())
    harm_at = time.monotonic() + every
    try:
        async with asyncio.timeout(2 * BOUND):
            while not sending.done() or await life.open_orders():
                if time.monotonic() >= harm_at:
                    await harm()
                    done += 1
                    harm_at = time.monotonic() + every
                ships.keep_up()
                await asyncio.sleep(STEP)
            await sending
    except TimeoutError:
        said = ships.said()[-4000:]
        raise AssertionError(f"not through within {2 * BOUND} s; the workers say:\n{said}") from None
    finally:
        sending.cancel()


class WrongClock(RealClock):
    """A machine's clock that is set wrong."""

    def uncorrected(self) -> datetime:
        return super().uncorrected() + timedelta(seconds=float(os.environ["SHIPS_SKEW"]))


class Stopping(Env):
    """Stops the process where its first attempt is committed and about to begin, until somebody lets it go on."""

    stopped = False

    def signal_point(self, name: str) -> None:
        if name == "before_effect" and not self.stopped:
            self.stopped = True
            os.kill(os.getpid(), signal.SIGSTOP)


async def _main(url: str) -> None:
    if "SHIPS_CRASHES" in os.environ:
        attempts.CRASH_ATTEMPTS, attempts.APART = int(os.environ["SHIPS_CRASHES"]), timedelta(seconds=0.2)
    env = Env(WrongClock()) if "SHIPS_SKEW" in os.environ else Stopping() if "SHIPS_STOPS" in os.environ else Env()
    async with Longcase(WORKFLOWS, url=url, env=env) as longcase:
        await longcase.record_maps()
        worker = longcase.new_worker()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        print(f"process {os.getpid()} works", flush=True)
        await worker.run()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
