"""Run the workloads, each in a process of its own, and print one line of JSON for each: `make bench`.

    python bench/run.py                all of them
    python bench/run.py W1 W3          some
    python bench/run.py --quick        small sizes, to see that everything works
    python bench/run.py --store both   on SQLite, then on a PostgreSQL server of its own (W0 has no store to choose)
    python bench/run.py --million      one million parked cases; takes long, and some GB of disk

Nothing is asserted on time. Exit status 1 if a workload did something wrong, or did not end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from usage import environment

HERE = Path(__file__).parent
WORKLOADS = ("W0", "W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8")
MILLION, FLEET = "million", "fleet"
STORES = ("sqlite", "postgres")
LIMIT = 900  # seconds a workload may take
MILLION_LIMIT = 3_600


def has(workload: str, store: str) -> bool:
    """Tell whether a workload is measured on a store: W0 is about the package, the others about both."""
    return workload != "W0" or store == "sqlite"


def run(workload: str, store: str, *, quick: bool) -> bool:
    """Run one workload; its line goes to stdout. Returns whether it did everything right."""
    limit = MILLION_LIMIT if workload == MILLION else LIMIT
    command = [sys.executable, str(HERE / f"{workload.lower()}.py"), "--store", store, *(["--quick"] if quick else [])]
    try:
        process = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        print(json.dumps(failed(workload, store, f"not_done_in_{limit}_s")))
        return False
    sys.stdout.write(process.stdout or json.dumps(failed(workload, store, "died")) + "\n")
    sys.stdout.flush()
    return process.returncode == 0


def failed(workload: str, store: str, why: str) -> dict[str, object]:
    return {"workload": workload, "store": store, "correct": False, "wrong": [why]}


def main() -> int:
    parser = argparse.ArgumentParser(description="Longcase's workloads; bench/README.md says what each measures.")
    parser.add_argument(
        "workloads", nargs="*", metavar="W", help=f"of {', '.join(WORKLOADS)} and {FLEET}; all of them if none is named"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything works")
    parser.add_argument("--store", choices=(*STORES, "both"), default="sqlite", help="sqlite if not named")
    parser.add_argument("--million", action="store_true", help="one million parked cases, and nothing else")
    options = parser.parse_args()
    unknown = [name for name in options.workloads if name not in (*WORKLOADS, FLEET)]
    if unknown:
        parser.error(f"there is no workload {', '.join(unknown)}; there are {', '.join((*WORKLOADS, FLEET))}")
    stores = STORES if options.store == "both" else (options.store,)
    names = [MILLION] if options.million else options.workloads or (*WORKLOADS, FLEET)
    results = [run(name, store, quick=options.quick) for name in names for store in stores if has(name, store)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
