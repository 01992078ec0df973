"""Run the workloads, each in a process of its own, and print one line of JSON for each: `make bench`.

    python bench/run.py                all of them
    python bench/run.py W1 W3          some
    python bench/run.py --quick        small sizes, to see that everything works

Nothing is asserted on time. Exit status 1 if a workload did something wrong, or did not end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
WORKLOADS = ("W0", "W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8")
LIMIT = 900  # seconds a workload may take


def run(workload: str, *, quick: bool) -> bool:
    """Run one workload; its line goes to stdout. Returns whether it did everything right."""
    command = [sys.executable, str(HERE / f"{workload.lower()}.py"), *(["--quick"] if quick else [])]
    try:
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        print(
            json.dumps({"workload": workload, "store": "sqlite", "correct": False, "wrong": [f"not_done_in_{LIMIT}_s"]})
        )
        return False
    sys.stdout.write(
        process.stdout
        or json.dumps({"workload": workload, "store": "sqlite", "correct": False, "wrong": ["died"]}) + "\n"
    )
    sys.stdout.flush()
    return process.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Longcase's workloads; bench/README.md says what each measures.")
    parser.add_argument(
        "workloads", nargs="*", metavar="W", help=f"of {', '.join(WORKLOADS)}; all of them if none is named"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything works")
    options = parser.parse_args()
    unknown = [name for name in options.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"there is no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    results = [run(name, quick=options.quick) for name in options.workloads or WORKLOADS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
