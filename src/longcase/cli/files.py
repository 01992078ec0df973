"""Files that a command is given: read within a bound, and what is wrong with one, with the mend."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from longcase.errors import FileMissing, RefusedError, UsageError
from longcase.nearest import nearest


class FileRefused(RefusedError):
    """The file may not be read or written by this user."""

    code = "file_refused"


def read_bytes(path: str, limit: int) -> bytes:
    """Return the bytes of a file, or of stdin for "-"; one more than `limit` at most."""
    if path == "-":
        if sys.stdin is None or sys.stdin.closed:
            raise UsageError("there is no standard input to read", hint="name a file, or give the JSON itself")
        return sys.stdin.buffer.read(limit + 1)
    with named(path, "read"), open(path, "rb") as file:
        return file.read(limit + 1)


@contextmanager
def named(path: str, done: Literal["read", "written"]) -> Iterator[None]:
    """Turn what the machine says of a file into our errors, while it is being read or written."""
    try:
        yield
    except FileNotFoundError:
        if done == "read":
            raise FileMissing(f"there is no file {path}", hint=near_file(path)) from None
        raise FileMissing(
            f"there is no folder {Path(path).parent}", hint=_typed("mkdir -p", Path(path).parent)
        ) from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory, expected a file", hint=_typed("ls", path)) from None
    except PermissionError:
        raise FileRefused(f"{path} may not be {done} by this user", hint=_typed("ls -ld", path)) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be {done}: {why}", hint=_typed("ls -l", path)) from None


def near_file(path: str, suffix: str = "") -> str:
    """Return the hint for a file that is not there: the one whose name is nearest, else where to look.

    Args:
        suffix: only files that end so are offered.
    """
    folder = Path(path).parent
    try:
        beside = [entry.name for entry in folder.iterdir() if entry.name.endswith(suffix) and entry.is_file()]
    except (OSError, ValueError):
        return f"its folder is not there either; you are in {Path.cwd()}"
    close = nearest(Path(path).name, beside)
    return f"did you mean {folder / close[0]}?" if close else _typed("ls", folder)


def _typed(command: str, path: str | Path) -> str:
    return f"{command} {shlex.quote(str(path))}"
