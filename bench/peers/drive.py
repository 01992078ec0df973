"""Run one workload on one peer, in the peer's own environment, and print one line of JSON.

    python drive.py PEER STORE WORKLOAD --folder F --url U --sizes '{"cases": 300, ...}'

The definitions of the workloads are those of bench/README.md; work.py says what the workflows do. A worker
that must be killed runs this file again with `--role`. Standard library only: it runs beside any peer, with the
folder above this one on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from usage import cpu_s, rss_bytes
from work import EFFECTS, Job, Peer, Place, stamps

STEPS = 5
TRIAL = 100  # cases parked beforehand by W5, to know how long this peer takes just now
MARGIN = 2  # times that long, and two seconds, until the first timer is due
LONGEST_LEAD_S = 30.0
WARM_UP = 5
WARM_PARKED = 1_000  # cases parked before memory is first measured: caches are full
SETTLE_S = 1.0  # after the last case is parked, before the rest is measured
Line = dict[str, Any]
Sizes = dict[str, int]


def jobs(name: str, count: int, size: int = 1) -> list[Job]:
    return [Job(f"{name}-{number}", size) for number in range(count)]


def ids(started: Sequence[Job]) -> list[str]:
    return [job.id for job in started]


def total(size: int) -> int:
    return sum(range(size))


def wrong(**expectations: bool) -> list[str]:
    return [name for name, holds in expectations.items() if not holds]


async def one(peer: Peer, flow: str, job: Job) -> tuple[float, int]:
    """Start a workflow and wait for its end; returns milliseconds and what it returned."""
    begin = time.time()
    await peer.start(flow, [job])
    end = (await peer.ends(flow, [job.id]))[job.id]
    return (end.at - begin) * 1_000, end.result


# -- the workloads ----------------------------------------------------------------------------------


async def w1(peer: Peer, sizes: Sizes) -> Line:
    started = jobs("w1", sizes["cases"], STEPS)
    for job in jobs("warm", WARM_UP, STEPS):
        await one(peer, "chain", job)
    cpu, begin = cpu_s(), time.perf_counter()
    await peer.start("chain", started)
    accepted = time.perf_counter() - begin
    ends = await peer.ends("chain", ids(started))
    took, cpu = time.perf_counter() - begin, cpu_s() - cpu
    return {
        "cases": len(started),
        "steps_per_s": round(len(started) * STEPS / took, 1),
        "cpu_ms_per_workflow": round(cpu / len(started) * 1_000, 3),
        "accept_s": round(accepted, 3),
        "wall_s": round(took, 3),
        "wrong": wrong(
            all_ended=len(ends) == len(started), results_right=all(e.result == total(STEPS) for e in ends.values())
        ),
    }


async def w2(peer: Peer, sizes: Sizes) -> Line:
    line: Line = {"cases": sizes["cases"]}
    right = True
    for size in (1, 10):
        took: list[float] = []
        for job in jobs(f"w2-{size}", WARM_UP + sizes["cases"], size):
            ms, result = await one(peer, "chain", job)
            took.append(ms)
            right = right and result == total(size)
        line[f"p50_ms_{size}"] = round(statistics.median(took[WARM_UP:]), 3)
        line[f"max_ms_{size}"] = round(max(took[WARM_UP:]), 3)
    return {**line, "wrong": wrong(results_right=right)}


async def w3(peer: Peer, sizes: Sizes) -> Line:
    started = jobs("w3", sizes["cases"])
    await peer.start("parked", started)
    await peer.until_waiting("parked", len(started))
    took: list[float] = []
    for job in started:
        begin = time.time()
        await peer.signal(job.id)
        end = (await peer.ends("parked", [job.id]))[job.id]
        took.append((end.at - begin) * 1_000)
    return {
        "signals": len(started),
        "p50_ms": round(statistics.median(took), 3),
        "max_ms": round(max(took), 3),
        "wrong": wrong(each_ended=len(took) == len(started)),
    }


async def w5(peer: Peer, sizes: Sizes) -> Line:
    cases = sizes["cases"]
    await peer.start("parked", jobs("warm", WARM_UP))
    await peer.until_waiting("parked", WARM_UP)
    begin = time.perf_counter()
    await peer.start("parked", jobs("trial", TRIAL))
    await peer.until_waiting("parked", WARM_UP + TRIAL)
    each = (time.perf_counter() - begin) / TRIAL
    first_due = time.time() + min(2 + MARGIN * each * cases, LONGEST_LEAD_S)
    started = [Job(f"w5-{number}", 1, first_due + number / cases) for number in range(cases)]
    await peer.start("nap", started)
    await peer.until_waiting("nap", cases)
    spare = first_due - time.time()
    cpu = cpu_s()
    ends = await peer.ends("nap", ids(started))
    cpu = cpu_s() - cpu
    late = sorted(ends[job.id].at - job.due for job in started)
    return {
        "timers": cases,
        "late_s_p50": round(statistics.median(late), 4),
        "late_s_p99": round(late[int(len(late) * 0.99)], 4),
        "late_s_min": round(late[0], 4),
        "fired_per_s": round(cases / (max(end.at for end in ends.values()) - first_due)),
        "cpu_ms_per_timer": round(cpu / cases * 1_000, 3),
        "wrong": wrong(all_waiting_in_time=spare >= 0, none_early=late[0] >= 0, all_ended=len(ends) == cases),
    }


async def w6(peer: Peer, sizes: Sizes) -> Line:
    took: list[float] = []
    right = True
    cpu = cpu_s()
    for job in jobs("w6", sizes["rounds"], sizes["activities"]):
        ms, result = await one(peer, "fan", job)
        took.append(ms)
        right = right and result == total(job.size)
    cpu = (cpu_s() - cpu) / sizes["rounds"] / sizes["activities"]
    return {
        "activities": sizes["activities"],
        "wall_s": round(statistics.median(took) / 1_000, 4),
        "ms_per_activity": round(statistics.median(took) / sizes["activities"], 4),
        "cpu_ms_per_activity": round(cpu * 1_000, 4),
        "wrong": wrong(every_result_arrived=right),
    }


async def w7(peer: Peer, sizes: Sizes) -> Line:
    activities = sizes["activities"]
    stamps.clear()
    ms, result = await one(peer, "chain", Job("w7", activities))
    tenth = activities // 10
    first, last = stamps[tenth] - stamps[0], stamps[-1] - stamps[-1 - tenth]
    return {
        "activities": activities,
        "ms_per_activity": round(ms / activities, 4),
        "growth": round(last / first, 3),
        "wrong": wrong(result_right=result == total(activities), each_ran_once=len(stamps) == activities),
    }


# -- with workers that are killed -------------------------------------------------------------------


async def w4(peer: Peer, sizes: Sizes, spawn: Callable[..., Awaitable[Child]]) -> Line:
    cases = sizes["cases"]
    first = await spawn("park", str(cases))
    began = await first.ask()
    await asyncio.sleep(SETTLE_S)
    idle, cpu = 3.0, cpu_s()
    await asyncio.sleep(idle)
    cpu = cpu_s() - cpu
    killed = await first.kill()
    second = await spawn("wake", "parked-7")
    back = await second.ask()
    await second.end()
    return {
        "cases": cases,
        "started_per_s": round(began["cases"] / began["took"], 1),
        "bytes_per_case": round(began["grown"] / began["cases"]),
        "idle_cpu_percent": round(cpu / idle * 100, 2),
        "kill_to_first_wake_s": round(back["woken"] - killed, 3),
        "open_to_first_wake_s": round(back["woken"] - back["opened"], 3),
        "wrong": wrong(all_parked=began["parked"], one_woken=back["result"] == 0),
    }


async def w8(peer: Peer, sizes: Sizes, spawn: Callable[..., Awaitable[Child]]) -> Line:
    cases = sizes["cases"]
    log = Path(os.environ[EFFECTS])
    log.touch()
    first = await spawn("pay", str(cases))
    accepted = asyncio.ensure_future(first.ask())
    while not accepted.done() or log.read_bytes().count(b"\n") < cases:
        await asyncio.sleep(0.001)
    killed = await first.kill()
    at_kill = len(log.read_text().splitlines())
    second = await spawn("finish", str(cases))
    back = await second.ask()
    await second.end()
    happened = Counter(log.read_text().splitlines())
    return {
        "cases": cases,
        "effects_at_kill": at_kill,
        "kill_to_done_s": round(back["done"] - killed, 3),
        "open_to_done_s": round(back["done"] - back["opened"], 3),
        "run_twice": sum(times > 1 for times in happened.values()),
        "wrong": wrong(
            killed_under_way=at_kill < cases * STEPS,
            nothing_lost=len(happened) == cases * STEPS,
            results_right=back["right"] == cases,
        ),
    }


class Child:
    """A worker process of the peer that can be killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self) -> Line:
        """Wait for its answer."""
        assert self._process.stdout is not None
        while text := await self._process.stdout.readline():
            if text.startswith(b"{"):
                answer: Line = json.loads(text)
                return answer
        raise RuntimeError("the worker process ended without an answer; its errors stand above")

    async def kill(self) -> float:
        """Kill it as a power cut would; returns the instant (time.monotonic)."""
        self._process.send_signal(signal.SIGKILL)
        instant = time.monotonic()
        await self._process.wait()
        return instant

    async def end(self) -> None:
        self._process.kill()  # what it had to do is done and durable
        await self._process.wait()


async def act(peer: Peer, role: str, what: str) -> None:
    """Be the worker process: do the role, tell on standard output, then go on working until killed."""
    opened = time.monotonic()
    answer: Line = {"opened": opened}
    match role:
        case "blank":
            await peer.close()
        case "park":
            count = int(what)
            warm = min(WARM_PARKED, count // 2)
            started = jobs("parked", count)
            await peer.start("parked", started[:warm])
            await peer.until_waiting("parked", warm)
            before, begin = rss_bytes(), time.monotonic()
            await peer.start("parked", started[warm:])
            await peer.until_waiting("parked", count)
            took = time.monotonic() - begin
            answer |= {"cases": count - warm, "took": took, "parked": True, "grown": rss_bytes() - before}
        case "wake":
            await peer.signal(what)
            result = (await peer.ends("parked", [what]))[what].result
            answer |= {"woken": time.monotonic(), "result": result}
        case "pay":
            await peer.start("pay", jobs("pay", int(what), STEPS))
        case "finish":
            ends = await peer.ends("pay", ids(jobs("pay", int(what))))
            right = sum(end.result == total(STEPS) for end in ends.values())
            answer |= {"done": time.monotonic(), "right": right}
    print(json.dumps(answer), flush=True)
    await asyncio.Event().wait()


# -- the frame --------------------------------------------------------------------------------------

ALONE = {"W1": w1, "W2": w2, "W3": w3, "W5": w5, "W6": w6, "W7": w7}
KILLED = {"W4": w4, "W8": w8}


async def measured(options: argparse.Namespace) -> Line:
    adapter = importlib.import_module(f"peer_{options.peer}").Adapter
    peer: Peer = adapter(Place(Path(options.folder), options.store, options.url))
    if options.role:
        await peer.open()
        await act(peer, options.role, options.what)
    sizes: Sizes = json.loads(options.sizes)

    async def spawn(role: str, what: str) -> Child:
        command = [sys.executable, __file__, *sys.argv[1:], "--role", role, "--what", what]
        return Child(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE))

    os.environ[EFFECTS] = str(Path(options.folder) / "effects")
    disk = 0
    if options.workload == "W1":  # what a store takes with nothing in it, everything stopped
        await peer.serve()
        child = await spawn("blank", "")
        await child.ask()
        await child.end()
        await peer.stop()
        disk = peer.disk()
    await peer.serve()
    try:
        if options.workload in KILLED:
            return await KILLED[options.workload](peer, sizes, spawn)
        await peer.open()
        try:
            line = await ALONE[options.workload](peer, sizes)
        finally:
            await peer.close()
    finally:
        await peer.stop()
    if options.workload == "W1":
        line["disk_bytes_per_workflow"] = round((peer.disk() - disk) / (line["cases"] + WARM_UP))
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description="one workload on one peer; bench/peers/README.md")
    for name in ("peer", "store", "workload"):
        parser.add_argument(name)
    for name in ("folder", "url", "sizes", "role", "what"):
        parser.add_argument(f"--{name}", default="")
    options = parser.parse_args()
    line = asyncio.run(measured(options))
    found = line.pop("wrong")
    told = {"peer": options.peer, "store": options.store, "workload": options.workload, **line}
    print(json.dumps({**told, "correct": not found, "wrong": found}), flush=True)
    sys.stdout.flush()
    os._exit(1 if found else 0)  # some peers leave threads behind that would keep the process


if __name__ == "__main__":
    main()
