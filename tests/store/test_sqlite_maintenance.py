"""Backup, restore and the doctor: a copy is whole or not there, and nothing good is lost by restoring."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import apsw
import pytest
from tests.support.cases import NOON, do, entered, new_case, noted, receive, turn
from tests.support.processes import line, process

from longcase.env import Env, RealClock, VirtualClock
from longcase.errors import SchemaMismatch, StoreCorrupt, StoreUnavailable, UsageError
from longcase.insight.verify import verify
from longcase.service.fleet import fleet
from longcase.store.records import CaseRef
from longcase.store.settings import clock_setting
from longcase.store.sqlite import SqliteStore, open_sqlite
from longcase.store.sqlite.connection import wal_is_safe
from longcase.store.sqlite.doctor import doctor
from longcase.store.sqlite.filesystem import network_kind
from longcase.store.sqlite.maintenance import backup, restore


@pytest.fixture
def copy(tmp_path: Path) -> str:
    return str(tmp_path / "copy.db")


async def fill(store: SqliteStore, cases: int) -> None:
    started = await store.start([new_case(f"k{i}") for i in range(cases)])
    await store.write([turn(base, entered(), receive()) for base in started])


async def sound(path: str, env: Env) -> int:
    """Return the number of cases of a store that must verify."""
    store = await open_sqlite(path, env, create=False)
    assert [str(finding) async for finding in verify(store)] == []
    found = await store.query("SELECT count(*) AS n FROM cases")
    await store.close()
    return int(found[0]["n"])


def damage(path: str) -> None:
    """Overwrite a page in the middle of a closed store."""
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xa5" * 4096)


async def test_a_backup_is_a_store_with_the_same_cases(store: SqliteStore, path: str, copy: str, env: Env) -> None:
    await fill(store, 10)
    backup(path, copy)
    assert sorted(os.listdir(os.path.dirname(path))) == ["copy.db", "longcase.db", "longcase.db-shm", "longcase.db-wal"]
    await store.start([new_case("later")])
    assert await sound(copy, env) == 10


async def test_inv_07_a_backup_under_load_is_one_committed_state(
    store: SqliteStore, path: str, copy: str, env: Env
) -> None:
    await fill(store, 300)
    under_way = asyncio.Event()
    loop = asyncio.get_running_loop()
    stop = False

    async def load() -> int:
        await under_way.wait()
        number = 0
        while not stop:
            await store.start([new_case(f"x{number}")])
            number += 1
        return number

    writing = asyncio.create_task(load())
    await asyncio.to_thread(backup, path, copy, progress=lambda done, total: loop.call_soon_threadsafe(under_way.set))
    stop = True
    under_way.set()
    await writing
    assert await sound(copy, env) >= 300


async def test_a_backup_does_not_replace_a_file_unasked(store: SqliteStore, path: str, copy: str, env: Env) -> None:
    Path(copy).write_text("precious")
    with pytest.raises(UsageError, match="there already"):
        backup(path, copy)
    assert Path(copy).read_text() == "precious"
    backup(path, copy, force=True)
    assert await sound(copy, env) == 0


async def test_a_backup_of_a_damaged_store_is_not_kept(path: str, copy: str, env: Env) -> None:
    store = await open_sqlite(path, env)
    await fill(store, 200)
    await store.close()
    damage(path)
    with pytest.raises(StoreCorrupt):
        backup(path, copy)
    assert not os.path.exists(copy)
    assert not os.path.exists(f"{copy}.part")


async def test_a_restored_store_is_the_one_that_was_backed_up(path: str, copy: str, env: Env) -> None:
    store = await open_sqlite(path, env)
    await fill(store, 5)
    backup(path, copy)
    await store.start([new_case("later")])
    await store.close()
    aside = restore(path, copy, env, force=True)
    assert await sound(path, env) == 5
    assert await sound(aside, env) == 6


async def test_restoring_over_a_store_wants_to_be_asked_for(store: SqliteStore, path: str, copy: str, env: Env) -> None:
    backup(path, copy)
    await store.start([new_case("k1")])
    with pytest.raises(UsageError, match=r"is at .* already"):
        restore(path, copy, env)
    assert await store.load(CaseRef(workflow="onboarding", key="k1")) is not None


async def test_restoring_to_an_empty_place_needs_no_force(
    store: SqliteStore, path: str, copy: str, env: Env, tmp_path: Path
) -> None:
    await fill(store, 3)
    backup(path, copy)
    new = str(tmp_path / "new.db")
    assert restore(new, copy, env) == ""
    assert await sound(new, env) == 3


async def test_a_store_in_use_is_not_replaced(store: SqliteStore, path: str, copy: str, env: Env) -> None:
    backup(path, copy)
    with pytest.raises(StoreUnavailable, match="in use by another process"):
        restore(path, copy, env, force=True)
    worker = await store.join("here", 1)
    with pytest.raises(StoreUnavailable, match=f"in use by worker {worker}"):
        restore(path, copy, env, force=True)
    await store.start([new_case("k1")])


async def test_a_store_used_by_another_process_is_not_replaced(path: str, copy: str, env: Env) -> None:
    with process("store = await open_sqlite(path, Env())\nsay('open')\nsys.stdin.readline()", path) as child:
        assert line(child) == "open"
        backup(path, copy)
        with pytest.raises(StoreUnavailable, match="in use"):
            restore(path, copy, env, force=True)


async def test_a_damaged_backup_is_refused_before_anything_is_touched(path: str, copy: str, env: Env) -> None:
    store = await open_sqlite(path, env)
    await fill(store, 200)
    backup(path, copy)
    await store.close()
    damage(copy)
    before = Path(path).read_bytes()
    with pytest.raises(StoreCorrupt, match="backup"):
        restore(path, copy, env, force=True)
    assert Path(path).read_bytes() == before


async def test_a_damaged_store_is_replaced_by_its_backup(path: str, copy: str, env: Env) -> None:
    store = await open_sqlite(path, env)
    await fill(store, 200)
    backup(path, copy)
    await store.close()
    Path(path).write_bytes(b"\x00" * 8192)
    restore(path, copy, env, force=True)
    assert await sound(path, env) == 200


async def test_a_backup_of_a_newer_release_is_refused(
    store: SqliteStore, path: str, copy: str, env: Env, tmp_path: Path
) -> None:
    backup(path, copy)
    newer = apsw.Connection(copy)
    newer.execute("INSERT INTO schema_migrations VALUES (99, 'later', 'x', 'then')")
    newer.close()
    with pytest.raises(SchemaMismatch):
        restore(str(tmp_path / "new.db"), copy, env)


async def test_a_restored_workers_leases_are_found_dead(
    store: SqliteStore, path: str, copy: str, env: Env, tmp_path: Path
) -> None:
    worker = await store.join("here", 1)
    (base,) = await store.start([new_case("k1")])
    await store.write([turn(base, entered(), receive(), lease=worker)])
    backup(path, copy)
    new = str(tmp_path / "new.db")
    restore(new, copy, env)
    restored = await open_sqlite(new, env)
    assert await restored.dead_workers() == [worker]
    assert await restored.recover(worker) == 1
    await restored.close()


# -- the doctor --------------------------------------------------------------------------------------


def bad(path: str, env: Env) -> dict[str, str]:
    return {symptom.name: symptom.message for symptom in doctor(path, env) if symptom.level != "ok"}


async def test_a_sound_store_has_only_good_news(store: SqliteStore, path: str, env: Env) -> None:
    await fill(store, 2)
    symptoms = doctor(path, env)
    assert {symptom.level for symptom in symptoms} == {"ok"}
    assert {symptom.name for symptom in symptoms} >= {"sqlite", "disk", "journal", "schema", "damage", "clock", "stuck"}


async def test_damage_is_found_and_the_mend_named(path: str, env: Env) -> None:
    store = await open_sqlite(path, env)
    await fill(store, 200)
    await store.close()
    damage(path)
    (symptom, *_) = (symptom for symptom in doctor(path, env) if symptom.level == "error")
    assert symptom.name == "damage"
    assert "longcase restore" in symptom.hint


async def test_inv_31_a_case_that_nothing_will_move_is_named(store: SqliteStore, path: str, env: Env) -> None:
    (base,) = await store.start([new_case("k1")])
    await store.write([turn(base, entered())])
    assert "onboarding/k1 in intake" in bad(path, env)["stuck"]


async def test_a_worker_that_lives_and_says_nothing_is_named_with_what_it_holds(
    store: SqliteStore, path: str, env: Env
) -> None:
    silent, well = await store.join("here", 123), await store.join("here", 456)
    started = await store.start([new_case(f"k{i}") for i in range(12)])
    await store.write([turn(base, entered(), receive(), lease=silent) for base in started])
    assert "worker" not in bad(path, env)
    env.clock.advance(timedelta(seconds=40))  # type: ignore[attr-defined]
    await store.beat(well)
    symptoms = [symptom for symptom in doctor(path, env) if symptom.name == "worker"]
    assert [symptom.level for symptom in symptoms] == ["warning"]
    assert f"worker {silent} (pid 123 on here) has been silent for 40 s and holds 12 cases" in symptoms[0].message
    store.abandon(silent)
    assert f"worker {silent} (pid 123 on here) is dead" in bad(path, env)["worker"]
    await store.recover(silent)
    assert "worker" not in bad(path, env)


async def test_silence_is_measured_in_real_seconds_where_time_is_compressed(
    store: SqliteStore, path: str, env: Env
) -> None:
    worker = await store.join("here", 123)
    began = RealClock().now()
    await store.set_setting("clock", clock_setting(began.timestamp() - 10, env.now(), 3600.0))
    assert "worker" not in bad(path, env), f"worker {worker} was silent for ten hours of case time, ten seconds here"
    await store.set_setting("clock", clock_setting(began.timestamp() - 50, env.now(), 3600.0))
    assert "silent for 50 s" in bad(path, env)["worker"]
    (seen,) = (await fleet(store, {})).workers
    assert 50 <= seen.silent < 600, "real seconds, not hours of case time"


async def test_events_of_a_compressed_clock_are_not_taken_for_the_future(
    store: SqliteStore, path: str, env: Env
) -> None:
    await store.start([new_case("k1")])
    began = RealClock().now().timestamp()
    await store.set_setting("clock", clock_setting(began, env.now() + timedelta(days=1), 3600.0))
    assert "clock" not in bad(path, Env(VirtualClock(NOON - timedelta(days=300))))


async def test_a_clock_behind_the_newest_event_is_found(store: SqliteStore, path: str, env: Env) -> None:
    (base,) = await store.start([new_case("k1")])
    await store.edit(CaseRef(base.case_no), do(noted()))
    env.clock.set(env.now() - timedelta(hours=1))  # type: ignore[attr-defined]
    assert "the clock says" in bad(path, env)["clock"]


def test_a_store_that_is_not_there_is_an_error_with_a_hint(path: str, env: Env) -> None:
    assert "no store" in bad(path, env)["path"]


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 6, 23), True), ((3, 7, 0), False), ((3, 40, 1), False), ((3, 44, 5), False), ((3, 44, 6), True),
        ((3, 45, 0), False), ((3, 50, 6), False), ((3, 50, 7), True), ((3, 51, 2), False), ((3, 51, 3), True),
        ((3, 54, 1), True),
    ],
)  # fmt: skip
def test_the_libraries_with_the_wal_reset_bug_are_known(version: tuple[int, int, int], safe: bool) -> None:
    assert wal_is_safe(version) is safe


async def test_with_an_affected_library_the_store_works_without_wal(
    path: str, env: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longcase.store.sqlite.connection.sqlite_version", lambda: (3, 40, 1))
    monkeypatch.setattr("longcase.store.sqlite.doctor.sqlite_version", lambda: (3, 40, 1))
    store = await open_sqlite(path, env)
    await fill(store, 3)
    assert not os.path.exists(f"{path}-wal")
    assert "WAL-reset" in bad(path, env)["sqlite"]
    await store.close()
    assert await sound(path, env) == 3


def test_a_network_share_is_told_from_a_disk(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path}/far nfs4 rw 0 0\n"
        f"server:/y {tmp_path}/with\\040space cifs rw 0 0\n"
    )
    assert network_kind(f"{tmp_path}/far/longcase.db", str(mounts)) == "nfs4"
    assert network_kind(f"{tmp_path}/with space/longcase.db", str(mounts)) == "cifs"
    assert network_kind(f"{tmp_path}/far-off.db", str(mounts)) == ""
    assert network_kind(f"{tmp_path}/near.db", str(tmp_path / "no mounts")) == ""


async def test_a_store_on_a_network_share_is_refused(path: str, env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longcase.store.sqlite.connection.network_kind", lambda folder: "nfs4")
    with pytest.raises(StoreUnavailable, match="network share"):
        await open_sqlite(path, env)
