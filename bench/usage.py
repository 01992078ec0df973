"""What measured processes are given, and what they use: CPU of a whole tree of processes, memory, bytes on disk."""

from __future__ import annotations

import gc
import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
SERVER = "LONGCASE_BENCH_SERVER"  # process id of a database server that somebody else started


def environment() -> dict[str, str]:
    """Return the environment for a measured process: Python keeps its bytecode there, as an installed package has it.

    Under PYTHONDONTWRITEBYTECODE every start would compile all sources anew, which no user's installation does.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def cpu_s() -> float:
    """Return the CPU seconds of this process, all processes below it and those of the database server."""
    return tree_cpu_s(os.getpid(), *([int(os.environ[SERVER])] if os.environ.get(SERVER) else []))


def tree_cpu_s(*roots: int) -> float:
    """Return the CPU seconds of processes and of all below them, also of those that have ended."""
    stats = _stats()
    todo = list(roots)
    ticks = 0
    while todo:
        pid = todo.pop()
        if pid in stats:
            ticks += stats[pid][1]
            todo += [child for child, (parent, _) in stats.items() if parent == pid]
    return ticks / TICKS


def _stats() -> dict[int, tuple[int, int]]:
    """Return, by process, its parent and its ticks with those of its ended children."""
    found: dict[int, tuple[int, int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            found[int(entry)] = int(fields[1]), sum(int(ticks) for ticks in fields[11:15])
    return found


def rss_bytes() -> int:
    """Return the resident memory of this process, after a garbage collection."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1_024
    raise OSError("no VmRSS in /proc/self/status")


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Return the bytes that the files of a folder take on disk."""
    total = 0
    for path in folder.rglob(pattern):
        try:
            if path.is_file():
                total += path.stat().st_blocks * 512
        except OSError:
            continue  # it was removed meanwhile
    return total
