"""A call that has ended and whose outcome an incident keeps is not told as running, and takes no room in its queue."""

from __future__ import annotations

from typing import Any

from tests.rules.support import Order
from tests.runtime.attempts import Cases, at_work, world
from tests.runtime.common import desk
from tests.support.waiting import until_true

from longcase import Case, Longcase, Next, Queue, Transaction, Workflow, activity, days

narrow = Queue("narrow-kept", concurrency=1)
kept = Workflow("kept", object=Order, key="id", owner=desk, expect=days(1))


@activity(owner=desk)
async def price(id: str) -> int:
    world.notes["priced"].append(id)
    await world.at_the_door()
    return 5


@activity(owner=desk, queue=narrow)
async def price_narrowly(id: str) -> int:
    world.notes["priced"].append(id)
    return 5


@activity(owner=desk, transaction=True)
def price_and_write(tx: Transaction, id: str) -> int:
    return 5


@kept.stage(expect=days(1))
async def pricing(case: Case[Order]) -> Next:
    match case.object.note:
        case "plain":
            amount = await price(case.key)
        case "queue":
            amount = await price_narrowly(case.key)
        case _:
            amount = await price_and_write(case.key)
    if case.object.extra != "mended":
        raise KeyError("no such column")
    return kept.close("done", result=amount)


async def told(cases: Cases, key: str = "1") -> tuple[Any, Any, Any]:
    """Return the attempt as its view has it, what the case waits for by that view, and by `show`."""
    case, query = {"case_no": (await cases.longcase.service.show(f"kept/{key}")).case_no}, cases.longcase.service.query
    (attempt,) = await query("SELECT outcome, ended_at FROM attempts WHERE case_no = :case_no", case)
    rows = await query("SELECT what, whose FROM waiting WHERE case_no = :case_no AND kind = 'activity'", case)
    shown = (await cases.longcase.service.show(f"kept/{key}")).waits
    return attempt, rows, [{"what": w.what, "whose": w.whose} for w in shown if w.kind == "activity"]


async def running(cases: Cases) -> tuple[int, int]:
    """Return how many attempts run by the view, and as the fleet has it."""
    rows = await cases.longcase.service.query("SELECT call FROM running_attempts")
    return len(rows), sum(worker.attempts for worker in (await cases.longcase.service.workers()).workers)


async def test_a_call_whose_result_an_incident_keeps_has_ended_everywhere(url: str) -> None:
    async with at_work(url, kept) as cases:
        service = cases.longcase.service
        await service.start(kept, Order(id="1", note="plain"))
        await until_true(lambda: world.notes["priced"])
        assert (await told(cases))[0] == {"outcome": "running", "ended_at": None}
        assert await running(cases) == (1, 1)
        world.door.set()
        opened = await cases.seen(kept, "incident_opened")
        attempt, by_view, by_show = await told(cases)
        assert attempt == {"outcome": "ended", "ended_at": opened.at}
        what = f"price, ended: incident {opened.data['incident']} keeps its outcome"
        assert by_view == by_show == [{"what": what, "whose": "desk"}]
        assert await running(cases) == (0, 0)
        await service.correct("kept/1", {"extra": "mended"}, reason="a column more")
        await service.retry("kept/1")
        assert await cases.closed(kept) == ("done", 5, "")
        assert (await told(cases))[0]["outcome"] == "completed"


async def test_one_that_has_committed_its_transaction_too(url: str) -> None:
    async with at_work(url, kept) as cases:
        await cases.longcase.service.start(kept, Order(id="1", note="rows"))
        opened = await cases.seen(kept, "incident_opened")
        (committed,) = await cases.events(kept, "attempt_committed")
        attempt, by_view, by_show = await told(cases)
        assert attempt == {"outcome": "ended", "ended_at": committed.at}
        what = f"price_and_write, ended: incident {opened.data['incident']} keeps its outcome"
        assert by_view == by_show == [{"what": what, "whose": "desk"}]
        assert await running(cases) == (0, 0)


async def test_one_of_a_queue_leaves_its_room_to_others(url: str) -> None:
    async with Longcase([kept], url=url) as longcase, longcase.working(["default", narrow.name]):
        cases = Cases(longcase)
        await longcase.service.start(kept, Order(id="1", note="queue"))
        await cases.seen(kept, "incident_opened")
        assert await longcase.service.query("SELECT call FROM queued_calls") == []
        await longcase.service.start(kept, Order(id="2", note="queue", extra="mended"))
        assert (await cases.closed(kept, "2"))[0] == "done"
        await longcase.service.correct("kept/1", {"extra": "mended"}, reason="a column more")
        await longcase.service.retry("kept/1")
        assert (await cases.closed(kept))[0] == "done"
        assert world.notes["priced"] == ["1", "2"]
