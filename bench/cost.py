"""What a step costs on PostgreSQL, and what a parked case: the figures that scale.py goes on from.

    python bench/cost.py [--quick] > cost.json

Three loads, each on a fresh store: `bulk` (5-step cases, all started together: large commits), `lone` (one case
after another: a commit for each turn) and `parked` (cases that wait for a signal). Counted by the server
itself: rows, statements (a round trip each), commits, bytes of write-ahead log, table and index bytes;
CPU of the worker's process (getrusage) and of all the server's processes (/proc).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from flows import Order, parked, steps
from inside import Watch, cpu_s, start_all, until
from server import Postgres, postgres

from longcase import Longcase

STEPS = 5
FLUSH_S = 11  # a server's process that has come to rest reports its last counts after ten seconds
COUNTERS = """
SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS wal_bytes,
       (SELECT wal_fpi FROM pg_stat_wal) AS full_pages,
       (SELECT coalesce(sum(fsyncs), 0) FROM pg_stat_io WHERE object = 'wal')::bigint AS wal_flushes,
       (SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE dbid = d.datid AND wal_records > 0)::bigint
           AS commits, -- a statement that writes is a transaction of its own
       d.tup_inserted + d.tup_updated + d.tup_deleted AS rows,
       pg_database_size(d.datid) AS disk_bytes,
       (SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE dbid = d.datid)::bigint AS statements,
       (SELECT coalesce(sum(total_exec_time + total_plan_time), 0) FROM pg_stat_statements WHERE dbid = d.datid)
           AS statement_ms
FROM pg_stat_database d WHERE d.datname = '{name}'
"""
Line = dict[str, Any]


async def bulk(longcase: Longcase, count: int) -> tuple[int, bool]:
    watch = Watch(longcase)
    await start_all(longcase, steps, [Order(id=f"bulk-{number}", size=STEPS) for number in range(count)])
    await watch.closes(count)
    return count * STEPS, True


async def lone(longcase: Longcase, count: int) -> tuple[int, bool]:
    watch = Watch(longcase)
    for number in range(count):
        receipt = await longcase.service.start(steps, Order(id=f"lone-{number}", size=STEPS))
        await watch.close_of(receipt.case_no)
    return count * STEPS, True


async def park(longcase: Longcase, count: int) -> tuple[int, bool]:
    await start_all(longcase, parked, [Order(id=f"parked-{number}") for number in range(count)])
    return count, await until(longcase, "wait_kind = 'signal'", count)


LOADS: dict[str, tuple[Callable[[Longcase, int], Awaitable[tuple[int, bool]]], int, int]] = {
    "bulk": (bulk, 3_000, 200),
    "lone": (lone, 200, 20),
    "parked": (park, 10_000, 500),
}


async def measured(server: Postgres, name: str, *, quick: bool) -> Line:
    """Run one load on a fresh store; returns what one unit (a step, or a parked case) cost."""
    load, many, few = LOADS[name]
    database = f"cost_{name}"
    async with Longcase([steps, parked], url=server.database(database)) as longcase, longcase.working():
        await start_all(longcase, steps, [Order(id="warm", size=STEPS)])
        await until(longcase, "status = 'closed'", 1)
        await asyncio.sleep(FLUSH_S)
        before = _counters(server, database)
        cpu, server_cpu, begin = cpu_s(), server.cpu_s(), time.perf_counter()
        units, right = await load(longcase, few if quick else many)
        took = time.perf_counter() - begin
        cpu, server_cpu = cpu_s() - cpu, server.cpu_s() - server_cpu
        await asyncio.sleep(FLUSH_S)
        used = {key: float(value) - float(before[key]) for key, value in _counters(server, database).items()}
    assert right, f"{name}: not every case went its way"
    return {
        "units": units,
        "units_per_s": round(units / took, 1),
        "units_per_commit": round(units / used["commits"], 2),
        "worker_cpu_us": round(cpu / units * 1e6, 1),
        "server_cpu_us": round(server_cpu / units * 1e6, 1),
        "rows": round(used["rows"] / units, 3),
        "statements": round(used["statements"] / units, 3),
        "statement_us": round(used["statement_ms"] / units * 1e3, 1),
        "wal_flushes": round(used["wal_flushes"] / units, 4),
        "wal_bytes": round(used["wal_bytes"] / units),
        "full_pages": round(used["full_pages"] / units, 4),
        "disk_bytes": round(used["disk_bytes"] / units),
    }


def _counters(server: Postgres, database: str) -> Line:
    return dict(server.ask("postgres", COUNTERS.format(name=database))[0])


def main() -> None:
    quick = "--quick" in sys.argv
    load = round(os.getloadavg()[0], 2)
    with postgres() as server:
        server.ask("postgres", "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        flush_ms = _flush_ms(server)
        found = {name: asyncio.run(measured(server, name, quick=quick)) for name in LOADS}
    said = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "load": load, "flush_ms": flush_ms}
    print(json.dumps({"workload": "cost", "store": "postgres", **said, **found}, indent=2))


def _flush_ms(server: Postgres) -> float:
    """Return the time of one flush of the server's disk."""
    from machine import limits

    return round(limits(server.data.parent).fdatasync_ms, 3)


if __name__ == "__main__":
    main()
