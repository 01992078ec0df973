"""The client onboarding example on virtual time: the happy path and every way out of it; then its demo, small."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import longcase
from longcase import business_days, business_hours, days, hours, minutes, seconds
from longcase.testing import Simulation

EXAMPLE = Path(__file__).parents[2] / "examples" / "client_onboarding"
MONDAY = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)  # 09:00 in Amsterdam
ACME = {"id": "C-1", "name": "Acme", "legal_entity": "NL-00001"}
CASE = "client-onboarding/C-1"


class Ledger:
    """The bank's ledger: accounts by key, and what was closed again. It may fail before or after its work."""

    def __init__(self) -> None:
        self.accounts: dict[str, str] = {}
        self.closed: list[str] = []
        self.failing: list[str] = []  # how the next calls fail: "before" or "after" the work

    def open(self, client: Any, idempotency_key: str) -> str:
        """Open an account, once for a key."""
        how = self.failing.pop(0) if self.failing else ""
        if how == "before":
            raise ConnectionError("503")
        account = self.accounts.setdefault(idempotency_key, f"A-{len(self.accounts) + 1}")
        if how == "after":
            raise TimeoutError("no answer")
        return account

    def close(self, account: str, client: Any) -> None:
        """Close an account."""
        self.closed.append(account)


OWN_MODULES = ("onboarding", "vendors")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return the example's module, imported as it is run: with its folder on the path."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for name in OWN_MODULES:
        sys.modules.pop(name, None)  # another test's copy of the example may have been imported under the same name
    yield importlib.import_module("onboarding")
    for name in OWN_MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def ledger() -> Ledger:
    """Return an empty ledger."""
    return Ledger()


@pytest.fixture(params=[512, 0], ids=["in memory", "evicted at every await"])
def sim(request: pytest.FixtureRequest, example: ModuleType, ledger: Ledger) -> Iterator[Simulation]:
    """Return a simulation of the example; the registry rates every company B."""
    fakes: dict[Any, Any] = {
        example.check_registry: lambda legal_entity: example.RegistryEntry(rating="B"),
        example.open_account: ledger.open,
        example.close_account: ledger.close,
    }
    with Simulation([example.onboarding], fakes=fakes, now=MONDAY, live=request.param) as simulation:
        yield simulation


def close_of(sim: Simulation) -> tuple[str, str]:
    """Return how the case closed, and why."""
    close = sim.state(CASE).close
    assert close is not None, f"open in {sim.state(CASE).stage}, waiting for {sim.waits(CASE)}"
    return close["name"], close["reason"]


def approve(sim: Simulation) -> None:
    """Let two people of credit approve."""
    sim.decide(CASE, "approved", by="anna")
    sim.decide(CASE, "approved", by="bram")


def at_missing_data(sim: Simulation, example: ModuleType, ledger: Ledger) -> None:
    """Bring the case to the wait for its legal entity."""
    sim.start(example.onboarding, {"id": "C-1", "name": "Acme"})
    assert [wait.kind for wait in sim.waits(CASE)] == ["data"]


def at_registry(sim: Simulation, example: ModuleType, ledger: Ledger) -> None:
    """Bring the case to the wait between two calls to the registry."""
    sim.fake(example.check_registry, unavailable)
    sim.start(example.onboarding, ACME)
    assert [wait.kind for wait in sim.waits(CASE)] == ["activity"]


def at_sign_off(sim: Simulation, example: ModuleType, ledger: Ledger) -> None:
    """Bring the case to its approval."""
    sim.start(example.onboarding, ACME)
    assert [wait.kind for wait in sim.waits(CASE)] == ["person"]


def at_half_a_sign_off(sim: Simulation, example: ModuleType, ledger: Ledger) -> None:
    """Bring the case to one answer of two."""
    at_sign_off(sim, example, ledger)
    sim.decide(CASE, "approved", by="anna")


def at_ledger(sim: Simulation, example: ModuleType, ledger: Ledger) -> None:
    """Bring the case to the wait between two calls to the ledger."""
    at_sign_off(sim, example, ledger)
    ledger.failing = ["before"] * 5
    approve(sim)
    assert [wait.whose for wait in sim.waits(CASE)] == ["core-ledger"]


def at_incident(sim: Simulation, example: ModuleType, ledger: Ledger) -> None:
    """Bring the case to an incident: the ledger failed for good."""
    at_ledger(sim, example, ledger)
    sim.advance(minutes(30))
    assert [wait.kind for wait in sim.waits(CASE)] == ["incident"]


def unavailable(legal_entity: str) -> Any:
    """Be a vendor who is down."""
    raise ConnectionError("503")


def test_a_best_rated_client_needs_no_sign_off(sim: Simulation, example: ModuleType, ledger: Ledger) -> None:
    sim.fake(example.check_registry, lambda legal_entity: example.RegistryEntry(rating="A"))
    sim.start(example.onboarding, ACME)
    assert close_of(sim)[0] == "active"
    assert "task_opened" not in sim.types(CASE)


def test_two_people_sign_off_and_one_account_is_opened(sim: Simulation, example: ModuleType, ledger: Ledger) -> None:
    sim.start(example.onboarding, ACME)
    sim.decide(CASE, "approved", by="anna")
    assert sim.state(CASE).stage == "review"
    assert sim.waits(CASE)[0].what == "Sign off the credit line? (1 of 2)"
    sim.decide(CASE, "approved", by="bram")
    assert close_of(sim)[0] == "active"
    assert list(ledger.accounts.values()) == [sim.state(CASE).close["result"]]  # type: ignore[index]


def test_one_person_answering_twice_is_not_two_people(sim: Simulation, example: ModuleType, ledger: Ledger) -> None:
    sim.start(example.onboarding, ACME)
    sim.decide(CASE, "approved", by="anna")
    assert sim.decide(CASE, "approved", by="anna").duplicate
    assert sim.state(CASE).status == "open"


def test_missing_data_is_reminded_of_and_escalates_to_the_sales_director_after_four_days(
    sim: Simulation, example: ModuleType, ledger: Ledger
) -> None:
    at_missing_data(sim, example, ledger)
    assert (sim.waits(CASE)[0].whose, sim.waits(CASE)[0].what) == ("sales", "needs legal_entity")
    sim.advance(days(4) - minutes(1))
    assert "task_reminded" in sim.types(CASE)
    assert sim.waits(CASE)[0].whose == "sales"
    sim.advance(minutes(1))
    assert sim.waits(CASE)[0].whose == "sales, sales-director"
    assert sim.state(CASE).owner == "sales"
    sim.set(CASE, legal_entity="NL-00001")  # no click: the case goes on by itself
    assert sim.state(CASE).stage == "review"


def test_a_late_sign_off_escalates_to_senior_credit_after_24_business_hours(
    sim: Simulation, example: ModuleType, ledger: Ledger
) -> None:
    at_sign_off(sim, example, ledger)
    sim.advance(business_hours(24), example.office)
    assert sim.waits(CASE)[0].whose == "credit, senior-credit"
    approve(sim)
    assert close_of(sim)[0] == "active"


def test_a_returned_case_loops_back_and_is_asked_again_in_a_second_round(
    sim: Simulation, example: ModuleType, ledger: Ledger
) -> None:
    at_half_a_sign_off(sim, example, ledger)
    sim.decide(CASE, "returned", by="bram", reason="old rating")
    assert (sim.state(CASE).stage, sim.state(CASE).visit) == ("review", 4)
    [task] = sim.tasks(CASE)
    assert (task.task["round"], task.task["votes"]) == (2, [])
    approve(sim)
    assert close_of(sim)[0] == "active"
    assert len(ledger.accounts) == 1


def test_a_rejection_declines_with_its_reason(sim: Simulation, example: ModuleType, ledger: Ledger) -> None:
    at_half_a_sign_off(sim, example, ledger)
    sim.decide(CASE, "rejected", by="bram", reason="exposure too high")
    assert close_of(sim) == ("declined", "exposure too high")


def test_a_sign_off_nobody_completes_expires_after_five_business_days(
    sim: Simulation, example: ModuleType, ledger: Ledger
) -> None:
    at_half_a_sign_off(sim, example, ledger)
    sim.advance(business_days(5), example.office)
    name, reason = close_of(sim)
    assert name == "declined"
    assert reason.startswith("nobody decided by 2026-01-12T08:00")
    assert ledger.accounts == {}


def test_a_changed_rating_voids_the_answer_that_was_given_on_the_old_one(
    sim: Simulation, example: ModuleType, ledger: Ledger
) -> None:
    at_half_a_sign_off(sim, example, ledger)
    sim.correct(CASE, rating="C")
    sim.decide(CASE, "approved", by="bram")
    assert sim.state(CASE).status == "open"  # bram is one of two: anna is asked again
    sim.decide(CASE, "approved", by="anna")
    assert close_of(sim)[0] == "active"


def test_row_W1_a_vendor_that_fails_twice_is_tried_again_by_its_policy(
    sim: Simulation, example: ModuleType, ledger: Ledger
) -> None:
    answers = ["503", "503", "ok"]

    def look_up(legal_entity: str) -> Any:
        if answers.pop(0) != "ok":
            raise ConnectionError("503")
        return example.RegistryEntry(rating="A")

    sim.fake(example.check_registry, look_up)
    sim.start(example.onboarding, ACME)
    sim.advance(minutes(1))
    assert close_of(sim)[0] == "active"
    failed = [event for event in sim.history(CASE) if event.type == "attempt_failed"]
    assert [(e.data["attempt"], e.data["error"]["message"], bool(e.data["next_try"])) for e in failed] == [
        (1, "503", True),
        (2, "503", True),
    ]


def test_row_W1_a_renamed_field_is_an_incident_that_names_it_and_retry_resumes_there(
    sim: Simulation, example: ModuleType, ledger: Ledger
) -> None:
    sim.fake(example.check_registry, lambda legal_entity: example.RegistryEntry.model_validate({"score": "A"}))
    sim.start(example.onboarding, ACME)
    [wait] = sim.waits(CASE)
    assert (wait.kind, wait.whose) == ("incident", "integrations")
    assert "contract_changed" in wait.what
    assert ".rating missing" in wait.what
    sim.fake(example.check_registry, lambda legal_entity: example.RegistryEntry(rating="A"))
    sim.retry(CASE)
    assert close_of(sim)[0] == "active"
    assert [entry[1] for entry in sim.performed] == ["check_registry", "check_registry", "open_account"]


def test_an_exhausted_vendor_is_an_incident_and_its_retry_keeps_the_key(
    sim: Simulation, example: ModuleType, ledger: Ledger
) -> None:
    at_incident(sim, example, ledger)
    assert sim.waits(CASE)[0].whose == "core-banking"
    ledger.failing = ["after"]  # it works now, but its first answer gets lost
    sim.retry(CASE)
    sim.advance(minutes(30))
    assert close_of(sim)[0] == "active"
    assert len(ledger.accounts) == 1


def test_an_unknown_entity_is_not_tried_again_and_a_corrected_one_is_looked_up_anew(
    sim: Simulation, example: ModuleType, ledger: Ledger
) -> None:
    def look_up(legal_entity: str) -> Any:
        if legal_entity != "NL-00001":
            raise example.UnknownEntity(legal_entity)
        return example.RegistryEntry(rating="A")

    sim.fake(example.check_registry, look_up)
    sim.start(example.onboarding, {**ACME, "legal_entity": "LN-00001"})
    assert [entry[1] for entry in sim.performed] == ["check_registry"]
    sim.correct(CASE, legal_entity="NL-00001", reason="typing error")
    sim.restart(CASE, reason="look it up again")
    assert close_of(sim)[0] == "active"
    assert sim.state(CASE).incidents == {}


@pytest.mark.parametrize(
    "reach", [at_missing_data, at_registry, at_sign_off, at_half_a_sign_off, at_ledger, at_incident]
)
def test_a_withdrawal_at_any_await_ends_the_case_and_undoes_what_was_done(
    sim: Simulation, example: ModuleType, ledger: Ledger, reach: Any
) -> None:
    reach(sim, example, ledger)
    sim.signal(CASE, example.withdrawn, {"reason": "found another bank"}, idempotency_key="letter-1")
    sim.advance(hours(1))
    assert close_of(sim) == ("withdrawn", "found another bank")
    assert sorted(ledger.closed) == sorted(ledger.accounts.values())
    assert sim.state(CASE).tasks == {}
    assert sim.waits(CASE) == []


def test_a_withdrawal_while_the_account_is_being_opened_closes_it_again(
    sim: Simulation, example: ModuleType, ledger: Ledger
) -> None:
    at_sign_off(sim, example, ledger)

    def open_while_the_customer_calls(client: Any, idempotency_key: str) -> str:
        # Accepted while the attempt runs, a second before its result: so it is applied first.
        coroutine = sim.service.signal(CASE, example.withdrawn, {"reason": "changed our mind"})
        with pytest.raises(StopIteration):
            coroutine.send(None)
        sim.clock.advance(seconds(1))
        return ledger.open(client, idempotency_key)

    sim.fake(example.open_account, open_while_the_customer_calls)
    approve(sim)
    sim.advance(hours(1))
    assert close_of(sim) == ("withdrawn", "changed our mind")
    assert ledger.closed == list(ledger.accounts.values()) == ["A-1"]


def test_a_withdrawal_while_the_worker_dies_at_the_ledger_waits_for_a_person_and_leaves_no_account_open(
    sim: Simulation, example: ModuleType, ledger: Ledger
) -> None:
    at_sign_off(sim, example, ledger)
    dying = ["once"]

    def open_and_die(client: Any, idempotency_key: str) -> str:
        account = ledger.open(client, idempotency_key)
        if dying:
            dying.clear()
            coroutine = sim.service.signal(CASE, example.withdrawn, {"reason": "changed our mind"})
            with pytest.raises(StopIteration):
                coroutine.send(None)
            sim.clock.advance(seconds(1))
            raise asyncio.CancelledError  # what an attempt ends with when its worker does
        return account

    sim.fake(example.open_account, open_and_die)
    approve(sim)
    assert (sim.waits(CASE)[0].kind, sim.waits(CASE)[0].whose) == ("incident", "core-banking")
    assert ledger.closed == []
    sim.retry(CASE, reason="ask the ledger again, under the same key")
    assert close_of(sim) == ("withdrawn", "changed our mind")
    assert ledger.closed == list(ledger.accounts.values()) == ["A-1"]


def test_a_withdrawal_sent_twice_is_one_and_a_late_one_stands_refused_in_the_history(
    sim: Simulation, example: ModuleType, ledger: Ledger
) -> None:
    at_sign_off(sim, example, ledger)
    body = {"reason": "found another bank"}
    assert not sim.signal(CASE, example.withdrawn, body, idempotency_key="letter-1").duplicate
    assert sim.signal(CASE, example.withdrawn, body, idempotency_key="letter-1").duplicate
    with pytest.raises(Exception, match="is closed: withdrawn"):
        sim.signal(CASE, example.withdrawn, body, idempotency_key="letter-2")
    types = sim.types(CASE)
    assert types.count("interrupted") == 1
    assert types[-2:] == ["duplicate_ignored", "signal_refused"]


def run_demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the demo as a newcomer does, in a folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ONBOARDING_", "LONGCASE_"))}
    environment = {**kept, "PYTHONPATH": str(Path(longcase.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, str(EXAMPLE / "demo.py"), *options],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_row_D5_the_demo_ends_every_case_with_every_promise_kept_and_runs_twice(tmp_path: Path) -> None:
    for _ in range(2):
        ended = run_demo(tmp_path, "--cases", "20")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert ended.stdout.count("killed with SIGKILL") >= 1
        assert "0 doubled" in ended.stdout
        assert "Every promise held." in ended.stdout
        assert "longcase show client-onboarding/C-" in ended.stdout
        assert "\x1b[" not in ended.stdout  # nothing needs colour
    assert (tmp_path / "onboarding-demo" / "cases.db").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cases", "0"], "0 cases, expected 1 to 2000"),
        (["--cases", "many"], "invalid"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_the_demo_refuses_what_it_does_not_understand(tmp_path: Path, options: list[str], says: str) -> None:
    refused = run_demo(tmp_path, *options)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert list(tmp_path.iterdir()) == []
