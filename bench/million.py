"""One million parked cases in one store: start them, list them, wake some; after a kill -9 of the worker.

LONGCASE_BENCH_CASES chooses another number.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from flows import Go, go, parked
from harness import Child, Line, Place, main, p50, wrong
from inside import Watch, count

from longcase import Longcase
from longcase.service.queries import Which

WOKEN = 200  # cases woken one after another, spread over the whole store
LISTED = 20  # times each question is asked, at most
PATIENCE_S = 10.0  # after so long in all, a question is not asked once more


async def measure(place: Place, quick: bool) -> Line:
    cases = 10_000 if quick else int(os.environ.get("LONGCASE_BENCH_CASES", "1000000"))
    disk = place.disk("million")
    first = await Child.spawn(place.url("million"), "park", str(cases), "5.0", "3000")
    began = await first.ask()
    killed = await first.kill()
    second = await Child.spawn(place.url("million"), "wake", "parked/7")
    back = await second.ask()
    await second.end()
    async with Longcase([parked], url=place.url("million")) as longcase, longcase.working():
        questions = await _questions(longcase)
        woken = await _woken(longcase, cases)
        closed = await count(longcase, "close_name = 'done'")
        waiting = await count(longcase, "wait_kind = 'signal'")
    return {
        "cases": cases,
        "start_s": round(began["parked_s"] * cases / began["cases"], 1),
        "started_per_s": round(began["cases"] / began["parked_s"]),
        "bytes_per_case": round(began["grown_bytes"] / began["cases"]),
        "disk_bytes_per_case": round((place.disk("million") - disk) / cases),
        "idle_cpu_percent": round(began["idle_cpu_percent"], 2),
        "kill_to_first_wake_s": round(back["woken"] - killed, 3),
        "open_to_first_wake_s": round(back["woken"] - back["opened"], 3),
        **questions,
        "wake_p50_ms": round(p50(woken), 3),
        "wake_worst_ms": round(max(woken), 3),
        "wrong": wrong(
            all_parked=began["all_parked"], as_many_woken=closed == WOKEN + 1, none_lost=waiting == cases - WOKEN - 1
        ),
    }


async def _questions(longcase: Longcase) -> Line:
    """Return the median milliseconds of what people ask of so many cases."""
    middle = (await longcase.service.row("parked/1000")).case_no
    return {
        "show_ms": await _timed(lambda: longcase.service.show("parked/1234")),
        "list_ms": await _timed(lambda: longcase.service.cases(Which(workflow="parked"))),
        "list_waiting_ms": await _timed(lambda: longcase.service.cases(Which(waiting="signal", after=middle))),
        "list_overdue_ms": await _timed(lambda: longcase.service.cases(Which(overdue=True))),
        "list_incidents_ms": await _timed(lambda: longcase.service.cases(Which(incidents=True))),
    }


async def _timed(ask: Callable[[], Awaitable[Any]]) -> float:
    took: list[float] = []
    while len(took) < LISTED and sum(took) < PATIENCE_S * 1_000:
        begin = time.perf_counter()
        await ask()
        took.append((time.perf_counter() - begin) * 1_000)
    return round(p50(took), 3)


async def _woken(longcase: Longcase, cases: int) -> list[float]:
    """Wake cases spread over the store, one after another; returns milliseconds from signal to durable close."""
    watch = Watch(longcase)
    took: list[float] = []
    for number in range(WOKEN):
        address = f"parked/{100 + number * ((cases - 2_000) // WOKEN)}"
        case_no = (await longcase.service.row(address)).case_no
        begin = time.perf_counter()
        await longcase.service.signal(address, go, Go(note="wake"))
        await watch.close_of(case_no)
        took.append((time.perf_counter() - begin) * 1_000)
    return took


if __name__ == "__main__":
    main("million", measure)
