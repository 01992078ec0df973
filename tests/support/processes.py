"""Real processes for tests: a snippet of Python in a process of its own, spoken to line by line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PRELUDE = """
import asyncio, os, sys
from longcase.env import Env
from longcase.store.records import CaseRef
from longcase.store.sqlite import open_sqlite
from tests.support.cases import *

def say(*words):
    print(*words, flush=True)

"""


@contextmanager
def process(body: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the body of an `async def main(path, ...)` in a process; it is killed at the end if it still runs.

    `path` may be a store's URL; the body finds it as `url` in any case.
    """
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    names = ", ".join(["path", *(f"arg{i}" for i in range(1, len(arguments)))])
    url = '    url = path if "://" in path else f"sqlite:///{path}"'
    code = f"{PRELUDE}\nasync def main({names}):\n{url}\n{lines}\n\nasyncio.run(main(*sys.argv[1:]))\n"
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def line(child: subprocess.Popen[str]) -> str:
    """Return the next line a process says, "" when it has ended."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


def tell(child: subprocess.Popen[str], text: str = "go") -> None:
    """Say a line to a process."""
    assert child.stdin is not None
    child.stdin.write(f"{text}\n")
    child.stdin.flush()
