"""W8: kill -9 with 1,000 cases in flight; the effect log of the activities is the witness."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from flows import EFFECTS, payments
from harness import Child, Line, Place, main, wrong
from inside import count

STEPS = 5


async def measure(place: Place, quick: bool) -> Line:
    cases = 200 if quick else 1_000
    log = place.folder / "effects"
    log.touch()
    first = await Child.spawn(place.url(), "pay", str(cases), **{EFFECTS: str(log)})
    await first.ask()  # all cases are accepted
    _grown(log, lines=cases)  # about a fifth of all effects has happened
    killed = await first.kill()
    before = log.read_text().splitlines()
    spawned = time.monotonic()
    lapse = _lapse(place)
    second = await Child.spawn(place.url(), "finish", str(cases), **{EFFECTS: str(log)})
    back = await second.ask()
    await second.end()
    happened = Counter(_call(line) for line in log.read_text().splitlines())
    twice = {call: times for call, times in happened.items() if times > 1}
    at_kill = Counter(line.split(":")[1] for line in before)
    async with place.open(payments) as longcase:
        done = await count(longcase, "close_name = 'done'")
        incidents = await count(longcase, "incident_count > 0")
        results = await longcase.service.query("SELECT count(*) AS n FROM history WHERE type = 'activity_completed'")
    return {
        "cases": cases,
        "effects_at_kill": len(before),
        "cases_finished_at_kill": sum(times >= STEPS for times in at_kill.values()),
        "kill_to_spawn_s": round(spawned - killed, 3),
        "spawn_to_done_s": round(back["finished"] - spawned, 3),
        "open_to_done_s": round(back["finished"] - back["opened"], 3),
        "lapse_to_done_s": round(back["finished"] - lapse, 3),
        "run_twice": len(twice),
        "once_run_twice": sum(call.startswith("pay:") for call in twice),
        "incidents": incidents,
        "wrong": wrong(
            all_done=back["done"] and done == cases,
            nothing_lost=len(happened) == cases * STEPS and results[0]["n"] == cases * STEPS,
            none_marked_once_twice=not any(call.startswith("pay:") for call in twice),
        ),
    }


def _grown(log: Path, *, lines: int) -> None:
    """Wait until the log has so many lines; blocks, because this process has nothing else to do."""
    while log.read_bytes().count(b"\n") < lines:
        time.sleep(0.001)


def _lapse(place: Place) -> float:
    """Return when the killed worker's lease lapses, on time.monotonic; on SQLite its death is certain at once."""
    if place.server is None:
        return time.monotonic()
    row = place.server.ask("bench_cases", "SELECT max(extract(epoch FROM beat + lease))::float8 AS lapse FROM workers")
    return float(row[0]["lapse"]) - time.time() + time.monotonic()


def _call(line: str) -> str:
    """Return what stands for one call in a line of the log: its name and its idempotency key."""
    name, _case, key, _attempt = line.split(":")
    return f"{name}:{key}"


if __name__ == "__main__":
    main("W8", measure)
