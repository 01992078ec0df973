"""Attempts on a real worker: outcomes that are not known, results and errors that do not fit."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pydantic import BaseModel
from tests.runtime.attempts import at_once, at_work, calling, ms, once_only, world
from tests.runtime.common import desk
from tests.support.waiting import BOUND

from longcase import (
    NOT_HAPPENED,
    NotHappened,
    Retry,
    activity,
    attempt,
    backoff,
)
from longcase.errors import StoreUnavailable
from longcase.history.event import Event
from longcase.model.activity import Activity
from longcase.model.codec import RESULT_LIMIT

# -- effect="once" ------------------------------------------------------------------------------------


def charging(name: str) -> Activity[..., Any]:
    """Return an activity of effect once whose first attempt gets no answer."""

    @activity(owner=desk, name=name, effect="once", timeout=ms(600))
    async def charge(key: str) -> str:
        if attempt().number == 1:
            await world.at_the_door()
        return f"charged by {attempt().number}"

    return charge


happened, not_happened, raises, hanging = (
    charging(f"charge_{name}") for name in ("happened", "not_happened", "raises", "hanging")
)
happened_sync, not_happened_sync, raises_sync = (
    charging(f"charge_{name}_sync") for name in ("happened", "not_happened", "raises")
)


@happened.verify
async def saw_it(key: str) -> str:
    return "receipt"


@not_happened.verify
async def saw_nothing(key: str) -> str | NotHappened:
    return NOT_HAPPENED


@raises.verify
async def saw_trouble(key: str) -> str:
    raise OSError("the ledger is closed")


def saw_it_sync(key: str) -> str:
    world.notes["thread"].append(threading.current_thread().name)
    return "receipt"


def saw_nothing_sync(key: str) -> str | NotHappened:
    return NOT_HAPPENED


def saw_trouble_sync(key: str) -> str:
    raise OSError("the ledger is closed")


def saw_nobody(key: str) -> str:
    world.door.wait(BOUND)
    return "receipt"


happened_sync.verify_function = saw_it_sync
not_happened_sync.verify_function = saw_nothing_sync
raises_sync.verify_function = saw_trouble_sync
hanging.verify_function = saw_nobody


@pytest.mark.parametrize("charge", [happened, happened_sync], ids=["async", "sync"])
async def test_inv_15_verify_says_it_happened_and_its_answer_is_the_result(
    url: str, charge: Activity[..., Any]
) -> None:
    flow = calling(charge)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert (await cases.closed(flow))[:2] == ("done", "receipt")
        assert await cases.events(flow, "attempt_started") == []
        assert all(name.startswith("longcase-activity") for name in world.notes["thread"])
        assert len(world.notes["thread"]) == (charge is happened_sync)


@pytest.mark.parametrize("charge", [not_happened, not_happened_sync], ids=["async", "sync"])
async def test_inv_15_verify_says_it_did_not_happen_and_the_call_is_repeated(
    url: str, charge: Activity[..., Any]
) -> None:
    flow = calling(charge)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        assert (await cases.closed(flow))[:2] == ("done", "charged by 2")
        assert (await cases.events(flow, "attempt_verified"))[0].data["happened"] is False


@pytest.mark.parametrize("charge", [raises, raises_sync], ids=["async", "sync"])
async def test_inv_15_verify_that_raises_leaves_the_outcome_unknown_to_a_person(
    url: str, charge: Activity[..., Any]
) -> None:
    flow = calling(charge)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        opened = await cases.incident(flow)
        assert opened["kind"] == "outcome_unknown"
        assert "OSError: the ledger is closed" in opened["message"]
        assert await cases.events(flow, "attempt_started") == []


async def test_a_verify_that_does_not_answer_in_time_holds_up_nobody(url: str) -> None:
    flow, other = calling(hanging), calling(happened)
    async with at_work(url, flow, other) as cases:
        await cases.start(flow)
        opened = await cases.incident(flow)
        assert opened["kind"] == "outcome_unknown"
        assert "did not answer within 0.6 s" in opened["message"]
        await cases.start(other)
        assert (await cases.closed(other))[0] == "done"


async def test_a_verify_waits_for_a_store_that_is_away(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST", 0.01)
    flow = calling(happened)
    async with at_work(url, flow) as cases:
        read, failures = cases.longcase.store.event, [StoreUnavailable("the disk is gone")] * 3

        async def unreadable(case_no: int, seq: int) -> Event:
            if failures:
                raise failures.pop()
            return await read(case_no, seq)

        monkeypatch.setattr(cases.longcase.store, "event", unreadable)
        await cases.start(flow)
        assert (await cases.closed(flow))[0] == "done"
        assert not failures


# -- results and errors that do not fit ---------------------------------------------------------------


class Reply(BaseModel):
    amount: int
    note: str = ""


@activity(owner=desk, retry=at_once)
async def reads_the_answer(key: str) -> str:
    return Reply.model_validate({"amount": "a lot"}).note


@activity(owner=desk, retry=at_once)
async def returns_a_dict(key: str) -> Reply:
    return {"amount": "a lot"}  # type: ignore[return-value]


@pytest.mark.parametrize("wrong", [reads_the_answer, returns_a_dict], ids=["a pydantic error", "a wrong dict"])
async def test_an_answer_of_another_shape_is_contract_changed_and_names_the_field(
    url: str, wrong: Activity[..., Any]
) -> None:
    flow = calling(wrong)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        opened = await cases.incident(flow)
        assert opened["kind"] == "contract_changed"
        assert opened["details"]["error"]["field"].lstrip(".") == "amount"
        assert "amount" in opened["message"]
        assert await cases.events(flow, "attempt_started") == []


@activity(owner=desk, retry=at_once)
async def returns_nan(key: str) -> float:
    return float("nan")


@activity(owner=desk, retry=at_once)
async def returns_half_a_character(key: str) -> str:
    return "\ud800"


@activity(owner=desk, retry=at_once)
async def returns_much_text(key: str) -> str:
    return "x" * (RESULT_LIMIT + (key == "1"))


@activity(owner=desk, retry=at_once)
async def returns_much_data(key: str) -> Reply:
    return Reply(amount=1, note="é" * (RESULT_LIMIT // 2 + 1))


@activity(owner=desk, retry=at_once)
async def returns_a_long_number(key: str) -> int:
    return 10**5000


@activity(owner=desk, retry=at_once)
async def returns_nan_inside(key: str) -> dict[str, Any]:
    return {"rate": float("nan")}


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (returns_a_long_number, "an integer of 16610 bits, at most 63 and the sign are kept"),
        (returns_nan_inside, "nan is not a finite number"),
        (returns_nan, "nan is not a finite number"),
        (returns_half_a_character, "surrogates not allowed"),
        (returns_much_text, "1,048,577 bytes, at most 1,048,576"),
        (returns_much_data, "at most 1,048,576"),
    ],
    ids=["a long number", "NaN inside", "NaN", "half a character", "much text", "much data"],
)  # fmt: skip
async def test_a_result_that_cannot_be_kept_is_an_incident_that_says_why(
    url: str, odd: Activity[..., Any], says: str
) -> None:
    flow = calling(odd)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        opened = await cases.incident(flow)
        assert opened["kind"] == "result_not_encodable"
        assert says in opened["message"]
        assert await cases.events(flow, "attempt_started") == []


async def test_a_result_of_just_the_size_that_is_kept_is_kept(url: str) -> None:
    flow = calling(returns_much_text)
    async with at_work(url, flow) as cases:
        await cases.start(flow, "2")
        name, result, _ = await cases.closed(flow, "2")
        assert (name, len(result)) == ("done", RESULT_LIMIT)


@activity(owner=desk, retry=once_only)
async def raises_odd_text(key: str) -> str:
    raise OSError("a\x00b\ud800c" + "x" * 5_000)


async def test_text_of_an_exception_that_no_store_takes_is_made_storable(url: str) -> None:
    flow = calling(raises_odd_text)
    async with at_work(url, flow) as cases:
        await cases.start(flow)
        name, _, reason = await cases.closed(flow)
        assert name == "lost"
        assert reason.startswith("OSError: a\\x00b\\ud800cxxx")
        assert len(reason) < 2_100


class Unspeakable(Exception):
    """An exception of a library whose text fails, as where a field that it tells of was never set."""

    def __str__(self) -> str:
        raise AttributeError("response")


class Speechless(Unspeakable):
    """One whose text fails for good."""

    def __str__(self) -> str:
        raise Speechless


@activity(owner=desk, retry=Retry(max_attempts=3, initial=ms(1), non_retryable=(Unspeakable,)))
async def raises_unspeakable(key: str) -> str:
    raise Unspeakable if key == "1" else Speechless


async def test_an_exception_whose_text_fails_is_known_by_its_class_and_the_policy_holds(url: str) -> None:
    flow = calling(raises_unspeakable)
    async with at_work(url, flow) as cases:
        for key, kind in (("1", "AttributeError"), ("2", "Speechless")):
            await cases.start(flow, key)
            name, _, reason = await cases.closed(flow, key)
            assert name == "lost"
            assert reason.endswith(f": (its text is not known: its __str__ raised {kind})")
            assert await cases.events(flow, "attempt_started", key) == []
