"""Longcase: business workflows that survive production. The face: names only, no logic."""

from longcase.app import Longcase
from longcase.client import LongcaseClient
from longcase.engine.tasks import Actor
from longcase.errors import (
    ActivityFailed,
    DoNotRetry,
    LongcaseError,
    RetryAfter,
)
from longcase.model.activity import NOT_HAPPENED, Activity, NotHappened, activity, attempt, injected
from longcase.model.calendar import Calendar
from longcase.model.case import Approval, Case, Closed, Verdict
from longcase.model.decision import Decision, Ruled, decision
from longcase.model.exits import Close
from longcase.model.growth import HistoryLimits
from longcase.model.ladder import Escalation
from longcase.model.one_of import one_of
from longcase.model.people import System, Team
from longcase.model.policy import Retry
from longcase.model.queue import Queue
from longcase.model.signal import Signal
from longcase.model.span import Span, business_days, business_hours, days, hours, minutes, seconds
from longcase.model.transaction import Transaction
from longcase.model.workflow import Next, Stage, Workflow

__all__ = [
    "NOT_HAPPENED",
    "Activity",
    "ActivityFailed",
    "Actor",
    "Approval",
    "Calendar",
    "Case",
    "Close",
    "Closed",
    "Decision",
    "DoNotRetry",
    "Escalation",
    "HistoryLimits",
    "Longcase",
    "LongcaseClient",
    "LongcaseError",
    "Next",
    "NotHappened",
    "Queue",
    "Retry",
    "RetryAfter",
    "Ruled",
    "Signal",
    "Span",
    "Stage",
    "System",
    "Team",
    "Transaction",
    "Verdict",
    "Workflow",
    "activity",
    "attempt",
    "business_days",
    "business_hours",
    "days",
    "decision",
    "hours",
    "injected",
    "minutes",
    "one_of",
    "seconds",
]
__version__ = "0.1.0"
