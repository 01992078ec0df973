"""What the machine says of the disk a store lies on: the kind of file system, and its room."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

# Their locks or their fsync do not do what SQLite needs.
NETWORK: Final = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "ceph", "glusterfs", "fuse.glusterfs",
        "fuse.sshfs", "lustre", "beegfs",
    }
)  # fmt: skip


def kind_of(path: str, mounts: str = "/proc/mounts") -> str:
    """Return the type of the file system a path lies on, "" where the system does not tell."""
    real = os.path.realpath(path)
    best, kind = "", ""
    with suppress(OSError), open(mounts, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            parts = line.split(" ")
            if len(parts) < 3:
                continue
            point = parts[1].encode().decode("unicode_escape")  # a space in it is written \040
            inside = point == "/" or real == point or real.startswith(point + "/")
            if inside and len(point) >= len(best):
                best, kind = point, parts[2]
    return kind


def network_kind(path: str, mounts: str = "/proc/mounts") -> str:
    """Return the file system's type if it is a network share, else ""."""
    kind = kind_of(path, mounts)
    return kind if kind in NETWORK else ""


def free_share(path: str) -> tuple[float, int]:
    """Return the share of the disk that is free for this user, and the bytes."""
    info = os.statvfs(os.path.dirname(os.path.abspath(path)))
    return (info.f_bavail / info.f_blocks if info.f_blocks else 1.0), info.f_bavail * info.f_frsize
