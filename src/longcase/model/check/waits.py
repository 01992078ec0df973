"""Waits: each says when it is expected to end, on whose calendar, and its ladder fits its expiry."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from longcase.errors import LongcaseError
from longcase.model.calendar import BusinessSpan, Calendar, due
from longcase.model.case import VERDICTS
from longcase.model.finding import Finding
from longcase.model.map.atlas import FunctionReading, Site
from longcase.model.map.compile import Reading, place_of
from longcase.model.map.scope import UNKNOWN, Unknown
from longcase.model.map.waits import COMPUTED, span_words
from longcase.model.people import Owner
from longcase.model.signal import Signal
from longcase.model.span import Span, describe_span
from longcase.model.workflow import Stage, Workflow

_STARTS: Final = tuple(
    datetime(2026, 1, 5, 8, tzinfo=UTC) + timedelta(days=61 * number + number, hours=5 * number) for number in range(7)
)
"""Instants on every day of the week, over a year: an order of two spans must hold from all of them."""


def wait_findings(reading: FunctionReading) -> Iterator[Finding]:
    """Yield what is missing or at odds in the waits of one function."""
    for site in reading.sites:
        yield from _expectation(reading, site)
        yield from _calendars(reading, site)
        yield from _ladder(reading, site)
        yield from _expiry(reading, site)


def stage_findings(reading: Reading) -> Iterator[Finding]:
    """Yield what is missing or at odds in the expectations of the stages and the workflow."""
    workflow = reading.workflow
    if workflow.expect is None:
        file, line = place_of(workflow.entry.fn) if workflow.stages else (workflow.module, 0)
        yield Finding(
            file,
            line,
            "wait_without_expectation",
            f"workflow {workflow.name} has no expect",
            "expect=business_days(15)",
        )
    else:
        yield from _declared_span(workflow, workflow.expect, workflow.owner, *_entry_owner(workflow))
    for stage in workflow.stages.values():
        file, line = place_of(stage.fn)
        if stage.expect is None:
            yield Finding(
                file,
                line,
                "wait_without_expectation",
                f"stage {stage.name} has no expect: nobody can say when it is late",
                f"@{workflow.variable}.stage(owner=..., expect=business_days(5))",
            )
    for stage in workflow.written:
        if stage.expect is not None:
            yield from _declared_span(stage, stage.expect, stage.owner, workflow.owner)
            yield from _too_short(reading, stage, stage.expect)


def _entry_owner(workflow: Workflow[Any]) -> list[Owner]:
    return [workflow.entry.owner] if workflow.stages else []


def _expectation(reading: FunctionReading, site: Site) -> Iterator[Finding]:
    wait = site.wait
    has_end = wait.within is not None or wait.expires is not None or site.bounded
    if site.kind in ("approval", "choice", "task", "require", "receive") and not has_end:
        ends = "within= or expires=" if site.kind in ("approval", "choice") else "within="
        yield reading.finding(
            "wait_without_expectation",
            site.call,
            f"{site.node} has no {ends}: nobody can say when it is late",
            'expires=(business_days(5), "rejected")' if site.kind == "approval" else "within=days(2)",
        )


# -- calendars -------------------------------------------------------------------------------------------


def _calendars(reading: FunctionReading, site: Site) -> Iterator[Finding]:
    owners = _counted_for(reading, site)
    spans = [site.wait.within, site.wait.remind, *(after for after, _ in site.wait.escalate)]
    if site.wait.expires is not None:
        spans.append(site.wait.expires[0])
    for span in spans:
        if _has_no_calendar(span, owners):
            names = " and ".join(dict.fromkeys(owner.name for owner in owners))
            yield reading.finding(
                "owner_without_calendar",
                site.call,
                f"{site.node}: {span_words(span)} on the calendar of {names}, who has none",
                f'Team("{owners[0].name}", calendar=office), or a span that names one',
            )
            return


def _counted_for(reading: FunctionReading, site: Site) -> list[Owner]:
    """Return the owners whose calendar counts a wait, first choice first; the engine chooses alike."""
    own = reading.stage.owner
    if site.kind == "pause":
        return [own]
    if isinstance(site.target, Signal | Workflow):
        return [site.target.owner, own]
    return [*site.wait.of, own]


def _has_no_calendar(span: Span | Unknown | None, owners: list[Owner]) -> bool:
    return isinstance(span, BusinessSpan) and span.calendar is None and not any(owner.calendar for owner in owners)


def _declared_span(declared: Stage[Any] | Workflow[Any], span: Span, *owners: Owner) -> Iterator[Finding]:
    if _has_no_calendar(span, list(owners)):
        fn = declared.fn if isinstance(declared, Stage) else declared.entry.fn if declared.stages else None
        file, line = place_of(fn) if fn else (getattr(declared, "module", ""), 0)
        kind = declared.kind if isinstance(declared, Stage) else "workflow"
        yield Finding(
            file,
            line,
            "owner_without_calendar",
            f"{kind} {declared.name}: expect={describe_span(span)} on the calendar of {owners[0].name}, who has none",
            f'Team("{owners[0].name}", calendar=office), or a span that names one',
        )


# -- ladders ---------------------------------------------------------------------------------------------


def _ladder(reading: FunctionReading, site: Site) -> Iterator[Finding]:
    if site.wait.expires is None:
        return
    calendar = _calendar(_counted_for(reading, site))
    expiry = site.wait.expires[0]
    for after, _ in site.wait.escalate:
        if _never_before(after, expiry, calendar):
            yield reading.finding(
                "escalation_after_expiry",
                site.call,
                f"{site.node}: the level after {span_words(after)} comes no sooner than the expiry after "
                f"{span_words(expiry)}",
                "escalate earlier, or expire later",
            )


def _expiry(reading: FunctionReading, site: Site) -> Iterator[Finding]:
    if site.wait.expires is None:
        return
    answers = VERDICTS if site.kind == "approval" else tuple(str(member) for member in site.target or ())
    answer = site.wait.expires[1]
    if answers and answer not in (*answers, COMPUTED):
        yield reading.finding(
            "unknown_answer",
            site.call,
            f'{site.node} expires as "{answer}", which is none of its answers {" / ".join(answers)}',
            f'expires=(business_days(5), "{answers[-1]}")',
        )


def _too_short(reading: Reading, stage: Stage[Any], expect: Span) -> Iterator[Finding]:
    own = _calendar([stage.owner, stage.workflow.owner])
    for function in reading.functions:
        if function.stage is not stage:
            continue
        for site in function.sites:
            calendar = _calendar(_counted_for(function, site))
            steps = [after for after, _ in site.wait.escalate]
            if site.wait.expires is not None:
                steps.append(site.wait.expires[0])
            if steps and all(_always_before(expect, own, step, calendar) for step in steps):
                first = min(steps, key=lambda step: _due(_STARTS[0], step, calendar) or _STARTS[0])
                yield function.finding(
                    "expectation_too_short",
                    site.call,
                    f"stage {stage.name} is expected to take {describe_span(expect)}, "
                    f"the first step of {site.node} comes after {span_words(first)}",
                    f"expect more than {span_words(first)}, or take the step earlier",
                )


def _calendar(owners: list[Owner]) -> Calendar | None:
    return next((owner.calendar for owner in owners if owner.calendar), None)


def _never_before(after: Span | Unknown, expiry: Span | Unknown, calendar: Calendar | None) -> bool:
    ends = [(_due(start, after, calendar), _due(start, expiry, calendar)) for start in _STARTS]
    return all(level is not None and end is not None and level >= end for level, end in ends)


def _always_before(a: Span, of_a: Calendar | None, b: Span | Unknown, of_b: Calendar | None) -> bool:
    ends = [(_due(start, a, of_a), _due(start, b, of_b)) for start in _STARTS]
    return all(first is not None and second is not None and first < second for first, second in ends)


def _due(start: datetime, span: Span | Unknown, calendar: Calendar | None) -> datetime | None:
    try:
        return None if span is UNKNOWN else due(start, span, calendar)
    except LongcaseError:  # no calendar, or one that never opens: found elsewhere
        return None
