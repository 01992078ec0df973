"""The check-up of a PostgreSQL store: what may hurt it, found before it does.

Server, durability, schema, rights, clock, room for connections, old transactions, workers that are silent or dead,
what waits for a worker, and cases that nothing will ever move. Changes nothing. Damage of the history itself is
`longcase verify`'s to find.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any, Final

import asyncpg

from longcase.env import Env, ScaledClock
from longcase.errors import LongcaseError, StoreCorrupt
from longcase.history.event import instant_of, instant_text
from longcase.store.kept import Told, beside_damage, said_by
from longcase.store.migrations import Migration
from longcase.store.postgres import migrate as migrations
from longcase.store.postgres import settings
from longcase.store.postgres.connection import OLDEST, Address, connect, our_error
from longcase.store.records import WorkerRow
from longcase.store.serving import Due, Holding, SeenWorker, stuck, workers_and_what_waits
from longcase.store.settings import clock_from
from longcase.store.symptom import CLOCK_BACK, UNSERVED_SECONDS, Symptom

SKEW_SECONDS: Final = 1.0  # of this machine's clock against the database's
FULL_SHARE: Final = 0.8  # of the connections the server takes
OLD_TRANSACTION_SECONDS: Final = 900.0

_DURABLE: Final = """
SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
       (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit') AS synchronous_commit,
       pg_is_in_recovery() AS standby
"""
# By the store's clock; by the database's own where that cannot be read.
_NOW: Final = """
SELECT coalesce(
    (SELECT now FROM clock), to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
)
"""
_ROLE: Final = "SELECT rolsuper AS super, current_user AS name FROM pg_roles WHERE rolname = current_user"
_CONNECTIONS: Final = """
SELECT count(*) AS used, current_setting('max_connections')::int AS most FROM pg_stat_activity
WHERE backend_type = 'client backend'
"""
_OLDEST: Final = """
SELECT pid, usename, application_name, state, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds
FROM pg_stat_activity
WHERE xact_start IS NOT NULL AND backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND datname = current_database()
ORDER BY xact_start LIMIT 1
"""
_WORKERS: Final = """
SELECT no, host, pid, started_at, beat_at, NOT lapsed AND beat + lease >= clock_timestamp(), codes, queues,
       extract(epoch FROM clock_timestamp() - beat)::float8
FROM workers ORDER BY no
"""
# Due for longer than a minute, by workflow; and calls that wait in named queues.
_DUE: Final = """
SELECT workflow, count(*), min(wake_at) FROM cases WHERE status = 'open' AND wake_at <> '' AND wake_at <= $1
GROUP BY workflow ORDER BY workflow
"""
_WAITING_CALLS: Final = """
SELECT w.workflow, count(*), min(w.since), w.queue, w.declined FROM (
    SELECT c.workflow, q.since, q.queue, coalesce((
        SELECT string_agg(d.code, ' ' ORDER BY d.code) FROM declined AS d
        WHERE d.case_no = c.case_no AND d.visit = c.visit
    ), '') AS declined
    FROM queued AS q JOIN cases AS c ON c.case_no = q.case_no WHERE q.worker = 0 AND q.due <= $1
) AS w GROUP BY w.queue, w.workflow, w.declined ORDER BY w.queue, w.workflow, w.declined
"""
_HOLDINGS: Final = """
SELECT worker, workflow, count(*) FROM (
    SELECT lease AS worker, workflow, case_no FROM cases WHERE lease <> 0
    UNION
    SELECT q.worker, c.workflow, q.case_no FROM queued AS q JOIN cases AS c ON c.case_no = q.case_no WHERE q.worker <> 0
) AS held GROUP BY worker, workflow ORDER BY worker, workflow
"""
_STUCK: Final = """
SELECT tenant, workflow, key, stage, owner, entered_at FROM cases
WHERE status = 'open' AND wake_at = '' AND wait_count = 0
  AND state -> 'calls' IS NULL AND state -> 'timers' IS NULL AND state -> 'tasks' IS NULL
  AND NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.case_no = cases.case_no)
ORDER BY case_no
"""
# Calls that have committed their transaction, and whose result is not in the inbox.
_GONE: Final = """
SELECT tenant, workflow, cases.key, stage, owner, j.value ->> 'activity'
FROM cases CROSS JOIN LATERAL json_each(cases.state -> 'calls') AS j
WHERE status = 'open' AND cases.state -> 'incidents' IS NULL
  AND j.value ->> 'status' = 'running' AND j.value ->> 'committed' = j.value ->> 'attempt'
  AND NOT EXISTS (SELECT FROM inbox AS i WHERE i.case_no = cases.case_no AND i.data ->> 'call' = j.key)
ORDER BY case_no
"""


async def doctor(url: str, env: Env) -> list[Symptom]:
    """Examine a store; returns every symptom, good ones (`ok`) too."""
    address = Address.of(url)
    symptoms: list[Symptom] = []
    try:
        connection = await connect(address, plain=True)
        try:
            async for symptom in _examine(connection, str(address), env):
                symptoms.append(symptom)
        finally:
            await connection.close()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, LongcaseError) as error:
        ours = our_error(error, address, changing=False)
        symptoms.append(Symptom("error", "server", str(getattr(ours, "message", ours)), getattr(ours, "hint", "")))
    return symptoms


async def _examine(connection: Any, store: str, env: Env) -> AsyncIterator[Symptom]:
    version = connection.get_server_version()
    if version.major < OLDEST:
        yield Symptom(
            "error", "server", f"PostgreSQL {version.major}, expected {OLDEST} or newer", "upgrade the server"
        )
    else:
        number = await connection.fetchval("SHOW server_version")  # the driver does not count as the server does
        yield Symptom("ok", "server", f"PostgreSQL {number.split()[0]}")
    async for symptom in _durability(connection):
        yield symptom
    async for symptom in _room(connection):
        yield symptom
    missing = await _missing(connection, store)
    if isinstance(missing, Symptom):
        yield missing
        return
    if missing:
        names = ", ".join(f"{one.version:04} {one.name}" for one in missing)
        yield Symptom("error", "schema", f"the schema lacks {names}", "longcase migrate")
        return
    yield Symptom("ok", "schema", f"schema version {migrations.newest()}")
    async for symptom in _clock(connection, env):
        yield symptom
    broken: list[StoreCorrupt] = []
    for symptom in await _workers(connection, broken.append):
        yield symptom
    for damage in broken:
        yield Symptom.of(damage)
    for symptom in stuck(await connection.fetch(_STUCK), await connection.fetch(_GONE)):
        yield symptom


async def _missing(connection: Any, store: str) -> list[Migration] | Symptom:
    try:
        return await migrations.plan(connection, store)
    except LongcaseError as error:
        return Symptom("error", "schema", error.message, error.hint)


async def _durability(connection: Any) -> AsyncIterator[Symptom]:
    found = await connection.fetchrow(_DURABLE)
    bad = [name for name in ("fsync", "full_page_writes") if found[name] != "on"]
    if found["synchronous_commit"] == "off":
        bad.append("synchronous_commit")
    for name in bad:
        yield Symptom(
            "error", "durability", f"{name} is off: what was accepted may be lost in a crash of the server",
            f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();",
        )  # fmt: skip
    if not bad:
        yield Symptom("ok", "durability", "fsync, full_page_writes and synchronous_commit are on")
    if found["standby"]:
        yield Symptom("error", "server", "the server is a standby: it takes no writes", "point the URL at the primary")
    role = await connection.fetchrow(_ROLE)
    if role["super"]:
        yield Symptom(
            "warning", "role", f"{role['name']} is a superuser; a worker needs far less",
            "longcase migrate --roles | psql -v ON_ERROR_STOP=1 DATABASE",
        )  # fmt: skip
    else:
        yield Symptom("ok", "role", f"{role['name']} is no superuser")


async def _room(connection: Any) -> AsyncIterator[Symptom]:
    found = await connection.fetchrow(_CONNECTIONS)
    used, most = found["used"], found["most"]
    if used > most * FULL_SHARE:
        yield Symptom(
            "warning", "connections", f"{used} of {most} connections are in use",
            "raise max_connections, or put a pooler in transaction mode in between",
        )  # fmt: skip
    else:
        yield Symptom("ok", "connections", f"{used} of {most} connections are in use")
    oldest = await connection.fetchrow(_OLDEST)
    if oldest is not None and (oldest["seconds"] or 0) > OLD_TRANSACTION_SECONDS:
        who = f"{oldest['application_name'] or 'a program'} of {oldest['usename']}"
        yield Symptom(
            "warning", "transaction",
            f"a transaction is open for {oldest['seconds'] / 60:.0f} min ({who}, {oldest['state']}): dead rows pile up",
            f"SELECT pg_terminate_backend({oldest['pid']});",
        )  # fmt: skip


async def _clock(connection: Any, env: Env) -> AsyncIterator[Symptom]:
    there = instant_of(await connection.fetchval(_NOW))
    setting = await connection.fetchval("SELECT value FROM settings WHERE name = 'clock'")
    newest = await connection.fetchval("SELECT coalesce(max(at), '') FROM cases")
    if newest and instant_of(newest) - there > CLOCK_BACK:
        yield Symptom(
            "error", "clock", f"the newest event is of {newest}, the database's clock says {instant_text(there)}",
            "set the server's clock, then start the workers",
        )  # fmt: skip
        return
    if setting is None:
        skew = (env.now() - there).total_seconds()
        if abs(skew) > SKEW_SECONDS:
            yield Symptom(
                "warning", "clock", f"this machine's clock is {skew:+.1f} s off the database's, which decides",
                "timedatectl status",
            )  # fmt: skip
            return
    yield Symptom("ok", "clock", f"the database's clock says {instant_text(there)}")


async def _workers(connection: Any, told: Told) -> Iterator[Symptom]:
    """Read who moves cases, and what is due."""
    workers = [
        SeenWorker(WorkerRow(no, host, pid, start, beat, alive, 0, *said_by(no, codes, queues, told)), silent)
        for no, host, pid, start, beat, alive, codes, queues, silent in await connection.fetch(_WORKERS)
    ]
    clock: ScaledClock | None = None
    with beside_damage(told):
        clock = clock_from(await settings.read(connection.fetch, "clock"))
    now = await connection.fetchval(_NOW)
    since = instant_of(now) - timedelta(seconds=UNSERVED_SECONDS * (clock.factor if clock else 1.0))
    due = [Due(*row) for row in await connection.fetch(_DUE, instant_text(since))]
    due += [Due(*row) for row in await connection.fetch(_WAITING_CALLS, now)]
    return workers_and_what_waits(workers, due, [Holding(*row) for row in await connection.fetch(_HOLDINGS)])
