"""Declarations: activities with policies, names that are one thing each, and what runs is what stands there."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

from pydantic import PydanticUserError

from longcase.errors import DefinitionError
from longcase.model.activity import Activity, activity
from longcase.model.decision import Decision
from longcase.model.finding import Finding
from longcase.model.map.compile import Reading, place_of
from longcase.model.map.scope import Scope, scope_of, walk_body
from longcase.model.map.source import FunctionDef, SourceNotFound, first_line, functions_in, parsed, shown, source_of
from longcase.model.people import System, Team
from longcase.model.places import CANCEL_PATH
from longcase.model.workflow import Stage, Workflow

# -- one declaration -----------------------------------------------------------------------------------------


def activity_findings(declared: Activity[Any, Any]) -> Iterator[Finding]:
    """Yield what an activity leaves open: a policy, a type, a decision it takes unrecorded."""
    file, line = place_of(declared.raw)
    if declared.system is not None and declared.declared_retry is None and declared.effect is None:
        yield Finding(
            file,
            line,
            "system_without_policy",
            f"activity {declared.name} touches {declared.system.name} and says neither how it is retried "
            "nor what its effect is",
            "retry=Retry(max_attempts=5), or effect=",
        )
    yield from _types(lambda: declared.codecs, f"activity {declared.name}", declared.raw)
    try:
        source = source_of(declared.raw)
    except SourceNotFound:
        return
    for node, scope in walk_body(source.tree, scope_of(source.fn, source.tree)):
        if isinstance(node, ast.Call) and isinstance(scope.value(node.func), Decision):
            yield Finding(
                source.file,
                node.lineno,
                "decision_in_activity",
                f"{shown(node.func)} is ruled inside activity {declared.name}: no ruling is recorded",
                "rule in the stage, and pass the answer in",
            )


def decision_types(declared: Decision[Any, Any]) -> Iterator[Finding]:
    """Yield what keeps a decision from being recorded: inputs without types, answers that are not closed."""
    yield from _types(lambda: declared.answers, f"decision {declared.name}", declared.raw)


def _types(resolve: Callable[[], object], what: str, fn: Callable[..., Any]) -> Iterator[Finding]:
    file, line = place_of(fn)
    try:
        resolve()
    except DefinitionError as error:
        yield Finding(file, line, "declaration_incomplete", error.message, error.hint)
    except (NameError, TypeError, PydanticUserError) as error:
        summary = str(error).partition("\n")[0]
        yield Finding(
            file, line, "declaration_incomplete", f"{what}: {summary}", "annotate every parameter and the result"
        )


# -- one workflow ----------------------------------------------------------------------------------------------


def workflow_findings(reading: Reading) -> Iterator[Finding]:
    """Yield what the declarations of a workflow lack or contradict."""
    workflow = reading.workflow
    if CANCEL_PATH in workflow.stages and "" not in workflow.paths:
        file, line = place_of(workflow.stages[CANCEL_PATH].fn)
        yield Finding(
            file,
            line,
            "name_clash",
            f"stage {CANCEL_PATH} has the name of the built-in reaction to cancel",
            f"name the stage otherwise, or declare @{workflow.variable}.on_cancel()",
        )
    for path in workflow.reactions:
        for covered in path.during:
            if covered.workflow is not workflow:
                file, line = place_of(path.stage.fn)
                yield Finding(
                    file,
                    line,
                    "foreign_stage",
                    f"{path.stage.name} covers {covered.name}, a stage of {covered.workflow.name}",
                    f"during=({next(iter(workflow.stages), 'intake')},)",
                )
    for function in reading.functions:
        for site in function.sites:
            if site.kind == "receive" and site.target.name in workflow.paths:
                yield function.finding(
                    "signal_caught_and_received",
                    site.call,
                    f"signal {site.target.name} has an exception path, so this receive never gets it",
                    "declare a second signal, or do it in the exception path",
                )
            elif site.kind == "receive" and site.target.name in workflow.handlers:
                name = workflow.handlers[site.target.name].stage.name
                yield function.finding(
                    "signal_caught_and_received",
                    site.call,
                    f"signal {site.target.name} has the handler {name}, so this receive never gets it",
                    f"declare a second signal, or do it in {name}",
                )
    yield from _never_undone(reading)
    for fn in _functions(workflow):
        if "<locals>" in fn.__qualname__ or "." in fn.__qualname__:
            file, line = place_of(fn)
            yield Finding(
                file,
                line,
                "not_module_level",
                f"{fn.__qualname__} is declared inside another function or class",
                "declare it at module level: then the map can be read without running anything",
            )


def _functions(workflow: Workflow[Any]) -> list[Callable[..., Any]]:
    stages = workflow.written
    return [*(stage.fn for stage in stages), *(part.fn for part in workflow.parts.values())]


def _never_undone(reading: Reading) -> Iterator[Finding]:
    own = [node for node in reading.map.nodes.values() if node.kind == "undo" and node.stage != CANCEL_PATH]
    if own or any(node.kind == "undo" for node in reading.map.nodes.values() if "" in reading.workflow.paths):
        return
    undoable = {node.undo: node for node in reading.map.nodes.values() if node.undo}
    for undo, node in sorted(undoable.items()):
        yield Finding(
            node.file,
            node.line,
            "never_undone",
            f"{node.name} declares the undo {undo}, and no stage or exception path awaits case.undo()",
            "await case.undo() in the exception path that gives the case up",
        )


# -- names -----------------------------------------------------------------------------------------------------


def clash_findings(readings: Iterable[Reading], others: Iterable[Any] = ()) -> Iterator[Finding]:
    """Yield names that stand for two things: the history, and every list, knows them by name alone."""
    known: dict[tuple[str, str], tuple[Any, str, tuple[str, int]]] = {}
    reported: set[tuple[str, str]] = set()
    for kind, name, thing, place in [*_named(readings), *((_kind(other), *_entry(other)) for other in others)]:
        first, first_name, _ = known.setdefault((kind, name.casefold()), (thing, name, place))
        if not _same(first, thing) and (kind, name) not in reported:
            reported.add((kind, name))
            file, line = place
            also = "" if first_name == name else f" (and {first_name})"
            yield Finding(
                file,
                line,
                "name_clash",
                f"two {kind}s are named {name}{also}, and no list could tell them apart",
                f"declare the {kind} once and import it" if kind in ("team", "system") else "give one another name",
            )


def _named(readings: Iterable[Reading]) -> Iterator[tuple[str, str, Any, tuple[str, int]]]:
    for reading in readings:
        workflow = reading.workflow
        stages = workflow.written
        place = place_of(stages[0].fn) if stages else (workflow.module, 0)
        yield "workflow", workflow.name, workflow, place
        yield "team", workflow.owner.name, workflow.owner, place
        for stage in stages:
            yield "team", stage.owner.name, stage.owner, place_of(stage.fn)
        for signal in workflow.signals.values():
            yield "team", signal.owner.name, signal.owner, place
        for declared in reading.map.activities.values():
            yield "activity", *_entry(declared)
            yield from _teams_of(declared)
        for decision in reading.map.decisions.values():
            yield "decision", *_entry(decision)
            yield "team", decision.owner.name, decision.owner, place_of(decision.raw)
        for name, child in reading.map.children.items():
            yield "workflow", name, child, place
        for function in reading.functions:
            for site in function.sites:
                for team in (*site.wait.of, *(team for _, to in site.wait.escalate for team in to)):
                    yield "team", team.name, team, (function.source.file, site.call.lineno)


def _teams_of(declared: Activity[Any, Any]) -> Iterator[tuple[str, str, Any, tuple[str, int]]]:
    place = place_of(declared.raw)
    yield "team", declared.owner.name, declared.owner, place
    if declared.system is not None:
        yield "system", declared.system.name, declared.system, place
        yield "team", declared.system.owner.name, declared.system.owner, place


def _kind(thing: Any) -> str:
    kinds = {Team: "team", System: "system", Activity: "activity", Decision: "decision", Workflow: "workflow"}
    return next((kind for known, kind in kinds.items() if isinstance(thing, known)), "")


def _entry(thing: Any) -> tuple[str, Any, tuple[str, int]]:
    place = place_of(thing.raw) if isinstance(thing, Activity | Decision) else ("", 0)
    return thing.name, thing, place


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Activity) and isinstance(b, Activity):
        return a.raw is b.raw  # labelled twins are one activity
    if isinstance(a, Decision) and isinstance(b, Decision):
        return a.raw is b.raw
    return a == b if isinstance(a, Team | System) else a is b


# -- one module ------------------------------------------------------------------------------------------------


def module_findings(module: ModuleType) -> Iterator[Finding]:
    """Yield where what the module's source declares and what is registered are not the same."""
    file = getattr(module, "__file__", None) or module.__name__
    try:
        tree = parsed(linecache.getlines(file, module.__dict__))
    except SourceNotFound as error:
        yield Finding(file, 0, "source_not_found", str(error), "check the module as source")
        return
    top = {first_line(node): node for node in _at_module_level(tree.body)}
    scope = Scope(vars(module), frozenset(), {})
    registered = list(_registered(module))
    lines = {(fn.__code__.co_firstlineno, fn.__name__) for _, fn in registered if hasattr(fn, "__code__")}
    for node in functions_in(tree):
        what = _declares(node, scope)
        if what and (first_line(node), node.name) not in lines:
            yield Finding(
                file,
                node.lineno,
                "declared_not_registered",
                f"{what} {node.name} stands in the source and is not what runs: replaced, or never declared",
                "give each its own name, at module level",
            )
    seen: set[tuple[str, int]] = set()
    for what, fn in registered:
        line = place_of(fn)[1]
        found = top.get(line)
        decorated = found is not None and (what == "activity" or bool(_declares(found, scope)))
        if "<locals>" in fn.__qualname__ and what != "activity":
            continue  # not_module_level says it
        if not decorated or (what != "activity" and (what, line) in seen):
            yield Finding(
                file,
                line,
                "registered_not_declared",
                f"{what} {getattr(fn, '__name__', fn)} is registered at run time: the source does not declare it",
                "declare it at module level, with its decorator",
            )
        seen.add((what, line))


def _at_module_level(body: Iterable[ast.stmt]) -> Iterator[FunctionDef]:
    """Yield the functions of a module that are there once: not in a loop, a class or another function."""
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield statement
            case ast.If(_, inner, rest):
                yield from _at_module_level([*inner, *rest])
            case ast.Try(inner, handlers, rest, final):
                handled = [step for handler in handlers for step in handler.body]
                yield from _at_module_level([*inner, *handled, *rest, *final])
            case ast.With(_, inner):
                yield from _at_module_level(inner)
            case _:
                pass


def _registered(module: ModuleType) -> Iterator[tuple[str, Any]]:
    found: dict[int, Workflow[Any]] = {}
    for thing in vars(module).values():
        workflow = thing if isinstance(thing, Workflow) else thing.workflow if isinstance(thing, Stage) else None
        if workflow is not None:
            found[id(workflow)] = workflow
        if isinstance(thing, Activity) and thing.raw.__module__ == module.__name__ and thing.label is None:
            yield "activity", thing.raw
    for workflow in found.values():
        for stage in workflow.written:
            if stage.fn.__module__ == module.__name__:
                yield "stage", stage.fn
        for part in workflow.parts.values():
            if part.fn.__module__ == module.__name__:
                yield "part", part.fn


def _declares(node: FunctionDef, scope: Scope) -> str:
    """Return what a function's decorators declare it to be: stage, part or activity; else ""."""
    for decorator in node.decorator_list:
        func = decorator.func if isinstance(decorator, ast.Call) else decorator
        if scope.value(func) is activity:
            return "activity"
        if not isinstance(func, ast.Attribute):
            continue
        owner = scope.value(func.value)
        if isinstance(owner, Workflow) and func.attr in ("stage", "on", "on_cancel"):
            return "stage"
        if isinstance(owner, Workflow) and func.attr == "part":
            return "part"
        if isinstance(owner, Activity) and func.attr == "undo":
            return "activity"
    return ""
