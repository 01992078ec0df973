"""Closed answers in the source: which expression gives which set, and which arm takes which of them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from longcase.errors import DefinitionError
from longcase.model.case import VERDICTS
from longcase.model.decision import answer_set
from longcase.model.map.atlas import FunctionReading
from longcase.model.map.calls import called
from longcase.model.map.types import origins, returned, type_of
from longcase.record import record


@record
class Answers:
    """The answers an expression can have, in declared order, and the call that gives them, if a call does."""

    values: tuple[str, ...]
    call: ast.Call | None = None


@record
class Tested:
    """What the test of an `if` says about closed answers: those that make it true."""

    subject: ast.expr
    answers: Answers
    true: tuple[str, ...]
    unknown: tuple[str, ...]


def answers_of(node: ast.expr, reading: FunctionReading) -> Answers | None:
    """Return the closed set an expression is answered from.

    That is a ruling, the `.answer` of a task, or whatever is declared as a Literal or a StrEnum:
    a field of the object or of a form, the result of an activity or a part.
    """
    if isinstance(node, ast.Attribute) and _is_answer(node):
        found = _agreed([_of_task(origin, reading) for origin in origins(node.value, reading)])
        if found is not None:
            return found
    return _agreed(
        [
            answers_of(origin, reading) if _is_answer(origin) and origin is not node else _of_ruling(origin, reading)
            for origin in origins(node, reading)
        ]
    )


def _is_answer(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "answer"


def _agreed(each: list[Answers | None]) -> Answers | None:
    """Return the answers that all origins of a value have in common; None if they differ."""
    first = each[0] if each else None
    same = first is not None and all(other is not None and other.values == first.values for other in each)
    return first if same else None


def _of_task(node: ast.expr, reading: FunctionReading) -> Answers | None:
    found = called(node, reading.scope, reading.case) if isinstance(node, ast.Call) else None
    if found is None:
        return None
    if found.what == "approval":
        return Answers(VERDICTS, found.call)
    if found.what == "choice":
        given = next((keyword.value for keyword in found.call.keywords if keyword.arg == "answers"), None)
        return _closed(reading.scope.value(given), found.call) if given is not None else None
    return _closed(returned(found.targets[0].raw), found.call) if found.what == "decision" else None


def _of_ruling(node: ast.expr, reading: FunctionReading) -> Answers | None:
    if not isinstance(node, ast.Call):
        return _closed(type_of(node, reading), None)
    found = called(node, reading.scope, reading.case)
    if found is not None and found.what == "decision":
        ruled = isinstance(node.func, ast.Attribute) and node.func.attr in ("ruling", "rule_again")
        return None if ruled else _closed(returned(found.targets[0].raw), node)
    return _closed(type_of(node, reading), node)


def _closed(annotation: Any, call: ast.Call | None) -> Answers | None:
    try:
        return Answers(answer_set(annotation, "answers"), call)
    except DefinitionError:
        return None  # anything may come; of a decision, `check` reports the declaration itself


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
