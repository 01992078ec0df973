"""The waits of `case` read from their calls: name, question, owner, ladder, expiry, expectation."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from longcase.model.calendar import BusinessSpan
from longcase.model.case import VERDICTS
from longcase.model.ladder import Escalation
from longcase.model.map.atlas import Atlas, FunctionReading, Site, Wait
from longcase.model.map.graph import Level, Node
from longcase.model.map.scope import UNKNOWN, Scope, Unknown, targets_of
from longcase.model.map.source import shown
from longcase.model.people import Owner, Team
from longcase.model.places import NodeKind, slug
from longcase.model.signal import Signal
from longcase.model.span import Span, describe_span
from longcase.model.workflow import Workflow
from longcase.record import record

_KINDS: Final[Mapping[str, NodeKind]] = {"approval": "approval", "choice": "choice", "ask": "task"}
_FIRST: Final[Mapping[str, str]] = {
    "approval": "question",
    "choice": "question",
    "ask": "question",
    "require": "field",
    "receive": "signal",
    "pause": "span",
    "child": "workflow",
    "spawn": "workflow",
    "undo": "since",
}
"""The parameter that may be given by position."""
COMPUTED: Final = "(computed)"
"""Stands for a span or an answer that is made at run time."""


@record
class _Arguments:
    """The arguments of a call by their names, and where they are read."""

    given: Mapping[str, ast.expr]
    scope: Scope

    def node(self, name: str) -> ast.expr | None:
        """Return the argument's expression; None if it is not given, or given as None."""
        node = self.given.get(name)
        return None if isinstance(node, ast.Constant) and node.value is None else node

    def value(self, name: str) -> Any:
        node = self.node(name)
        return None if node is None else self.scope.value(node)


class WaitReader:
    """Turns the durable methods of a case, in one function, into nodes and sites."""

    def __init__(self, atlas: Atlas, reading: FunctionReading) -> None:
        self._atlas = atlas
        self._reading = reading

    def read(self, method: str, call: ast.Call, bounded: bool) -> str | None:
        """Claim the node of one call of `case.METHOD(...)`; None if its name cannot be read."""
        reading = self._reading
        given: dict[str, ast.expr] = {}
        if call.args and method in _FIRST:
            given[_FIRST[method]] = call.args[0]
        for keyword in call.keywords:
            if keyword.arg is None:
                self._refuse(call, f"case.{method}(**{shown(keyword.value)}) hides its arguments", "write them out")
            else:
                given[keyword.arg] = keyword.value
        arguments = _Arguments(given, reading.scope)
        match method:
            case "approval" | "choice" | "ask":
                found = self._task(method, call, arguments)
            case "require":
                found = self._require(call, arguments)
            case "receive":
                found = self._receive(call, arguments)
            case "pause":
                found = self._pause(call, arguments)
            case "child" | "spawn":
                found = self._child(method, call, arguments)
            case _:
                found = self._atlas.node(reading, call, "undo"), None, Wait()
        if found is None:
            return None
        node, target, wait = found
        place = self._atlas.claim(reading, call, node)
        shows = arguments.node("shows")
        shows_all = shows is not None and _is_whole_object(shows, reading)
        reading.sites.append(Site(place, node.kind, call, target, wait, bounded, shows_all))
        return place

    def _task(self, method: str, call: ast.Call, arguments: _Arguments) -> tuple[Node, Any, Wait] | None:
        question = arguments.value("question")
        name = self._label(call, arguments)
        if name is None:
            if not isinstance(question, str):
                self._refuse_name(call, method, "question")
                return None
            name = slug(question)
        answers: tuple[str, ...] = VERDICTS if method == "approval" else ()
        target = None
        if method == "choice":
            target = arguments.value("answers")
            if not (isinstance(target, type) and issubclass(target, StrEnum)):
                self._refuse(call, "the answers of this choice cannot be read", "answers=Route, a StrEnum class")
            else:
                answers = tuple(str(member.value) for member in target)
        elif method == "ask":
            target = arguments.value("answer")
        wait = self._wait(call, arguments, "of")
        quorum = arguments.value("quorum")
        title = question if isinstance(question, str) else _text(arguments.node("question"))
        facts = {"title": title, "answers": answers, "quorum": quorum if isinstance(quorum, int) else 1}
        return self._node(call, _KINDS[method], name, wait, facts), target, wait

    def _require(self, call: ast.Call, arguments: _Arguments) -> tuple[Node, Any, Wait] | None:
        selector = arguments.node("field")
        field = field_of(selector) if selector is not None else None
        if field is None:
            self._refuse(
                call,
                "the field this stage requires cannot be read",
                "case.require(lambda client: client.legal_entity, ...)",
            )
            return None
        wait = self._wait(call, arguments, "asked_of")
        return self._node(call, "require", field, wait, {}), field, wait

    def _receive(self, call: ast.Call, arguments: _Arguments) -> tuple[Node, Any, Wait] | None:
        signal = arguments.value("signal")
        if not isinstance(signal, Signal):
            self._refuse(
                call,
                "the signal this stage receives cannot be read",
                "name it: await case.receive(paid, within=days(2))",
            )
            return None
        workflow = self._reading.workflow
        if signal.workflow != workflow.name:
            self._atlas.findings.append(
                self._reading.finding(
                    "foreign_signal",
                    call,
                    f"signal {signal.name} belongs to {signal.workflow}, this is a stage of {workflow.name}",
                    f'{signal.name.replace("-", "_")} = {workflow.variable}.signal("{signal.name}", ...)',
                )
            )
        wait = self._wait(call, arguments, "")
        facts = {"label": self._label(call, arguments)}
        return self._node(call, "receive", signal.name, wait, facts, owner=signal.owner), signal, wait

    def _pause(self, call: ast.Call, arguments: _Arguments) -> tuple[Node, Any, Wait] | None:
        because = arguments.value("because")
        name = self._label(call, arguments)
        if name is None:
            if not isinstance(because, str):
                self._refuse_name(call, "pause", "reason")
                return None
            name = slug(because)
        span = self._span(arguments, "span")
        wait = Wait((self._reading.stage.owner,), within=span)
        facts = {"title": because if isinstance(because, str) else _text(arguments.node("because"))}
        return self._node(call, "pause", name, wait, facts), None, wait

    def _child(self, method: str, call: ast.Call, arguments: _Arguments) -> tuple[Node, Any, Wait] | None:
        workflow = arguments.value("workflow")
        if not isinstance(workflow, Workflow):
            self._refuse(call, "the workflow this stage starts cannot be read", "name the Workflow object in the call")
            return None
        wait = self._wait(call, arguments, "")
        facts = {"label": self._label(call, arguments), "was": workflow.was}
        kind: NodeKind = "child" if method == "child" else "spawn"
        for name in (workflow.name, *workflow.was):
            self._atlas.children.setdefault(name, workflow)
        return self._node(call, kind, workflow.name, wait, facts, owner=workflow.owner), workflow, wait

    # -- what the waits have in common ---------------------------------------------------------------

    def _node(
        self,
        call: ast.Call,
        kind: NodeKind,
        name: str,
        wait: Wait,
        facts: Mapping[str, Any],
        *,
        owner: Owner | None = None,
    ) -> Node:
        owners = (owner,) if owner else wait.of or (self._reading.stage.owner,)
        ladder = tuple(Level(span_words(after), _names(to)) for after, to in wait.escalate)
        expires = (span_words(wait.expires[0]), wait.expires[1]) if wait.expires else None
        return self._atlas.node(
            self._reading,
            call,
            kind,
            name,
            owner=_names(owners),
            within=span_words(wait.within),
            remind=span_words(wait.remind),
            escalate=ladder,
            expires=expires,
            **facts,
        )

    def _label(self, call: ast.Call, arguments: _Arguments) -> str | None:
        if arguments.node("label") is None:
            return None
        label = arguments.value("label")
        if isinstance(label, str):
            return label
        self._refuse_name(call, "call", "label")
        return "label"

    def _wait(self, call: ast.Call, arguments: _Arguments, owner: str) -> Wait:
        of: tuple[Owner, ...] = ()
        if owner:
            node = arguments.node(owner)
            if node is None:
                self._find("owner_missing", call, f"{owner}= is not given: nobody is asked", f"{owner}=desk")
            else:
                of = self._owners(node)
        return Wait(
            of,
            self._span(arguments, "within"),
            self._span(arguments, "remind"),
            self._ladder(arguments.node("escalate")),
            self._expiry(arguments),
        )

    def _span(self, arguments: _Arguments, name: str) -> Span | Unknown | None:
        value = arguments.value(name)
        return value if value is None or isinstance(value, timedelta | BusinessSpan) else UNKNOWN

    def _expiry(self, arguments: _Arguments) -> tuple[Span | Unknown, str] | None:
        node = arguments.node("expires")
        if node is None:
            return None
        parts: list[Any] = [UNKNOWN, UNKNOWN]
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            parts = [arguments.scope.value(item) for item in node.elts]
        elif isinstance(known := arguments.scope.value(node), tuple) and len(known) == 2:
            parts = list(known)
        span, answer = parts
        return (
            span if isinstance(span, timedelta | BusinessSpan) else UNKNOWN,
            str(answer.value) if isinstance(answer, StrEnum) else answer if isinstance(answer, str) else COMPUTED,
        )

    def _ladder(self, node: ast.expr | None) -> tuple[tuple[Span | Unknown, tuple[Owner, ...]], ...]:
        if node is None:
            return ()
        if isinstance(node, ast.List | ast.Tuple):
            return tuple(self._level(item) for item in node.elts)
        known = self._reading.scope.value(node)
        if isinstance(known, tuple | list):
            levels = [level if isinstance(level, Escalation) else Escalation(*level) for level in known]
            return tuple((level.after, (level.to,)) for level in levels)
        self._find(
            "owner_unresolved", node, f"the ladder {shown(node)} cannot be read", "escalate=[(days(4), director)]"
        )
        return ()

    def _level(self, node: ast.expr) -> tuple[Span | Unknown, tuple[Owner, ...]]:
        scope = self._reading.scope
        known = scope.value(node)
        if isinstance(known, Escalation):
            return known.after, (known.to,)
        match node:
            case ast.Tuple([after, to]) | ast.Call(_, [after, to, *_]):
                span = scope.value(after)
                return (span if isinstance(span, timedelta | BusinessSpan) else UNKNOWN), self._owners(to)
            case ast.Call(_, []):
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                span = scope.value(given["after"]) if "after" in given else UNKNOWN
                return (span if isinstance(span, timedelta | BusinessSpan) else UNKNOWN), (
                    self._owners(given["to"]) if "to" in given else ()
                )
            case _:
                self._find("owner_unresolved", node, f"the level {shown(node)} cannot be read", "(days(4), director)")
                return UNKNOWN, ()

    def _owners(self, node: ast.expr) -> tuple[Owner, ...]:
        """Return the teams an expression may stand for; a finding if they cannot be read."""
        found = self._teams(node)
        if not found:
            self._find(
                "owner_unresolved",
                node,
                f"{shown(node)} cannot be read as a Team",
                'name a Team, or choose from a literal table: one_of({"nl": sales_nl, "be": sales_be})[country]',
            )
        return found

    def _teams(self, node: ast.expr) -> tuple[Owner, ...]:
        reading = self._reading
        value = reading.scope.value(node)
        if isinstance(value, Team):
            return (value,)
        match node:
            case ast.IfExp(_, body, other):
                one, two = self._teams(body), self._teams(other)
                return (*one, *two) if one and two else ()
            case ast.Subscript(table):
                targets = targets_of(reading.scope.value(table)).values()
                return tuple(targets) if all(isinstance(team, Team) for team in targets) else ()
            case ast.Name(name) if (assigned := reading.locals.once(name)) is not None and assigned is not node:
                return self._teams(assigned)
            case _:
                return ()

    def _refuse(self, call: ast.AST, message: str, hint: str) -> None:
        self._find("argument_not_readable", call, message, hint)

    def _refuse_name(self, call: ast.Call, method: str, what: str) -> None:
        self._find(
            "name_not_readable",
            call,
            f"the {what} of this {method} is made at run time, so its place has no name",
            f'label="{slug(method)}"',
        )

    def _find(self, code: str, node: ast.AST, message: str, hint: str) -> None:
        self._atlas.findings.append(self._reading.finding(code, node, message, hint))


def field_of(selector: ast.expr) -> str | None:
    """Return the field a selector like `lambda client: client.legal_entity` names."""
    match selector:
        case ast.Lambda(ast.arguments(args=[ast.arg(parameter)]), ast.Attribute(ast.Name(name), field)):
            return field if name == parameter else None
        case _:
            return None


def _is_whole_object(node: ast.expr, reading: FunctionReading) -> bool:
    match node:
        case ast.Attribute(ast.Name(name), "object"):
            return name == reading.case
        case ast.Name(name):
            assigned = reading.locals.once(name)
            return assigned is not None and assigned is not node and _is_whole_object(assigned, reading)
        case _:
            return False


def span_words(span: Span | Unknown | None) -> str:
    """Return a span as a reader sees it; "" for none, COMPUTED for one made at run time."""
    if span is None:
        return ""
    return COMPUTED if span is UNKNOWN else describe_span(span)


def _names(owners: tuple[Owner, ...]) -> str:
    return " or ".join(dict.fromkeys(owner.name for owner in owners))


def _text(node: ast.expr | None) -> str:
    """Return a question made at run time as it can be shown: `f"Sign {x}?"` is "Sign {x}?"."""
    match node:
        case None:
            return ""
        case ast.JoinedStr(parts):
            return "".join(
                str(part.value) if isinstance(part, ast.Constant) else f"{{{shown(part.value)}}}"
                for part in parts
                if isinstance(part, ast.Constant | ast.FormattedValue)
            )
        case _:
            return shown(node)
