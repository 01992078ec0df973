"""Signals: typed, declared messages from outside to a case."""

from __future__ import annotations

from typing import Generic, TypeVar

from longcase.model.codec import Codec, codec_for
from longcase.model.people import Owner
from longcase.record import record

S = TypeVar("S")


@record
class Signal(Generic[S]):
    """A declared signal of one workflow; made by `workflow.signal(name, model, owner=...)`.

    Accepted means durable; early ones are kept; a sender's key makes a repeat harmless.
    """

    workflow: str
    name: str
    body: type[S]
    owner: Owner

    @property
    def codec(self) -> Codec:
        """The codec of the body."""
        return codec_for(self.body)
