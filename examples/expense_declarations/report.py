"""The report: every figure is a question in SQL to Longcase's own history; no other source is read.

python report.py --store expense.db
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longcase import Longcase

Ask = Callable[[str], list[dict[str, Any]]]

# What people and systems handed in, one row each, in the words of the log. A signal enters the history as
# received, as the interrupt of an exception path, or as refused by a closed case; each one counts.
HANDED_IN = """
WITH handed_in AS (
    SELECT
        case_no, key, event, what, data ->> 'id' AS id,
        CASE data ->> 'signal'
            WHEN 'filed' THEN 'Declaration ' || upper(data ->> '$.body.action') || ' by EMPLOYEE'
            WHEN 'taken-back' THEN 'Declaration REJECTED by EMPLOYEE'
            WHEN 'payment-requested' THEN 'Request Payment'
            WHEN 'payment-handled' THEN 'Payment Handled'
            ELSE 'Declaration ' || CASE
                WHEN data ->> '$.body.verdict' = 'rejected' THEN 'REJECTED'
                WHEN data ->> '$.body.by' = 'SUPERVISOR' THEN 'FINAL_APPROVED'
                ELSE 'APPROVED'
            END || ' by ' || (data ->> '$.body.by')
        END AS text
    FROM timeline
    WHERE what IN ('signal_received', 'signal_refused') OR (what = 'interrupted' AND data ->> 'signal' <> '')
)
"""
# One row per case: how often submitted, whether finally approved, whether paid.
PER_CASE = """
, per_case AS (
    SELECT
        c.case_no, c.key, c.closed_as IS 'paid' AS paid,
        count(*) FILTER (WHERE h.text = 'Declaration SUBMITTED by EMPLOYEE') AS submissions,
        count(*) FILTER (WHERE h.text = 'Declaration FINAL_APPROVED by SUPERVISOR') AS final_approvals
    FROM case_overview AS c LEFT JOIN handed_in AS h ON h.case_no = c.case_no
    GROUP BY c.case_no
)
"""


def of_steps(question: str) -> str:
    """Return a question that is asked of `handed_in`."""
    return HANDED_IN + question


def of_cases(question: str) -> str:
    """Return a question that is asked of `per_case`."""
    return HANDED_IN + PER_CASE + question


CASES = "SELECT count(*) AS cases, count(*) FILTER (WHERE closed_as = 'paid') AS paid FROM case_overview"
COUNTS = of_steps("SELECT text, count(*) AS times FROM handed_in GROUP BY text")
LAST = of_steps("""
SELECT text, count(*) AS cases FROM (SELECT text, max(event) FROM handed_in GROUP BY case_no)
GROUP BY text ORDER BY cases DESC, text
""")
SUBMISSIONS = of_cases("SELECT submissions, count(*) AS cases FROM per_case WHERE paid GROUP BY 1 ORDER BY 1")
UNAPPROVED = of_cases("SELECT count(*) AS cases FROM per_case WHERE final_approvals = 0")
PAID_ANYWAY = of_cases("SELECT key FROM per_case WHERE paid AND final_approvals = 0 ORDER BY case_no")
# What the workflow does not model, where an operator or a closed case answered for it.
NOT_MODELLED = """
SELECT
    CASE what
        WHEN 'moved'
            THEN format('moved from %s to %s by an operator: %s', data ->> 'from', data ->> 'to', data ->> 'reason')
        WHEN 'signal_refused' THEN format('refused by a case closed as %s: %s', data ->> 'close', data ->> 'signal')
        ELSE format('nobody consumed it (%s): %s', data ->> 'why', data ->> 'signal')
    END AS step,
    count(*) AS times
FROM timeline WHERE what IN ('moved', 'signal_refused', 'signal_unhandled')
GROUP BY step ORDER BY times DESC, step
"""
STAGES = """
SELECT stage, whose_move, count(*) AS cases FROM case_overview WHERE status = 'open' GROUP BY 1, 2 ORDER BY cases DESC
"""
INCIDENTS = "SELECT kind, message, count(*) AS cases FROM incidents GROUP BY 1, 2"


def figures(ask: Ask) -> dict[str, Any]:
    """Return the figures of the log's analysts, from the history of the cases."""
    times = {row["text"]: row["times"] for row in ask(COUNTS)}

    def count(text: str) -> int:
        return int(times.get(text, 0))

    total = ask(CASES)[0]
    return {
        "cases": total["cases"],
        "events": sum(times.values()),
        "submissions": count("Declaration SUBMITTED by EMPLOYEE"),
        "approved_pre_approver": count("Declaration APPROVED by PRE_APPROVER"),
        "approved_administration": count("Declaration APPROVED by ADMINISTRATION"),
        "approved_budget_owner": count("Declaration APPROVED by BUDGET OWNER"),
        "final_approved": count("Declaration FINAL_APPROVED by SUPERVISOR"),
        "rejected_pre_approver": count("Declaration REJECTED by PRE_APPROVER"),
        "rejected_budget_owner": count("Declaration REJECTED by BUDGET OWNER"),
        "rejected_supervisor": count("Declaration REJECTED by SUPERVISOR"),
        "rejected_missing": count("Declaration REJECTED by MISSING"),
        "rejected_administration": count("Declaration REJECTED by ADMINISTRATION"),
        "taken_back": count("Declaration REJECTED by EMPLOYEE"),
        "paid": total["paid"],
        "never_final_approved": ask(UNAPPROVED)[0]["cases"],
        "paid_after_submissions": {str(row["submissions"]): row["cases"] for row in ask(SUBMISSIONS)},
        "paid_without_final_approval": [row["key"] for row in ask(PAID_ANYWAY)],
        "last_event": {row["text"]: row["cases"] for row in ask(LAST)},
    }


def describe(ask: Ask, found: dict[str, Any]) -> str:
    """Return the report as a person reads it."""
    lines = [f"{name.replace('_', ' '):<28}{value:>8,}" for name, value in found.items() if isinstance(value, int)]
    lines += _section("paid after so many submissions", list(found["paid_after_submissions"].items()))
    lines += _section("last event of a case", list(found["last_event"].items()))
    lines += _section(
        "open cases: where, and whose move",
        [(f"{row['stage']}, {row['whose_move']}", row["cases"]) for row in ask(STAGES)],
    )
    lines += _section("steps the workflow does not model", [(row["step"], row["times"]) for row in ask(NOT_MODELLED)])
    lines += _section("incidents", [(f"{row['kind']}: {row['message']}", row["cases"]) for row in ask(INCIDENTS)])
    lines += ["", "paid without a final approval: " + (", ".join(found["paid_without_final_approval"]) or "none")]
    return "\n".join(lines)


def _section(title: str, rows: list[tuple[str, int]]) -> list[str]:
    return ["", f"{title}:", *(f"  {times:>7,}  {name}" for name, times in rows)] if rows else []


async def _main(store: Path) -> None:
    async with Longcase(url=f"sqlite:///{store}", inline=True) as longcase:
        rows = {sql: await longcase.service.query(sql) for sql in QUESTIONS}
    found = figures(rows.__getitem__)
    print(describe(rows.__getitem__, found))
    print(json.dumps(found))


QUESTIONS = (COUNTS, CASES, LAST, SUBMISSIONS, UNAPPROVED, PAID_ANYWAY, NOT_MODELLED, STAGES, INCIDENTS)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Report on a store filled by run.py.")
    parser.add_argument("--store", type=Path, required=True)
    named: Path = parser.parse_args().store
    if not named.exists():
        sys.exit(f"report: no store at {named}\n\nhint: python run.py --data PATH --store {named}")
    asyncio.run(_main(named))
