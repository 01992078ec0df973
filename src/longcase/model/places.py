"""How a place on the map is named: a path of names, never a code position (MAP.md).

`stage[/part...]/kind:name[:label]`, for example `review/approval:sign-off`. The extractor builds
these ids from the source, the engine from the running calls; both use this one function.
"""

from __future__ import annotations

import re
from typing import Literal

CANCEL_PATH = "cancel"
"""The name of the reaction to `cancel` where the workflow declares none: undo, then close "cancelled"."""

NodeKind = Literal[
    "activity", "approval", "choice", "task", "require", "receive", "pause", "timeout",
    "decision", "child", "spawn", "undo", "change", "exit", "on",
]  # fmt: skip


def node_id(stage: str, parts: tuple[str, ...], kind: NodeKind, name: str = "", label: str | None = None) -> str:
    """Return the id of a node; in a handler `stage` is the handler's name.

    `name` is the activity's, decision's, signal's, field's or child workflow's name; for a task or a
    pause it is the label if one is given, else the slug of its question or reason (and `label` is
    then None). A `timeout`, an `undo` and a `change` have no name. Exits are `to:STAGE`,
    `close:NAME` or `again`. An `on` is where a handler begins, named after its signal.
    """
    place = kind if not name else f"{kind}:{name}"
    if label:
        place = f"{place}:{label}"
    return "/".join((stage, *parts, place))


def slug(text: str) -> str:
    """Return a question or reason as a name: lower case, words joined by '-', at most 60 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].rstrip("-") or "unnamed"
