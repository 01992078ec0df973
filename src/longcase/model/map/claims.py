"""Claims: what a durable call adds to the map, other than the waits of `case`: its node, its entry in the registry."""

from __future__ import annotations

import ast
from typing import Any

from longcase.model.activity import Activity
from longcase.model.decision import Decision
from longcase.model.map.atlas import Atlas, FunctionReading, Site
from longcase.model.map.calls import Called


class Claims:
    """Makes the nodes of one function."""

    def __init__(self, atlas: Atlas, reading: FunctionReading) -> None:
        self._atlas = atlas
        self._reading = reading

    def activity(self, found: Called, activity: Activity[Any, Any], bounded: bool) -> str:
        """Claim the node of one call of an activity."""
        self._register(activity, found.call)
        node = self._atlas.node(
            self._reading,
            found.call,
            "activity",
            activity.name,
            label=activity.label,
            owner=activity.owner.name,
            system=activity.system.name if activity.system else "",
            undo=activity.undo_activity.name if activity.undo_activity else "",
            was=activity.was,
            target=activity,
        )
        place = self._atlas.claim(self._reading, found.call, node)
        self._reading.sites.append(Site(place, "activity", found.call, activity, bounded=bounded))
        return place

    def decision(self, found: Called) -> str:
        """Claim the node of one use of a decision; ruling it again is the same place."""
        decision: Decision[Any, Any] = found.targets[0]
        self._reading.references.update(map(id, found.refs))
        self._atlas.decisions.setdefault(decision.name, decision)
        node = self._atlas.node(
            self._reading,
            found.call,
            "decision",
            decision.name,
            label=decision.label,
            owner=decision.owner.name,
            title=decision.question,
            answers=_answers(decision),
            target=decision,
        )
        again = isinstance(found.call.func, ast.Attribute) and found.call.func.attr == "rule_again"
        place = self._atlas.claim(self._reading, found.call, node, again=again)
        self._reading.sites.append(Site(place, "decision", found.call, decision))
        return place

    def change(self, node: ast.AST) -> str:
        """Claim the one node that changes of the object have in this stage or part."""
        return self._atlas.claim(self._reading, node, self._atlas.node(self._reading, node, "change"))

    def timer(self, node: ast.AST) -> str:
        """Claim the one node that timeouts have in this stage or part."""
        return self._atlas.claim(self._reading, node, self._atlas.node(self._reading, node, "timeout"))

    def _register(self, activity: Activity[Any, Any], node: ast.AST) -> None:
        """Enter an activity and its undo under the names the history may know them by."""
        for entry in filter(None, (activity, activity.undo_activity)):
            for name in (entry.name, *entry.was):
                known = self._atlas.activities.setdefault(name, entry)
                if known.raw is not entry.raw:
                    self._atlas.findings.append(
                        self._reading.finding(
                            "name_clash",
                            node,
                            f"two activities are named {name}: {_where(known)} and {_where(entry)}",
                            f'name one of them anew: @activity(owner=..., name="other-{name}", was=("{name}",))',
                        )
                    )


def _where(activity: Activity[Any, Any]) -> str:
    code = getattr(activity.raw, "__code__", None)
    return f"{activity.raw.__module__}:{code.co_firstlineno}" if code else activity.raw.__module__


def _answers(decision: Decision[Any, Any]) -> tuple[str, ...]:
    try:
        return decision.answers
    except Exception:  # an annotation that cannot be resolved; `check` reports the declaration itself
        return ()
