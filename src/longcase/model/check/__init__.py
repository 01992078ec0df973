"""`longcase check`: everything that can be known to be wrong before anything runs, all at once.

The map is the first half: what `compile_map` cannot read is found there. The rules here ask the
rest of what was read: would it replay, would it stop when interrupted, does every wait have an
end and an owner, does every way lead somewhere, is what is declared what runs. No rule runs user
code; each is named after what it finds (`longcase.model.finding.RULES`).

    reading = one reading of a workflow: its map, its functions with their syntax trees
    check_workflow(w)  = findings of the map + every rule over the reading
    check_module(m)    = the same for all workflows of a module, and the module's source
                         against what is registered
    import_findings(e) = what a failed import has to say, at the author's own line
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from longcase.model.activity import Activity
from longcase.model.check.arguments import argument_findings
from longcase.model.check.cancel import cancel_findings
from longcase.model.check.declared import (
    activity_findings,
    clash_findings,
    decision_types,
    module_findings,
    workflow_findings,
)
from longcase.model.check.importing import import_findings
from longcase.model.check.objects import field_findings, lost_write_findings, owner_findings, rebound_findings
from longcase.model.check.replay import decision_findings, replay_findings, transaction_findings
from longcase.model.check.sets import set_findings
from longcase.model.check.strands import shown_while_written, task_findings
from longcase.model.check.waits import stage_findings, wait_findings
from longcase.model.check.ways import loop_findings, way_findings
from longcase.model.decision import Decision
from longcase.model.finding import Finding, in_order
from longcase.model.map.compile import Reading, read_workflow
from longcase.model.map.graph import WorkflowMap
from longcase.model.people import System, Team
from longcase.model.workflow import Workflow

__all__ = ["check_module", "check_workflow", "import_findings"]

_FUNCTION_RULES = (
    replay_findings,
    set_findings,
    cancel_findings,
    task_findings,
    wait_findings,
    argument_findings,
    loop_findings,
    field_findings,
    lost_write_findings,
    rebound_findings,
    owner_findings,
)
_WORKFLOW_RULES = (stage_findings, way_findings, workflow_findings)


def check_workflow(workflow: Workflow[Any]) -> list[Finding]:
    """Return everything found in one workflow, by file and line."""
    reading = read_workflow(workflow)
    return in_order([*_rules(reading), *clash_findings([reading])])


def check_module(module: ModuleType) -> list[Finding]:
    """Return everything found in a module: its workflows, its activities and decisions, its source."""
    things = list(vars(module).values())
    readings = [read_workflow(thing) for thing in _each(things, Workflow)]
    found = [finding for reading in readings for finding in _rules(reading)]
    for declared in _each(things, Activity):
        found.extend(_activity_rules(declared))
    for decision in _each(things, Decision):
        found.extend(_decision_rules(decision))
    for source in {id(each): each for each in [module, *_modules_of(readings)]}.values():
        found.extend(module_findings(source))
    shared = [thing for thing in things if isinstance(thing, Team | System | Activity | Decision)]
    found.extend(clash_findings(readings, shared))
    return in_order(found)


def _modules_of(readings: Iterable[Reading]) -> Iterator[ModuleType]:
    """Yield the modules that hold the stages and parts of the workflows."""
    for reading in readings:
        for function in reading.functions:
            if (module := sys.modules.get(function.source.fn.__module__)) is not None:
                yield module


def _rules(reading: Reading) -> Iterator[Finding]:
    yield from reading.findings
    for rule in _WORKFLOW_RULES:
        yield from rule(reading)
    for function in reading.functions:
        for function_rule in _FUNCTION_RULES:
            yield from function_rule(function)
    for name in reading.map.stages:
        functions = [function for function in reading.functions if function.stage.name == name]
        yield from shown_while_written(functions, _written_beside(reading.map, name))
    for declared in _each(reading.map.activities.values(), Activity):
        yield from _activity_rules(declared)
    for decision in _each(reading.map.decisions.values(), Decision):
        yield from _decision_rules(decision)


def _written_beside(map: WorkflowMap, name: str) -> bool:
    """Tell whether a handler writes to the object beside this stage, or a stage it covers beside this handler."""
    handlers = {other.name: other.during for other in map.stages.values() if other.kind == "handler"}
    beside = {*handlers.get(name, ()), *(handler for handler, covered in handlers.items() if name in covered)}
    return any(node.kind == "change" and node.stage in beside for node in map.nodes.values())


def _activity_rules(declared: Activity[Any, Any]) -> Iterator[Finding]:
    yield from activity_findings(declared)
    yield from transaction_findings(declared)


def _decision_rules(decision: Decision[Any, Any]) -> Iterator[Finding]:
    yield from decision_types(decision)
    yield from decision_findings(decision)


def _each(things: Iterable[Any], kind: type[Any]) -> list[Any]:
    """Return the things of one kind, each once."""
    return list({id(thing): thing for thing in things if isinstance(thing, kind)}.values())
