"""F30, F31, F37: many at once: messages again and again, a burst, people in the same instant."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel
from tests.crash.inspection import Inspection
from tests.faults.frame import FaultReport, by_length
from tests.faults.life import BOUND
from tests.faults.watching import until
from tests.invariants.program import Paper, pulled, signing

from longcase import Case, Longcase, Next, Team, Workflow, days, seconds
from longcase.client import LongcaseClient
from longcase.engine.tasks import Actor
from longcase.errors import ConflictError, IdempotencyConflict, LongcaseError
from longcase.history.event import instant_of
from longcase.service.service import TaskView

desk = Team("desk")


class Thing(BaseModel):
    id: str


class Word(BaseModel):
    n: int
    sender: str = ""


# -- F30, F31 --------------------------------------------------------------------------------------------

words = Workflow("words", object=Thing, key="id", owner=desk, expect=days(9))
word = words.signal("word", Word)
enough = words.signal("enough", Word)


@words.stage(expect=days(9))
async def hearing(case: Case[Thing]) -> Next:
    """Take word after word; the last one closes."""
    heard: list[tuple[str, int]] = []
    while True:
        said = await case.receive(word)
        if said.n < 0:
            return words.close("heard", result=heard)
        heard.append((said.sender, said.n))
        if len(heard) % 500 == 0:
            return words.close("heard", result=heard)


def test_fault_F30_messages_doubled_reordered_and_delayed(store_url: str, fault_report: FaultReport) -> None:
    """Four senders; each message is sent again and again, late and out of order, by another thread too."""
    url, each = store_url, by_length(15, 60)
    clients = [LongcaseClient([words], url=url, actor=f"service:s{number}") for number in range(4)]
    clients[0].start(words, Thing(id="w"))
    answers: Counter[str] = Counter()
    acknowledged: dict[int, list[int]] = {number: [] for number in range(4)}

    def send(number: int) -> None:
        draw = random.Random(number)
        client = clients[number]
        mine = []
        for n in range(each):
            mine.append(n)
            # Again: some earlier ones, in any order, and a body that is not the one of its key.
            for again in [n, *draw.choices(mine, k=draw.randrange(4))]:
                body = Word(n=again, sender=f"s{number}")
                accepted = client.signal("words/w", word, body, idempotency_key=f"s{number}-{again}")
                answers["repeat" if accepted.duplicate else "new"] += 1
                if not accepted.duplicate:
                    acknowledged[number].append(again)
            with pytest.raises(IdempotencyConflict):
                client.signal("words/w", word, Word(n=99, sender="x"), idempotency_key=f"s{number}-{n}")
            answers["conflict"] += 1

    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(send, range(4)))
        clients[0].signal("words/w", word, Word(n=-1))
        asyncio.run(move_all(url))
        closed = clients[0].show("words/w").state.close
    finally:
        for client in clients:
            client.close()
    heard = (closed or {})["result"]
    assert len(heard) == 4 * each == answers["new"]
    for number in range(4):  # I11: per sender in the order acknowledged
        assert [n for sender, n in heard if sender == f"s{number}"] == acknowledged[number]
    inspection = Inspection(url)
    assert inspection.broken_invariants() == []
    assert inspection.count("words/w", "signal_received") == 4 * each + 1
    fault_report(
        injected={"repeats": answers["repeat"], "keys with another body": answers["conflict"]},
        useful={"words heard": len(heard)},
        found="each heard once, in its sender's order",
    )


async def move_all(url: str) -> None:
    """Run a worker until no case is open."""
    async with Longcase([words, signing], url=url) as longcase, longcase.working():
        async with asyncio.timeout(BOUND):
            while (await longcase.service.query("SELECT count(*) AS n FROM cases WHERE status = 'open'"))[0]["n"]:
                await asyncio.sleep(0.01)


def test_fault_F31_a_burst_of_signals_to_one_case_is_kept_and_taken_in_order(
    store_url: str, fault_report: FaultReport
) -> None:
    """The case takes 500 and closes; what else was accepted is listed as unhandled, and nothing is lost (I10)."""
    url, burst = store_url, by_length(700, 10_000)
    clients = [LongcaseClient([words], url=url, actor=f"service:s{number}") for number in range(4)]
    clients[0].start(words, Thing(id="w"))

    def send(number: int) -> int:
        for n in range(burst // 4):
            clients[number].signal("words/w", word, Word(n=n, sender=f"s{number}"), idempotency_key=f"s{number}-{n}")
        return burst // 4

    try:
        with ThreadPoolExecutor(4) as threads:
            accepted = sum(threads.map(send, range(4)))
        began = time.monotonic()
        asyncio.run(move_all(url))
        took = time.monotonic() - began
    finally:
        for client in clients:
            client.close()
    inspection = Inspection(url)
    assert inspection.broken_invariants() == []
    events = inspection.events("words/w")
    kinds = Counter(event.type for event in events)
    assert kinds["signal_consumed"] == 500
    taken = [event.data for event in events if event.type in ("signal_received", "signal_unhandled")]
    for number in range(4):  # I11: each sender's in the order acknowledged, consumed or not
        assert [one["body"]["n"] for one in taken if one["body"]["sender"] == f"s{number}"] == [*range(burst // 4)]
    unheard = kinds["signal_unhandled"]
    assert kinds["signal_received"] + unheard == accepted, f"every one accepted stands in history: {kinds}"
    fault_report(
        injected={"signals at once": accepted},
        useful={"consumed": 500},
        found=f"{unheard} listed as unhandled at the close, nothing lost; {accepted / took:,.0f} a second applied",
    )


# -- F37 -------------------------------------------------------------------------------------------------


def at_once(calls: list[Callable[[], object]]) -> list[object]:
    """Run calls in a thread each, all let go by one barrier; returns answers or errors in order."""
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return call()
        except LongcaseError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(one, calls))


RACES = ["two people", "the same person", "a withdrawal", "an edit of what was shown"]
BY_HAND = ("ben", "cem")  # who give the answers that are still missing after a race


@pytest.mark.parametrize("race", RACES)
def test_fault_F37_people_act_in_the_same_instant(store_url: str, fault_report: FaultReport, race: str) -> None:
    url, rounds, people = store_url, by_length(4, 20), by_length(16, 64)
    clients = [LongcaseClient([signing], url=url) for _ in range(8)]
    outcomes: Counter[str] = Counter()
    seen: dict[str, str] = {}  # the digest that all who raced were shown
    try:
        for number in range(rounds):
            quorum = 2 if race == "the same person" else 1
            clients[0].start(signing, Paper(id=f"p{number}", quorum=quorum))
        asyncio.run(opened(url, rounds))
        for number in range(rounds):
            case = f"signing/p{number}"
            shown = digest_of(clients[0].tasks(case)[0])
            seen[case] = shown

            def decide(place: int, case: str = case, shown: str = shown) -> object:
                person = "ann" if race == "the same person" else f"p{place}"
                actor = Actor(f"person:{person}")
                return clients[place % 8].decide(case, "approved", actor=actor, shown=shown)

            calls: list[Callable[[], object]] = [lambda place=place: decide(place) for place in range(people)]  # type: ignore[misc]
            if race == "a withdrawal":
                calls.insert(0, lambda case=case: clients[0].signal(case, pulled, {"n": 1}))  # type: ignore[misc]
            elif race == "an edit of what was shown":
                calls.insert(
                    0,
                    lambda case=case: clients[0].correct(case, {"text": "final"}, reason="a typo"),  # type: ignore[misc]
                )
            for answer in at_once(calls):
                name = answer.code if isinstance(answer, LongcaseError) else type(answer).__name__
                assert not isinstance(answer, LongcaseError) or isinstance(answer, ConflictError), answer
                outcomes[name] += 1
        if race == "two people":
            assert outcomes["Accepted"] == rounds, "one answer stands"
        if race in ("the same person", "an edit of what was shown"):
            finish_by_hand(clients[0], rounds)
        asyncio.run(move_all(url))
        inspection = Inspection(url)
        assert inspection.broken_invariants() == []
        for number in range(rounds):
            history = inspection.events(f"signing/p{number}")
            assert sum(event.type == "task_decided" for event in history) <= 1
            votes = [event for event in history if event.type == "vote_given"]
            counted = [
                event.data["vote"]["by"]
                for event in votes
                if event.data["vote"]["digest"] == votes[-1].data["vote"]["digest"]
            ]
            assert len(set(counted)) == len(counted), "one seat, one vote"
            edited = next((event.seq for event in history if event.type == "corrected"), len(history))
            late = [vote.seq for vote in votes if vote.seq > edited]
            old = [seq for seq in late if history[seq - 1].data["vote"]["digest"] == seen[f"signing/p{number}"]]
            assert old == [], "an answer to what was shown before the edit was taken after it"
            given = {vote.data["vote"]["digest"] for vote in votes if vote.data["vote"]["by"] not in BY_HAND}
            assert given <= {seen[f"signing/p{number}"]}, "an answer was taken for one to what nobody was shown"
    finally:
        for client in clients:
            client.close()
    fault_report(
        injected={f"{people} people and {race}": rounds}, useful={"cases closed": rounds},
        found="; ".join(f"{count} {name}" for name, count in sorted(outcomes.items())),
    )  # fmt: skip


fleeting = Workflow("fleeting", object=Thing, key="id", owner=desk, expect=days(9))


@fleeting.stage
async def asking(case: Case[Thing]) -> Next:
    verdict = await case.approval("Sign it?", label="sign", of=desk, expires=(seconds(1), "rejected"))
    return fleeting.close("late" if verdict.expired else "signed")


def test_fault_F37_people_act_in_the_instant_of_the_time_out(store_url: str, fault_report: FaultReport) -> None:
    """A worker lives, and fires the expiry; the people are let go about when it is due, until both have won."""
    url, rounds, people = store_url, by_length(3, 20), by_length(16, 64)
    outcomes: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    clients = [LongcaseClient([fleeting], url=url) for _ in range(8)]

    async def work() -> None:
        async with Longcase([fleeting], url=url) as longcase, longcase.working():
            await asyncio.to_thread(over.wait, BOUND)

    over = threading.Event()
    worker = threading.Thread(target=lambda: asyncio.run(work()))
    worker.start()
    early = timedelta(0)
    try:
        for number in range(10 * rounds):
            if number >= rounds and len(ends) == 2:
                break
            case = clients[0].start(fleeting, Thing(id=f"f{number}")).address
            until(lambda case=case: clients[0].tasks(case), "it is asked")  # type: ignore[misc]
            expiry = instant_of(clients[0].tasks(case)[0].task["expires_at"])
            until(lambda expiry=expiry, early=early: datetime.now(UTC) >= expiry - early, "it is due")  # type: ignore[misc]

            def decide(place: int, case: str = case) -> object:
                return clients[place % 8].decide(case, "approved", actor=Actor(f"person:p{place}"))

            answers = at_once([lambda place=place: decide(place) for place in range(people)])  # type: ignore[misc]
            until(lambda case=case: clients[0].show(case).state.status == "closed", "it is closed")  # type: ignore[misc]
            told = Counter(answer.code if isinstance(answer, LongcaseError) else "accepted" for answer in answers)
            assert set(told) <= {"accepted", "already_decided", "already_expired", "task_not_found"}, told
            kinds = Counter(event.type for event in Inspection(url).events(case))
            end = clients[0].show(case).state.close or {}
            assert told["accepted"] == kinds["vote_given"] == (end["name"] == "signed")
            assert kinds["task_expired"] == (end["name"] == "late"), "exactly one of them wins"
            outcomes += told
            ends[end["name"]] += 1
            early += timedelta(milliseconds=12 if end["name"] == "late" else -3)
    finally:
        over.set()
        worker.join()
        for client in clients:
            client.close()
    assert len(ends) == 2, f"no race: {ends}"
    assert Inspection(url).broken_invariants() == []
    fault_report(
        injected={f"{people} people at a time-out": ends.total()}, useful={"cases closed": ends.total()},
        found="; ".join(f"{count} {name}" for name, count in sorted((outcomes + ends).items())),
    )  # fmt: skip


def digest_of(task: TaskView) -> str:
    """Return the digest of what a task shows now."""
    return str(task.task["digest"])


async def opened(url: str, count: int) -> None:
    """Run a worker until every case asks for its signature."""
    async with Longcase([signing], url=url) as longcase, longcase.working():
        async with asyncio.timeout(BOUND):
            query = "SELECT count(*) AS n FROM cases WHERE wait_kind = 'person'"
            while (await longcase.service.query(query))[0]["n"] < count:
                await asyncio.sleep(0.01)


def finish_by_hand(client: LongcaseClient, rounds: int) -> None:
    """Give the answers that are still missing: another person's, on what is shown now."""
    for number in range(rounds):
        for person in BY_HAND:
            for task in client.tasks(f"signing/p{number}"):
                client.decide(f"signing/p{number}", "approved", actor=Actor(f"person:{person}"), shown=digest_of(task))
