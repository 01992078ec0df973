"""A reader's terminal: types the commands of a page in a fresh folder and compares what they print.

A command that looks (`show`, `list`, `history`, ...) is repeated until it prints what the page says, within a bound:
a reader is slower than a worker, a test is not. Instants, ids and column widths are not compared.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

from tests.docs.pages import Block, merged

from longcase import errors

SOURCE = str(Path(errors.__file__).parents[1])  # also where the package is not installed
BOUND = 30.0
_LOOKS = ("longcase show", "longcase list", "longcase history", "longcase tasks", "longcase verify", "cat ")
_VARYING = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+Z)?)?"), "<when>"),
    (re.compile(r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun) <when>"), "<when>"),
    (re.compile(r" in \d+\.\d+s$"), " in <time>"),
    (re.compile(r"\((\d+ \w+ ?)+ago\)"), "(<ago>)"),
    (re.compile(r"^ *\d* *<when>"), "<when>"),  # the number of an event depends on how often something was tried
    (re.compile(r"\bperson:\S+ +case started"), "<somebody> case started"),
    (re.compile(r"^worker \d+ "), "worker <n> "),
    (re.compile(r" +"), " "),
)


class Terminal:
    """A shell in an empty folder. `longcase` and `pytest` are on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[subprocess.Popen[bytes]] = []
        programs = folder.parent / f"{folder.name}-bin"
        programs.mkdir()
        plugin = "" if entry_points(group="pytest11", name="longcase") else "-p longcase.testing.plugin "
        for program, module in (("longcase", "longcase"), ("pytest", f"pytest {plugin}-p no:cacheprovider")):
            shim = programs / program
            shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            shim.chmod(0o755)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LONGCASE_", "PYTEST_"))}
        self.environment = {
            **clean, "PATH": f"{programs}:{clean['PATH']}", "PYTHONPATH": SOURCE, "PYTHONUNBUFFERED": "1"
        }  # fmt: skip

    def write(self, file: str, pieces: list[str]) -> None:
        (self.folder / file).write_text(merged(pieces))

    def play(self, page: list[Block]) -> None:
        """Follow a page: write its files, type its commands, compare its outputs."""
        files: dict[str, list[str]] = {}
        last = ""
        for block in page:
            if block.language == "python" and block.file:
                files.setdefault(block.file, []).append(block.text)
                self.write(block.file, files[block.file])
            elif block.language == "sh":
                *before, last = commands(block.text)
                for command in before:
                    self.run(command)
                self.printed = self.run(last)
            elif block.language == "text":
                self.expect(last, block)

    def run(self, command: str) -> str:
        """Type one command; returns what it printed."""
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.environment[name] = value
            return ""
        if command.endswith("&"):
            self._background(command.removesuffix("&").strip())
            return ""
        if command.startswith("kill"):
            self._kill("-9" in command)
            return ""
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=BOUND,
        )
        assert "Traceback" not in ended.stderr, f"{command}\n{ended.stderr}"
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def expect(self, command: str, block: Block) -> None:
        """Compare what the last command printed with the page, looking again while that may help."""
        deadline = time.monotonic() + BOUND
        wanted = _comparable(block.text)
        while not contains(_comparable(self.printed), wanted):
            told = f"line {block.line}: {command}\n-- printed\n{self.printed}\n-- the page says\n{block.text}"
            assert command.startswith(_LOOKS), told
            assert time.monotonic() < deadline, told
            self.printed = self.run(command)

    def _background(self, command: str) -> None:
        log = self.folder / f".job-{len(self.jobs)}"
        with log.open("wb") as out:
            job = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment, stdout=out, stderr=out
            )
        self.jobs.append(job)
        deadline = time.monotonic() + BOUND
        while "worker " not in log.read_text():
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()

    def _kill(self, hard: bool) -> None:
        job = self.jobs[-1]
        assert job.poll() is None, "the job the page kills has ended by itself"
        (job.kill if hard else job.terminate)()
        job.wait(BOUND)

    def close(self) -> None:
        for job in self.jobs:
            job.kill()
            job.wait()


@contextmanager
def terminal(folder: Path) -> Iterator[Terminal]:
    """Yield a terminal; its background jobs end with the block."""
    opened = Terminal(folder)
    try:
        yield opened
    finally:
        opened.close()


def commands(text: str) -> list[str]:
    """Return the commands of a block: continued lines joined, comments dropped."""
    joined = text.replace("\\\n", " ")
    lines = [re.sub(r"\s{2,}# .*$", "", line).strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def contains(printed: list[str], wanted: list[str]) -> bool:
    """Tell whether the wanted lines stand in the printed ones, in that order; others may stand between."""
    rest = iter(printed)
    return all(any(line == other for other in rest) for line in wanted)


def _comparable(text: str) -> list[str]:
    lines = []
    for line in text.splitlines():
        for pattern, instead in _VARYING:
            line = pattern.sub(instead, line)
        if line.strip() and line.strip() != "...":
            lines.append(line.strip())
    return lines
