"""Names that lists are narrowed by: a slip is told from an answer that is empty.

Known is what the store has seen (rows, open tasks, maps of the code that ran) and what is loaded here. Asked only
where an answer is empty, so nothing of it need be fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from longcase.engine.code import WorkflowCode
from longcase.errors import NotFoundError
from longcase.model.people import Team
from longcase.nearest import nearest
from longcase.service.queries import whose
from longcase.store.kept import beside_damage, kept
from longcase.store.port import Store

MOST: Final = 12  # names that a message lists
_MAPS: Final = "SELECT number, workflow, graph FROM maps"
_STAGES: Final = "SELECT DISTINCT workflow, stage FROM case_overview WHERE tenant = :tenant AND stage <> ''"
_OWNERS: Final = """
SELECT owner AS name FROM case_overview WHERE tenant = :tenant
UNION SELECT whose_move FROM case_overview WHERE tenant = :tenant AND whose_move IS NOT NULL
UNION SELECT t.of_team FROM tasks AS t JOIN cases AS c ON c.case_no = t.case_no WHERE c.tenant = :tenant
"""
_ASKED: Final = """
SELECT c.workflow || '/' || c.key AS case_address, t.task, t.whose
FROM tasks AS t JOIN cases AS c ON c.case_no = t.case_no WHERE c.tenant = :tenant
"""
_NAMING: Final = frozenset({"owner", "of", "asked_of", "to", "team"})  # keys of a map whose texts name somebody


async def check_stage(store: Store, tenant: str, stage: str, workflow: str, codes: Mapping[str, WorkflowCode]) -> None:
    """Refuse a stage that no case has been in, no map has and no loaded workflow declares; where none is known, none.

    Raises:
        NotFoundError: with the near ones, or those that are there.
    """
    known = {
        name
        for code in codes.values()
        if workflow in ("", code.workflow.name)
        for name in [*code.workflow.stages, *(path.stage.name for path in code.workflow.paths.values())]
    }
    for row in await store.query(_STAGES, {"tenant": tenant}):
        known |= {row["stage"]} if workflow in ("", row["workflow"]) else set()
    for row in await store.query(_MAPS):
        if workflow in ("", row["workflow"]):
            with beside_damage():
                known |= kept(row["graph"], _map(row), _stages)
    if known and stage not in known:
        where = f"of {workflow}" if workflow else "here"
        raise NotFoundError(f"no stage {stage} is known {where}", hint=_offered(stage, known))


async def strangers(store: Store, tenant: str, asked: Iterable[str], codes: Mapping[str, WorkflowCode]) -> list[str]:
    """Return a sentence for each name of a team or person that nothing here has; one may be new, so it is no error."""
    known: set[str] = set()
    for code in codes.values():
        for stage in code.workflow.stages.values():
            known |= {stage.owner.name}
            for team in stage.fn.__globals__.values():
                if isinstance(team, Team):
                    known |= {team.name, *team.members}
    for row in await store.query(_OWNERS, {"tenant": tenant}):
        known |= set((row["name"] or "").split(", "))
    for row in await store.query(_ASKED, {"tenant": tenant}):
        with beside_damage():
            known |= set(whose(row))
    for row in await store.query(_MAPS):
        with beside_damage():
            known |= kept(row["graph"], _map(row), lambda graph: set(_named(graph)))
    known.discard("")
    return [
        f"nothing here is of anybody named {name}; {_offered(name, known)}"
        for name in dict.fromkeys(asked)
        if known and name not in known
    ]


def _map(row: Mapping[str, Any]) -> str:
    return f"map {row['number']} of {row['workflow']}"


def _stages(graph: Any) -> set[str]:
    return {name for one in graph["stages"] for name in (one["name"], *one["was"])}


def _named(graph: Any) -> Iterable[str]:
    if isinstance(graph, list):
        for item in graph:
            yield from _named(item)
    elif isinstance(graph, dict):
        for key, value in graph.items():
            if key in _NAMING and isinstance(value, str):
                yield value
            else:
                yield from _named(value)


def _offered(name: str, known: set[str]) -> str:
    near = nearest(name, sorted(known))
    if near:
        return f"did you mean {near[0]}?"
    shown = sorted(known)[:MOST]
    return f"there: {', '.join(shown)}{' ...' * (len(known) > MOST)}"
