"""I4, I34: replay gives the same commands anywhere, and a case runs only on code that replays it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.invariants.program import Paper, leaky, orders
from tests.rules.support import closed, declare, incident

from longcase.testing import Simulation

ROOT = Path(__file__).parents[2]
PLACES = [("0", "UTC"), ("1", "Asia/Kolkata"), ("4242", "America/St_Johns")]

ON = """
import hashlib, json, sys
from datetime import datetime
from tests.invariants import program
from tests.rules.support import everything
from longcase import days
from longcase.testing import Simulation
workflow = getattr(program, sys.argv[2])
with Simulation([workflow], url=sys.argv[1], live=0, seed=9, now=datetime.fromisoformat(sys.argv[3])) as sim:
    for n in range(3):
        sim.signal(f"{workflow.name}/{n}", "word", {"n": n})
    sim.advance(days(1))
    ends = sorted(str((sim.state(f"{workflow.name}/{n}").close or {}).get("name")) for n in range(3))
    kinds = sorted({i["kind"] for n in range(3) for i in sim.state(f"{workflow.name}/{n}").incidents.values()})
    text = json.dumps(everything(sim), sort_keys=True, default=str)
    print(hashlib.sha256(text.encode()).hexdigest(), *ends, *kinds)
"""


Copier = Callable[[str], str]


@pytest.fixture
def copier(store_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Copier]:
    """Return what copies a store that is closed; returns the copy's URL."""
    made: list[str] = []
    copies = None

    def copy(url: str) -> str:
        nonlocal copies
        if store_kind == "postgres":
            copies = request.getfixturevalue("databases")
            made.append(copies.copy(url))
        else:
            made.append(f"sqlite:///{tmp_path}/copy-{len(made)}.db")
            shutil.copy(url.removeprefix("sqlite:///"), made[-1].removeprefix("sqlite:///"))
        return made[-1]

    yield copy
    if copies is not None:
        for url in made:
            copies.drop(url)


def elsewhere(url: str, workflow: str, now: str, copier: Copier) -> set[str]:
    """Let three processes, each of another hash seed and time zone, rebuild and finish copies of a store."""
    running = []
    for seed, zone in PLACES:
        copy = copier(url)
        environment: Mapping[str, str] = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "TZ": zone,
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        }
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", ON, copy, workflow, now], env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    said = [child.communicate(timeout=60)[0].strip() for child in running]
    assert [child.returncode for child in running] == [0, 0, 0]
    return set(said)


def test_inv_04_replay_gives_the_same_commands_under_any_hash_seed_and_time_zone(
    store_url: str, copier: Copier
) -> None:
    """Cases begun in this process are rebuilt at every turn in three others, and end with equal histories."""
    with Simulation([orders], url=store_url) as sim:
        for n in range(3):
            sim.start(orders, Paper(id=f"{n}"))
        now = sim.now.isoformat()
    told = elsewhere(store_url, "orders", now, copier)
    assert len(told) == 1, told
    assert next(iter(told)).split()[1:] == ["done", "done", "done"]


def test_inv_04_a_stage_that_leaks_the_hash_seed_is_seen(store_url: str, copier: Copier) -> None:
    """The order of a set of strings differs between processes: such cases are held, not guessed on."""
    with Simulation([leaky], url=store_url) as sim:
        for n in range(3):
            sim.start(leaky, Paper(id=f"{n}"))
        now = sim.now.isoformat()
    told = elsewhere(store_url, "leaky", now, copier)
    assert any("code_changed" in words for words in told), told


OLD = """
go = wf.signal("go", Go)

@activity(owner=desk)
async def check(amount: int) -> int:
    return amount

@activity(owner=desk)
async def audit(amount: int) -> int:
    return amount

@wf.stage
async def intake(case: Case[Order]) -> Next:
    await case.receive(go)
    return work

@wf.stage
async def work(case: Case[Order]) -> Next:
    try:
        await check(case.object.amount)
        await case.receive(go)
    except BaseException:
        case.update(note="the stage saw it")
        raise
    return rest

@wf.stage
async def rest(case: Case[Order]) -> Next:
    await case.receive(go)
    return wf.close("done")
"""
NEW = {
    "renamed": OLD.replace("await check(", "await audit("),
    "inserted": OLD.replace("        await check(", "        await audit(1)\n        await check("),
    "removed": OLD.replace("        await check(case.object.amount)\n", ""),
    "other arguments": OLD.replace("check(case.object.amount)", "check(case.object.amount + 1)"),
}


@pytest.mark.parametrize("change", NEW)
def test_inv_34_a_case_whose_past_does_not_replay_is_held_and_the_others_go_on(change: str, store_url: str) -> None:
    at = {"intake": 0, "work": 1, "rest": 2}
    with Simulation([declare(OLD).wf], url=store_url) as sim:
        for stage, signals in at.items():
            for n in range(2):
                case = sim.start("order", {"id": f"{stage}{n}", "amount": 3})
                for _ in range(signals):
                    sim.signal(case, "go", {"n": 0})
                assert sim.state(case).stage == stage
        now = sim.now
    with Simulation([declare(NEW[change]).wf], url=store_url, now=now, seed=2) as sim:
        for stage in at:
            for n in range(2):
                case = f"order/{stage}{n}"
                before = sim.state(case)
                sim.signal(case, "go", {"n": 1})
                if stage == "work":
                    opened = incident(sim, case)
                    assert opened["kind"] == "code_changed"
                    assert "check" in opened["details"]["recorded"]
                    assert sim.state(case).object == before.object, "never an exception in stage code"
                    assert (sim.state(case).visit, sim.show(case).pending) == (before.visit, 1)
                elif stage == "intake":
                    assert sim.state(case).stage == "work", "entered under the new code"
                    assert not sim.state(case).incidents
                else:
                    assert closed(sim, case) == "done"
        assert sim.performed.count(("order/work0", "audit", 1)) == 0
    with Simulation([declare(OLD).wf], url=store_url, now=now, seed=3) as sim:  # the release is taken back
        for n in range(2):
            sim.retry(f"order/work{n}")
            assert sim.state(f"order/work{n}").stage == "rest"
