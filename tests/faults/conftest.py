"""Every test in this folder reports what it injected, or fails (see `frame`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from tests.conftest import LEASE_SECONDS
from tests.faults import database_clock
from tests.faults.frame import NAME, PROPERTY, FaultReport, refuse_misnamed
from tests.support.postgres import Databases

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def fault_report(request: pytest.FixtureRequest) -> FaultReport:
    """What the test did: injected, useful, found; set `store` where it is not SQLite."""
    named = NAME.match(request.node.name)
    assert named is not None
    report = FaultReport(named[1], request.node.name)
    if "store_url" in request.fixturenames:  # it runs on each kind of store
        report.store = request.getfixturevalue("store_url").partition(":")[0].replace("postgresql", "postgres")
    return report


@pytest.fixture
def report(fault_report: FaultReport) -> FaultReport:
    """The report of a test on PostgreSQL alone."""
    fault_report.store = "postgres"
    return fault_report


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Where the vendor of the orders notes what it was asked."""
    return tmp_path / "ledger"


@pytest.fixture
def clock_url(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of an empty store on PostgreSQL, whose database's clock can be set."""
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", LEASE_SECONDS)
    url = databases.new(empty=True)
    database_clock.make_store(url)
    yield url
    databases.drop(url)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own for a server, small enough to be filled."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    folder = Path(tempfile.mkdtemp(prefix="longcase-disk-"))
    folder.chmod(0o755)
    mount = ["mount", "-t", "tmpfs", "-o", "size=150m,mode=755", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that passed and has nothing to show for it."""
    report: FaultReport = item.funcargs["fault_report"]  # type: ignore[attr-defined]
    try:
        result = yield
    finally:
        item.user_properties.append((PROPERTY, report.to_json()))
    if missing := report.missing():
        pytest.fail(missing, pytrace=False)
    return result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    refuse_misnamed([item for item in items if HERE in item.path.parents])
