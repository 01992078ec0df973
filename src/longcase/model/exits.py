"""The two ways out of a stage that are not another stage: a named close, and a fresh visit."""

from __future__ import annotations

from longcase.model.codec import Json
from longcase.record import record


@record
class Close:
    """A named end of a case; made by `workflow.close("name", ...)` and returned by a stage."""

    name: str
    result: Json = None
    reason: str = ""
    leave: tuple[str, ...] = ()


@record
class Again:
    """A fresh visit of the same stage; made by `case.again()` and returned by a stage."""
