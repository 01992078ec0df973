"""A fleet behind PgBouncer in transaction mode: no session is anybody's own. Skipped where there is no pgbouncer."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import BOUND, check_orders
from tests.faults.ships import Ships, door, fleet, sail
from tests.support.postgres import run_sql

ORDERS = by_length(8, 100)
KEYS = [f"o{number}" for number in range(ORDERS)]
SHARED = 4  # connections to the server, for all sessions of the fleet

CONFIG = """
[databases]
* = host={server} user=postgres
[pgbouncer]
listen_addr =
listen_port = 5432
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
default_pool_size = {shared}
max_client_conn = 200
logfile = {folder}/log
pidfile = {folder}/pid
"""

pytestmark = pytest.mark.timeout(by_length(600, 1_800))


@pytest.fixture
def log() -> list[Path]:
    """Return where the pooler logs."""
    return []


@pytest.fixture
def pooled_url(postgres_url: str, log: list[Path]) -> Iterator[str]:
    """Return the database's URL through a pooler of its own."""
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
    host = parse_qs(urlsplit(postgres_url).query).get("host", [""])[0]
    if not host.startswith("/"):
        pytest.skip("the server of LONGCASE_TEST_POSTGRES is not on a socket of this machine")
    with tempfile.TemporaryDirectory(prefix="longcase-pool-") as name:
        folder = Path(name)
        folder.chmod(0o777)  # PgBouncer refuses root too
        (folder / "ini").write_text(CONFIG.format(server=host, folder=folder, shared=SHARED))
        user: Any = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        log.append(folder / "log")
        with subprocess.Popen([program, "-q", str(folder / "ini")], cwd=folder, **user) as pooler:
            try:
                end = time.monotonic() + BOUND
                while not (folder / ".s.PGSQL.5432").exists():
                    assert pooler.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < end
                    time.sleep(0.02)
                yield f"postgresql://postgres@{urlsplit(postgres_url).path}?host={folder}&statement_cache_size=0"
            finally:
                pooler.terminate()


def test_fault_F23_a_fleet_shares_few_connections_through_a_pooler_in_transaction_mode(
    postgres_url: str,
    pooled_url: str,
    log: list[Path],
    tmp_path: Path,
    fault_report: FaultReport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the hint of a commit needs a session: it comes over its own direct line."""
    fault_report.store = "postgres"
    monkeypatch.setenv("LONGCASE_LISTEN_URL", postgres_url)
    most = [0]

    async def count() -> None:
        rows = await asyncio.to_thread(
            run_sql, postgres_url, "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
        )
        most[0] = max(most[0], rows[0]["n"])

    async def run(ships: Ships) -> None:
        async with door(pooled_url) as life:
            await sail(life, ships, KEYS, count, every=0.2)

    with fleet(pooled_url, tmp_path, 2) as ships:
        asyncio.run(run(ships))
        assert ships.stop() == [0, 0], ships.said()[-3000:]
        assert "Traceback" not in ships.said(), ships.said()[-3000:]
    effects = check_orders(postgres_url, tmp_path / "ledger", KEYS)
    listening = 3  # two workers and the client
    assert 0 < most[0] <= SHARED + listening + 1, f"{most[0]} connections to the server"
    sessions = log[0].read_text().count("login attempt")
    assert sessions > SHARED, "there was a connection for each session: the test would prove nothing"
    fault_report(
        injected={"sessions over a few connections": sessions},
        useful={"orders closed": ORDERS, "effects": effects},
        found=f"{most[0]} sessions with the listeners, and nothing lost",
    )
