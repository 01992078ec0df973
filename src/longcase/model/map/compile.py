"""From a workflow's code to its map: every stage, exception path, handler and part is read, none is run.

`read_workflow` keeps the syntax trees for `check`; `compile_map` gives the map and what stands
in its way.
"""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import replace
from functools import partial
from itertools import product
from types import MappingProxyType
from typing import Any

from longcase.model.activity import Activity
from longcase.model.finding import Finding, in_order
from longcase.model.map.atlas import Atlas, FunctionReading
from longcase.model.map.block import NOTHING, Block, Exit, Step, seq
from longcase.model.map.complete import complete
from longcase.model.map.edges import edges_of
from longcase.model.map.expressions import ExpressionReader, part_name
from longcase.model.map.flow import flow_of
from longcase.model.map.graph import Node, StageMap, WorkflowMap
from longcase.model.map.locals import locals_of
from longcase.model.map.scope import UNKNOWN, Scope, scope_of
from longcase.model.map.source import SourceNotFound, source_of
from longcase.model.map.statements import StatementReader
from longcase.model.part import Part
from longcase.model.places import CANCEL_PATH, NodeKind, node_id
from longcase.model.span import describe_span
from longcase.model.workflow import ExceptionPath, Handler, Stage, Workflow
from longcase.record import record

_Reaction = ExceptionPath[Any] | Handler[Any]

STAGES_LIMIT = 1000
"""The most stages, exception paths and handlers a workflow may have."""


@record
class Reading:
    """A workflow as it was read: its map, the functions with their syntax trees, and the findings."""

    workflow: Workflow[Any]
    map: WorkflowMap
    functions: tuple[FunctionReading, ...]
    findings: tuple[Finding, ...]


def compile_map(workflow: Workflow[Any]) -> tuple[WorkflowMap, list[Finding]]:
    """Return the map of a workflow, and everything that keeps it from being the whole truth.

    With findings the map still holds all that could be read; `longcase check` refuses it.
    """
    reading = read_workflow(workflow)
    return reading.map, in_order(reading.findings)


def read_workflow(workflow: Workflow[Any]) -> Reading:
    """Read every function of a workflow; see `compile_map`."""
    atlas = Atlas(workflow)
    stages: dict[str, StageMap] = {}
    declared: list[tuple[Stage[Any], _Reaction | None]] = [(s, None) for s in workflow.stages.values()]
    declared += [(reaction.stage, reaction) for reaction in workflow.reactions]
    for stage, path in declared[:STAGES_LIMIT]:
        stages[stage.name] = _read_stage(atlas, stage, path)
    if len(declared) > STAGES_LIMIT:
        atlas.findings.append(
            _at_workflow(workflow, "too_large", f"{workflow.name} has more than {STAGES_LIMIT} stages")
        )
    if "" not in workflow.paths:
        stages[CANCEL_PATH] = _built_in_cancel(atlas)
    nodes = {id: _with_earlier_ids(node, workflow) for id, node in atlas.nodes.items()}
    _add_declared(atlas)
    entry = next(iter(workflow.stages), "")
    compiled = WorkflowMap(
        workflow=workflow.name,
        was=tuple(workflow.was),
        object=workflow.object.__name__,
        key=workflow.key_field,
        owner=workflow.owner.name,
        expect=describe_span(workflow.expect) if workflow.expect is not None else "",
        entry=entry,
        stages=MappingProxyType(stages),
        nodes=MappingProxyType(nodes),
        edges=edges_of(entry, stages, nodes),
        activities=MappingProxyType(atlas.activities),
        decisions=MappingProxyType(atlas.decisions),
        children=MappingProxyType(atlas.children),
    )
    return Reading(workflow, compiled, tuple(atlas.functions), tuple(atlas.findings))


def _read_stage(atlas: Atlas, stage: Stage[Any], path: _Reaction | None) -> StageMap:
    file, line = place_of(stage.fn)
    reading = _read_function(atlas, stage, (), stage.fn, (), {})
    block = reading.block if reading else NOTHING
    if path is not None and stage.kind == "handler":
        block = seq(_beginning(atlas, path, file, line), block)
    elif reading is not None and flow_of(block).falls_off:
        last = reading.source.tree.body[-1]
        atlas.findings.append(
            reading.finding(
                "stage_falls_off",
                last,
                f"{stage.name} can end here without an exit",
                f'return {_other_stage(stage)}   |   return {stage.workflow.variable}.close("name")',
            )
        )
    covered = path.during or tuple(atlas.workflow.stages.values()) if path else ()
    own = [other.name for other in covered if other.workflow is atlas.workflow]  # `check` refuses others
    return StageMap(
        name=stage.name,
        kind=stage.kind,
        owner=stage.owner.name,
        expect=describe_span(stage.expect) if stage.expect is not None else "",
        block=block,
        was=tuple(stage.was),
        goal=inspect.cleandoc(stage.fn.__doc__).partition("\n")[0] if stage.fn.__doc__ else "",
        signal=path.signal.name if path and path.signal else "",
        during=tuple(own),
        file=file,
        line=line,
    )


def _beginning(atlas: Atlas, handler: _Reaction, file: str, line: int) -> Block:
    """Return the step with which a handler begins: it takes its signal."""
    stage, signal = handler.stage, handler.signal
    assert signal is not None
    id = node_id(stage.name, (), "on", signal.name)
    atlas.nodes[id] = Node(id, "on", signal.name, None, stage.name, (), stage.owner.name, file=file, line=line)
    return Step(id)


def _built_in_cancel(atlas: Atlas) -> StageMap:
    """Return the reaction to `cancel` of a workflow that declares none, as the engine carries it out."""
    workflow = atlas.workflow
    kinds: tuple[tuple[NodeKind, str], ...] = (("undo", ""), ("exit", "close:cancelled"))
    for kind, name in kinds:
        node = Node(node_id(CANCEL_PATH, (), kind, name), kind, name, None, CANCEL_PATH, (), workflow.owner.name)
        atlas.nodes.setdefault(node.id, node)
    block = seq(Step(f"{CANCEL_PATH}/undo"), Exit(f"{CANCEL_PATH}/exit:close:cancelled"))
    return StageMap(CANCEL_PATH, "path", workflow.owner.name, "", block, during=tuple(workflow.stages))


def _read_function(
    atlas: Atlas, stage: Stage[Any], parts: tuple[str, ...], fn: Any, inside: tuple[Any, ...], given: dict[str, Any]
) -> FunctionReading | None:
    """Read one function into the atlas; `given` are arguments of a part that are known at its call."""
    try:
        source = source_of(fn)
        scope = scope_of(source.fn, source.tree)
        arguments = [*source.tree.args.posonlyargs, *source.tree.args.args]
        case = arguments[0].arg if arguments else ""
        known = locals_of(source.tree, scope, case)
        scope = _with_arguments(scope, {name: value for name, value in given.items() if not known.stores[name]})
        reading = FunctionReading(atlas.workflow, stage, parts, source, scope, known, case, is_part=bool(parts))
        expressions = ExpressionReader(atlas, reading, partial(_read_part, atlas), (*inside, fn))
        reading.block = StatementReader(expressions).body(source.tree.body)
    except SourceNotFound as error:
        file, line = place_of(fn)
        atlas.findings.append(
            Finding(
                file, line, "source_not_found", f"{stage.name}: {error}", "keep the source beside the code that runs"
            )
        )
        return None
    except RecursionError:
        file, line = place_of(fn)
        atlas.findings.append(Finding(file, line, "too_large", f"{stage.name} is nested too deeply to be read"))
        return None
    atlas.functions.append(reading)
    atlas.findings.extend(complete(reading))
    return reading


def _read_part(atlas: Atlas, caller: ExpressionReader, part: Part[Any, ..., Any], call: ast.Call) -> Block:
    """Read a part in place, under its name on the path."""
    reading = caller.reading
    path = (*reading.parts, part_name(part))
    if part.fn in caller.inside:
        caller.find("part_recursion", call, f"{part.name} calls itself", "write it as a loop")
        return NOTHING
    if (reading.stage.name, *path) in atlas.part_paths:
        caller.find(
            "same_place_twice",
            call,
            f"{part.name} is called a second time in {reading.stage.name}: no event would say which call it is",
            f'{part.name}.labelled("second")({reading.case}, ...)',
        )
        return NOTHING
    atlas.part_paths.add((reading.stage.name, *path))
    read = _read_function(atlas, reading.stage, path, part.fn, caller.inside, _known_arguments(part, call, reading))
    return read.block if read else NOTHING


def _known_arguments(part: Part[Any, ..., Any], call: ast.Call, reading: FunctionReading) -> dict[str, Any]:
    """Return the arguments of a part that can be read at its call: a Team, a span, a question."""
    if any(isinstance(arg, ast.Starred) for arg in call.args) or any(k.arg is None for k in call.keywords):
        return {}
    parameters = inspect.signature(part.fn).parameters
    given = dict(zip(parameters, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg}
    values = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    values |= {name: reading.scope.value(node) for name, node in given.items()}
    return {name: value for name, value in values.items() if value is not UNKNOWN}


def _with_arguments(scope: Scope, given: dict[str, Any]) -> Scope:
    return replace(scope, names={**scope.names, **given}, local=scope.local - set(given))


def _with_earlier_ids(node: Node, workflow: Workflow[Any]) -> Node:
    """Return the node with the ids it had under earlier names of its stage and its target."""
    stage = workflow.declared(node.stage)
    stages = (node.stage, *(stage.was if stage else ()))
    names = [node.name, *node.was]
    if node.kind == "exit" and node.name.startswith("to:"):
        target = workflow.declared(node.name.removeprefix("to:"))
        names += [f"to:{name}" for name in (target.was if target else ())]
    ids = (node_id(s, node.parts, node.kind, name, node.label) for s, name in product(stages, names))
    return replace(node, was=tuple(id for id in ids if id != node.id))


def _add_declared(atlas: Atlas) -> None:
    """Enter the activities of the workflow's modules that no stage calls any more: calls may be pending."""
    workflow = atlas.workflow
    stages = workflow.written
    for module in sorted({stage.fn.__module__ for stage in stages} & set(sys.modules)):
        for declared in [thing for thing in vars(sys.modules[module]).values() if isinstance(thing, Activity)]:
            for entry in filter(None, (declared, declared.undo_activity)):
                for name in (entry.name, *entry.was):
                    atlas.activities.setdefault(name, entry)


def _other_stage(stage: Stage[Any]) -> str:
    return next((name for name in stage.workflow.stages if name != stage.name), "review")


def place_of(fn: Any) -> tuple[str, int]:
    """Return the file and the first line of a function."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else (str(getattr(fn, "__module__", "")), 0)


def _at_workflow(workflow: Workflow[Any], code: str, message: str) -> Finding:
    module = sys.modules.get(workflow.module)
    return Finding(getattr(module, "__file__", None) or workflow.module, 0, code, message)
