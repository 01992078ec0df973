"""W4: many parked cases: start rate, worker memory of each, idle CPU, and the way back from kill -9."""

from __future__ import annotations

from typing import Any

from flows import parked
from harness import Child, Line, Place, main, wrong
from inside import count

from longcase import Longcase


async def measure(place: Place, quick: bool) -> Line:
    sizes = (1_000,) if quick else (10_000, 100_000)
    line: Line = {}
    faults: list[str] = []
    empty = await _resting(place, "empty")
    for size in sizes:
        found = await _parked(place, size, empty, idle=1.0 if quick else 10.0)
        faults += [f"{fault}_{size}" for fault in found.pop("wrong")]
        line[str(size)] = found
    return {**line, "wrong": faults}


async def _resting(place: Place, name: str) -> int:
    """Return the memory of a worker that has opened a store and has nothing to do."""
    child = await Child.spawn(place.url(name), "rest")
    answer = await child.ask()
    await child.end()
    resident: int = answer["rss_bytes"]
    return resident


async def _parked(place: Place, size: int, empty: int, *, idle: float) -> dict[str, Any]:
    name = f"parked-{size}"
    first = await Child.spawn(place.url(name), "park", str(size), str(idle))
    began = await first.ask()
    killed = await first.kill()
    second = await Child.spawn(place.url(name), "wake", "parked/7")
    back = await second.ask()
    await second.end()
    resting = await _resting(place, name)
    async with Longcase([parked], url=place.url(name)) as longcase:
        closed = await count(longcase, "close_name = 'done'")
        waiting = await count(longcase, "wait_kind = 'signal'")
    return {
        "start_s": round(began["parked_s"] * size / began["cases"], 3),
        "started_per_s": round(began["cases"] / began["parked_s"]),
        "cpu_ms_per_workflow": round(began["cpu_s"] / began["cases"] * 1_000, 3),
        "bytes_per_case": round(began["grown_bytes"] / began["cases"]),
        "bytes_per_case_after_restart": round((resting - empty) / size),
        "idle_cpu_percent": round(began["idle_cpu_percent"], 2),
        "kill_to_open_s": round(back["opened"] - killed, 3),
        "kill_to_first_wake_s": round(back["woken"] - killed, 3),
        "open_to_first_wake_s": round(back["woken"] - back["opened"], 3),
        "wrong": wrong(all_parked=began["all_parked"], one_woken=closed == 1, none_lost=waiting == size - 1),
    }


if __name__ == "__main__":
    main("W4", measure)
