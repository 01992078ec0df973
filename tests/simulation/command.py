"""The command `longcase-sim`: live seeds, replay one, find planted bugs.

    longcase-sim run --seeds 2000 --from 0      live many seeds on all cores; failures are minimised
    longcase-sim replay SEED                    print the timeline of one seed: faults, events, checks
    longcase-sim bugs [NAME ...]                plant each bug and look for it

A seed that failed belongs into tests/seeds/found.txt once it is mended.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from tests.simulation import beside, fleet, shuffle
from tests.simulation.bugs import ALL, PLANTED
from tests.simulation.life import Life
from tests.simulation.minimise import minimised
from tests.simulation.planted import BOUND, planted

TWICE = 100  # every so manieth seed is lived twice, and must come to the same
LIVES = {"fleet": fleet.live, "shuffle": shuffle.live, "beside": beside.live}


def live_one(job: tuple[str, int]) -> Life:
    """Live a seed; every hundredth twice."""
    kind, seed = job
    life = LIVES[kind](seed)
    if seed % TWICE == 0 and not life.problems and LIVES[kind](seed).digest != life.digest:
        life.problems.append("two runs of this seed differ")
    return life


def find_one(job: tuple[str, int]) -> tuple[str, int | None, str]:
    """Plant a bug and return the first seed that finds it, in a fleet or else on the shuffled mover."""
    name, bound = job
    with planted(ALL[name]):
        for seed in range(bound):
            for kind in LIVES:
                life = LIVES[kind](seed)
                if life.problems:
                    return name, seed, f"{kind}: {life.problems[0]}"
    return name, None, ""


def on_all_cores(work: Any, jobs: Iterable[Any], count: int) -> Iterator[Any]:
    """Do jobs in processes, in order.

    Raises:
        BrokenProcessPool: a process died; a `multiprocessing.Pool` would wait for its answer for ever.
    """
    if count < 2:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=quiet) as pool:
        yield from pool.map(work, jobs, chunksize=1 if work is find_one else 8)


def quiet() -> None:
    logging.disable(logging.CRITICAL)  # thousands of lives have nothing new to say of lost leases


def run(asked: argparse.Namespace) -> int:
    counts: Counter[str] = Counter()
    failed: list[int] = []
    began = time.monotonic()
    jobs = [(asked.life, seed) for seed in range(asked.first, asked.first + asked.seeds)]
    for life in on_all_cores(live_one, jobs, asked.jobs):
        counts.update(life.counts)
        if life.problems:
            failed.append(life.seed)
            print(f"seed {life.seed} ({asked.life}), digest {life.digest[:16]}: {life.problems[0]}", flush=True)
            if asked.life == "fleet" and len(failed) <= 3:
                for name, kind in minimised(life):
                    print(f"    needs {kind} ({name})", flush=True)
            print(f"    longcase-sim replay {life.seed} --life {asked.life}", flush=True)
    spent = time.monotonic() - began
    speed = asked.seeds / spent * 60
    print(f"{asked.seeds} seeds in {spent:.0f} s, {speed:.0f} a minute; {len(failed)} failed {failed}")
    print(", ".join(f"{what} {counts[what]}" for what in sorted(counts)))
    idle = [what for what in USEFUL[asked.life] if not counts[what]]
    if idle and asked.seeds >= TWICE:
        print(f"nothing of this happened, so nothing is proven: {', '.join(idle)}")
    return 1 if failed or (idle and asked.seeds >= TWICE) else 0


# What must have happened in a hundred seeds, or they prove nothing: useful work and every kind of harm.
USEFUL = {
    "fleet": (
        "events", "effects", "cases", "claims", "killed", "forgotten", "left", "unknown", "late", "fail", "slow",
        "crash", "crash after", "crash at a point", "pause", "pause past the lease", "pause at a write", "drain",
        "server killed", "store restarts", "disk full", "clock jumps", "machine clock off", "request lost",
        "request doubled", "request late",
        "wake-up lost", "wake-up doubled", "hint lost", "slow vendor", "wrong refused", "fenced",
        "queued calls taken", "queued calls given back",
    ),
    "beside": ("events", "effects", "crash", "fail", "unknown", "evict", "handler_started", "stage_returned"),
    "shuffle": ("events", "effects", "crash", "fail", "unknown", "lose", "double", "repeat", "evict", "ends"),
}  # fmt: skip


def replay(asked: argparse.Namespace) -> int:
    life = fleet.live(asked.seed, trace=True) if asked.life == "fleet" else LIVES[asked.life](asked.seed)
    print("\n".join(life.timeline))
    counted = ", ".join(f"{what} {count}" for what, count in sorted(life.counts.items()))
    print(f"seed {life.seed}, digest {life.digest[:16]}: {counted}")
    for problem in life.problems:
        print(f"BROKEN {problem}")
    if life.problems and asked.life == "fleet":
        print("it needs these faults:")
        for name, kind in minimised(life):
            print(f"    {kind} ({name})")
    return 1 if life.problems else 0


def bugs(asked: argparse.Namespace) -> int:
    missed = []
    names = asked.names or sorted(PLANTED)
    for name, seed, how in on_all_cores(find_one, [(name, asked.bound) for name in names], asked.jobs):
        print(f"{name}: {'NOT FOUND' if seed is None else f'seed {seed}, {how[:140]}'}", flush=True)
        if seed is None:
            missed.append(name)
    print(f"{len(names)} planted bugs, {len(missed)} not found within {asked.bound} seeds {missed or ''}")
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="longcase-sim", description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; all cores unless given")
    commands = parser.add_subparsers(required=True)
    many = commands.add_parser("run", help="live many seeds")
    many.add_argument("--seeds", type=int, default=2_000)
    many.add_argument("--from", dest="first", type=int, default=0)
    many.set_defaults(work=run)
    one = commands.add_parser("replay", help="print the timeline of a seed")
    one.add_argument("seed", type=int)
    one.set_defaults(work=replay)
    for parsed in (many, one):
        parsed.add_argument("--life", choices=sorted(LIVES), default="fleet")
    planting = commands.add_parser("bugs", help="plant each bug and look for it")
    planting.add_argument("names", nargs="*", metavar="NAME")
    planting.add_argument("--bound", type=int, default=BOUND, help="seeds within which it must be found")
    planting.set_defaults(work=bugs)
    asked = parser.parse_args()
    quiet()
    status: int = asked.work(asked)
    return status
