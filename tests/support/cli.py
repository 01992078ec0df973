"""A command line to type at: in this process for most tests, as a real process where that matters."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from longcase import errors
from longcase.app import Longcase
from longcase.cli.main import run_command
from longcase.testing import Simulation

SOURCE = str(Path(errors.__file__).parents[1])  # also where the package is not installed
CLAIMS = Path(__file__).parents[1] / "surface" / "claims.py"


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The answer as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The answer as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        """The error as JSON, the only thing on stderr."""
        return json.loads(self.err)


class Cli:
    """Types commands against one store: a SQLite file in its folder, unless a URL is given."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str = ""
    ) -> None:
        self.folder = folder
        self.db = folder / "cases.db"
        self.url = url or f"sqlite:///{self.db}"
        self._patch = monkeypatch
        self._capsys = capsys
        self.environment = {
            "LONGCASE_DATABASE_URL": self.url,
            "LONGCASE_APP": str(CLAIMS),
            "LONGCASE_ACTOR": "ann",
        }
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("LONGCASE_DEBUG", raising=False)
        monkeypatch.chdir(folder)

    def __call__(self, *words: str, stdin: bytes | None = None) -> Result:
        """Run one command in this process."""
        self._capsys.readouterr()
        if stdin is not None:
            self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = run_command(list(words))
        captured = self._capsys.readouterr()
        return Result(status, captured.out, captured.err)

    def ok(self, *words: str, stdin: bytes | None = None) -> Result:
        """Run a command that must succeed in silence on stderr."""
        result = self(*words, stdin=stdin)
        assert (result.status, result.err) == (0, ""), result
        return result

    def refused(self, status: int, *words: str, stdin: bytes | None = None) -> Result:
        """Run a command that must end with that status, with one JSON error and no traceback."""
        result = self(*words, "--json", stdin=stdin)
        assert result.status == status, result
        assert result.error["exit"] == status
        assert "Traceback" not in result.err
        return result

    def process(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        environment = {**os.environ, "PYTHONPATH": SOURCE, "PYTHONUNBUFFERED": "1", **options.pop("env", {})}
        return subprocess.Popen(
            [sys.executable, "-m", "longcase", *words], cwd=self.folder, env=environment, text=True, **options
        )

    def end(self, process: subprocess.Popen[str]) -> Result:
        """Wait for the end of a process; what it wrote since the last line that was read."""
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout as out, process.stderr as err:  # not communicate(): it forgets what readline has buffered
            written = out.read(), err.read()
        return Result(process.wait(60), *written)

    def spawn(self, *words: str, **options: Any) -> Result:
        """Run a command as a process of its own, to its end."""
        process = self.process(*words, **options)
        out, err = process.communicate(timeout=60)
        return Result(process.returncode, out or "", err or "")

    @contextmanager
    def worker(self, *words: str, command: str = "worker") -> Iterator[subprocess.Popen[str]]:
        """Run a worker that has joined the store; on leaving, ask it to stop as an operator does."""
        process = self.process(command, *words)
        try:
            assert process.stdout is not None
            hello = process.stdout.readline()
            assert hello.startswith("worker "), (hello, self.end(process))
            yield process
            process.terminate()
            ended = self.end(process)
            assert (ended.status, ended.err) == (0, ""), ended
            assert "has stopped" in ended.out
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def until(self, case: str, wanted: Callable[[Any], bool]) -> Any:
        """Look at a case until it is as wanted; a bound, not a sleep, ends a hopeless wait."""
        deadline = time.monotonic() + 90
        while True:
            shown = self.ok("show", case, "--json").json
            if wanted(shown):
                return shown
            assert time.monotonic() < deadline, shown


def freeze(cli: Cli, sim: Simulation) -> None:
    """Let the store's shared clock stand at the simulation's instant."""

    async def standing() -> None:
        longcase = Longcase(url=cli.url, env=sim.env)
        async with longcase:
            await longcase.scale_clock(1e-9)

    clock = sim.env.clock
    asyncio.run(standing())
    sim.env.clock = clock
