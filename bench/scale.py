"""What larger machines would do, by simulation: a closed queueing network fed with the measured cost of a step.

    python bench/cost.py > cost.json
    python bench/scale.py cost.json            tables in Markdown
    python bench/scale.py cost.json --quote    also into docs/explanation/scale.md, which quotes them

The model. A worker is one Python process: it computes a batch of turns on its one core (first come, first
served), sends it to the server, and goes on with the next batch while the commit is on its way, DEPTH batches at
once. A batch needs a network round trip for each statement, one of the server's cores for its statements, and a
flush of the write-ahead log, which serves all who wait for it; then it returns. A batch's cost is a fixed
part and a part for each step, both solved from two measured loads (`bulk` and `lone`), in which batches differ.

What it leaves out: lock waits and contention inside the server (taken up by EFFICIENCY), checkpoints, vacuum,
skew between shards, a network that is full, and activities that do anything.
"""

from __future__ import annotations

import heapq
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from quoting import quote

DEPTH = 2  # batches a worker has on their way at once
SIMULATED_S = 20.0
WARM_S = 4.0
WAL_BYTES_PER_S = 400e6  # what a good disk writes in sequence
EFFICIENCY = 0.6  # of the server's cores that many backends can use before locks and memory hold them up


class Cost(NamedTuple):
    """What a batch costs: so much each, and so much for each step in it. Microseconds and bytes."""

    worker_fixed: float
    worker_step: float
    server_fixed: float
    server_step: float
    statements: float  # of a batch, each a round trip
    wal_step: float

    def worker_s(self, batch: int) -> float:
        return (self.worker_fixed + self.worker_step * batch) / 1e6

    def server_s(self, batch: int) -> float:
        return (self.server_fixed + self.server_step * batch) / 1e6


class Site(NamedTuple):
    """A machine room: workers, one server (or one of equal shards), the disk and the network between."""

    name: str
    workers: int
    cores: int
    flush_s: float
    round_trip_s: float
    batch: int = 64
    shards: int = 1
    extra: float = 1.0  # times the server's work, for a database that replicates each write by consensus


class Result(NamedTuple):
    steps_per_s: float
    use: dict[str, float]  # by resource, the share of the time it was busy

    @property
    def bottleneck(self) -> str:
        name = max(self.use, key=lambda resource: self.use[resource])
        return name if self.use[name] > 0.8 else "waiting (round trips and flushes)"


def solved(costs: dict[str, Any]) -> Cost:
    """Solve the fixed and the per-step part of a cost from two loads with different batches."""
    bulk, lone = costs["bulk"], costs["lone"]

    def parts(name: str) -> tuple[float, float]:
        large, small = bulk["units_per_commit"], lone["units_per_commit"]
        fixed = (lone[name] - bulk[name]) / (1 / small - 1 / large)
        fixed = max(fixed, 0.0)
        return fixed, max(bulk[name] - fixed / large, 0.0)

    worker, server = parts("worker_cpu_us"), parts("server_cpu_us")
    statements = bulk["statements"] * bulk["units_per_commit"]
    return Cost(*worker, *server, statements, bulk["wal_bytes"])


class Queue:
    """Servers of one kind; whoever comes takes the one that is free first."""

    def __init__(self, servers: int) -> None:
        self._free = [0.0] * servers
        self.busy = 0.0

    def serve(self, now: float, work: float) -> float:
        """Return when work that comes now is done."""
        start = max(now, heapq.heappop(self._free))
        heapq.heappush(self._free, start + work)
        if now > WARM_S:
            self.busy += work
        return start + work


class Log:
    """The write-ahead log: bytes in sequence, then one flush at a time that takes along all who came before it."""

    def __init__(self, flush_s: float) -> None:
        self.bytes = Queue(1)
        self._flush_s = flush_s
        self._ends = (0.0, 0.0)  # of the flush under way, and of the one that follows it

    def flush(self, now: float, size: float) -> float:
        """Return when `size` bytes that come now are safe."""
        now = self.bytes.serve(now, size / WAL_BYTES_PER_S)
        under_way, following = self._ends
        if now >= following:
            self._ends = (now + self._flush_s, now + self._flush_s)
        elif now >= under_way:
            self._ends = (following, following + self._flush_s)
        return self._ends[1]


def simulate(site: Site, cost: Cost) -> Result:
    """Run the network of one shard for SIMULATED_S seconds of its own time."""
    shards = site.shards
    workers = max(1, site.workers // shards)
    own = [Queue(1) for _ in range(workers)]
    server = Queue(max(1, round(site.cores * (EFFICIENCY if site.cores > 1 else 1))))
    log = Log(site.flush_s)
    # Stages of a batch: 0 at the worker, 1 at the server, 2 at the log, 3 back.
    events = [(0.0, number, 0, number % workers) for number in range(workers * DEPTH)]
    heapq.heapify(events)
    serial, done = len(events), 0
    travel = cost.statements * site.round_trip_s
    while events:
        now, _, stage, worker = heapq.heappop(events)
        if now > WARM_S + SIMULATED_S:
            break
        if stage == 0:
            at = own[worker].serve(now, cost.worker_s(site.batch)) + travel
        elif stage == 1:
            at = server.serve(now, cost.server_s(site.batch) * site.extra)
        elif stage == 2:
            at = log.flush(now, cost.wal_step * site.batch)  # copies go to the disks of as many nodes
        else:
            at = now
            done += site.batch if now > WARM_S else 0
        serial += 1
        heapq.heappush(events, (at, serial, (stage + 1) % 4, worker))
    span = SIMULATED_S
    busy = {
        "workers' CPU": sum(queue.busy for queue in own) / workers / span,
        "server's CPU": server.busy / len(server._free) / span,
        "log's bytes": log.bytes.busy / span,
    }
    return Result(done / span * shards, {name: min(share, 1.0) for name, share in busy.items()})


SITES = (
    Site("this machine: 2 cores, 1 worker", 1, 1, 0.0003, 0.00005),
    Site("32-core PostgreSQL, 5 workers", 5, 32, 0.0003, 0.0003),
    Site("32-core PostgreSQL, 20 workers", 20, 32, 0.0003, 0.0003),
    Site("32-core PostgreSQL, 60 workers", 60, 32, 0.0003, 0.0003),
    Site("the same, its disk in a network (flush 2 ms)", 20, 32, 0.002, 0.0003),
    Site("4 shards of 32 cores, 80 workers", 80, 32, 0.0003, 0.0003, shards=4),
    Site("16 shards of 32 cores, 320 workers", 320, 32, 0.0003, 0.0003, shards=16),
    Site("distributed, 9 nodes of 16 cores, 60 workers", 60, 48, 0.004, 0.0005, shards=3, extra=3.0),
)


def speeds(cost: Cost, batch: int) -> str:
    """Return the table of what each site would do."""
    rows = [
        "| site | steps/s | workers' CPU | server's CPU | log's bytes | held up by |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for site in SITES:
        found = simulate(site._replace(batch=batch), cost)
        shares = " | ".join(f"{share:.0%}" for share in found.use.values())
        rows.append(f"| {site.name} | {found.steps_per_s:,.0f} | {shares} | {found.bottleneck} |")
    return "\n".join(rows)


PARKING = SITES[2]
PARKED = (100_000, 1_000_000, 10_000_000, 100_000_000)
MEMORY_BYTES = 256e9  # of a 32-core server
RANDOM_READS_PER_S = 200_000  # of a good NVMe disk
PAGES_PER_WAKE = 8  # of cold pages: index leaves and heap, of the case, its waits and its last events


def parked(costs: dict[str, Any], cost: Cost) -> str:
    """Return the table of what many parked cases need on one server."""
    each = costs["parked"]
    park = cost._replace(
        worker_fixed=0, worker_step=each["worker_cpu_us"], server_fixed=0, server_step=each["server_cpu_us"],
        wal_step=each["wal_bytes"],
    )  # fmt: skip
    starts = simulate(PARKING, park).steps_per_s
    rows = [
        "| parked cases | on disk | of it in 256 GB of memory | all started in | 1 % of them wake within an hour |",
        "|---:|---:|---:|---:|---|",
    ]
    for number in PARKED:
        size = number * each["disk_bytes"]
        cached = min(1.0, MEMORY_BYTES / size)
        wakes = number / 100 / 3_600
        reads = wakes * PAGES_PER_WAKE * (1 - cached)
        load = (
            f"{wakes:,.1f}/s: {wakes / starts:.2%} of what it can, {reads / RANDOM_READS_PER_S:.2%} of the disk's reads"
        )
        rows.append(f"| {number:,} | {size / 1e9:,.1f} GB | {cached:.0%} | {_span(number / starts)} | {load} |")
    return "\n".join(rows)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


MEASURED = (
    ("units_per_s", "a second, on this machine"),
    ("units_per_commit", "of them in a commit"),
    ("rows", "rows written"),
    ("statements", "statements: round trips"),
    ("wal_flushes", "flushes of the write-ahead log"),
    ("wal_bytes", "bytes of write-ahead log"),
    ("disk_bytes", "bytes of tables and indexes"),
    ("worker_cpu_us", "CPU of the worker, µs"),
    ("server_cpu_us", "CPU of the server, µs"),
)


def measured(costs: dict[str, Any]) -> str:
    """Return the table of what was measured, each figure for one step or one parked case."""
    rows = ["| each | a step, many together | a step, one case at a time | a case parked |", "|---|---:|---:|---:|"]
    for name, title in MEASURED:
        cells = " | ".join(f"{costs[load][name]:,}" for load in ("bulk", "lone", "parked"))
        rows.append(f"| {title} | {cells} |")
    return "\n".join(rows)


def main() -> None:
    costs = json.loads(Path(sys.argv[1]).read_text())
    cost = solved(costs)
    batch = ", ".join(f"{name.replace('_', ' ')} {value:,.1f}" for name, value in cost._asdict().items())
    when = f"{costs['date']}, load {costs['load']} before, one flush of the disk {costs['flush_ms']} ms."
    said = {
        "cost": f"{when}\n\n{measured(costs)}\n\nSolved for a batch (µs, bytes): {batch}.",
        "speeds": speeds(cost, max(1, round(costs["bulk"]["units_per_commit"]))),
        "parked": parked(costs, cost),
    }
    for name, text in said.items():
        print(text + "\n")
        if "--quote" in sys.argv:
            quote("scale.md", name, text)


if __name__ == "__main__":
    main()
