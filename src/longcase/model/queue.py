"""Queues: named places where calls wait for a worker that can run them (a GPU box, a site behind a firewall)."""

from __future__ import annotations

from datetime import timedelta

from longcase.errors import DefinitionError
from longcase.model.names import check_name
from longcase.model.policy import check_limits
from longcase.record import record

DEFAULT_QUEUE = "default"


@record
class Queue:
    """A queue that activities are bound to: their attempts run only on workers that serve it.

    `@activity(queue="gpu")` is enough where nothing is limited; a `Queue` says what holds for all workers
    together.

    Args:
        name: how workers name it (`longcase worker --queue gpu`).
        concurrency: most attempts running at once over the whole fleet; None is no limit.
        rate: most attempts begun per span over the whole fleet, as `(count, span)`.
    """

    name: str
    concurrency: int | None = None
    rate: tuple[int, timedelta] | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "queue")
        if self.name == DEFAULT_QUEUE:
            raise DefinitionError(
                "the queue default is where activities without a queue run: nothing is bound to it",
                hint="leave queue= out, or name another queue",
            )
        check_limits(f"queue {self.name}", self.concurrency, self.rate)


def as_queue(queue: Queue | str | None, what: str) -> Queue | None:
    """Return the queue a declaration names, None for the default one."""
    if queue is None or isinstance(queue, Queue):
        return queue
    if not isinstance(queue, str):
        raise DefinitionError(f"{what}: queue={queue!r}, expected a Queue or its name", hint='queue="gpu"')
    return Queue(queue)


def check_priority(what: str, priority: int) -> int:
    """Refuse a priority that is no whole number, or out of bounds."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not -1000 <= priority <= 1000:
        raise DefinitionError(
            f"{what}: priority={priority!r}, expected a whole number from -1000 to 1000", hint="priority=10"
        )
    return priority
