"""A fleet of real processes on PostgreSQL: a blocked loop loses its lease, SIGTERM drains."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import BOUND, until

from longcase import Longcase

ROOT = Path(__file__).parents[2]
PROGRAM = """
from __future__ import annotations
import asyncio, os, time
from pathlib import Path
from pydantic import BaseModel
from longcase import Case, Next, Retry, Team, Workflow, activity, attempt, days, seconds

desk = Team("desk")

class Job(BaseModel):
    id: str

@activity(owner=desk, timeout=seconds(1), retry=Retry(max_attempts=5, initial=seconds(0.01)))
async def compute(id: str) -> str:
    Path(f"began-{attempt().number}").write_text(str(os.getpid()))
    bound = time.monotonic() + 60
    while attempt().number == 1 and not Path("go").exists() and time.monotonic() < bound:
        pass  # without an await: the whole worker stands still
    return f"attempt {attempt().number}"

@activity(owner=desk, timeout=seconds(60))
async def fetch(id: str) -> str:
    Path(f"began-{attempt().number}").write_text(str(os.getpid()))
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return f"attempt {attempt().number}"

jobs = Workflow("jobs", object=Job, key="id", owner=desk, expect=days(1))

@jobs.stage(expect=days(1))
async def working(case: Case[Job]) -> Next:
    if case.key.startswith("fetch"):
        return jobs.close("done", result=await fetch(case.key))
    return jobs.close("done", result=await compute(case.key))
"""


def environment(url: str) -> dict[str, str]:
    return {
        **os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1", "LONGCASE_DATABASE_URL": url,
        "LONGCASE_LEASE_SECONDS": "2",
    }  # fmt: skip


def longcase(folder: Path, url: str, *words: str) -> str:
    """Run a command and return what it says."""
    command = [sys.executable, "-m", "longcase", *words]
    return subprocess.run(
        command, cwd=folder, env=environment(url), check=True, capture_output=True, text=True
    ).stdout  # fmt: skip


def start(folder: Path, url: str, key: str) -> None:
    """Start a case from the command line."""
    longcase(folder, url, "start", "jobs", json.dumps({"id": key}), "--app", "jobs.py")


@contextmanager
def worker(folder: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    """Run `longcase worker` as a process whose lease lasts two seconds."""
    (folder / "jobs.py").write_text(PROGRAM)
    with (
        open(folder / "worker.log", "a") as log,
        subprocess.Popen(
            [sys.executable, "-m", "longcase", "worker", "jobs.py", "--json"],
            cwd=folder, env=environment(url), text=True, stdout=subprocess.PIPE, stderr=log,
        ) as child,
    ):  # fmt: skip
        try:
            assert child.stdout is not None
            assert json.loads(child.stdout.readline())["worker"]
            yield child
        finally:
            child.kill()


async def exists(path: Path) -> bool:
    return path.exists() and bool(path.read_text())


async def test_inv_18_a_worker_whose_loop_is_blocked_loses_its_work_and_joins_anew(
    postgres_url: str, tmp_path: Path
) -> None:
    with worker(tmp_path, postgres_url) as first:
        async with Longcase([], url=postgres_url) as door:
            start(tmp_path, postgres_url, "a")
            await until(lambda: exists(tmp_path / "began-1"))
            with worker(tmp_path, postgres_url) as second:
                await until(lambda: exists(tmp_path / "began-2"))
                assert (tmp_path / "began-1").read_text() == str(first.pid)
                assert (tmp_path / "began-2").read_text() == str(second.pid)

                async def closed() -> bool:
                    return (await door.service.show("jobs/a")).state.status == "closed"

                await until(closed)
                assert ((await door.service.show("jobs/a")).state.close or {})["result"] == "attempt 2"
                (tmp_path / "go").touch()  # the loop turns again

                async def joined_anew() -> bool:
                    found = (await door.service.workers()).workers
                    return sorted(row.pid for row in found if row.alive) == sorted([first.pid, second.pid])

                await until(joined_anew)
                numbers = {row.pid: row.worker for row in (await door.service.workers()).workers}
                assert numbers[first.pid] > numbers[second.pid], "it has come back as another incarnation"

                async def refused() -> bool:
                    events = await door.service.history("jobs/a")
                    return [event.data["attempt"] for event in events if event.type == "attempt_refused"] == [1]

                await until(refused)


async def test_a_worker_that_is_told_to_stop_drains_and_leaves(postgres_url: str, tmp_path: Path) -> None:
    with worker(tmp_path, postgres_url) as child:
        async with Longcase([], url=postgres_url) as door:
            start(tmp_path, postgres_url, "fetch")
            await until(lambda: exists(tmp_path / "began-1"))
            (row,) = json.loads(longcase(tmp_path, postgres_url, "workers", "--json"))["workers"]
            assert (row["pid"], row["alive"], row["attempts"], row["queues"]) == (child.pid, True, 1, ["default"])
            child.send_signal(signal.SIGTERM)
            (tmp_path / "go").touch()
            assert await asyncio.to_thread(child.wait, BOUND) == 0
            state = (await door.service.show("jobs/fetch")).state
            assert not [call for call in state.calls.values() if call["status"] == "running"]
            assert state.status == "closed" or not state.calls, "what had ended is recorded"
            assert (await door.service.workers()).workers == []
