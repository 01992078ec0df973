"""The check-up: what may hurt a store, found before it does.

Library, place, room, log, journal, schema, damage, clock, workers that are silent or dead, what waits for a worker,
and cases that nothing will ever move. Changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from typing import Any, Final

import apsw

from longcase.env import Env, ScaledClock
from longcase.errors import StoreCorrupt, StoreUnavailable, UsageError
from longcase.history.event import instant_of, instant_text
from longcase.store.kept import Told, beside_damage
from longcase.store.serving import Due, Holding, SeenWorker, stuck, unreadable, workers_and_what_waits
from longcase.store.settings import clock_from
from longcase.store.sqlite import migrate as migrations
from longcase.store.sqlite import settings
from longcase.store.sqlite.connection import (
    APPLICATION_ID,
    check_path,
    connect,
    our_error,
    sqlite_version,
    wal_is_safe,
)
from longcase.store.sqlite.filesystem import free_share, network_kind
from longcase.store.sqlite.maintenance import integrity
from longcase.store.sqlite.workers import Locks, rows_of
from longcase.store.symptom import CLOCK_BACK, UNSERVED_SECONDS, Symptom

WAL_BYTES: Final = 256 * 1024 * 1024  # above this a reader pins the log, or checkpoints fail
FREE_SHARE: Final = 0.10
# Due for longer than a minute, by workflow; and calls that wait in named queues.
DUE: Final = """
SELECT workflow, count(*), min(wake_at) FROM cases WHERE status = 'open' AND wake_at <> '' AND wake_at <= ?
GROUP BY workflow ORDER BY workflow
"""
WAITING_CALLS: Final = """
SELECT c.workflow, count(*), min(q.since), q.queue, coalesce((
    SELECT group_concat(code, ' ') FROM (
        SELECT code FROM declined AS d WHERE d.case_no = c.case_no AND d.visit = c.visit ORDER BY code
    )
), '') AS declined
FROM queued AS q JOIN cases AS c ON c.case_no = q.case_no
WHERE q.worker = 0 AND q.due <= ? GROUP BY q.queue, c.workflow, declined ORDER BY q.queue, c.workflow, declined
"""
HOLDINGS: Final = """
SELECT worker, workflow, count(*) FROM (
    SELECT lease AS worker, workflow, case_no FROM cases WHERE lease <> 0
    UNION
    SELECT q.worker, c.workflow, q.case_no FROM queued AS q JOIN cases AS c ON c.case_no = q.case_no WHERE q.worker <> 0
) GROUP BY worker, workflow ORDER BY worker, workflow
"""

# Open cases that nothing will ever move: no input, call, timer, question, wait, incident; nor due (I31).
STUCK: Final = """
SELECT tenant, workflow, key, stage, owner, entered_at FROM cases
WHERE status = 'open' AND wake_at = '' AND wait_count = 0 AND CASE WHEN json_valid(state)
    THEN state ->> '$.calls' IS NULL AND state ->> '$.timers' IS NULL AND state ->> '$.tasks' IS NULL END
  AND NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.case_no = cases.case_no)
ORDER BY case_no
"""
# Calls that have committed their transaction, and whose result is not in the inbox.
GONE: Final = """
SELECT tenant, workflow, cases.key, stage, owner, j.value ->> '$.activity'
FROM cases, json_each(CASE WHEN json_valid(cases.state) THEN cases.state ELSE '{}' END, '$.calls') AS j
WHERE status = 'open' AND CASE WHEN json_valid(state) THEN state ->> '$.incidents' IS NULL END
  AND j.value ->> '$.status' = 'running' AND j.value ->> '$.committed' = j.value ->> '$.attempt'
  AND NOT EXISTS (SELECT 1 FROM inbox AS i WHERE i.case_no = cases.case_no AND i.data ->> '$.call' = j.key)
ORDER BY case_no
"""
# Open cases whose row is no JSON any more; what is merely wrong in it is for `verify` to find.
UNREAD: Final = """
SELECT tenant, workflow, key, case_no FROM cases
WHERE status = 'open' AND NOT (json_valid(state) AND json_valid(object)) ORDER BY case_no LIMIT 20
"""


def doctor(path: str, env: Env) -> list[Symptom]:
    """Examine a store; returns every symptom, good ones (`ok`) too."""
    symptoms = list(_library())
    try:
        check_path(path, create=False)
    except (StoreUnavailable, UsageError) as error:
        return [*symptoms, Symptom("error", "path", error.message, error.hint)]
    symptoms += _disk(path)
    try:
        with closing(connect(path)) as connection:
            symptoms += _file(connection, path, env)
    except (apsw.Error, StoreCorrupt) as error:
        ours = our_error(error, path)
        symptoms.append(Symptom("error", "damage", str(getattr(ours, "message", ours)), getattr(ours, "hint", "")))
    return symptoms


def _library() -> Iterator[Symptom]:
    version = sqlite_version()
    name = ".".join(map(str, version))
    if wal_is_safe(version):
        yield Symptom("ok", "sqlite", f"SQLite {name}, free of the WAL-reset bug")
    else:
        yield Symptom(
            "warning", "sqlite",
            f"SQLite {name} has the WAL-reset bug (3.7.0 to 3.51.2): stores are kept in journal mode DELETE, "
            "which is safe and slower",
            "pip install --upgrade apsw",
        )  # fmt: skip


def _disk(path: str) -> Iterator[Symptom]:
    kind = network_kind(path)
    if kind:
        yield Symptom(
            "error",
            "file-system",
            f"{path} lies on a network share ({kind}), which breaks SQLite's locks",
            "use a local disk",
        )
    share, left = free_share(path)
    if share < FREE_SHARE:
        yield Symptom(
            "warning",
            "disk",
            f"{share:.0%} of the disk is free ({left // 2**20} MiB)",
            f"df -h {os.path.dirname(os.path.abspath(path))}",
        )
    else:
        yield Symptom("ok", "disk", f"{share:.0%} of the disk is free")
    with suppress(FileNotFoundError):
        wal = os.path.getsize(f"{path}-wal")
        if wal > WAL_BYTES:
            yield Symptom(
                "warning", "wal", f"the write-ahead log has {wal // 2**20} MiB: a long read keeps it from shrinking",
                "end long queries and exports; look for a shell with an open BEGIN",
            )  # fmt: skip


def _file(connection: apsw.Connection, path: str, env: Env) -> Iterator[Symptom]:
    mode = connection.pragma("journal_mode")
    wanted = "wal" if wal_is_safe(sqlite_version()) else "delete"
    if mode == wanted:
        yield Symptom("ok", "journal", f"journal mode {mode}, synchronous FULL in every connection of ours")
    else:
        yield Symptom(
            "warning",
            "journal",
            f"journal mode {mode}, expected {wanted}",
            "stop all processes that use the store, then start one",
        )
    if connection.pragma("application_id") not in (APPLICATION_ID, 0):
        yield Symptom(
            "error", "identity", f"{path} carries the mark of another application", "give the store a file of its own"
        )
    version, known = migrations.current(connection), migrations.newest()
    if version == known:
        yield Symptom("ok", "schema", f"schema version {version}")
    else:
        how = "longcase migrate" if version < known else "upgrade Longcase"
        yield Symptom("error", "schema", f"schema version {version}, this release needs {known}", how)
    damage = integrity(connection)
    for text in damage:
        yield Symptom("error", "damage", text, "longcase restore BACKUP, then longcase verify")
    if not damage:
        yield Symptom("ok", "damage", "no damaged page, index or reference")
    if version == known:
        broken: list[StoreCorrupt] = []
        clock: ScaledClock | None = None
        with beside_damage(broken.append):
            clock = clock_from(settings.read(_reading(connection), "clock"))
        yield from _clock(connection, env, clock)
        yield from _workers(connection, path, env, clock, broken.append)
        found, gone, unread = (
            [tuple(map(str, row)) for row in connection.execute(asked)] for asked in (STUCK, GONE, UNREAD)
        )
        yield from map(Symptom.of, broken)
        yield from unreadable(unread)
        yield from stuck(found, gone)


def _reading(connection: apsw.Connection) -> Callable[..., list[Any]]:
    return lambda sql, parameters=(): connection.execute(sql, parameters).fetchall()


def _clock(connection: apsw.Connection, env: Env, clock: ScaledClock | None) -> Iterator[Symptom]:
    newest = connection.execute("SELECT coalesce(max(at), '') FROM cases").get
    now = (clock or env).now()
    if newest and instant_of(str(newest)) - now > CLOCK_BACK:
        yield Symptom(
            "error",
            "clock",
            f"the newest event is of {newest}, the clock says {instant_text(now)}",
            "set the clock, then start the workers",
        )
    elif now.year < 2020:
        yield Symptom("error", "clock", f"the clock says {instant_text(now)}", "set the clock")
    else:
        yield Symptom("ok", "clock", f"the clock says {instant_text(now)}")


def _workers(
    connection: apsw.Connection, path: str, env: Env, clock: ScaledClock | None, told: Told
) -> Iterator[Symptom]:
    """Read who moves cases, and what is due."""
    now, pace = (clock.now(), clock.factor) if clock is not None else (env.now(), 1.0)
    read = _reading(connection)
    rows = rows_of(read, Locks(path), told)
    workers = [SeenWorker(row, (now - instant_of(row.beat_at)).total_seconds() / pace) for row in rows]
    since = instant_text(now - timedelta(seconds=UNSERVED_SECONDS * pace))
    due = [Due(*row) for row in connection.execute(DUE, (since,))]
    due += [Due(*row) for row in connection.execute(WAITING_CALLS, (instant_text(now),))]
    return workers_and_what_waits(workers, due, [Holding(*row) for row in read(HOLDINGS)])
