"""The business object in stage code: its fields exist, the case keeps its name, its choices have owners."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from longcase.model.finding import Finding
from longcase.model.map.atlas import FunctionReading
from longcase.model.map.calls import called
from longcase.model.map.flow import kind_of
from longcase.model.map.locals import is_object, reads_object
from longcase.model.map.scope import own_nodes
from longcase.model.map.source import TECHNICAL, shown
from longcase.model.map.waits import field_of
from longcase.model.workflow import Stage
from longcase.nearest import nearest

_OWNED = frozenset({"activity", "approval", "choice", "task", "require", "receive", "child", "spawn", "pause", "undo"})
"""What a branch on the object may not choose without an owner: exits come besides."""
IN_PLACE = frozenset(
    {
        *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "add", "discard", "update"),
        *("setdefault", "popitem", "difference_update", "intersection_update", "symmetric_difference_update"),
    }
)
"""Methods of lists, dicts and sets that change them: where nothing is made of what they return."""


# -- fields ------------------------------------------------------------------------------------------------


def field_findings(reading: FunctionReading) -> Iterator[Finding]:
    """Yield every field that is named in the source and not declared by the business object."""
    model = reading.workflow.object
    for node, name in _fields_named(reading):
        if name in model.model_fields or hasattr(model, name):
            continue
        near = nearest(name, model.model_fields)
        hint = f"did you mean {near[0]}?" if near else f"its fields are {', '.join(model.model_fields)}"
        yield reading.finding("unknown_field", node, f"{model.__name__} has no field {name}", hint)


def _fields_named(reading: FunctionReading) -> Iterator[tuple[ast.AST, str]]:
    for node in own_nodes(reading.source.tree):
        match node:
            case ast.Call(ast.Attribute(ast.Name(case), "update"), _, keywords) if case == reading.case:
                yield from ((keyword, keyword.arg) for keyword in keywords if keyword.arg)
            case ast.Call(ast.Attribute(ast.Name(case), "require"), [selector, *_]) if case == reading.case:
                if name := field_of(selector):
                    yield selector, name
            case ast.With(items, body):
                for draft in _drafts(items, reading.case):
                    yield from _written(body, draft)
            case ast.keyword("shows", ast.List(selectors) | ast.Tuple(selectors)):
                for selector in selectors:
                    if name := field_of(selector):
                        yield selector, name
            case _:
                pass


def _drafts(items: list[ast.withitem], case: str) -> Iterator[str]:
    for item in items:
        match item:
            case ast.withitem(ast.Call(ast.Attribute(ast.Name(name), "change")), ast.Name(draft)) if name == case:
                yield draft


def _written(body: list[ast.stmt], draft: str) -> Iterator[tuple[ast.AST, str]]:
    for statement in body:
        for node in ast.walk(statement):
            match node:
                case ast.Attribute(ast.Name(name), field, ast.Store()) if name == draft:
                    yield node, field


# -- writes that are lost --------------------------------------------------------------------------------------


def lost_write_findings(reading: FunctionReading) -> Iterator[Finding]:
    """Yield every change of `case.object` in place: it is a value that was read, and nothing records the change."""
    for node in own_nodes(reading.source.tree):
        match node:
            case ast.Attribute(base, _, ast.Store() | ast.Del()) | ast.Subscript(base, _, ast.Store() | ast.Del()):
                changed = base
            case ast.Expr(ast.Call(ast.Attribute(base, method))) if method in IN_PLACE:
                changed = base
            case _:
                continue
        if reads_object(changed, reading.case, reading.locals):
            yield reading.finding(
                "object_changed_in_place",
                node,
                f"`{shown(node)}` changes what was read of the object: the change is lost",
                f"with {reading.case}.change() as draft: ...",
            )


# -- the name of the case ------------------------------------------------------------------------------------


def rebound_findings(reading: FunctionReading) -> Iterator[Finding]:
    """Yield every place where the name of the case begins to mean something else (SEMANTICS C8)."""
    names = {reading.case, "case"}
    for node in ast.walk(reading.source.tree):
        match node:
            case ast.MatchAs(_, name) | ast.MatchStar(name) if name in names:
                yield reading.finding(
                    "case_rebound",
                    node,
                    f"the pattern `case {name}` captures whatever comes and rebinds {name}",
                    'case "approved": ...   or   case _: ...',
                )
            case ast.Name(name, ast.Store() | ast.Del()) if name == reading.case:
                yield reading.finding(
                    "case_rebound", node, f"{name} is assigned, and no longer the case", "use another name"
                )
            case _:
                pass


# -- decisions without an owner --------------------------------------------------------------------------------


def owner_findings(reading: FunctionReading) -> Iterator[Finding]:
    """Yield branches on the object whose arms differ in exits, tasks or activities."""
    for node in own_nodes(reading.source.tree):
        match node:
            case ast.If(test, body, rest) | ast.IfExp(test, body, rest):
                arms = [_chosen(reading, body), _chosen(reading, rest)]
            case ast.Match(test, cases):
                arms = [_chosen(reading, case.body) for case in cases]
            case _:
                continue
        alike = all(arm == arms[0] for arm in arms)
        if alike or not _reads(test, reading) or reading.source.marked_technical(test):
            continue
        yield reading.finding(
            "decision_without_owner",
            node,
            f"`{shown(test)}` chooses what happens next, and nobody owns that rule",
            f'@decision(owner=..., question="...", policy="...") of its own, or mark the line: {TECHNICAL}',
        )


def _chosen(reading: FunctionReading, arm: list[ast.stmt] | ast.expr) -> set[str]:
    trees: list[ast.AST] = list(arm) if isinstance(arm, list) else [arm]
    places = {place for place in reading.nodes_within(*trees) if kind_of(place) in _OWNED}
    places |= reading.exits_within(*trees)
    # An exit by name, in `return a if x else b`, is chosen by the expression itself.
    return places | {shown(tree) for tree in trees if isinstance(tree, ast.Name | ast.Call) and _is_exit(tree, reading)}


def _is_exit(tree: ast.expr, reading: FunctionReading) -> bool:
    match tree:
        case ast.Call(ast.Attribute(base, "close")):
            return reading.scope.value(base) is reading.workflow
        case _:
            return isinstance(reading.scope.value(tree), Stage)


def _reads(test: ast.expr, reading: FunctionReading) -> bool:
    """Tell whether a test reads the object itself, and not only what a decision or an activity made of it."""
    todo: list[ast.AST] = [test]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Call) and called(node, reading.scope, reading.case) is not None:
            continue
        if isinstance(node, ast.expr) and (
            is_object(node, reading.case) or reads_object(node, reading.case, reading.locals)
        ):
            return True
        todo.extend(ast.iter_child_nodes(node))
    return False
