"""Waiting for something that can be seen, with a bound, never for time; and stopping where that means something."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import apsw
from tests.support.postgres import run_sql

BOUND = 90.0  # seconds until a test says that what it waits for did not come


def until(seen: Callable[[], object], what: str, bound: float = BOUND) -> float:
    """Wait until something can be seen; returns the seconds it took."""
    began = time.monotonic()
    while not seen():
        assert time.monotonic() - began < bound, f"{what}: not within {bound:g} s"
        time.sleep(0.005)
    return time.monotonic() - began


def is_stopped(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> bool:
    """Tell whether SIGSTOP has reached a process."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def can_write(path: Path) -> bool:
    """Tell whether a SQLite file can be written to: a process stopped in its commit keeps the lock until it goes on."""
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(1_000)  # a commit of those who live is over by then
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except apsw.BusyError:
        return False
    finally:
        connection.close()
    return True


def stop_outside_its_commits(process: subprocess.Popen[bytes] | subprocess.Popen[str], path: Path) -> bool:
    """Stop a process where others can still write to its SQLite file; False if it has ended.

    A stop that caught it in a commit is taken back and tried again: with the lock held nobody can go on,
    which is SQLite's nature, has a test of its own (F3), and would prove nothing here.
    """
    for _ in range(100):
        if process.poll() is not None:
            return False
        process.send_signal(signal.SIGSTOP)
        until(lambda: process.poll() is not None or is_stopped(process), "the process stops")
        if process.poll() is not None:
            return False
        if can_write(path):
            return True
        process.send_signal(signal.SIGCONT)
    raise AssertionError("the process was in a commit at each of 100 stops")


_OPEN_SINCE = """
SELECT count(*) AS n FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start <= $${}$$::timestamptz
"""


def stop_outside_its_transactions(process: subprocess.Popen[bytes], url: str) -> None:
    """Stop a process where it keeps no transaction open on the PostgreSQL server.

    One that it keeps holds its row in `workers`, so that nobody declares it dead. Between Parse and Bind the server
    does not even end it after idle_in_transaction_session_timeout.
    """
    for _ in range(100):
        process.send_signal(signal.SIGSTOP)
        until(lambda: is_stopped(process), "the process stops")
        at = run_sql(url, "SELECT clock_timestamp()::text AS at")[0]["at"]
        end = time.monotonic() + 2.0
        while run_sql(url, _OPEN_SINCE.format(at))[0]["n"]:
            if time.monotonic() > end:
                break
        else:
            return
        process.send_signal(signal.SIGCONT)
    raise AssertionError("the process was in a transaction at each of 100 stops")
