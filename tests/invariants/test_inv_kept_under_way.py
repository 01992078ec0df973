"""I35, I36: a store whose processes were killed in the middle of their work goes on after a migration.

`kept/sqlite_4.sql` and `kept/postgres_5.sql` hold what a release of those schemas left behind when its worker was
killed: calls of `jobs` that ran, that stood in a queue, that were claimed and not begun, that were to be tried again,
one of `effect="once"` that may have happened; a rate that was spent, a kept heartbeat, an incident, a signal and a
start that nobody had taken up. What they do not hold: workers of that release that go on beside the new one, child
cases, tasks and undo under way, and a migration that is itself killed (`test_sqlite_migrate` has that).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.invariants import jobs
from tests.support.cli import Cli
from tests.support.older import older_database, older_file
from tests.support.postgres import Databases

from longcase import Longcase
from longcase.store.postgres import migrate as on_postgres
from longcase.store.sqlite import migrate as on_sqlite

KEPT = Path(__file__).parent / "kept"
SOME_MINUTES_LATER = "2025-06-02T09:30:00.000000Z"
RENDERED = ("waits-1", "waits-2", "inbox-1", "unsure-1", "later-1", "broken-1")
RUNNING = ("running-1", "running-2")
QUEUED = ("queued-1", "queued-2", "queued-3")  # the first of them was claimed
ALL = (*RENDERED, *RUNNING, *QUEUED, "accepted-1")
# What had taken its effect by then.
DONE = Counter(
    [f"render {job}" for job in (*RENDERED, *RUNNING)]
    + [f"prepare {job}" for job in ALL if job not in ("later-1", "broken-1", "accepted-1")]
    + ["book unsure-1"]
)

LEFT = """
SELECT (SELECT count(*) FROM running_attempts) AS running,
       (SELECT count(*) FROM queued_calls WHERE status = 'running') AS in_queue,
       (SELECT count(*) FROM queued_calls WHERE status = 'claimed') AS claimed,
       (SELECT count(*) FROM queued_calls WHERE status = 'waiting') AS waiting,
       (SELECT count(*) FROM cases WHERE lease <> 0) AS leased,
       (SELECT count(*) FROM inbox) AS accepted,
       (SELECT count(*) FROM heartbeats) AS beaten,
       (SELECT count(*) FROM cases WHERE incident_count > 0) AS incidents
"""


@pytest.fixture
def cli(
    store_kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Cli]:
    """A command line at a store of the earlier schema, with what was left in it."""
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", "3")
    ledger = tmp_path / "ledger"
    ledger.write_text("".join(f"{line}\n" for line in DONE.elements()))
    if store_kind == "sqlite":
        path = tmp_path / "cases.db"
        with older_file(str(path), on_sqlite.migrations()[:4]) as connection:
            connection.execute((KEPT / "sqlite_4.sql").read_text())
        databases, url = None, f"sqlite:///{path}"
    else:
        databases = request.getfixturevalue("databases")
        assert isinstance(databases, Databases)
        url = databases.new(empty=True)
        asyncio.run(_filled(url))
    typed = Cli(tmp_path, monkeypatch, capsys, url)
    monkeypatch.setenv("LONGCASE_APP", str(Path(jobs.__file__)))
    monkeypatch.setenv("JOBS_LEDGER", str(ledger))
    yield typed
    if databases is not None:
        databases.drop(url)


async def _filled(url: str) -> None:
    async with older_database(url, on_postgres.migrations()[:5]) as connection:
        await connection.execute((KEPT / "postgres_5.sql").read_text())


def test_inv_36_cases_under_way_go_on_after_a_migration_and_nothing_happens_twice(cli: Cli) -> None:
    assert "schema version" in cli.refused(6, "list").error["message"], "the old schema is told"
    cli.ok("migrate")
    assert cli.ok("verify", "--json").json["findings"] == []
    asyncio.run(_set_clock(cli.url))
    (left,) = _query(cli, LEFT)
    assert left == {
        "running": 3, "in_queue": 2, "claimed": 1, "waiting": 2, "leased": 1, "accepted": 1, "beaten": 2, "incidents": 1
    }  # fmt: skip
    worker = cli.process("worker", "--queue", "default", "--queue", "gpu")
    try:
        for job in ALL:
            if job not in ("inbox-1", "unsure-1"):  # theirs was sent before
                cli.ok("signal", f"jobs/{job}", "go", '{"n": 1}')
        cli.ok("retry", "jobs/broken-1", "--reason", "mended")
        for job in ALL:
            shown = cli.until(f"jobs/{job}", lambda case: case["status"] == "closed")
            assert shown["close"]["result"] == f"booked {job}"
    finally:
        worker.terminate()
        ended = cli.end(worker)
    assert ended.status == 0
    assert "worker 1 is dead" in ended.err
    assert cli.ok("verify", "--json").json["findings"] == []
    happened = Counter((cli.folder / "ledger").read_text().splitlines())
    again = Counter(f"render after {{'frame': 7}} {job}" for job in RUNNING)  # repeatable, and they were under way
    once = Counter(f"{what} {job}" for job in ALL for what in ("render", "prepare", "book"))
    assert happened == once + again
    assert _query(cli, "SELECT * FROM queued_calls") == []


async def _set_clock(url: str) -> None:
    """Let the store's clock go on from then: what was promised is not yet late, whenever this test runs."""
    async with Longcase([], url=url) as longcase:
        clock = {"epoch_real": time.time(), "epoch": SOME_MINUTES_LATER, "factor": 1.0}
        await longcase.store.set_setting("clock", clock)


def _query(cli: Cli, sql: str) -> list[dict[str, Any]]:
    async def asked() -> list[dict[str, Any]]:
        async with Longcase([], url=cli.url) as longcase:
            return await longcase.service.query(sql)

    return asyncio.run(asked())
