"""Several workers on one store: what one, two and four of them do together, and how evenly."""

from __future__ import annotations

import time

from flows import Order, steps
from harness import Child, Line, Place, main, wrong
from inside import count, start_all, until
from usage import tree_cpu_s

from longcase import Longcase

STEPS = 5
WORKERS = (1, 2, 4)


async def measure(place: Place, quick: bool) -> Line:
    cases = 300 if quick else 3_000
    line: Line = {"cases": cases}
    faults: list[str] = []
    for workers in WORKERS:
        found = await _together(place, workers, cases)
        faults += [f"{fault}_{workers}" for fault in found.pop("wrong")]
        line[str(workers)] = found
    one, two, four = (line[str(workers)]["steps_per_s"] for workers in WORKERS)
    return {**line, "two_of_one": round(two / one, 2), "four_of_one": round(four / one, 2), "wrong": faults}


async def _together(place: Place, workers: int, cases: int) -> Line:
    url = place.url(f"fleet-{workers}")
    async with Longcase([steps], url=url) as longcase:
        fleet = [await Child.spawn(url, "rest") for _ in range(workers)]
        for child in fleet:
            await child.ask()
        before = [tree_cpu_s(child.pid) for child in fleet]
        server, begin = place.server_cpu_s(), time.perf_counter()
        await start_all(longcase, steps, [Order(id=str(number), size=STEPS) for number in range(cases)])
        done = await until(longcase, "status = 'closed'", cases)
        took, server = time.perf_counter() - begin, place.server_cpu_s() - server
        used = [tree_cpu_s(child.pid) - cpu for child, cpu in zip(fleet, before, strict=True)]
        for child in fleet:
            await child.end()
        results = await longcase.service.query("SELECT count(*) AS n FROM history WHERE type = 'activity_completed'")
        return {
            "steps_per_s": round(cases * STEPS / took),
            "cpu_ms_per_workflow": round(sum(used) / cases * 1_000, 3),
            "server_cpu_ms_per_workflow": round(server / cases * 1_000, 3),
            "least_to_most_busy": round(min(used) / max(used), 2),
            "wrong": wrong(
                all_done=done and await count(longcase, "close_name = 'done'") == cases,
                every_step_recorded_once=results[0]["n"] == cases * STEPS,
            ),
        }


if __name__ == "__main__":
    main("fleet", measure)
