"""Lists over many cases, asked of the documented views; every value is bound, every column is ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from longcase.errors import UsageError, WorkflowNotFound
from longcase.history.state import CaseState
from longcase.history.waits import Wait, waits
from longcase.model.codec import dump_json, json_value
from longcase.nearest import nearest
from longcase.record import record
from longcase.store.kept import beside_damage, kept, names, shaped
from longcase.store.port import Store
from longcase.store.records import CaseRef

MOST: Final = 1_000  # rows of one answer
NEAR: Final = 2_000  # cases that follow in number, among which a page is looked for before it is among all
CHILDREN: Final = 50  # waits of one case among which its child cases are looked up
WAIT_KINDS: Final = ("incident", "activity", "person", "data", "signal", "timer", "child", "undo", "worker")
_EXPECTED: Final = ("waiting_until", "stage_expected_by", "expected_by")
# The earliest expectation of a case stands in its row, so the waits of all open cases need not be unfolded; only
# behind an incident, which comes first whenever it is due, another wait may be late.
MAYBE_LATE: Final = """
status = 'open' AND (
    incidents > 0 OR waiting_until < (SELECT now FROM clock) OR stage_expected_by < (SELECT now FROM clock)
    OR expected_by < (SELECT now FROM clock)
)
"""
FOR_A_WORKER: Final = "status = 'open' AND waiting_for IS NULL"

_CASES: Final = """
SELECT case_no, workflow || '/' || key AS case_address, status, closed_as, stage, visit, owner, waiting_for,
       waiting_on, whose_move, waiting_since, waiting_until, expected_by, stage_expected_by, incidents,
       started_at, closed_at, (SELECT now FROM clock) AS now
FROM case_overview
"""
_CASES_NEAR: Final = _CASES.replace(
    "FROM case_overview",
    "FROM (SELECT * FROM case_overview WHERE case_no > :after ORDER BY case_no LIMIT :near) AS near",
)
_WORKFLOWS: Final = """
SELECT DISTINCT workflow FROM case_overview WHERE tenant = :tenant UNION SELECT workflow FROM maps
"""
_TASKS: Final = """
SELECT c.workflow || '/' || c.key AS case_address, t.task, t.kind, t.question, t.round, t.status, t.of_team,
       t.whose, t.opened_at, nullif(t.expected_by, '') AS expected_by, t.node, t.data
FROM tasks AS t JOIN cases AS c ON c.case_no = t.case_no
WHERE t.status IN ('ready', 'reserved') AND c.status = 'open' AND c.tenant = :tenant
"""


@record
class Which:
    """Which cases are asked for; an empty field does not narrow."""

    workflow: str = ""
    stage: str = ""
    owner: str = ""
    whose: str = ""
    waiting: str = ""
    status: str = "open"  # open | closed | all
    overdue: bool = False
    incidents: bool = False
    after: int = 0  # a case number: goes on behind it
    limit: int = 50

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MOST:
            raise UsageError(f"limit {self.limit}, expected 1 to {MOST}", hint="--limit 200")
        if not 0 <= self.after < 2**63:
            raise UsageError(f"after {self.after}, expected a case number", hint="--after 200")
        if self.status not in ("open", "closed", "all"):
            raise UsageError(f"status {self.status!r}, expected open, closed or all", hint="--status all")
        if self.waiting and self.waiting not in WAIT_KINDS:
            raise UsageError(
                f"waiting {self.waiting!r}, expected one of {', '.join(WAIT_KINDS)}", hint="--waiting person"
            )


async def list_cases(store: Store, tenant: str, which: Which) -> list[dict[str, Any]]:
    """Return cases by number, oldest first: at most `limit`, and one more if there are more."""
    wanted = ["tenant = :tenant", "case_no > :after"]
    parameters: dict[str, Any] = {"tenant": tenant, "after": which.after, "limit": which.limit + 1}
    for column, value in (
        ("workflow", which.workflow), ("stage", which.stage), ("owner", which.owner), ("whose_move", which.whose),
        ("waiting_for", "" if which.waiting == "worker" else which.waiting),
        ("status", "" if which.status == "all" else which.status),
    ):  # fmt: skip
        if value:
            wanted.append(f"{column} = :{column}")
            parameters[column] = value
    if which.waiting == "worker":
        wanted.append(FOR_A_WORKER)
    if which.overdue:
        wanted.append(MAYBE_LATE)
    if which.incidents:
        wanted.append("incidents > 0")
    where = f"WHERE {' AND '.join(wanted)} ORDER BY case_no LIMIT :limit"
    rows = await (_late if which.overdue else _asked_for)(store, where, parameters)
    return [_renamed(_for_a_worker(row)) for row in rows]


async def _asked_for(store: Store, where: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a page: of the cases that come next, if they fill it, else of all.

    Among all, the store goes by the index that narrows most, and has to sort what it finds: half a second where
    that is half of a million cases.
    """
    near = f"{_CASES_NEAR} {where}"
    rows = await store.query(near, {**parameters, "near": max(NEAR, parameters["limit"])})
    return rows if len(rows) == parameters["limit"] else await store.query(f"{_CASES} {where}", parameters)


async def _late(store: Store, where: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the overdue ones among those that MAYBE_LATE lets pass, a page at a time."""
    found: list[dict[str, Any]] = []
    while True:
        page = await store.query(f"{_CASES} {where}", parameters)
        in_doubt = {row["case_no"]: row["now"] for row in page if not _shows_late(row)}
        states = await store.load_many(list(in_doubt))
        late = {case_no for case_no, row in states.items() if _waits_late(row.state, in_doubt[case_no])}
        found += [row for row in page if row["case_no"] not in in_doubt or row["case_no"] in late]
        if len(found) >= parameters["limit"] or len(page) < parameters["limit"]:
            return found[: parameters["limit"]]
        parameters = {**parameters, "after": page[-1]["case_no"]}


def _shows_late(row: dict[str, Any]) -> bool:
    return any(row[column] and row[column] < row["now"] for column in _EXPECTED)


def _waits_late(state: CaseState, now: str) -> bool:
    return any(wait.expected and wait.expected < now for wait in waits(state))


def _for_a_worker(row: dict[str, Any]) -> dict[str, Any]:
    """Say of a case that has no wait of its own what it waits on, as `history.waits.for_a_worker` does."""
    if row["status"] == "open" and not row["waiting_for"]:
        since = row["started_at"] if not row["visit"] else None  # later the row does not tell
        row |= {
            "waiting_for": "worker", "waiting_on": "a worker", "whose_move": row["owner"], "waiting_since": since,
        }  # fmt: skip
    return row


async def check_workflow(store: Store, tenant: str | None, workflow: str, loaded: Iterable[str]) -> None:
    """Refuse a workflow that is neither loaded nor has a case or a map here, naming the near ones.

    Maps are of the code, which is every tenant's; a case is only looked for among the tenant's own, or among all if
    the tenant is None.
    """
    sql = "SELECT workflow FROM case_overview WHERE tenant = :tenant AND workflow = :workflow LIMIT 1"
    every = _WORKFLOWS
    whose = {"tenant": tenant}
    if tenant is None:
        sql, every, whose = sql.replace("tenant = :tenant AND ", ""), every.replace("WHERE tenant = :tenant", ""), {}
    if workflow in loaded or await store.query(sql, {**whose, "workflow": workflow}):
        return
    known = {row["workflow"] for row in await store.query(every, whose)} | set(loaded)
    if workflow in known:
        return
    near = nearest(workflow, sorted(known), 3)
    there = f"there: {', '.join(sorted(known))}" if known else "no case was started yet: longcase start WORKFLOW JSON"
    raise WorkflowNotFound(
        f"no workflow {workflow} is known here", hint=f"did you mean {' or '.join(near)}?" if near else there
    )


async def list_tasks(
    store: Store, tenant: str, *, of: str = "", limit: int = 200, case_no: int = 0
) -> list[dict[str, Any]]:
    """Return the open tasks of all cases, the earliest expected first.

    Args:
        of: a team or person; only tasks it may answer now.
        case_no: only of this case.
    """
    sql = _TASKS
    parameters: dict[str, Any] = {"tenant": tenant, "limit": Which(limit=limit).limit}
    if case_no:
        sql += " AND t.case_no = :case_no"
        parameters["case_no"] = case_no
    if of:
        # A list of names as text: no store's own way to look into JSON, and LIKE is deaf to case in one of them.
        sql += " AND replace(CAST(t.whose AS text), :of, '') <> CAST(t.whose AS text)"
        parameters["of"] = dump_json(of)
    found = []
    for row in await store.query(
        f"{sql} ORDER BY coalesce(nullif(t.expected_by, ''), '9'), t.task_no LIMIT :limit", parameters
    ):
        with beside_damage():
            asked = kept(row.pop("data"), f"task {row['task']} of {row['case_address']}", _asked, _rebuild(row))
            found.append(_renamed({**row, "whose": whose(row)}) | asked)
    return found


def whose(row: dict[str, Any]) -> list[str]:
    """Return who may answer a task.

    Raises:
        StoreCorrupt: that cannot be read any more.
    """
    return kept(row["whose"], f"whose task {row['task']} of {row['case_address']} is", names, _rebuild(row))


def _rebuild(row: dict[str, Any]) -> str:
    return f"longcase rebuild {row['case_address']}"


def _asked(task: dict[str, Any]) -> dict[str, Any]:
    shown = task.get("shown")
    return {
        "answers": names(task.get("answers") or []), "form": task.get("form"), "field": task.get("field") or None,
        "quorum": task.get("quorum", 1), "votes": len(task.get("votes") or ()),
        "answered": {vote["by"]: vote["answer"] for vote in task.get("votes") or ()},
        "claimed_by": task.get("claimed_by") or None, "shown": json_value(shown) if shown else None,
        "digest": task.get("digest"),
    }  # fmt: skip


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    return {"case": row.pop("case_address"), **row}


async def with_children(store: Store, state: CaseState, found: Sequence[Wait]) -> list[Wait]:
    """Return waits that say of a child case in trouble whose move it is (SEMANTICS B22)."""
    told: list[Wait] = []
    for wait in found:
        address = wait.what.removeprefix("child ")
        if wait.kind == "child" and len(told) < CHILDREN:
            workflow, _, key = address.partition("/")
            child = await store.load(CaseRef(0, workflow, key, state.tenant))
            if child is not None and child.state.incidents:
                owners = dict.fromkeys(opened["owner"] for opened in child.state.incidents.values())
                wait = wait._replace(what=f"{wait.what}: incident, owner {', '.join(owners)}")
        told.append(wait)
    return told


async def next_steps(store: Store, state: CaseState) -> tuple[str, ...]:
    """Return where the case's stage may lead, from the newest map stored of its workflow; () if none is."""
    if state.status == "closed":
        return ()
    exits: list[str] = []
    with beside_damage():
        graph = await store.newest_map(state.workflow) or {}
        exits = shaped(graph, f"the newest map of {state.workflow}", lambda graph: _exits(graph, state.stage))
    ends = [name for name in exits if name.startswith("close:")]
    ordered = [*(name for name in exits if name not in ends), *ends]
    return tuple(dict.fromkeys(name.removeprefix("to:").replace("close:", "close ") for name in ordered))


def _exits(graph: dict[str, Any], stage: str) -> list[str]:
    return [node["name"] for node in graph.get("nodes", ()) if node["kind"] == "exit" and node["stage"] == stage]
