"""A workflow that a stage starts as a child is loaded with its parent, wherever it is declared."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from longcase.errors import DefinitionError
from longcase.testing import Simulation

BEGIN = """
from pydantic import BaseModel
from longcase import Case, Next, Team, Workflow, days

class Thing(BaseModel):
    id: str

desk = Team("desk")
"""
GRANDCHILD = """
letters = Workflow("letters", object=Thing, key="id", owner=desk, expect=days(1))

@letters.stage(expect=days(1))
async def sending(case: Case[Thing]) -> Next:
    return letters.close("sent")
"""
CHILD = """
import {grandchild} as post
vendor_check = Workflow("vendor-check", object=Thing, key="id", owner=desk, expect=days(1))

@vendor_check.stage(expect=days(1))
async def asking(case: Case[Thing]) -> Next:
    await case.child(post.letters, post.Thing(id=case.key))
    return vendor_check.close("fine")
"""
PARENT = """
import {child} as vc
orders = Workflow("orders", object=Thing, key="id", owner=desk, expect=days(1))

@orders.stage(expect=days(1))
async def checking(case: Case[Thing]) -> Next:
    checked = await case.child(vc.vendor_check, vc.Thing(id=case.key))
    return orders.close("done", reason=checked.name)
"""


def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> ModuleType:
    """Write a module and import it by its name, as its neighbours do."""
    (tmp_path / f"{name}.py").write_text(BEGIN + source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return __import__(name)


def test_children_and_their_children_are_moved_by_the_parents_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(tmp_path, monkeypatch, "loaded_letters", GRANDCHILD)
    module(tmp_path, monkeypatch, "loaded_vendors", CHILD.format(grandchild="loaded_letters"))
    parent = module(tmp_path, monkeypatch, "loaded_orders", PARENT.format(child="loaded_vendors"))
    with Simulation([parent]) as sim:
        case = sim.start("orders", {"id": "O-1"})
        close = sim.show(case).state.close
        assert close is not None
        assert (close["name"], close["reason"]) == ("done", "fine")
        assert sim.show("letters/O-1").state.status == "closed"


def test_a_child_of_the_same_name_as_another_workflow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(tmp_path, monkeypatch, "clashing_letters", GRANDCHILD)
    child = CHILD.format(grandchild="clashing_letters")
    module(tmp_path, monkeypatch, "clashing_vendors", child)
    other = module(tmp_path, monkeypatch, "clashing_others", child)
    parent = module(tmp_path, monkeypatch, "clashing_orders", PARENT.format(child="clashing_vendors"))
    with pytest.raises(DefinitionError, match="two workflows named vendor-check"):
        Simulation([parent, other])
