"""W5: timers spread over one second: how late each takes effect, and that none is early."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from flows import Nap, Order, naps, parked
from harness import Line, Place, main, p50, percentile, wrong
from inside import Watch, count, cpu_s, start_all, until

from longcase.history.event import instant_of

TRIAL = 200  # cases parked beforehand, to know how long this machine takes just now
MARGIN = 3  # times that long, and a second, until the first timer is due


async def measure(place: Place, quick: bool) -> Line:
    cases = 500 if quick else 10_000
    async with place.open(naps, parked) as longcase, longcase.working():
        watch = Watch(longcase)
        begin = time.perf_counter()
        await start_all(longcase, parked, [Order(id=str(number)) for number in range(TRIAL)])
        await until(longcase, "wait_kind = 'signal'", TRIAL)
        each = (time.perf_counter() - begin) / TRIAL
        first_due = datetime.now(UTC) + timedelta(seconds=1 + MARGIN * each * cases)
        dues = [first_due + timedelta(seconds=number / cases) for number in range(cases)]
        numbers = await start_all(longcase, naps, [Nap(id=str(number), due=due) for number, due in enumerate(dues)])
        await until(longcase, "wait_kind = 'timer'", cases)
        spare = first_due.timestamp() - time.time()
        cpu = cpu_s()
        await watch.closes(cases)
        cpu = cpu_s() - cpu
        late = [watch.closed[case_no] - due.timestamp() for case_no, due in zip(numbers, dues, strict=True)]
        fired = await longcase.service.query(
            "SELECT case_no, at FROM history WHERE type = 'timer_fired' ORDER BY case_no"
        )
        recorded = {row["case_no"]: instant_of(row["at"]) for row in fired}
        early = [case_no for case_no, due in zip(numbers, dues, strict=True) if recorded[case_no] < due]
        return {
            "timers": cases,
            "late_s_p50": round(p50(late), 4),
            "late_s_p99": round(percentile(late, 0.99), 4),
            "late_s_min": round(min(late), 6),
            "late_s_max": round(max(late), 4),
            "fired_per_s": round(cases / (max(watch.closed.values()) - first_due.timestamp())),
            "cpu_ms_per_timer": round(cpu / cases * 1_000, 3),
            "wrong": wrong(
                all_parked_in_time=spare >= 0,
                none_early=not early and min(late) >= 0,
                all_fired_once=len(fired) == cases,
                all_closed=await count(longcase, "close_name = 'done'") == cases,
            ),
        }


if __name__ == "__main__":
    main("W5", measure)
