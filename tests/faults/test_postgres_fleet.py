"""What happens to the workers of a fleet on one PostgreSQL: killed, stopped, asked to leave, under other clocks."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.conftest import LEASE_SECONDS
from tests.crash.inspection import Inspection
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import BOUND, check_orders
from tests.faults.ships import TRIES, Ships, door, fleet, fresh_orders, nothing, sail, sent
from tests.faults.watching import is_stopped, stop_outside_its_transactions, until
from tests.support.postgres import run_sql

ORDERS = by_length(12, 200)
KEYS = [f"o{number}" for number in range(ORDERS)]
LEASE = float(LEASE_SECONDS)
PATIENT = "20"  # seconds of lease where nobody is to lose it, however slow the machine

pytestmark = pytest.mark.timeout(by_length(600, 1_800))


def test_fault_F1_a_kill_storm_over_several_workers(
    postgres_url: str, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    async def run(ships: Ships) -> tuple[int, list[str]]:
        orders, held = fresh_orders(), 0
        async with door(postgres_url) as life:
            for _ in range(by_length(3, 60)):
                for _ in range(3):
                    await life.order(next(orders))
                held += await ships.kill_at_work(life, orders)
            await sail(life, ships, [], nothing)
            return held, sent(life)

    with fleet(postgres_url, tmp_path, 3) as ships:
        held, keys = asyncio.run(run(ships))
        said = ships.said()
    assert "Traceback" not in said, said[-3000:]
    effects = check_orders(postgres_url, ledger, keys)
    inspection = Inspection(postgres_url)
    report(
        injected={"SIGKILL": ships.killed, "cases held by the dead": held},
        useful={"orders closed": len(keys), "effects": effects},
        found=f"{sum(inspection.count(f'orders/{key}', 'attempt_lost') for key in keys)} attempts lost and done again",
    )


def test_fault_F3_a_worker_stopped_past_its_lease_wakes_and_changes_nothing(
    postgres_url: str, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    """Its cases are taken over; when it goes on, its reports are refused, and it takes new work as another."""
    stops = by_length(2, 12)

    async def run(ships: Ships) -> None:
        async with door(postgres_url) as life:
            for number in range(stops):
                worker = ships.workers[number % 2]
                await asyncio.to_thread(ships.until_ready, worker)
                for key in KEYS[number * 3 : number * 3 + 3]:
                    await life.order(key)
                await asyncio.to_thread(stop_outside_its_transactions, worker, postgres_url)
                await asyncio.sleep(LEASE + 1.5)  # the pause is the fault: longer than the lease
                worker.send_signal(signal.SIGCONT)
                await asyncio.to_thread(ships.until_said, "was forgotten", number + 1)
            await sail(life, ships, KEYS[stops * 3 :], nothing)
        assert ships.ended == [], "a zombie goes on as another incarnation, it does not end"

    with fleet(postgres_url, tmp_path, 2) as ships:
        asyncio.run(run(ships))
        began = ships.began
        assert ships.stop() == [0] * len(ships.workers), ships.said()[-3000:]
    numbers = run_sql(postgres_url, "SELECT count(*) AS n FROM workers")[0]["n"]
    assert numbers == 0, "all have left"
    effects = check_orders(postgres_url, ledger, KEYS, zombies=True)
    report(
        injected={"SIGSTOP past the lease": stops},
        useful={"orders closed": ORDERS, "effects": effects},
        found=f"{began} processes, none ended; what they reported late was refused",
    )


def test_fault_F3_a_worker_stopped_before_an_attempt_does_not_begin_it_when_it_wakes(
    postgres_url: str, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    """Others have settled it meanwhile and made it: the outside would see it twice."""
    with fleet(postgres_url, tmp_path, 0) as ships:
        sleeper = ships.start_one(SHIPS_STOPS="1")

        async def run() -> None:
            async with door(postgres_url) as life:
                await life.order(KEYS[0])
                until(lambda: is_stopped(sleeper), "the worker stops before its first attempt")
                ships.start_one()
                await life.all_closed()

        asyncio.run(run())
        sleeper.send_signal(signal.SIGCONT)
        ships.until_said("was forgotten", 1)
        assert ships.stop() == [0, 0], ships.said()[-3000:]
    effects = check_orders(postgres_url, ledger, KEYS[:1])
    lost = [e for e in Inspection(postgres_url).events(f"orders/{KEYS[0]}") if e.type == "attempt_lost"]
    assert lost, "others took the attempt for lost"
    made = Counter(line.split()[0] for line in ledger.read_text().splitlines())
    assert set(made.values()) == {1}, made
    report(
        injected={"SIGSTOP before an attempt": 1, "attempts taken for lost": len(lost)},
        useful={"effects": effects},
        found="made once, by the other",
    )


def test_fault_F5_workers_are_replaced_by_sigterm_and_nothing_is_lost(
    postgres_url: str, tmp_path: Path, ledger: Path, report: FaultReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling deploy: each worker drains, gives its leases back at once, and another takes its place."""
    terms = by_length(2, 12)
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", PATIENT)

    async def run(ships: Ships) -> list[str]:
        orders = fresh_orders()
        async with door(postgres_url) as life:
            for _ in range(terms):
                worker, _ = await ships.at_work(life, orders)
                await asyncio.to_thread(ships.until_ready, worker)
                worker.terminate()
                code = await asyncio.to_thread(worker.wait, BOUND)
                assert code == 0, ships.said()[-3000:]
                ships.keep_up()
            await sail(life, ships, [], nothing)
            return sent(life)

    with fleet(postgres_url, tmp_path, 2) as ships:
        keys = asyncio.run(run(ships))
        ships.stop()
    effects = check_orders(postgres_url, ledger, keys)
    inspection = Inspection(postgres_url)
    lost = Counter(
        {
            kind: sum(inspection.count(f"orders/{key}", kind) for key in keys)
            for kind in ("attempt_lost", "attempt_refused")
        }
    )
    assert not +lost, f"a worker that drains loses nothing: {lost}"
    report(
        injected={"SIGTERM at work": terms},
        useful={"orders closed": len(keys), "effects": effects},
        found="no attempt lost, none refused",
    )


def test_fault_F14_several_workers_share_one_database_under_load(
    postgres_url: str, tmp_path: Path, ledger: Path, report: FaultReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any harm, nobody does what another does: no attempt is lost, none is made twice."""
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", PATIENT)

    async def run(ships: Ships) -> list[str]:
        for worker in ships.workers:
            await asyncio.to_thread(ships.until_ready, worker)
        orders = fresh_orders()
        async with door(postgres_url) as life:
            for _ in range(TRIES):  # one alone may be quick enough to do it all
                await asyncio.gather(*(life.order(next(orders)) for _ in range(ORDERS)))
                await sail(life, ships, [], nothing)
                if len(performers(await asyncio.to_thread(Inspection, postgres_url))) > 1:
                    break
            leased = await life.longcase.service.query("SELECT count(*) AS n FROM cases WHERE lease <> 0")
            assert leased[0]["n"] == 0, "a closed case is leased by nobody"
            return sent(life)

    with fleet(postgres_url, tmp_path, 3) as ships:
        keys = asyncio.run(run(ships))
        assert ships.stop() == [0, 0, 0]
    effects = check_orders(postgres_url, ledger, keys)
    lines = [line.split() for line in ledger.read_text().splitlines()]
    again = Counter(tuple(line) for line in lines)
    assert max(again.values()) == 1, "the same attempt was made by two workers"
    inspection = Inspection(postgres_url)
    assert sum(inspection.count(f"orders/{key}", "attempt_lost") for key in keys) == 0
    shared = performers(inspection)
    assert len(shared) >= 2, "one worker did it all: the test would prove nothing"
    report(
        injected={"workers that did some of it": len(shared)},
        useful={"orders closed": len(keys), "effects": effects},
        found="no attempt was made twice, none was lost",
    )


def performers(inspection: Inspection) -> Counter[int]:
    """Return how many attempts each incarnation began."""
    return Counter(
        event.data["worker"]
        for address in inspection.addresses()
        for event in inspection.events(address)
        if event.data.get("worker") and event.data.get("attempt")
    )


@pytest.mark.parametrize("hours", by_length([1.0], [1.0, -1.0, 87_600.0]))
def test_fault_F28_workers_under_wrong_clocks_agree(
    postgres_url: str,
    tmp_path: Path,
    ledger: Path,
    report: FaultReport,
    hours: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database's clock decides: a worker an hour ahead fires nothing early and is nobody's zombie."""
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", PATIENT)

    async def run(ships: Ships) -> tuple[int, list[str]]:
        wrong = ships.start_one(SHIPS_SKEW=str(hours * 3600))
        await asyncio.to_thread(ships.until_ready, wrong)
        orders = fresh_orders()
        async with door(postgres_url) as life:
            _, number = await ships.at_work(life, orders, wrong)
            await sail(life, ships, [], nothing)
            return number, sent(life)

    with fleet(postgres_url, tmp_path, 2) as ships:
        number, keys = asyncio.run(run(ships))
        assert ships.stop() == [0] * 3
    effects = check_orders(postgres_url, ledger, keys)
    now = run_sql(postgres_url, "SELECT now AS now FROM clock")[0]["now"]
    latest = run_sql(postgres_url, "SELECT max(at) AS at FROM history")[0]["at"]
    assert latest <= now, "an event of the future"
    inspection = Inspection(postgres_url)
    assert sum(inspection.count(f"orders/{key}", "attempt_lost") for key in keys) == 0
    by_it = performers(inspection)[number]
    report(
        injected={"attempts begun under a wrong clock": by_it},
        useful={"orders closed": len(keys), "effects": effects},
        found=f"a clock {hours:+g} h off made no event early or late",
    )


def test_fault_F42_workers_of_other_hash_seeds_zones_and_locales_replay_each_others_cases(
    postgres_url: str, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    odd = [
        {"PYTHONHASHSEED": "1", "TZ": "Pacific/Kiritimati", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "77", "TZ": "America/St_Johns", "LC_ALL": "C.UTF-8", "PYTHONOPTIMIZE": "1"},
    ]

    async def run(ships: Ships) -> list[str]:
        orders = fresh_orders()
        async with door(postgres_url) as life:
            for number in range(by_length(2, 10)):
                await ships.kill_at_work(life, orders)
                ships.start_one(**odd[number % 2], HOME="/nonexistent")
            await sail(life, ships, KEYS, nothing)
            return sent(life)

    with fleet(postgres_url, tmp_path, 1) as ships:
        for environment in odd:
            ships.start_one(**environment)
        keys = asyncio.run(run(ships))
    effects = check_orders(postgres_url, ledger, keys)
    held = run_sql(postgres_url, "SELECT count(*) AS n FROM history WHERE type = 'incident_opened'")[0]["n"]
    assert held == 0, "a replay that differs opens code_changed"
    report(
        injected={"workers of other environments": len(odd) + by_length(2, 10), "SIGKILL": ships.killed},
        useful={"orders closed": len(keys), "effects": effects},
        found="no replay differed",
    )


def test_fault_F40_cases_due_at_once_after_an_outage_are_moved_once(
    postgres_url: str, tmp_path: Path, ledger: Path, report: FaultReport
) -> None:
    """All orders are accepted while no worker lives; then a fleet begins."""
    count = by_length(60, 2_000)
    keys = [f"o{number}" for number in range(count)]

    async def run() -> float:
        async with door(postgres_url) as life:
            for key in keys:
                await life.order(key)
            began = time.monotonic()
            with fleet(postgres_url, tmp_path, 3) as ships:
                await sail(life, ships, [], nothing)
                assert ships.stop() == [0, 0, 0]
            return time.monotonic() - began

    took = asyncio.run(run())
    effects = check_orders(postgres_url, ledger, keys)
    again = Counter(tuple(line.split()) for line in ledger.read_text().splitlines())
    assert max(again.values()) == 1
    report(
        injected={"cases due at once": count},
        useful={"orders closed": count, "effects": effects},
        found=f"through in {took:.1f} s, no attempt made twice",
    )


def test_fault_F33_a_case_that_kills_its_worker_does_not_stop_the_others(
    postgres_url: str, tmp_path: Path, report: FaultReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up after so many deaths, with an incident that names its owner; the others are through."""
    monkeypatch.setenv("SHIPS_CRASHES", str(by_length(2, 10)))
    monkeypatch.setenv("LONGCASE_LEASE_SECONDS", "1")

    async def run(ships: Ships) -> str:
        async with door(postgres_url) as life:
            await life.longcase.service.start("poison", {"id": "p"})
            for key in KEYS[:6]:
                await life.order(key)
            end = time.monotonic() + BOUND
            while True:
                ships.keep_up()
                view = await life.longcase.service.show("poison/p")
                if view.state.incidents and await life.open_orders() == 1:
                    (incident,) = view.state.incidents.values()
                    return f"{incident['kind']} owned by {incident['owner']}"
                assert time.monotonic() < end, view.state.to_json()
                await asyncio.sleep(0.05)

    with fleet(postgres_url, tmp_path, 2) as ships:
        found = asyncio.run(run(ships))
        deaths = ships.ended.count(-signal.SIGKILL)
    assert deaths >= 2, ships.ended
    inspection = Inspection(postgres_url)
    assert inspection.broken_invariants() == []
    assert [inspection.state(f"orders/{key}").status for key in KEYS[:6]] == ["closed"] * 6
    report(
        injected={"deaths by one case": deaths},
        useful={"orders closed": 6},
        found=f"incident {found}",
    )
