"""Where a store cannot be: every refusal names the path and the mend."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longcase.env import Env
from longcase.errors import LongcaseError, StoreUnavailable, UsageError
from longcase.store.records import CaseRef
from longcase.store.sqlite import open_sqlite


async def test_a_directory_is_no_store(tmp_path: Path, env: Env) -> None:
    with pytest.raises(UsageError, match="is a directory") as refused:
        await open_sqlite(str(tmp_path), env)
    assert "longcase.db" in refused.value.hint


async def test_a_missing_directory_is_named(tmp_path: Path, env: Env) -> None:
    with pytest.raises(StoreUnavailable, match="does not exist") as refused:
        await open_sqlite(str(tmp_path / "no" / "longcase.db"), env)
    assert refused.value.hint == f"mkdir -p {tmp_path / 'no'}"


async def test_a_store_that_must_be_there_is_not_created(path: str, env: Env) -> None:
    with pytest.raises(StoreUnavailable, match="no store at"):
        await open_sqlite(path, env, create=False)
    assert not os.path.exists(path)


async def test_a_file_in_the_middle_of_the_path_is_named(tmp_path: Path, env: Env) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable):
        await open_sqlite(str(tmp_path / "file" / "longcase.db"), env)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
async def test_missing_rights_are_named(tmp_path: Path, path: str, env: Env) -> None:
    store = await open_sqlite(path, env)
    await store.close()
    os.chmod(path, 0o400)
    with pytest.raises(StoreUnavailable, match="may not be"):
        await open_sqlite(path, env)
    os.chmod(path, 0o600)
    os.chmod(tmp_path, 0o500)
    with pytest.raises(StoreUnavailable, match="may not be written"):
        await open_sqlite(path, env)
    os.chmod(tmp_path, 0o700)


async def test_a_wrong_durability_is_refused(path: str, env: Env) -> None:
    with pytest.raises(UsageError, match="synchronous is FULL"):
        await open_sqlite(path, env, synchronous="OFF")


async def test_a_closed_store_says_so(path: str, env: Env) -> None:
    store = await open_sqlite(path, env)
    await store.close()
    with pytest.raises(LongcaseError, match="closed"):
        await store.start([])
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.load(CaseRef(1))
