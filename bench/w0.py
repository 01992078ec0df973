"""W0: what it takes to be there: install size, import, a script's spawn to its first case done, the CLI."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from harness import Line, Place, main, p50, wrong

import longcase

SCRIPT = """
import asyncio, sys
from pathlib import Path
from pydantic import BaseModel
from longcase import Case, Longcase, Next, Team, Workflow, activity, days

desk = Team("desk")

class Order(BaseModel):
    id: str

@activity(owner=desk)
async def greet(name: str) -> str:
    return f"hello {name}"

hello = Workflow("hello", object=Order, key="id", owner=desk, expect=days(1))

@hello.stage
async def say(case: Case[Order]) -> Next:
    await greet(case.object.id)
    return hello.close("done")

async def main():
    async with Longcase([hello], url=sys.argv[1]) as longcase, longcase.working():
        await longcase.service.start(hello, Order(id="world"))
        while (await longcase.service.show("hello/world")).state.status == "open":
            await asyncio.sleep(0.001)
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                print("done", line.split()[1], flush=True)

asyncio.run(main())
"""
CLI = "import sys; from longcase.cli.main import main; sys.argv = ['longcase', '--help']; main()"
IMPORT = "import time; begin = time.perf_counter(); import longcase; print(time.perf_counter() - begin)"


async def measure(place: Place, quick: bool) -> Line:
    rounds = 2 if quick else 7
    script = place.folder / "hello.py"
    script.write_text(SCRIPT)
    spawned, resident = [], []
    for number in range(rounds + 1):
        took, kilobytes = _first_case([sys.executable, str(script), place.url(f"hello-{number}")])
        spawned.append(took)
        resident.append(kilobytes / 1_024)
    bare = [_took([sys.executable, "-c", "pass"]) for _ in range(rounds)]
    imports = [float(_output([sys.executable, "-c", IMPORT])) for _ in range(rounds)]
    size, packages = install_size()
    cli = [_took([sys.executable, "-c", CLI]) for _ in range(rounds)] if has_cli() else []
    # The first round compiled what the package's files had not been compiled for yet.
    return {
        "first_case_done_s": round(p50(spawned[1:]), 3),
        "rss_mb": round(p50(resident[1:]), 1),
        "import_s": round(p50(imports), 3),
        "cli_help_s": round(p50(cli), 3) if all(cli) and cli else None,
        "bare_python_s": round(p50(bare), 3),
        "install_mb": round(size / 1e6, 1),
        "packages": packages,
        "wrong": wrong(first_case_done=all(kilobytes > 0 for kilobytes in resident), cli_starts=all(cli)),
    }


def has_cli() -> bool:
    return importlib.util.find_spec("longcase.cli.main") is not None


def _first_case(command: list[str]) -> tuple[float, int]:
    """Return seconds from spawn to the line that says the case is done, and the resident kilobytes then."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        return time.perf_counter() - begin, int(words[1]) if words[:1] == ["done"] else 0


def _took(command: list[str]) -> float:
    """Return the seconds a command takes, 0 if it fails."""
    begin = time.perf_counter()
    ended = subprocess.run(command, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin if ended.returncode == 0 else 0.0


def _output(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def install_size() -> tuple[int, int]:
    """Return the bytes and the number of packages that `pip install longcase` brings, longcase included."""
    source = Path(longcase.__file__).parent
    size = sum(file.stat().st_size for file in source.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    project: dict[str, Any] = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    todo = list(project["dependencies"])
    found: set[str] = set()
    while todo:
        name = _name(todo.pop())
        if name in found:
            continue
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        found.add(name)
        todo += [needed for needed in package.requires or () if "extra ==" not in needed]
        size += sum(
            file.stat().st_size
            for file in (Path(str(package.locate_file(entry))) for entry in package.files or ())
            if file.is_file() and file.suffix != ".pyc"
        )
    return size, 1 + len(found)


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


if __name__ == "__main__":
    main("W0", measure)
