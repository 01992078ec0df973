"""Run seeds by hand: `python -m tests.simulation.run --seeds 5000 --from 0 [--planted NAME]`.

Prints the seed, what was broken and the timeline of the first failures; the last line sums up. A seed
that failed belongs into tests/seeds/found.txt once it is mended.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter

from tests.simulation.planted import PLANTED, planted
from tests.simulation.sim import live


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--planted", choices=sorted(PLANTED), help="run with this bug in the engine")
    parser.add_argument("--show", type=int, default=1, help="failures to print with their timeline")
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    failed: list[int] = []
    with planted(asked.planted) if asked.planted else contextlib.nullcontext():
        for seed in range(asked.first, asked.first + asked.seeds):
            life = live(seed)
            counts.update(life.counts)
            if not life.problems and seed % 50 == 0 and live(seed).digest != life.digest:
                life.problems.append("two runs of this seed differ")
            if life.problems:
                failed.append(seed)
                print(f"seed {seed}: {life.problems[0]}")
                if len(failed) <= asked.show:
                    print("\n".join([*life.problems[1:], *life.timeline]))
    print(f"{asked.seeds} seeds, {len(failed)} failed {failed[:20]}; {dict(counts)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
