"""W6: 1,000 activities of one case at once."""

from __future__ import annotations

import time

from flows import Order, fan
from harness import Line, Place, main, p50, wrong
from inside import Watch, cpu_s


async def measure(place: Place, quick: bool) -> Line:
    activities, rounds = (100, 2) if quick else (1_000, 5)
    took: list[float] = []
    async with place.open(fan) as longcase, longcase.working():
        watch = Watch(longcase)
        cpu = cpu_s()
        for number in range(rounds):
            begin = time.perf_counter()
            receipt = await longcase.service.start(fan, Order(id=str(number), size=activities))
            await watch.close_of(receipt.case_no)
            took.append(time.perf_counter() - begin)
        cpu = cpu_s() - cpu
        closes = [(await longcase.service.row(f"fan/{number}")).state.close for number in range(rounds)]
        events = (await longcase.service.query("SELECT count(*) AS n FROM history"))[0]["n"]
        return {
            "activities": activities,
            "wall_s": round(p50(took), 4),
            "worst_s": round(max(took), 4),
            "cpu_ms_per_activity": round(cpu / rounds / activities * 1_000, 4),
            "events_of_raw_rows": round(events / rounds / p50(took) / place.limits.rows_per_s, 3),
            "wrong": wrong(
                every_result_arrived=all(close and close["result"] == sum(range(activities)) for close in closes)
            ),
        }


if __name__ == "__main__":
    main("W6", measure)
