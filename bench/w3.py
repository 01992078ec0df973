"""W3: from a signal to the completion of a parked case; sent in the worker's process, and from another one."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from flows import Go, Order, go, parked
from harness import Line, Place, main, p50, percentile, wrong
from inside import Watch, count, start_all, until

from longcase import Longcase

SENDER = "--send"  # run as the other process: w3.py --send URL


async def measure(place: Place, quick: bool) -> Line:
    rounds = 20 if quick else 300
    bodies = [Order(id=str(number)) for number in range(2 * rounds)]
    async with place.open(parked) as longcase, longcase.working():
        watch = Watch(longcase)
        numbers = await start_all(longcase, parked, bodies)
        all_parked = await until(longcase, "wait_kind = 'signal'", len(bodies))
        here: list[float] = []
        for number in range(rounds):
            begin = time.perf_counter()
            await longcase.service.signal(f"parked/{number}", go, Go(note="here"))
            await watch.close_of(numbers[number])
            here.append((time.perf_counter() - begin) * 1_000)
        there: list[float] = []
        sender = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__)),
            SENDER,
            place.url(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert sender.stdin is not None
        assert sender.stdout is not None
        await sender.stdout.readline()  # it is ready
        for number in range(rounds, 2 * rounds):
            begin = time.perf_counter()
            sender.stdin.write(f"parked/{number}\n".encode())
            await watch.close_of(numbers[number])
            there.append((time.perf_counter() - begin) * 1_000)
            await sender.stdout.readline()
        sender.stdin.close()
        await sender.wait()
        return {
            "signals": rounds,
            "p50_ms": round(p50(here), 3),
            "p99_ms": round(percentile(here, 0.99), 3),
            "p50_of_commits": round(p50(here) / (2 * place.limits.commit_ms), 2),
            "other_process_p50_ms": round(p50(there), 3),
            "other_process_p99_ms": round(percentile(there, 0.99), 3),
            "wrong": wrong(
                all_parked=all_parked, all_closed=await count(longcase, "close_name = 'done'") == len(bodies)
            ),
        }


async def send(url: str) -> None:
    """Send a signal to each case named on standard input, and say when it was accepted."""
    async with Longcase([parked], url=url) as longcase:
        print("ready", flush=True)
        while address := (await asyncio.to_thread(sys.stdin.readline)).strip():
            await longcase.service.signal(address, go, Go(note="there"))
            print("sent", flush=True)


if __name__ == "__main__":
    if SENDER in sys.argv:
        asyncio.run(send(sys.argv[-1]))
    else:
        main("W3", measure)
