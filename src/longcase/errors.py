"""The error family: one base, its children by who must act.

    LongcaseError
    |-- UsageError            the caller mends the call                 exit 2
    |   |-- InvalidInput          data that does not fit its declared type (one problem per pointer)
    |   |-- UnknownSignal         a signal the workflow does not declare
    |   |-- StatementRefused      a transactional activity ends its transaction, or changes Longcase's own tables
    |   |-- TransactionOver       a transaction that is used after its activity
    |   `-- Nondeterministic      stage code did what cannot be replayed
    |-- DefinitionError       the author mends the workflow             exit 2
    |-- NotFoundError         nothing is known by that name             exit 3
    |   |-- CaseNotFound (CasePurged)  TaskNotFound  WorkflowNotFound
    |-- ConflictError         somebody was first                        exit 4
    |   |-- CaseClosed  AlreadyDecided  AlreadyExpired  StaleDecision
    |   `-- IdempotencyConflict
    |-- RefusedError          a rule forbids it                         exit 5
    |   `-- RepairRefused
    |-- UnavailableError      an outside fault; trying again may help   exit 6
    |   |-- StoreUnavailable (StoreGone, WorkerForgotten)  StorageFull  StoreCorrupt  SchemaMismatch
    `-- BugError              a broken promise of Longcase: stop, never catch   exit 70

Outcomes are not errors: an activity raises `RetryAfter` or `DoNotRetry` to say what should
follow; `ActivityFailed` is what a stage sees of an activity that is finally lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar


class LongcaseError(Exception):
    """Base of every error Longcase raises on purpose.

    `code` is stable and never reused; `hint` is the mend, ready to paste; `retryable` says
    whether the same call may succeed later without a change.
    """

    code: ClassVar[str] = "longcase_error"
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message

    def to_json(self) -> dict[str, Any]:
        """Return the error as the CLI and the HTTP face print it: code, message, hint, details."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.hint:
            body["hint"] = self.hint
        if self.details:
            body["details"] = {name: value for name, value in self.details.items() if value is not None}
        return body


class UsageError(LongcaseError):
    """The call is wrong; the caller mends it."""

    code = "usage"
    exit_code = 2


class InvalidInput(UsageError):
    """Data does not fit the type declared for it; `problems` lists every place by JSON pointer."""

    code = "invalid_input"

    def __init__(
        self, message: str, *, problems: Sequence[tuple[str, str]] = (), hint: str = "", reason: str = ""
    ) -> None:
        super().__init__(message, hint=hint, problems=[list(p) for p in problems] or None, reason=reason or None)
        self.problems = tuple(problems)
        self.reason = reason


class UnknownSignal(UsageError):
    """The workflow declares no signal of that name."""

    code = "unknown_signal"


class StatementRefused(UsageError):
    """A transactional activity sent a statement that is not its own to send; its author mends it."""

    code = "statement_refused"


class TransactionOver(UsageError):
    """The transaction of an activity was used after the activity had ended, or after its time was up."""

    code = "transaction_over"


class Nondeterministic(UsageError):
    """Stage code called something that would differ on replay; names the call and its replacement."""

    code = "nondeterministic"


class DefinitionError(LongcaseError):
    """A declaration is wrong; the author of the workflow mends it."""

    code = "definition"
    exit_code = 2


class NotFoundError(LongcaseError):
    """Nothing is known by that name."""

    code = "not_found"
    exit_code = 3


class CaseNotFound(NotFoundError):
    """No case has that address."""

    code = "case_not_found"


class CasePurged(CaseNotFound):
    """The case was purged after its time; its tombstone says when, by whom, and which export holds it."""

    code = "case_purged"


class TaskNotFound(NotFoundError):
    """No task has that number."""

    code = "task_not_found"


class WorkflowNotFound(NotFoundError):
    """No workflow of that name is loaded or known to the store."""

    code = "workflow_not_found"


class FileMissing(NotFoundError):
    """No file of that name is there."""

    code = "file_not_found"


class ConflictError(LongcaseError):
    """Somebody was first; look again, then retry or give up."""

    code = "conflict"
    exit_code = 4


class CaseClosed(ConflictError):
    """The case is closed; what was sent is kept in its history as refused."""

    code = "case_closed"


class AlreadyDecided(ConflictError):
    """The task has its answer; who gave it and when stands in the message."""

    code = "already_decided"


class AlreadyExpired(ConflictError):
    """The task's time ran out before this answer came."""

    code = "already_expired"


class StaleDecision(ConflictError):
    """What was shown has changed since; the task must be read again."""

    code = "stale"


class IdempotencyConflict(ConflictError):
    """The same idempotency key came with another body."""

    code = "idempotency_conflict"


class RefusedError(LongcaseError):
    """A rule forbids it."""

    code = "refused"
    exit_code = 5


class RepairRefused(RefusedError):
    """The repair does not apply to the case as it stands."""

    code = "repair_refused"


class UnavailableError(LongcaseError):
    """An outside fault; the same call may succeed later."""

    code = "unavailable"
    exit_code = 6
    retryable = True


class StoreUnavailable(UnavailableError):
    """The store cannot be reached or is busy beyond the bound."""

    code = "store_unavailable"


class StoreGone(StoreUnavailable):
    """The store's file was deleted or replaced while it was open: what is written now, nobody would find."""

    code = "store_gone"
    retryable = False


class WorkerForgotten(StoreUnavailable):
    """The store has taken this worker for dead and voided what it held: it abandons its work and joins anew."""

    code = "worker_forgotten"
    retryable = False


class StorageFull(UnavailableError):
    """The disk is full; nothing was half-written."""

    code = "storage_full"


class StoreCorrupt(UnavailableError):
    """The store's file is damaged; restore a backup."""

    code = "store_corrupt"
    retryable = False


class SchemaMismatch(UnavailableError):
    """The store's schema is older or newer than this release."""

    code = "schema_mismatch"
    retryable = False


class BugError(LongcaseError):
    """An invariant of Longcase is broken: stop, never catch; report it."""

    code = "bug"
    exit_code = 70


# -- outcomes: what an activity tells us, and what a stage is told ----------------------------


class RetryAfter(Exception):
    """Raised by an activity: failed for now, try again no earlier than `delay`.

    Args:
        delay: seconds, or a timedelta; the vendor's Retry-After. It counts as an attempt.
        because: kept in history as the reason.
    """

    def __init__(self, delay: float | timedelta, because: str = "") -> None:
        super().__init__(because or f"retry after {delay}")
        self.delay = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)


class DoNotRetry(Exception):
    """Raised by an activity: failed for good, whatever attempts the policy has left."""


class ActivityFailed(LongcaseError):
    """Raised into a stage when an activity is finally lost (attempts, budget or time exhausted).

    `error_type` is the last exception's class name and `bases` those of its base classes, so
    `error.is_a(UnknownEntity)` works after a restart, when the exception object is long gone.
    """

    code = "activity_failed"

    def __init__(
        self, activity: str, error_type: str, message: str, *, attempts: int, bases: Sequence[str] = (), call: str = ""
    ) -> None:
        super().__init__(
            f"activity {activity} failed after {attempts} attempt{'s' * (attempts != 1)}: {error_type}: {message}"
        )
        self.activity = activity
        self.error_type = error_type
        self.error_message = message
        self.attempts = attempts
        self.bases = tuple(bases)
        self.call = call

    def is_a(self, kind: type[BaseException]) -> bool:
        """Tell whether the last attempt's exception was of `kind`, by class name."""
        return kind.__name__ == self.error_type or kind.__name__ in self.bases


class VisitInterrupted(BaseException):
    """Raised by every durable call while an interrupted visit unwinds (SEMANTICS A7).

    Not an Exception, so that `except Exception` in stage code does not catch it.
    """
