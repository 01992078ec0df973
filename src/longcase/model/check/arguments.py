"""Arguments of waits: what stands there literally and would be refused, or never work, in a running case."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

from longcase.errors import DefinitionError
from longcase.model import span
from longcase.model.calendar import BusinessSpan
from longcase.model.finding import Finding
from longcase.model.ladder import Escalation
from longcase.model.map.atlas import FunctionReading, Site
from longcase.model.map.scope import UNKNOWN, walk_body
from longcase.model.map.source import shown
from longcase.model.names import counted

_SPANS: Final = ("within", "remind")
_MAKERS: Final = (span.seconds, span.minutes, span.hours, span.days, span.business_hours, span.business_days)
_EXAMPLES: Final = {"approval": '(business_days(5), "rejected")', "choice": "(business_days(5), Route.SLOW)"}


def argument_findings(reading: FunctionReading) -> Iterator[Finding]:
    """Yield the literal arguments of one function's waits that a running case would stumble over."""
    yield from _refused_spans(reading)
    for site in reading.sites:
        given = {keyword.arg: keyword.value for keyword in site.call.keywords if keyword.arg}
        if site.kind == "pause" and site.call.args:
            given["span"] = site.call.args[0]
        for name in (*_SPANS, *(("span",) if site.kind == "pause" else ())):
            if name in given:
                yield from _span(reading, site, name, given[name])
        if "quorum" in given:
            yield from _quorum(reading, site, given["quorum"])
        if "expires" in given:
            yield from _expires(reading, site, given["expires"])
        if "escalate" in given:
            yield from _ladder(reading, site, given["escalate"])


def _refused_spans(reading: FunctionReading) -> Iterator[Finding]:
    """Find `days(-2)`: the function that makes the span refuses it, when a case gets there."""
    for node, scope in walk_body(reading.source.tree, reading.scope):
        if not isinstance(node, ast.Call) or node.keywords or not any(scope.value(node.func) is m for m in _MAKERS):
            continue
        values = [scope.value(arg) for arg in node.args]
        if UNKNOWN in values:
            continue
        try:
            scope.value(node.func)(*values)
        except DefinitionError as error:
            yield reading.finding("span_refused", node, f"{shown(node)}: {error.message}", error.hint or "days(2)")
        except TypeError as error:
            yield reading.finding("span_refused", node, f"{shown(node)}: {error}", "days(2)")


def _span(reading: FunctionReading, site: Site, name: str, node: ast.expr) -> Iterator[Finding]:
    value = reading.scope.value(node)
    if _is_wrong(value):
        shown_as = f"{name}={shown(node)}" if name != "span" else shown(node)
        mend = "hours(8)" if name == "remind" else "days(2)"
        yield reading.finding(
            "not_a_span", node, f"{site.node}: {shown_as} is no span", mend if name == "span" else f"{name}={mend}"
        )


def _is_wrong(value: Any) -> bool:
    return value is not None and value is not UNKNOWN and not isinstance(value, timedelta | BusinessSpan)


def _quorum(reading: FunctionReading, site: Site, node: ast.expr) -> Iterator[Finding]:
    value = reading.scope.value(node)
    if value is not UNKNOWN and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        yield reading.finding(
            "quorum_refused", node, f"{site.node}: quorum={shown(node)}, expected at least 1 person", "quorum=2"
        )
        return
    asked = [*site.wait.of, *(owner for _, level in site.wait.escalate for owner in level)]
    people = {name for owner in asked for name in owner.members}
    if value is not UNKNOWN and all(owner.members for owner in asked) and 0 < len(people) < value:
        yield reading.finding(
            "quorum_refused",
            node,
            f"{site.node}: quorum={shown(node)}, and only {counted(len(people), 'name')} may ever answer: "
            f"{', '.join(sorted(people))}",
            f"quorum={len(people)}, or more members",
        )


def _expires(reading: FunctionReading, site: Site, node: ast.expr) -> Iterator[Finding]:
    example = f"expires={_EXAMPLES.get(site.kind, _EXAMPLES['approval'])}"
    parts: list[Any]
    if isinstance(node, ast.Tuple):
        parts = [reading.scope.value(item) for item in node.elts]
    else:
        known = reading.scope.value(node)
        if known is UNKNOWN or known is None:
            return
        parts = list(known) if isinstance(known, tuple) else []
    if len(parts) != 2:
        yield reading.finding(
            "expiry_without_answer",
            node,
            f"{site.node}: expires={shown(node)}, expected a span and the answer that then stands",
            example,
        )
    elif parts[0] is None or _is_wrong(parts[0]):
        yield reading.finding("not_a_span", node, f"{site.node}: expires={shown(node)} begins with no span", example)


def _ladder(reading: FunctionReading, site: Site, node: ast.expr) -> Iterator[Finding]:
    """Find levels that begin with no span; a level without a team is found while the map is read."""
    levels = node.elts if isinstance(node, ast.List | ast.Tuple) else []
    for level in levels:
        if isinstance(level, ast.Tuple) and len(level.elts) == 2:
            value = reading.scope.value(level.elts[0])
        elif isinstance(known := reading.scope.value(level), Escalation):
            value = known.after
        else:
            continue
        if value is None or _is_wrong(value):
            yield reading.finding(
                "not_a_span",
                level,
                f"{site.node}: the level {shown(level)} begins with no span",
                "escalate=[(days(4), director)]",
            )
