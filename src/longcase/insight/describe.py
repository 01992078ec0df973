"""What a module declares, as data: of each workflow its object, stages, signals, exception paths and handlers;
of each activity its input, output, effect, owner and policies."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from types import ModuleType
from typing import Any

from longcase.model.activity import Activity
from longcase.model.decision import Decision
from longcase.model.span import describe_span
from longcase.model.workflow import Workflow


def describe_module(module: ModuleType) -> dict[str, Any]:
    """Return everything a module declares, in the order it does."""
    things = list(vars(module).values())
    return {
        "module": module.__name__,
        "workflows": [_workflow(thing) for thing in _each(things, Workflow)],
        "activities": [_activity(thing) for thing in _each(things, Activity)],
        "decisions": [_decision(thing) for thing in _each(things, Decision)],
    }


def _each(things: Iterable[Any], kind: type[Any]) -> list[Any]:
    found: dict[str, Any] = {}
    for thing in things:
        if isinstance(thing, kind):
            found.setdefault(thing.name, thing)
    return list(found.values())


def _workflow(workflow: Workflow[Any]) -> dict[str, Any]:
    return {
        "name": workflow.name,
        "owner": workflow.owner.name,
        "expect": describe_span(workflow.expect),
        "history": asdict(workflow.history),
        "object": workflow.object.__name__,
        "key": workflow.key_field,
        "schema": workflow.codec.schema(),
        "stages": [
            {
                "name": stage.name,
                "owner": stage.owner.name,
                "expect": describe_span(stage.expect) if stage.expect else "",
                "goal": _goal(stage.fn),
            }
            for stage in workflow.stages.values()
        ],
        "signals": [
            {"name": signal.name, "owner": signal.owner.name, "body": signal.codec.schema()}
            for signal in workflow.signals.values()
        ],
        "exception_paths": [
            {
                "name": path.stage.name,
                "on": path.signal.name if path.signal else "cancel",
                "owner": path.stage.owner.name,
                "during": [stage.name for stage in path.during] or "any stage",
            }
            for path in workflow.paths.values()
        ],
        "handlers": [
            {
                "name": handler.stage.name,
                "on": handler.signal.name,
                "interrupts": False,
                "owner": handler.stage.owner.name,
                "expect": describe_span(handler.stage.expect) if handler.stage.expect else "",
                "during": [stage.name for stage in handler.during] or "any stage",
                "goal": _goal(handler.stage.fn),
            }
            for handler in workflow.handlers.values()
        ],
    }


def _activity(activity: Activity[..., Any]) -> dict[str, Any]:
    system = activity.system
    limits = {
        "concurrency": activity.concurrency,
        "rate": _rate(activity.rate),
        "system_concurrency": system.concurrency if system else None,
        "system_rate": _rate(system.rate) if system else None,
        **_queue(activity),
    }
    timeouts = {
        "start_to_close": activity.timeout,
        "schedule_to_start": activity.schedule_to_start,
        "schedule_to_close": activity.schedule_to_close,
        "heartbeat": activity.heartbeat,
    }
    return {
        "name": activity.name,
        "goal": _goal(activity.raw),
        "owner": activity.owner.name,
        "system": system.name if system else None,
        "input": {name: codec.schema() for name, codec in activity.codecs.items()},
        "input_text": _input(activity),
        "output": activity.result_codec.schema(),
        "output_text": _name(activity.result_codec.type),
        "effect": activity.effect or ("rows, by its transaction" if activity.transaction else "not declared"),
        "verify": activity.verify_function is not None,
        "transaction": activity.transaction,
        "undo": activity.undo_activity.name if activity.undo_activity else None,
        "undoes": activity.undoes.name if activity.undoes else None,
        "retry": activity.retry.describe(),
        "timeouts": {n: describe_span(t) for n, t in timeouts.items() if isinstance(t, timedelta)},
        "idempotency_key": f"one per {activity.once_per}" + (", injected" if activity.injects_key else ""),
        "on_cancel": activity.cancel,
        "limits": {name: value for name, value in limits.items() if value is not None},
    }


def _queue(activity: Activity[..., Any]) -> dict[str, Any]:
    """Return the queue the activity is bound to, and what holds for that over the whole fleet."""
    queue = activity.queue
    if queue is None:
        return {}
    return {
        "queue": queue.name,
        "priority": activity.priority or None,
        "queue_concurrency": queue.concurrency,
        "queue_rate": _rate(queue.rate),
    }


def _rate(rate: tuple[int, timedelta] | None) -> str | None:
    return f"{rate[0]} per {describe_span(rate[1])}" if rate else None


def _decision(decision: Decision[..., Any]) -> dict[str, Any]:
    return {
        "name": decision.name,
        "owner": decision.owner.name,
        "question": decision.question,
        "policy": decision.policy,
        "answers": list(decision.answers),
    }


def _goal(fn: Any) -> str:
    return inspect.cleandoc(fn.__doc__).partition("\n")[0] if getattr(fn, "__doc__", None) else ""


def _input(activity: Activity[..., Any]) -> str:
    return ", ".join(f"{name}: {_name(codec.type)}" for name, codec in activity.codecs.items()) or "nothing"


def _name(declared: Any) -> str:
    if declared is None or declared is type(None):
        return "nothing"
    return declared.__name__ if isinstance(declared, type) else str(declared).replace("typing.", "")
