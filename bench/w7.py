"""W7: 10,000 activities in one visit, one after another: the last tenth against the first."""

from __future__ import annotations

import time

from flows import Order, long, stamps
from harness import Line, Place, main, wrong
from inside import Watch, count


async def measure(place: Place, quick: bool) -> Line:
    activities = 500 if quick else 10_000
    async with place.open(long) as longcase, longcase.working():
        watch = Watch(longcase)
        begin = time.perf_counter()
        receipt = await longcase.service.start(long, Order(id="one", size=activities))
        await watch.close_of(receipt.case_no)
        took = time.perf_counter() - begin
        tenth = activities // 10
        first = (stamps[tenth] - stamps[0]) / tenth * 1_000
        last = (stamps[-1] - stamps[-1 - tenth]) / tenth * 1_000
        return {
            "activities": activities,
            "ms_per_activity": round(took / activities * 1_000, 4),
            "first_tenth_ms": round(first, 4),
            "last_tenth_ms": round(last, 4),
            "growth": round(last / first, 3),
            "of_commits": round(took / activities * 1_000 / place.limits.commit_ms, 2),
            "wrong": wrong(
                closed=await count(longcase, "close_name = 'done'") == 1, each_ran_once=len(stamps) == activities
            ),
        }


if __name__ == "__main__":
    main("W7", measure)
