"""The store's file is deleted or replaced under a running worker: it stops and says so, naming the file."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.runtime.common import Thing
from tests.support.waiting import BOUND

from longcase import Case, Longcase, Next, Team, Workflow, days
from longcase.errors import StoreGone, StoreUnavailable

things = Workflow("things", object=Thing, key="id", owner=Team("desk"), expect=days(1))


@things.stage(expect=days(1))
async def waiting(case: Case[Thing]) -> Next:
    await case.pause(days(1), because="rest")
    return things.close("done")


def deleted(file: Path) -> None:
    for one in file.parent.glob(f"{file.name}*"):
        if one.is_file():  # beside it lies a folder of locks
            one.unlink()


def replaced(file: Path) -> None:
    other = file.with_name("other.db")
    shutil.copy(file, other)
    other.replace(file)


@pytest.mark.parametrize("lose", [deleted, replaced])
def test_a_worker_whose_store_is_gone_stops_and_names_the_file(tmp_path: Path, lose: object) -> None:
    file = tmp_path / "cases.db"

    async def run() -> StoreUnavailable:
        longcase = await Longcase([things], url=f"sqlite:///{file}").open()
        try:
            await longcase.service.start(things, Thing(id="T-1"))
            await longcase.record_maps()
            worker = longcase.new_worker()
            running = asyncio.create_task(worker.run())
            while not worker.number and not running.done():  # the worker tells nobody else
                await asyncio.sleep(0.01)
            assert not longcase.store.gone()
            lose(file)  # type: ignore[operator]
            with pytest.raises(StoreGone) as stopped:
                await asyncio.wait_for(running, BOUND)
            return stopped.value
        finally:
            await longcase.close()

    error = asyncio.run(run())
    assert str(file) in error.message
    assert not error.retryable
    assert error.exit_code == 6
    assert error.hint
