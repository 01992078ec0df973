"""Files that are there wholly or not at all, also after a power cut."""

from __future__ import annotations

import os


def sync_file(path: str) -> None:
    """Force a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_durably(source: str, target: str) -> None:
    """Put a synced file in its place: it is there wholly or not at all, also after a power cut."""
    os.replace(source, target)
    sync_file(os.path.dirname(os.path.abspath(target)))
