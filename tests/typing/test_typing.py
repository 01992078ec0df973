"""The face under mypy --strict and pyright: right code passes, and each usual mistake is reported at its line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.typing import face, vocabulary

import longcase
from longcase.model.check import check_module

SOURCE = str(Path(longcase.__file__).parent.parent)

# Every line that ends in "# mistake" must be reported by both checkers, and no other. pyright's standard
# mode says nothing of a comparison that is always false; `longcase check` does (unknown_answer).
MISTAKES = """
from typing import Any

from pydantic import BaseModel

from face import Client, activate, check_registry, credit, needs_sign_off, onboarding, open_account, sales, withdrawn
from longcase import (
    Case, Longcase, LongcaseClient, Next, Team, Transaction, Workflow, activity, business_days, days, one_of,
)
from vocabulary import (
    Details, Order, Paid, Route, book, desk, orders, paid, price, remark, remarked, stock, transfer,
)


async def forgotten_answer(case: Case[Client]) -> Next:  # mistake
    sign_off = await case.approval("Sign?", of=credit, expires=(business_days(5), "rejected"))
    match sign_off.answer:
        case "approved":
            return activate
        case "rejected":
            return onboarding.close("declined")


async def forgotten_member(case: Case[Client]) -> Next:  # mistake
    chosen = await case.choice("Which?", answers=Route, of=desk, within=days(1))
    match chosen.answer:
        case Route.FAST:
            return activate


async def wrong_values(case: Case[Client]) -> Next:
    if needs_sign_off(case.object) == "on":  # mistake for mypy
        return activate
    await check_registry(42)  # mistake
    await check_registry()  # mistake
    name: int = await open_account(case.object)  # mistake
    await case.require(lambda client: client.legl_entity, asked_of=sales, within=days(2))  # mistake
    await case.require(lambda client: client.rating, asked_of="sales", within=days(2))  # mistake
    await case.approval("Sign?", of=credit, expires=(days(5), "aproved"))  # mistake
    with case.change() as client:
        client.ratnig = "A"  # mistake
        client.rating = 1  # mistake
    body = await case.receive(withdrawn, within=days(1))
    body.amount  # mistake
    await case.pause(days(1))  # mistake
    await case.pause(2, because="a number is no span")  # mistake
    await one_of({"a": price, "b": stock})["a"]("x")  # mistake
    return name  # mistake


async def wrong_repairs(longcase: Longcase) -> None:
    await longcase.service.redo("orders/O-1", arguments=[3])  # mistake
    await longcase.service.redo("orders/O-1", call=1)  # mistake


def wrong_client(client: LongcaseClient) -> None:
    client.correct("orders/O-1", {"rating": "A"})  # mistake
    client.retry("orders/O-1", actor="person:ann")  # mistake
    client.move("orders/O-1", activate, reason="late", force=True)  # mistake


Longcase([onboarding], tenant=7)  # mistake
LongcaseClient([onboarding], tenant=None)  # mistake


@open_account.undo  # mistake
async def undo_of_another_result(account: int, client: Client) -> None:
    return None


@open_account.undo  # mistake
async def undo_without_the_arguments(account: str) -> None:
    return None


async def too_few(case: Case[Client]) -> Next:
    return activate


@onboarding.on(withdrawn)  # mistake
async def handler_of_another_body(case: Case[Client], body: Client) -> Next:
    return activate


@orders.on(remark, interrupts=False)  # mistake
async def handler_that_ends_its_stage(case: Case[Order], body: Details) -> Next:
    return orders.close("fast")


@orders.on(remark, interrupts=False)  # mistake
async def handler_of_another_signal(case: Case[Order], body: Paid) -> None:
    return None


@orders.on(remark)  # mistake
async def path_that_says_nothing_of_what_follows(case: Case[Order], body: Details) -> None:
    return None


async def goes_to_a_handler(case: Case[Order]) -> Next:
    return remarked  # mistake


async def transactions(case: Case[Client], tx: Transaction) -> Next:
    await book(tx, "a")  # mistake
    await book(1)  # mistake
    name: str = await book("a")  # mistake
    return activate


@activity(owner=desk, transaction=True)  # mistake
def without_a_transaction(amount: int) -> int:
    return amount


@activity(owner=desk, transaction=True, effect="once")  # mistake
def once_anyway(tx: Transaction, amount: int) -> int:
    return amount


@book.undo(transaction=True)  # mistake
def undo_of_another_booking(tx: Transaction, booked: str, sku: str, amount: int = 1) -> None:
    return None


@activity(owner="desk")  # mistake
async def owned_by_a_string(amount: int) -> int:
    return amount


nobody = Workflow("nobody", object=Client, key="id", expect=days(1))  # mistake
"""
BOTH, MYPY_ONLY = "# mistake", "# mistake for mypy"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the right code, the mistakes, and the settings of both checkers."""
    folder = tmp_path_factory.mktemp("typing")
    for module in (face, vocabulary):
        assert module.__file__ is not None
        shutil.copy(module.__file__, folder)
    (folder / "mistakes.py").write_text(MISTAKES, encoding="utf-8")
    settings = {"extraPaths": [SOURCE], "typeCheckingMode": "standard", "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "mypy.ini").write_text("[mypy]\nstrict = true\npython_version = 3.11\n", encoding="utf-8")
    return folder


Reported = dict[str, set[int]]


@pytest.fixture(scope="module")
def by_mypy(project: Path) -> Reported:
    """The lines mypy reports, by file."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "face.py", "vocabulary.py", "mistakes.py"]
    done = subprocess.run(
        command, cwd=project, env={**os.environ, "MYPYPATH": SOURCE}, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return _lines(re.findall(r"^(\w+\.py):(\d+): error", done.stdout, re.MULTILINE))


@pytest.fixture(scope="module")
def by_pyright(project: Path) -> Reported:
    """The lines pyright reports, by file."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    env = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    found = [d for d in json.loads(done.stdout)["generalDiagnostics"] if d["severity"] == "error"]
    return _lines([(Path(d["file"]).name, str(d["range"]["start"]["line"] + 1)) for d in found])


def _lines(places: list[tuple[str, str]]) -> Reported:
    found: Reported = {"face.py": set(), "vocabulary.py": set(), "mistakes.py": set()}
    for file, line in places:
        found[file].add(int(line))
    return found


def _marked(*marks: str) -> set[int]:
    return {number for number, line in enumerate(MISTAKES.splitlines(), start=1) if line.endswith(marks)}


def _told(lines: set[int]) -> list[str]:
    every = MISTAKES.splitlines()
    return [f"{number}: {every[number - 1].strip()}" for number in sorted(lines)]


@pytest.mark.parametrize("file", ["face.py", "vocabulary.py"])
def test_right_code_passes_mypy_strict(by_mypy: Reported, file: str) -> None:
    assert by_mypy[file] == set()


@pytest.mark.parametrize("file", ["face.py", "vocabulary.py"])
def test_right_code_passes_pyright(by_pyright: Reported, file: str) -> None:
    assert by_pyright[file] == set()


def test_rule_C6_mypy_reports_each_mistake_at_its_line(by_mypy: Reported) -> None:
    assert _told(by_mypy["mistakes.py"]) == _told(_marked(BOTH, MYPY_ONLY))


def test_rule_C6_pyright_reports_each_mistake_at_its_line(by_pyright: Reported) -> None:
    assert _told(by_pyright["mistakes.py"]) == _told(_marked(BOTH))


def test_check_prints_nothing_on_the_tutorial() -> None:
    assert check_module(face) == []


def test_check_prints_nothing_on_the_rest_of_the_vocabulary() -> None:
    assert check_module(vocabulary) == []
