"""W2: cases of 1 and of 10 activities, each started when the one before has closed."""

from __future__ import annotations

import time

from flows import Order, steps
from harness import Line, Place, main, p50, percentile, wrong
from inside import Watch, count

WARM_UP = 20


async def measure(place: Place, quick: bool) -> Line:
    rounds = 30 if quick else 400
    line: Line = {"cases": rounds}
    async with place.open(steps) as longcase, longcase.working():
        watch = Watch(longcase)
        for size in (1, 10):
            took: list[float] = []
            for number in range(WARM_UP + rounds):
                begin = time.perf_counter()
                receipt = await longcase.service.start(steps, Order(id=f"{size}-{number}", size=size))
                await watch.close_of(receipt.case_no)
                took.append((time.perf_counter() - begin) * 1_000)
            took = took[WARM_UP:]
            # The start, the first command, then each result together with the next command or the close.
            commits = 2 + size
            line[f"p50_ms_{size}"] = round(p50(took), 3)
            line[f"p99_ms_{size}"] = round(percentile(took, 0.99), 3)
            line[f"p50_of_commits_{size}"] = round(p50(took) / (commits * place.limits.commit_ms), 2)
        line["wrong"] = wrong(all_closed=await count(longcase, "close_name = 'done'") == 2 * (WARM_UP + rounds))
    return line


if __name__ == "__main__":
    main("W2", measure)
