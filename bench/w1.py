"""W1: cases of 5 steps, started together."""

from __future__ import annotations

import time

from flows import Order, steps
from harness import Line, Place, main, wrong
from inside import Watch, count, cpu_s, start_all

STEPS = 5


async def measure(place: Place, quick: bool) -> Line:
    cases = 300 if quick else 5_000
    bodies = [Order(id=f"case-{number}", size=STEPS) for number in range(cases)]
    async with place.open(steps) as longcase:
        watch = Watch(longcase)
        cpu, server, begin = cpu_s(), place.server_cpu_s(), time.perf_counter()
        async with longcase.working():
            await start_all(longcase, steps, bodies)
            accepted = time.perf_counter() - begin
            await watch.closes(cases)
            took, cpu = time.perf_counter() - begin, cpu_s() - cpu
            server = place.server_cpu_s() - server
        results = await longcase.service.query("SELECT count(*) AS n FROM history WHERE type = 'activity_completed'")
        events = (await longcase.service.query("SELECT count(*) AS n FROM history"))[0]["n"]
        return {
            "cases": cases,
            "steps_per_s": round(cases * STEPS / took),
            "cpu_ms_per_workflow": round(cpu / cases * 1_000, 3),
            "server_cpu_ms_per_workflow": round(server / cases * 1_000, 3),
            "accept_s": round(accepted, 3),
            "wall_s": round(took, 3),
            "events_of_raw_rows": round(events / took / place.limits.rows_per_s, 3),
            "wrong": wrong(
                all_closed=await count(longcase, "close_name = 'done'") == cases,
                every_step_recorded_once=results[0]["n"] == cases * STEPS,
            ),
        }


if __name__ == "__main__":
    main("W1", measure)
