"""Small workflow definitions for tests: written to a file, imported, checked.

`check(tmp_path, body)` puts a stage body into a module that is otherwise without findings, so
that whatever is found comes from that body; `extra` are further declarations before the stages.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import textwrap
from pathlib import Path
from types import ModuleType

from longcase.model.check import check_module
from longcase.model.finding import Finding
from longcase.model.map import WorkflowMap, compile_map

PREAMBLE = """
import asyncio
from enum import StrEnum
from typing import Literal
from pydantic import BaseModel
from longcase import (
    Calendar, Case, Escalation, Next, Retry, System, Team, Workflow, activity, business_days, business_hours,
    days, decision, hours, injected, minutes, one_of, seconds, ActivityFailed,
)

office = Calendar("office")
desk, sales, boss = (Team(name, calendar=office) for name in ("desk", "sales", "boss"))
erp = System("erp", owner=sales)


class Order(BaseModel):
    id: str
    amount: int = 0
    rating: str | None = None
    route: Literal["fast", "slow"] = "fast"
    tags: set[str] = set()
    items: list[str] = []


class Paid(BaseModel):
    amount: int


class Route(StrEnum):
    FAST = "fast"
    SLOW = "slow"


@activity(owner=sales, system=erp, retry=Retry())
async def reserve(sku: str) -> str: ...


@activity(owner=sales, system=erp, retry=Retry())
async def charge(amount: int) -> str: ...


@activity(owner=sales)
async def notify(text: str) -> None: ...


@decision(owner=boss, question="Is it big?", policy="v1")
def is_big(order: Order) -> Literal["yes", "no"]:
    return "yes" if order.amount > 1000 else "no"


wf = Workflow("orders", object=Order, key="id", owner=desk, expect=days(30))
paid = wf.signal("paid", Paid)
"""

_numbers = itertools.count(1)


def load(tmp_path: Path, source: str) -> ModuleType:
    """Write the source to a file of its own and import it."""
    name = f"definition_{next(_numbers)}"
    path = tmp_path / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def stage_source(body: str, extra: str = "", header: str = "@wf.stage(owner=desk, expect=days(20))") -> str:
    """Return a whole module around the body of one stage, `first`; the other, `last`, closes."""
    return f"""{PREAMBLE}
{textwrap.dedent(extra)}

{header}
async def first(case: Case[Order]) -> Next:
{textwrap.indent(textwrap.dedent(body).strip(), "    ")}


@wf.stage(owner=desk, expect=days(20))
async def last(case: Case[Order]) -> Next:
    await notify("done")
    return wf.close("done")
"""


def check(
    tmp_path: Path, body: str, extra: str = "", header: str = "@wf.stage(owner=desk, expect=days(20))"
) -> list[Finding]:
    """Return the findings of a module around one stage body."""
    return check_module(load(tmp_path, stage_source(body, extra, header)))


def codes(tmp_path: Path, body: str, extra: str = "", **more: str) -> list[str]:
    """Return the codes found, in order of file and line."""
    return [finding.code for finding in check(tmp_path, body, extra, **more)]


def compiled(tmp_path: Path, body: str, extra: str = "") -> WorkflowMap:
    """Return the map of a module around one stage body; nothing may be in its way."""
    result, findings = compile_map(load(tmp_path, stage_source(body, extra)).wf)
    assert not findings, "\n".join(map(str, findings))
    return result


def places(map: WorkflowMap, stage: str = "first") -> list[str]:
    """Return the ids of a stage's nodes without the stage, in the order they were found."""
    return [node.id.removeprefix(f"{stage}/") for node in map.nodes.values() if node.stage == stage]
