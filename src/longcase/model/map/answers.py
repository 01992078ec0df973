"""Closed answers in the source: which expression gives which set, and which arm takes which of them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from longcase.errors import DefinitionError
from longcase.model.case import VERDICTS
from longcase.model.decision import Decision, answer_set
from longcase.model.map.atlas import FunctionReading
from longcase.model.map.calls import called
from longcase.model.map.locals import is_object


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers an expression can have, in declared order, and the call that gives them, if a call does."""

    values: tuple[str, ...]
    call: ast.Call | None = None


@dataclass(frozen=True, slots=True)
class Tested:
    """What the test of an `if` says about closed answers: those that make it true."""

    subject: ast.expr
    answers: Answers
    true: tuple[str, ...]
    unknown: tuple[str, ...]


def answers_of(node: ast.expr, reading: FunctionReading) -> Answers | None:
    """Return the closed set an expression is answered from: a ruling, `.answer` of a task, a Literal field."""
    match node:
        case ast.Call():
            call = called(node, reading.scope, reading.case)
            ruled = isinstance(node.func, ast.Attribute) and node.func.attr in ("ruling", "rule_again")
            return _of_decision(node, call.targets[0]) if call and call.what == "decision" and not ruled else None
        case ast.Name(name):
            assigned = reading.locals.once(name)
            return answers_of(assigned, reading) if assigned is not None and assigned is not node else None
        case ast.NamedExpr(_, value):
            return answers_of(value, reading)
        case ast.Attribute(base, "answer") if (found := _of_task(base, reading)) is not None:
            return found
        case ast.Attribute(base, field) if is_object(base, reading.case) or reading.locals.kind(base) == "object":
            return _of_field(field, reading)
        case _:
            return None


def _of_task(node: ast.expr, reading: FunctionReading) -> Answers | None:
    match node:
        case ast.Name(name):
            assigned = reading.locals.once(name)
            return _of_task(assigned, reading) if assigned is not None and assigned is not node else None
        case ast.NamedExpr(_, value) | ast.Await(value):
            return _of_task(value, reading)
        case ast.Call():
            found = called(node, reading.scope, reading.case)
            if found is None:
                return None
            if found.what == "approval":
                return Answers(VERDICTS, node)
            if found.what == "choice":
                given = next((keyword.value for keyword in node.keywords if keyword.arg == "answers"), None)
                known = reading.scope.value(given) if given is not None else None
                if isinstance(known, type) and issubclass(known, StrEnum):
                    return Answers(tuple(str(member.value) for member in known), node)
                return None
            return _of_decision(node, found.targets[0]) if found.what == "decision" else None
        case _:
            return None


def _of_field(name: str, reading: FunctionReading) -> Answers | None:
    field = reading.workflow.object.model_fields.get(name)
    try:
        return Answers(answer_set(field.annotation, name)) if field else None
    except DefinitionError:
        return None


def _of_decision(call: ast.Call, decision: Decision[Any, Any]) -> Answers | None:
    try:
        return Answers(decision.answers, call)
    except (DefinitionError, NameError):
        return None  # `check` reports the declaration itself


def tested(test: ast.expr, reading: FunctionReading) -> Tested | None:
    """Read a test like `needs_sign_off(x) == "no"` or `sign_off.answer in ("approved", "returned")`."""
    match test:
        case ast.UnaryOp(ast.Not(), inner):
            found = tested(inner, reading)
            return found and Tested(
                found.subject, found.answers, _others(found.answers.values, found.true), found.unknown
            )
        case ast.Compare(left, [op], [right]):
            answers, subject, other = answers_of(left, reading), left, right
            if answers is None:
                answers, subject, other = answers_of(right, reading), right, left
            named = _texts(other, reading)
            if answers is None or named is None:
                return None
            unknown = tuple(text for text in named if text not in answers.values)
            true = tuple(text for text in answers.values if text in named)
            if isinstance(op, ast.NotEq | ast.NotIn | ast.IsNot):
                true = _others(answers.values, true)
            elif not isinstance(op, ast.Eq | ast.In | ast.Is):
                return None
            return Tested(subject, answers, true, unknown)
        case _:
            return None


def pattern_texts(pattern: ast.pattern, reading: FunctionReading) -> tuple[str, ...] | None:
    """Return the answers a pattern names; () for a wildcard or a capture; None if it is neither."""
    match pattern:
        case ast.MatchAs(None):
            return ()
        case ast.MatchAs(inner) if inner is not None:
            return pattern_texts(inner, reading)
        case ast.MatchOr(patterns):
            each = [pattern_texts(inner, reading) for inner in patterns]
            if any(texts is None for texts in each):
                return None
            if any(texts == () for texts in each):
                return ()
            return tuple(text for texts in each if texts for text in texts)
        case ast.MatchValue(value):
            return _texts(value, reading)
        case _:
            return None


def _texts(node: ast.expr, reading: FunctionReading) -> tuple[str, ...] | None:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        each = [_texts(item, reading) for item in node.elts]
        return None if any(texts is None for texts in each) else tuple(t for texts in each if texts for t in texts)
    known = text_of(reading.scope.value(node))
    return (known,) if known is not None else None


def text_of(known: Any) -> str | None:
    """Return an answer as it is recorded: a text, or the value of an enum's member."""
    if isinstance(known, StrEnum):
        return str(known.value)
    return known if isinstance(known, str) else None


def _others(every: tuple[str, ...], some: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text for text in every if text not in some)


def remaining(narrowed: Mapping[str, tuple[str, ...]], subject: ast.expr, answers: Answers) -> tuple[str, ...]:
    """Return the answers that are still possible where earlier branches have taken some."""
    return narrowed.get(ast.dump(subject), answers.values)


def said(answers: tuple[str, ...]) -> str:
    """Return answers as an arm is labelled with them."""
    return " / ".join(answers)
