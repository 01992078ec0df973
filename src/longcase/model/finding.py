"""What `longcase check` has to say: one finding per place, with a stable code.

`RULES` is the list of everything that can be found; a code is never reused, and its severity is
the same wherever it is found. An error says that the code and its map differ, or that a case
could get lost; a warning says that a reader should look.
Next on the data's way: `map`, which finds while it reads the source, and `check`, which asks the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from longcase.record import record

Severity = Literal["error", "warning"]

_ERRORS = {
    # what the map cannot show
    "source_not_found": "a stage whose source cannot be read has no map",
    "too_large": "a definition over the limits is refused unread",
    "await_not_readable": "what is awaited must be readable without running the code",
    "await_not_claimed": "every await has exactly one place on the map",
    "async_for_not_readable": "an `async for` runs over case.as_completed(...)",
    "async_with_not_readable": "an `async with` is a timeout, a TaskGroup or a lock of this visit",
    "durable_call_not_awaited": "a durable call is awaited, or handed to gather or a TaskGroup, where it is written",
    "activity_as_value": "an activity or a part is called by its name",
    "helper_not_a_part": "a helper that waits or decides is a part of the workflow",
    "part_recursion": "a part that calls itself has no map",
    "same_place_twice": "two calls in one stage need names of their own",
    "name_not_readable": "a question or a reason without a label is a literal text",
    "argument_not_readable": "what names a place on the map is written where it is used",
    "exit_not_readable": "a stage returns a stage by its name, a close by a literal name, or case.again()",
    "handler_returns": "a handler runs beside its stage, and returns nothing",
    "stage_falls_off": "every way through a stage ends in an exit",
    "foreign_stage": "exits and scopes name stages of the same workflow",
    "foreign_signal": "a stage receives signals of its own workflow",
    "answer_not_handled": "every answer a person or a rule can give is handled",
    "unknown_answer": "an answer that cannot be given is a typing error",
    "name_clash": "two things with one name cannot be told apart in the history",
    "case_rebound": "the name of the case means the case, everywhere in the stage",
    "suppress_around_await": "a failure that is passed over is written as try/except",
    "await_inside_change": "the object may change during an await",
    # what would not replay, or would refuse an interrupt
    "durable_in_finally": "cleanup belongs in undo= or in the exception path",
    "durable_after_cancel": "cleanup belongs in undo= or in the exception path",
    "cancel_swallowed": "an interrupt ends the visit",
    "asyncio_not_replayable": "this part of asyncio differs on replay",
    "set_order": "a set has another order in another process",
    "memory_address": "memory addresses and hashes differ on replay",
    "module_state": "module-level state differs on replay",
    "task_outside_group": "no task outlives its stage",
    "sleep_in_stage": "a wait has a reason and a place on the map",
    "shared_asyncio_object": "events, queues and locks live within one visit",
    "time_in_stage": "a stage knows one instant, that of the input being applied",
    "random_in_stage": "chance and ids come from the case, so that they replay",
    "io_in_stage": "what touches the world is an activity",
    "thread_in_stage": "a stage runs on one thread, on its own loop",
    "dynamic_code": "code made at run time has no map",
    "io_in_transaction": "a transaction waits for nobody: what touches the world is an activity of its own",
    "transaction_ended_by_hand": "Longcase begins and ends the transaction of an activity",
    # what the business would miss
    "retry_loop": "retries are a policy of the activity",
    "signal_caught_and_received": "a signal has a reaction or is received, never both",
    "object_changed_in_place": "what a stage writes is recorded: `case.object` is a value that was read",
    "unknown_field": "the business object has no such field",
    "unreachable_stage": "every stage can be reached",
    "wait_without_expectation": "every wait says when it is expected to end",
    "owner_missing": "everything declared has an owner",
    "owner_unresolved": "an owner is a Team that can be read from the code",
    "owner_without_calendar": "business time is counted on a calendar",
    "not_a_span": "a length of time is written with its unit",
    "span_refused": "a span lasts from zero to ten years",
    "expiry_without_answer": "an expiry says which answer then stands",
    "quorum_refused": "a quorum is of at least one person",
    "escalation_after_expiry": "a level after the expiry never comes",
    "expectation_too_short": "a stage is not late before its own ladder begins",
    "system_without_policy": "an activity that touches a system says how it is retried, or what its effect is",
    "loop_without_wait": "a loop waits for something, or ends",
    "cycle_without_wait": "a cycle of stages waits for something, or ends",
    "never_closes": "from every stage some close can be reached",
    # what is declared, against what the source says
    "declaration_incomplete": "inputs, results and answers have types that can be recorded",
    "not_module_level": "stages, parts and activities are functions of their module",
    "declared_not_registered": "what the source declares is what runs",
    "registered_not_declared": "what runs is what the source declares",
    "not_importable": "the module must be importable",
}

_WARNINGS = {
    "print_in_stage": "print repeats on replay",
    "shows_while_written": "an approval that shows the whole object is stale after every change",
    "decision_in_activity": "a decision ruled inside an activity is not recorded",
    "decision_without_owner": "a choice of the business has an owner and a policy",
    "never_undone": "an undo that no stage asks for",
}

RULES: dict[str, str] = {**_ERRORS, **_WARNINGS}
"""What each code stands for, in one line; the reference page is made from it."""


@record
class Finding:
    """One thing that is wrong, or doubtful, at one line of the source."""

    file: str
    line: int
    code: str
    message: str
    hint: str = ""

    def __post_init__(self) -> None:
        assert self.code in RULES, self.code

    @property
    def severity(self) -> Severity:
        """Whether the finding refuses the definition or asks for a look."""
        return "warning" if self.code in _WARNINGS else "error"

    def __str__(self) -> str:
        """Return the finding as it is printed: place, severity, code, message; then the mend."""
        text = f"{self.file}:{self.line}: {self.severity} {self.code}: {self.message}"
        return f"{text}\n\nhint: {self.hint}\n" if self.hint else text

    def to_json(self) -> dict[str, Any]:
        """Return the finding as the CLI and the HTTP face give it out."""
        return {
            "file": self.file,
            "line": self.line,
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
        }


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings by file and line, each once: a part read from two stages is one place."""
    return sorted(set(findings), key=lambda one: (one.file, one.line, one.code, one.message, one.hint))
