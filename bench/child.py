"""The worker process that W4 and W8 kill: `child.py URL ROLE ...`; it answers in lines of JSON on stdout.

    park COUNT IDLE [WITHIN]   start COUNT cases that wait for a signal; tell how long it took and what they weigh,
                   and what CPU the worker takes in IDLE seconds of rest; WITHIN seconds at most (600)
    wake ADDRESS   open the store of a killed worker, signal one case; tell when it was open and closed
    pay COUNT      start COUNT cases of 5 steps and run them
    finish COUNT   open the store of a killed worker; tell when COUNT cases are closed
    rest           open the store, settle, tell the memory; a plain worker

After its answer a process goes on working until it is killed, or until standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from flows import Go, Order, go, parked, payments, steps
from inside import CHUNK, Watch, cpu_s, start_all, until
from usage import rss_bytes

from longcase import Longcase

WARM_UP = 1_000  # cases parked before memory is first measured: caches and the bound on live cases are full
STEPS = 5


def tell(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


async def park(longcase: Longcase, count: int, idle: float, within: float = 600) -> None:
    warm = min(WARM_UP, count // 2)
    await start_all(longcase, parked, [Order(id=f"warm-{number}") for number in range(warm)])
    await until(longcase, "wait_kind = 'signal'", warm)
    before, begin, cpu = rss_bytes(), time.monotonic(), cpu_s()
    for first in range(0, count - warm, CHUNK):
        last = min(first + CHUNK, count - warm)
        await start_all(longcase, parked, [Order(id=str(number)) for number in range(first, last)])
    accepted = time.monotonic() - begin
    all_parked = await until(longcase, "wait_kind = 'signal'", count, within=within)
    took, cpu = time.monotonic() - begin, cpu_s() - cpu
    grown = rss_bytes() - before
    await asyncio.sleep(0.2)
    idle_from = cpu_s()
    await asyncio.sleep(idle)
    tell(
        all_parked=all_parked, cases=count - warm, accepted_s=accepted, parked_s=took, cpu_s=cpu, grown_bytes=grown,
        idle_cpu_percent=(cpu_s() - idle_from) / idle * 100,
    )  # fmt: skip


async def wake(longcase: Longcase, watch: Watch, address: str) -> None:
    opened = time.monotonic()
    receipt = await longcase.service.row(address)
    await longcase.service.signal(address, go, Go(note="first"))
    await watch.close_of(receipt.case_no)
    tell(opened=opened, woken=time.monotonic(), rss_bytes=rss_bytes())


async def run(url: str, role: str, rest: list[str]) -> None:
    async with Longcase([parked, payments, steps], url=url) as longcase:
        watch = Watch(longcase)
        async with longcase.working():
            match role:
                case "park":
                    await park(longcase, int(rest[0]), *map(float, rest[1:]))
                case "wake":
                    await wake(longcase, watch, rest[0])
                case "rest":
                    await asyncio.sleep(0.5)
                    tell(rss_bytes=rss_bytes())
                case "pay":
                    bodies = [Order(id=str(number), size=STEPS) for number in range(int(rest[0]))]
                    await start_all(longcase, payments, bodies)
                    tell(accepted=len(bodies))
                case "finish":
                    opened = time.monotonic()
                    done = await until(longcase, "status = 'closed'", int(rest[0]), within=60)
                    tell(opened=opened, done=done, finished=time.monotonic())
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], sys.argv[3:]))
