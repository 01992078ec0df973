# ruff: noqa: S102 - it swaps code on purpose
"""Planted bugs: each changes a line of the engine while it runs, and the simulation must find it.

A bug is text: what stands in a function and what shall stand there instead. The function's code is
swapped in place and put back. Where the text is no longer found the plant fails loudly: mend it here.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any


@dataclass(frozen=True)
class Change:
    """One replaced piece of code: `module:qualified.name`, what stands there, what shall."""

    where: str
    old: str
    new: str


def plant(where: str, old: str, new: str) -> Change:
    return Change(f"longcase.{where}", old, new)


PLANTED: dict[str, tuple[Change, ...]] = {
    "fence_dropped": (
        plant("engine.attempts:outcome_counts", 'call["attempt"] == number and call["status"] == "running"', "True"),
    ),
    "dedupe_dropped": (plant("store.sqlite.transaction:Transaction.remembered", "if row is None:", "if True:"),),
    "ack_before_commit": (
        plant(
            "store.sqlite.transaction:Transaction.put_input",
            "item.accepted_at = item.accepted_at or self.now",
            "item.accepted_at = item.accepted_at or self.now\n"
            '    if item.type == "signal_received" and self.now[18] in "02468": return True',
        ),
    ),
    "stale_turn_written": (
        plant("store.sqlite.writing:_run_batch", "seen_seq != write.base_seen", "False"),
        plant("store.sqlite.writing:_may_follow", "<= BESIDE", "is not None"),
    ),
    "mover_records_ignored": (plant("store.sqlite.writing:_may_follow", "<= BESIDE", "is not None"),),
    "timer_early": (
        plant("engine.advance:_Run._clocks", "earliest > until", "earliest[:13] > until[:13]"),
        plant("engine.advance:_Run._due", 'if timer["due"] <= until', 'if timer["due"][:13] <= until[:13]'),
    ),
    "seq_gap": (
        plant(
            "store.sqlite.transaction:refold",
            "event.seq = state.seq + 1",
            "event.seq = state.seq + 1 + (event.type == 'vote_given')",
        ),
        plant("history.state:apply", "if event.seq != state.seq + 1:", "if False:"),
    ),
    "input_applied_twice": (
        plant("store.sqlite.writing:_inbox", "if write.taken:", "if write.taken and write.taken[0] % 3:"),
    ),
    "wake_lost": (plant("engine.advance:wake_at", "due = next_due(state)", 'due = ""'),),
    "retry_key_made_anew": (
        plant(
            "history.state:_attempt_started",
            'call["status"] = "running"',
            'call["status"] = "running"\n    call["key"] += "x"',
        ),
    ),
    "abandoned_call_not_undone": (
        plant(
            "history.state:_activity_cancelled",
            'call["awaited"] = False',
            'call["awaited"] = False\n    state.undo.pop(event.data["call"], None)',
        ),
    ),
    "late_result_dropped": (
        plant(
            "engine.advance:_Run._ended",
            "if isinstance(item.outcome, Failure):",
            'if not call["awaited"] and not call["undoes"]: return\n    if isinstance(item.outcome, Failure):',
        ),
    ),
    "inputs_batched_in_one_turn": (
        plant("engine.visit:Visit.feed", "self._offer_signals()", "return self._offer_signals()"),
    ),
    "incident_swallowed": (
        plant("engine.advance:refuse_input", "resident.append(event, work.now)\n    return result", "return result"),
    ),
    "lease_never_recovered": (plant("store.sqlite.workers:free_some", "(tx.now, worker,", '("", worker,'),),
    "unknown_commit_forgotten": (
        plant("runtime.turns:Turns._settle_doubt", "commands.append(", "(lambda command: None)("),
    ),
    "expiry_ignored": (
        plant(
            "engine.tasks:answer_task",
            'if task["status"] == "expired" or (task["expires_at"] and task["expires_at"] <= now):',
            "if False:",
        ),
    ),
    "vote_after_decision": (plant("engine.tasks:answer_task", 'if task["status"] == "decided":', "if False:"),),
    "stale_vote_counts": (plant("engine.tasks:shown_again", "not is_stale(", "True or not is_stale("),),
    "one_vote_is_a_quorum": (plant("engine.tasks:decides", '>= task["quorum"]', ">= 1"),),
    "snapshot_without_signals": (
        plant(
            "engine.turn:Resident.enter",
            'data["snapshot"] = state.to_json()',
            'data["snapshot"] = {**state.to_json(), "signals": []}',
        ),
    ),
    "newest_signal_first": (
        plant("engine.visit:Visit._kept_signal", "in self.state.signals", "in self.state.signals[::-1]"),
    ),
    "signals_lost_at_close": (
        plant("engine.turn:Resident._close", "for kept in list(state.signals):", "for kept in []:"),
    ),
    "one_attempt_too_many": (
        plant(
            "engine.attempts:judge", "failures >= activity.retry.max_attempts", "failures > activity.retry.max_attempts"
        ),
    ),
    "jitter_unbounded": (plant("model.policy:Retry.delay", "longest * draw", "longest * (1 + 3 * draw)"),),
    "once_effect_repeated": (plant("engine.attempts:judge", 'activity.effect == "once" and', "False and"),),
    "undo_begun_twice": (plant("engine.attempts:undo_steps", "begun is not None and", "False and"),),
    "undo_in_order_of_command": (
        plant("engine.attempts:undo_steps", "in reversed(state.undo.values())", "in list(state.undo.values())"),
    ),
    "input_before_due_timer": (plant("engine.advance:_Run.all", "self._clocks(item.at)", "pass"),),
}


# Where the search begins for what only rare seeds can show; elsewhere at 0.
STARTS = {"lease_never_recovered": 320, "undo_begun_twice": 60}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Run the body with one bug in the engine."""
    with ExitStack() as stack:
        for change in PLANTED[name]:
            stack.enter_context(_changed(change))
        yield


@contextmanager
def _changed(change: Change) -> Iterator[None]:
    module_name, _, path = change.where.partition(":")
    found: Any = importlib.import_module(module_name)
    for part in path.split("."):
        found = getattr(found, part)
    assert isinstance(found, FunctionType), change.where
    source = textwrap.dedent(inspect.getsource(found))
    # Decorators have done their work; what counts is the function's code.
    source = source[source.index("async def " if inspect.iscoroutinefunction(found) else "def ") :]
    if change.old not in source:
        raise LookupError(f"{change.where} no longer holds {change.old!r}: the planted bug must be mended")
    place = source.index(change.old)
    indent = len(source[:place].rsplit("\n", 1)[-1]) - len(source[:place].rsplit("\n", 1)[-1].lstrip())
    new = change.new.replace("\n    ", "\n" + " " * max(indent, 4))
    made: dict[str, Any] = {}
    exec(
        compile("from __future__ import annotations\n" + source.replace(change.old, new), change.where, "exec"),
        found.__globals__,
        made,
    )
    before = found.__code__
    found.__code__ = made[found.__name__].__code__
    try:
        yield
    finally:
        found.__code__ = before
