"""What a close keeps: its result as JSON, within the bound of every result."""

from __future__ import annotations

from longcase.engine.incidents import TurnDiscarded
from longcase.errors import InvalidInput
from longcase.model.codec import RESULT_LIMIT, Json, dump_json, refuse_unkept
from longcase.model.exits import Close
from longcase.model.names import text_of


def close_result(close: Close, owner: str) -> Json:
    """Return a close's result as it is kept: for the parent of the case too, whose visit reads it at every replay.

    Raises:
        TurnDiscarded: it is no JSON, or larger than RESULT_LIMIT.
    """
    value = close.result
    if value is None or isinstance(value, bool):
        return value
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    try:
        if isinstance(value, str):
            text = value
        else:
            refuse_unkept(value, "result")
            text = dump_json(value)
    except InvalidInput as error:
        raise _not_json(close, owner, error.message) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise _not_json(close, owner, text_of(error)) from None
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > RESULT_LIMIT:
        raise TurnDiscarded(
            "stage_failed",
            f"close {close.name}: result: {size:,} bytes, at most {RESULT_LIMIT:,} are kept; "
            "keep it elsewhere and close with where",
            owner=owner,
            details={"hint": f"close({close.name!r}, result=where)"},
        )
    return value


def _not_json(close: Close, owner: str, why: str) -> TurnDiscarded:
    return TurnDiscarded("stage_failed", f"close {close.name}: result is not JSON: {why}", owner=owner)
