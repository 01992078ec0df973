"""F10: the power is cut, and what was not synced is lost, reordered and torn.

A worker and a client run on a disk that remembers what is durable (`tests.support.power`). At many of
its writes and syncs an image is made of what the machine may find after the power came back, together
with what had been acknowledged and what had been done to the world by then.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest
from tests.crash import program
from tests.crash.inspection import Inspection
from tests.faults.frame import FaultReport, by_length
from tests.support.power import Power, cuttable_power

from longcase import Longcase
from longcase.errors import SchemaMismatch, StoreUnavailable
from longcase.store.sqlite import SqliteStore

ORDERS = by_length(6, 24)
CUTS = by_length(40, 600)
RESUMED = by_length(3, 20)
OFTEN, SELDOM = 8, 800  # pages of log before a checkpoint: often, the writes into the database itself are cut too
BOUND = 90.0
# Each checkpoint syncs the log: only where they are seldom does a commit rest on its own sync.
LIVES = [("FULL", OFTEN), ("FULL", SELDOM), ("NORMAL", SELDOM)]


@dataclass
class Cut:
    """An image, and what the witnesses said at that instant."""

    file: Path
    told: list[tuple[str, str, int]]  # what the client had been told: what, of which order, up to which event
    world: str  # the outside ledger

    def lost(self) -> list[str]:
        """Return what was acknowledged, or begun in the world, and is not in the image."""
        try:
            inspection = Inspection(f"sqlite:///{self.file}")
        except (StoreUnavailable, SchemaMismatch):
            return ["the store"] if self.told or self.world else []  # not even the schema is there
        lost = [f"broken: {finding}" for finding in inspection.broken_invariants()]
        there = set(inspection.addresses())
        for what, key, seq in self.told:
            address = f"orders/{key}"
            if address not in there:
                lost.append(f"{what} {key}")
            elif what == "word" and not inspection.has_input(address, f"word:{key}"):
                lost.append(f"word {key}")
            elif inspection.state(address).seq < seq:
                lost.append(f"{key} had {seq} events, has {inspection.state(address).seq}")
        recorded = inspection.attempts()
        for line in self.world.splitlines():
            what, key, attempt = line.split()
            if (key, int(attempt)) not in recorded:
                lost.append(f"attempt {attempt} of {what}")
        return lost


async def life(folder: Path, power: Power, synchronous: str, checkpoint: int, seed: int) -> list[Cut]:
    """Run orders to their end; returns the images that were made on the way."""
    chosen = {} if synchronous == "FULL" else {"synchronous": synchronous}  # FULL is what one gets without asking
    draw = random.Random(seed)
    path, ledger = folder / "cases.db", Path(program.LEDGER)
    told: list[tuple[str, str, int]] = []
    cuts: list[Cut] = []

    def perhaps_cut() -> None:
        if len(cuts) < CUTS and draw.random() < 0.25:
            witness = list(told), ledger.read_text() if ledger.exists() else ""
            cuts.append(Cut(power.image(str(path), folder / f"cut-{synchronous}-{len(cuts)}", draw), *witness))

    async with Longcase([program.orders], url=f"sqlite:///{path}", **chosen) as longcase:
        store = longcase.store
        assert isinstance(store, SqliteStore)
        assert store._committer.connection is not None
        store._committer.connection.pragma("wal_autocheckpoint", checkpoint)
        power.on_operation = perhaps_cut
        async with longcase.working():
            for number in range(ORDERS):
                key = f"o{number}"
                await longcase.service.start("orders", {"id": key})
                told.append(("start", key, 1))
                await longcase.service.signal(f"orders/{key}", "word", {"text": key}, idempotency_key=key)
                told.append(("word", key, 1))
                # What a reader was shown is a promise too.
                told.append(("shown", key, (await longcase.service.show(f"orders/{key}")).state.seq))
            await all_closed(longcase)
        power.on_operation = None
    return cuts


async def all_closed(longcase: Longcase) -> None:
    async with asyncio.timeout(BOUND):
        while (await longcase.service.query("SELECT count(*) AS n FROM cases WHERE status = 'open'"))[0]["n"]:
            await asyncio.sleep(0.01)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(program, "LEDGER", str(tmp_path / "ledger"))
    return tmp_path / "ledger"


@pytest.mark.timeout(by_length(300, 1_800))
@pytest.mark.parametrize(("synchronous", "checkpoint"), LIVES)
def test_fault_F10_power_cuts_lose_nothing_acknowledged_with_full_and_something_with_normal(
    tmp_path: Path,
    ledger: Path,
    fault_report: FaultReport,
    synchronous: str,
    checkpoint: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with cuttable_power("longcase-test-power") as power:
        cuts = asyncio.run(life(tmp_path, power, synchronous, checkpoint, seed=1))
    assert len(cuts) > CUTS // 2
    fault_report(injected={"power cuts": len(cuts)}, useful={"effects": len(ledger.read_text().splitlines())})
    sound = [cut for cut in cuts if cut.file.exists()]
    for cut in sound:
        found = apsw.Connection(str(cut.file)).execute("PRAGMA integrity_check").fetchall()
        assert found == [("ok",)], f"{cut.file}: {found}"
    lost = {cut.file: cut.lost() for cut in sound}
    losing = [cut for cut in sound if lost[cut.file]]
    if synchronous == "NORMAL":
        assert losing, "a disk that forgets nothing: the same test with FULL would prove nothing"
        assert not [why for cut in losing for why in lost[cut.file] if why.startswith("broken")]
        fault_report(found=f"as NORMAL is documented: {len(losing)} of {len(cuts)} images lack what was acknowledged")
        return
    assert not losing, f"{losing[0].file}: {lost[losing[0].file]}"
    fault_report(found=f"FULL: all acknowledged in {len(cuts)} of {len(cuts)} images, every file sound")
    draw = random.Random(2)
    for cut in draw.sample(cuts, min(RESUMED, len(cuts))):
        again = cut.file.with_name("ledger")
        again.write_text(cut.world)
        monkeypatch.setattr(program, "LEDGER", str(again))
        resumed = asyncio.run(resume(cut))
        fault_report(useful={"cases closed after a cut": resumed})
        charged = [line.split()[0] for line in again.read_text().splitlines() if line.startswith("charge")]
        assert len(charged) == len(set(charged)), "effect=once was repeated"


async def resume(cut: Cut) -> int:
    """Go on where the image stops; the client sends again what it was not told of."""
    async with (
        Longcase([program.orders], url=f"sqlite:///{cut.file}") as longcase,
        longcase.working(),
    ):
        for number in range(ORDERS):
            key = f"o{number}"
            await longcase.service.start("orders", {"id": key})
            await longcase.service.signal(f"orders/{key}", "word", {"text": key}, idempotency_key=key)
        await all_closed(longcase)
        rows = await longcase.service.query("SELECT count(*) AS n FROM cases WHERE status = 'closed'")
    assert rows == [{"n": ORDERS}]
    return ORDERS
