"""The machine's own limit, so that every figure of a workload can be read as a ratio.

Three loops without Longcase on the disk that the workload uses: fdatasync, one-row commits, and rows in
commits of a batch. On SQLite the connection is opened by the store's own function: same pragmas, same
library; on PostgreSQL through the same driver, a batch as one statement over arrays.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from longcase.store.sqlite.connection import connect

SYNCS = 300
COMMITS = 500
ROWS = 20_000
BATCH = 128  # rows of a commit: what a full batch of the worker writes, two events for each of 64 cases
PAYLOAD = "x" * 300  # about an event


class Limits(NamedTuple):
    """What the disk and SQLite do with nothing above them."""

    fdatasync_ms: float
    commits_per_s: float
    rows_per_s: float

    @property
    def commit_ms(self) -> float:
        return 1_000 / self.commits_per_s

    def line(self) -> dict[str, float]:
        return {
            "fdatasync_ms": round(self.fdatasync_ms, 3),
            "commits_per_s": round(self.commits_per_s),
            "rows_per_s": round(self.rows_per_s),
        }


def limits(folder: Path) -> Limits:
    """Measure the limits in `folder`; takes under a second on a quiet machine."""
    return Limits(_fdatasync(folder / "sync"), *_sqlite(folder / "raw.db"))


def postgres_limits(folder: Path, url: str) -> Limits:
    """Measure the limits of a PostgreSQL server whose disk is that of `folder`."""
    return Limits(_fdatasync(folder / "sync"), *asyncio.run(_postgres(url)))


async def _postgres(url: str) -> tuple[float, float]:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE raw (case_no bigint, seq int, data text, PRIMARY KEY (case_no, seq))")
        begin = time.perf_counter()
        for number in range(COMMITS):
            await connection.execute("INSERT INTO raw VALUES ($1, 0, $2)", number, PAYLOAD)
        commits = COMMITS / (time.perf_counter() - begin)
        begin = time.perf_counter()
        batch = "INSERT INTO raw SELECT no, 1, data FROM unnest($1::bigint[], $2::text[]) AS new (no, data)"
        for first in range(0, ROWS, BATCH):
            await connection.execute(batch, list(range(first, first + BATCH)), [PAYLOAD] * BATCH)
        rows = ROWS / (time.perf_counter() - begin)
    finally:
        await connection.close()
    return commits, rows


def _fdatasync(path: Path) -> float:
    took = []
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for _ in range(SYNCS):
            os.write(descriptor, b"x" * 4_096)
            begin = time.perf_counter()
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - begin)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(took) * 1_000


def _sqlite(path: Path) -> tuple[float, float]:
    connection = connect(str(path), create=True)
    insert = "INSERT INTO history (case_no, seq, data) VALUES (?, ?, ?)"
    try:
        connection.execute(
            "CREATE TABLE history (no INTEGER PRIMARY KEY, case_no INTEGER, seq INTEGER, data TEXT, "
            "UNIQUE (case_no, seq))"
        )
        begin = time.perf_counter()
        for number in range(COMMITS):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(insert, (number, 0, PAYLOAD))
            connection.execute("COMMIT")
        commits = COMMITS / (time.perf_counter() - begin)
        begin = time.perf_counter()
        for first in range(0, ROWS, BATCH):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, [(number, 1, PAYLOAD) for number in range(first, first + BATCH)])
            connection.execute("COMMIT")
        rows = ROWS / (time.perf_counter() - begin)
    finally:
        connection.close()
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
    return commits, rows
