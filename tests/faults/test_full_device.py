"""F7: a device that is really full, under real workers, and has room again (FAULTS F8 is its second half)."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.crash import program
from tests.crash.fire import BOUND, Fire
from tests.faults.frame import FaultReport, by_length
from tests.faults.watching import until

from longcase.errors import StorageFull

pytestmark = pytest.mark.timeout(by_length(300, 900))

ROOM = 96 * 1024  # bytes left when the worker begins
CASES = by_length(6, 20)


@contextmanager
def small_device(folder: Path) -> Iterator[Path]:
    """Mount a device of a few MiB for the length of the block."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=False, capture_output=True)
    if made.returncode:
        pytest.skip(f"a small device cannot be mounted here: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Fill the device but for `leave` bytes; returns the file to remove."""
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    ballast.write_bytes(bytes(max(0, free - leave)))
    return ballast


def test_fault_F7_a_full_device_stops_nothing_but_writing_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault_report: FaultReport
) -> None:
    monkeypatch.setattr(program, "LEDGER", str(tmp_path / "ledger"))
    with small_device(tmp_path / "device") as device:
        fire = Fire(tmp_path, url=f"sqlite:///{device / 'cases.db'}", cases=CASES)
        ballast = fill(device, leave=ROOM)
        worker = fire.worker()
        try:
            until(lambda: "is full" in fire.logged(), "the worker meets the full device")
            told: list[StorageFull] = []
            reads = 0
            with fire.client() as client:
                for number in range(5):
                    before = client.show(f"orders/o{number}").state.seq
                    try:
                        client.correct(f"orders/o{number}", {"lines": 3}, reason="a write of any kind, " + "x" * 1_500)
                    except StorageFull as error:
                        told.append(error)
                    after = client.show(f"orders/o{number}").state.seq
                    assert after == before or len(told) <= number, "what was refused has left no trace"
                    reads += 1
            assert all(error.retryable and error.hint.startswith("df -h") for error in told)
            assert told, "the device was not full: the test would prove nothing"
            assert worker.poll() is None, fire.logged()
            fault_report(injected={"devices filled": 1, "writes refused": len(told) + fire.logged().count("is full")})
            ballast.unlink()
            assert worker.wait(BOUND) == 0, fire.logged()
        finally:
            worker.kill()
        inspection = fire.check()
        fault_report(
            useful={"orders done": len(inspection.addresses()), "reads meanwhile": reads},
            found="the worker went on by itself when there was room",
        )


def test_fault_F7_a_file_that_may_not_grow_is_met_as_a_full_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault_report: FaultReport
) -> None:
    """SQLite calls this an I/O error and not "full": the worker waits all the same."""
    monkeypatch.setattr(program, "LEDGER", str(tmp_path / "ledger"))
    fire = Fire(tmp_path, cases=CASES)
    with fire.client():  # keeps the log from being folded in when the worker's connections come and go
        worker = fire.worker(file_limit=os.path.getsize(tmp_path / "cases.db") + ROOM)
        try:
            until(lambda: "store unavailable" in fire.logged(), "the worker meets the limit")
            assert worker.poll() is None, fire.logged()
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert worker.wait(BOUND) == 0, fire.logged()
        finally:
            worker.kill()
    inspection = fire.check()
    fault_report(
        injected={"commits beyond the limit": fire.logged().count("store unavailable")},
        useful={"orders done": len(inspection.addresses())},
        found="the worker went on by itself when the limit was lifted",
    )
