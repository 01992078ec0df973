"""The fingerprint of the code a worker runs: tells one release from another, nothing more.

Replay alone decides whether a case runs on a code (I34). Where it does not, the fingerprints of the
living workers say whether another release may do better. A fingerprint that differs for no reason
costs a replay; so it covers the source of everything that lies in the packages of the workflow.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from hashlib import sha256

from longcase.engine.code import WorkflowCode


def fingerprint(code: WorkflowCode) -> str:
    """Return the fingerprint of a workflow's code as loaded in this process, 16 hex digits."""
    stages = code.workflow.written
    functions = [stage.fn for stage in stages] + [activity.raw for activity in code.activities.values()]
    modules = {str(getattr(function, "__module__", "")) for function in functions}
    tops = {name.partition(".")[0] for name in modules} - {"longcase", ""}
    digest = sha256(code.workflow.name.encode())
    for name in sorted(_loaded(tops)):
        digest.update(name.encode())
        digest.update(_source(str(getattr(sys.modules[name], "__file__", "") or "")))
    return digest.hexdigest()[:16]


def _loaded(tops: set[str]) -> Iterable[str]:
    return [name for name in list(sys.modules) if name.partition(".")[0] in tops]


@cache
def _source(file: str) -> bytes:
    """Return the digest of a source file, read once a process: what is loaded does not change with the file."""
    try:
        with open(file, "rb") as source:
            return sha256(source.read()).digest()
    except OSError:
        return b""
