"""The run-time guard sees what reaches outside; what Longcase or the collector does is no fault of the stage."""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

import pytest
from tests.rules.support import Order, closed, desk, in_both, incident

from longcase import Calendar, Case, Next, Team, Workflow, business_days, days
from longcase.testing import Simulation

# A region no other test asks for: the holidays package then reads its texts at the first question.
away = Team("away", calendar=Calendar("PT", hours="Mon-Fri 09:00-17:00", tz="Europe/Lisbon"))
wf = Workflow(
    "order", object=Order, key="id", owner=desk, expect=business_days(2, Calendar("NL", tz="Europe/Amsterdam"))
)


@wf.stage
async def wait(case: Case[Order]) -> Next:
    await case.approval("Go on?", of=away, expires=(business_days(1), "approved"))
    return wf.close("done")


def test_holidays_may_be_read_for_the_first_time_in_the_middle_of_a_stage() -> None:
    with Simulation([wf]) as sim:
        case = sim.start(wf, {"id": "1"})
        assert [entry.kind for entry in sim.waits(case)] == ["person"]


# -- what Python lets us see, however the stage came by it -------------------------------------------------


def threaded() -> None:
    threading.Thread(target=print).start()


def forked() -> None:
    multiprocessing.get_context("fork").Process(target=print).start()


def sent() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.sendto(b"x", ("127.0.0.1", 9))


def connected() -> None:
    with socket.socket() as line:
        line.connect(("127.0.0.1", 9))


def made_and_removed() -> None:
    os.mkdir("a-folder")
    os.rmdir("a-folder")


SEEN: dict[str, tuple[Callable[[], object], str]] = {
    "a file": (lambda: Path("nowhere").read_text(), "open()"),
    "a folder read": (lambda: os.listdir("."), "os.listdir()"),
    "a folder read by glob": (lambda: list(Path().glob("*")), "os.scandir()"),
    "a folder made": (made_and_removed, "os.mkdir()"),
    "a file removed": (lambda: Path("nowhere").unlink(missing_ok=True), "os.remove()"),
    "a file renamed": (lambda: os.replace("nowhere", "elsewhere"), "os.rename()"),
    "a sleep": (lambda: time.sleep(0), "time.sleep()"),
    "a thread": (threaded, "threading.Thread.start()"),
    "a process of multiprocessing": (forked, "os.fork()"),
    "a fork": (lambda: os.fork() or os._exit(0), "os.fork()"),
    "a process": (lambda: subprocess.run(["true"], check=False), "subprocess.Popen()"),
    "a spawned process": (lambda: os.posix_spawn("/bin/true", ["true"], {}), "os.posix_spawn()"),
    "a shell": (lambda: os.system("true"), "os.system()"),  # noqa: S605
    "another program": (lambda: os.execv("/bin/nowhere", ["nowhere"]), "os.exec()"),  # noqa: S606
    "a connection": (connected, "socket.connect()"),
    "a datagram": (sent, "socket.sendto()"),
    "a name looked up": (lambda: socket.gethostbyname("localhost"), "socket.gethostbyname()"),
    "a database": (lambda: sqlite3.connect(":memory:"), "sqlite3.connect()"),
    "the terminal": (lambda: input(), "input()"),
}
asking = Workflow("asking", object=Order, key="id", owner=desk, expect=days(2))


@asking.stage
async def ask(case: Case[Order]) -> Next:
    with suppress(Exception):  # as a library might
        SEEN[case.object.note][0]()
    return asking.close("unseen")


UNSEEN = {"a thread": (3, 12), "a sleep": (3, 13)}  # before these Python tells of no such call: `check` alone finds it


@pytest.mark.parametrize("what", [name for name in SEEN if sys.version_info >= UNSEEN.get(name, (3, 11))])
def test_rule_A9_what_reaches_outside_is_stopped_by_name_and_told_with_the_mend(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def scenario(sim: Simulation) -> None:
        opened = incident(sim, sim.start(asking, Order(id="1", note=what)))
        assert opened["kind"] == "nondeterministic"
        assert opened["message"] == f"{SEEN[what][1]} in stage code cannot be replayed"
        assert opened["details"]["hint"]

    in_both(scenario, asking)
    assert list(tmp_path.iterdir()) == []


local = Workflow("local", object=Order, key="id", owner=desk, expect=days(2))


@local.stage
async def there(case: Case[Order]) -> Next:
    return local.close("done", result=case.now().astimezone(ZoneInfo("Asia/Kathmandu")).isoformat())


def test_a_time_zone_may_be_read_in_a_stage() -> None:
    def scenario(sim: Simulation) -> None:
        ZoneInfo.clear_cache()  # as in a process that has not used it
        case = sim.start(local, Order(id="1"))
        assert closed(sim, case) == "done"
        close = sim.state(case).close
        assert close is not None
        assert close["result"] == "2026-01-05T14:45:00+05:45"

    in_both(scenario, local)


class Held:
    """Something whose end is at the collector's discretion."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.itself = self  # so that only the collector ends it

    def __del__(self) -> None:
        self.folder.rmdir()


left: list[object] = []
collecting = Workflow("collecting", object=Order, key="id", owner=desk, expect=days(2))


@collecting.stage
async def collect(case: Case[Order]) -> Next:
    left.clear()
    gc.collect()
    return collecting.close("done")


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up")
def test_what_a_finalizer_does_while_a_stage_runs_is_no_fault_of_the_stage(tmp_path: Path) -> None:
    def scenario(sim: Simulation) -> None:
        (held := tmp_path / "held").mkdir()
        left[:] = [Held(held), TemporaryDirectory(dir=tmp_path)]
        assert closed(sim, sim.start(collecting, Order(id="1"))) == "done"
        assert list(tmp_path.iterdir()) == []

    in_both(scenario, collecting)
