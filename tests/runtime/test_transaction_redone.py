"""A transactional call of a handler that is called anew while its transaction is open, on a real worker."""

from __future__ import annotations

import asyncio

import pytest
from tests.rules.support import Go, Order
from tests.runtime.attempts import at_once, at_work, world
from tests.runtime.common import desk
from tests.runtime.test_transactions import keys, prepared, preparing, put, sound
from tests.support.waiting import until_true

from longcase import Case, Next, Transaction, Workflow, activity, days, seconds
from longcase.errors import RepairRefused

flow = Workflow("remarked-upon", object=Order, key="id", owner=desk, expect=days(1))
go = flow.signal("go", Go)
remark = flow.signal("remark", Go)


@activity(owner=desk, transaction=True, timeout=seconds(5), retry=at_once)
def write_amount(tx: Transaction, amount: int) -> int:
    put(tx, f"amount {amount}")
    world.notes["inside"].append(amount)
    world.door.wait(4)
    return amount


@flow.stage(expect=days(1))
async def waiting(case: Case[Order]) -> Next:
    await case.receive(go)
    return flow.close("done")


@flow.on(remark, interrupts=False)
async def remarked(case: Case[Order], message: Go) -> None:
    got = await write_amount(case.object.amount)
    case.update(note=f"wrote {got}")


@pytest.mark.parametrize("later", [False, True])
async def test_a_redo_during_the_transaction_leaves_the_row_of_the_call_that_counts(url: str, later: bool) -> None:
    if url.startswith("sqlite") and not later:
        pytest.skip("on SQLite nobody else writes while a transaction is open: there is no such order")
    async with at_work(url, preparing, flow) as cases:
        await prepared(cases)
        service, case = cases.longcase.service, "remarked-upon/1"
        await service.start(flow, Order(id="1", amount=2))
        await service.signal(case, remark, Go())
        await until_true(lambda: world.notes["inside"])

        async def mend() -> None:
            await service.correct(case, {"amount": 3}, reason="wrong")
            await service.redo(case)

        mending = asyncio.ensure_future(mend())
        if not later:
            await mending
        world.door.set()
        redone = True
        try:
            await mending
        except RepairRefused:  # it was committed before, and stands
            redone = False
        await service.signal(case, go, Go())
        await cases.seen(flow, "case_closed")
        amount = 3 if redone else 2
        assert (await service.show(case)).state.object["note"] == f"wrote {amount}"
        assert await keys(cases.longcase) == [f"amount {amount}"]
        assert redone or later
        assert await sound(cases.longcase)
