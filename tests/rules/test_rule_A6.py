"""A6: a mismatch is never an exception in stage code; the case is held with past beside present."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.rules.support import closed, declare, incident

from longcase.testing import Simulation

BASE = """
go = wf.signal("go", Go)

@activity(owner=desk)
async def check(amount: int) -> int:
    return amount

@activity(owner=desk)
async def check_again(amount: int) -> int:
    return amount

@activity(owner=desk)
async def compensate(amount: int) -> int:
    return -amount

@wf.stage
async def work(case: Case[Order]) -> Next:
"""
FIRST = (
    BASE
    + """
    try:
        await check(case.object.amount)
    except Exception:
        await compensate(1)
    await case.receive(go)
    return wf.close("done")
"""
)
CHANGES = {
    "renamed under except Exception": FIRST.replace("await check(", "await check_again("),
    "renamed under bare except": FIRST.replace("await check(", "await check_again(").replace(
        "except Exception", "except BaseException"
    ),
    "another argument": FIRST.replace("check(case.object.amount)", "check(case.object.amount + 1)"),
    "a recorded command is never attempted": BASE + """
    await case.receive(go)
    return wf.close("done")
""",
    "the stage ends early": BASE + """
    return wf.close("done")
""",
    "an inserted command": FIRST.replace("    try:", "    await compensate(2)\n    try:", 1),
}  # fmt: skip


def upgrade(path: Path, old: str, new: str) -> Simulation:
    """Run one version of the workflow until it waits, and open the store with another one."""
    with Simulation([declare(old).wf], path=path, seed=1) as sim:
        sim.start("order", {"id": "1", "amount": 3})
        assert sim.state("order/1").receives
        now = sim.now
    return Simulation([declare(new).wf], path=path, seed=2, now=now)


@pytest.mark.parametrize("change", CHANGES)
def test_rule_A6_a_mismatch_is_held_and_never_raised_into_stage_code(change: str, tmp_path: Path) -> None:
    with upgrade(tmp_path / "cases.db", FIRST, CHANGES[change]) as sim:
        before = sim.types("order/1")
        sim.signal("order/1", "go", {"n": 1})
        opened = incident(sim, "order/1")
        assert opened["kind"] == "code_changed"
        assert opened["details"]["recorded"].startswith("activity_scheduled work/activity:check#1")
        assert opened["details"]["attempted"]
        assert sim.types("order/1") == [*before, "incident_opened"], "nothing but the incident"
        assert sim.performed == [], "neither the renamed activity nor the compensation ran"
        assert sim.show("order/1").pending == 1, "the signal waits"


def test_rule_A6_the_code_put_back_goes_on_where_the_case_was(tmp_path: Path) -> None:
    path = tmp_path / "cases.db"
    with upgrade(path, FIRST, CHANGES["an inserted command"]) as sim:
        sim.signal("order/1", "go", {"n": 1})
        assert incident(sim, "order/1")["kind"] == "code_changed"
    with Simulation([declare(FIRST).wf], path=path, seed=3) as sim:
        sim.retry("order/1")
        assert closed(sim, "order/1") == "done"


def test_rule_A6_restart_adopts_the_new_code_and_reuses_results(tmp_path: Path) -> None:
    with upgrade(tmp_path / "cases.db", FIRST, CHANGES["an inserted command"]) as sim:
        sim.signal("order/1", "go", {"n": 1})
        sim.restart("order/1")
        assert closed(sim, "order/1") == "done"
        assert [name for _, name, _ in sim.performed] == ["compensate"], "check's result is taken over"


def test_rule_A6_a_change_that_replay_cannot_see_does_not_hold_the_case(tmp_path: Path) -> None:
    """Wording and later steps may change under a waiting case."""
    later = FIRST.replace('wf.close("done")', 'wf.close("finished")')
    with upgrade(tmp_path / "cases.db", FIRST, later) as sim:
        sim.signal("order/1", "go", {"n": 1})
        assert closed(sim, "order/1") == "finished"


WAITS = (
    """
@decision(owner=credit, question="Big?", policy="v1")
def big(amount: int) -> Literal["yes", "no"]:
    return "no"

"""
    + BASE
    + """
    big({ruled})
    case.update(note="{note}", amount=5)
    asyncio.create_task(case.pause({span}, because="cooling off"))
    asyncio.create_task(case.approval("Sign?", of=desk, within=days(1), quorum={quorum}))
    async with asyncio.timeout({timeout}):
        await case.receive(go)
    return wf.close("done")
"""
)
WROTE = {"ruled": 1, "note": "was", "span": "days(1)", "quorum": 1, "timeout": 60}


@pytest.mark.parametrize(
    ("change", "recorded", "attempted"),
    [
        ({"note": "is"}, 'patch={"amount":5,"note":"was"}', 'patch={"amount":5,"note":"is"}'),
        ({"ruled": 2}, "argument amount=1", "argument amount=2"),
        ({"span": "days(2)"}, 'span="1 day"', 'span="2 days"'),
        ({"timeout": 90}, 'span="1 minute"', 'span="1 minute 30 seconds"'),
        ({"quorum": 2}, "quorum=1", "quorum=2"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_rule_A6_what_a_wait_or_a_write_is_made_of_is_compared(
    change: dict[str, object], recorded: str, attempted: str, tmp_path: Path
) -> None:
    with upgrade(tmp_path / "cases.db", WAITS.format(**WROTE), WAITS.format(**{**WROTE, **change})) as sim:
        sim.signal("order/1", "go", {"n": 1})
        details = incident(sim, "order/1")["details"]
        assert (recorded in details["recorded"], attempted in details["attempted"]) == (True, True), details


def test_rule_A6_of_long_arguments_the_place_is_shown_where_they_differ(tmp_path: Path) -> None:
    said = BASE.replace("check(amount: int)", "check(text: str)").replace("return amount\n", "return 0\n", 1) + """
    await check("a" * 300_000 + "{end}" + "z" * 300_000)
    await case.receive(go)
    return wf.close("done")
"""  # fmt: skip
    path = tmp_path / "cases.db"
    with upgrade(path, said.replace("{end}", "before"), said.replace("{end}", "after")) as sim:
        sim.signal("order/1", "go", {"n": 1})
        opened = incident(sim, "order/1")
        assert "aaabeforezzz" in opened["details"]["recorded"]
        assert "aaaafterzzz" in opened["details"]["attempted"]
        assert len(opened["message"]) < 1_000
    with upgrade(tmp_path / "other.db", said, BASE + "    return wf.close('done')") as sim:
        sim.signal("order/1", "go", {"n": 1})
        assert len(incident(sim, "order/1")["message"]) < 1_000, "also where nothing stands beside it"
