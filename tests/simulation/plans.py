"""Random workflows: one generic stage that runs a plan, and the grammar that draws plans.

A plan is plain data on the case's object: stages of steps. Every step has a label of its own, so
that the reference model finds it again in the history. What a step came to is written to `trace`.

    do     an activity; `catch` handles its final failure
    pause  a timer, in minutes            get    a signal
    ask    an approval, with quorum and expiry
    need   a required field               all    branches side by side (TaskGroup)
    race   steps under asyncio.timeout    child  a case of its own
    undo   case.undo()

A signal `jot` brings steps of its own: its handler runs them beside the stage.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from pydantic import BaseModel
from tests.simulation.world import Down, Never, world

from longcase import (
    NOT_HAPPENED,
    ActivityFailed,
    Case,
    Next,
    NotHappened,
    Queue,
    Retry,
    System,
    Team,
    Workflow,
    activity,
    attempt,
    days,
    hours,
    injected,
    minutes,
    seconds,
)
from longcase.engine.code import WorkflowCode

desk, ops, boss = Team("desk"), Team("ops"), Team("boss")
VISITS = 4
Step = dict[str, Any]


class Thing(BaseModel):
    id: str
    plan: dict[str, list[Any]]
    memo: str | None = None
    amount: int = 0
    trace: list[str] = []


class Note(BaseModel):
    text: str


class Jot(Note):
    steps: list[Any]


QUICK = Retry(max_attempts=3, initial=seconds(2), factor=2, cap=seconds(30), non_retryable=(Never,))


@activity(owner=ops, retry=QUICK, timeout=seconds(20))
async def check(what: str, *, idempotency_key: str = injected()) -> str:
    return await world().reach("check", idempotency_key, attempt().number, what)


@activity(owner=ops, effect="repeatable", retry=QUICK, timeout=seconds(20))
async def pay(what: str, *, idempotency_key: str = injected()) -> str:
    return await world().reach("pay", idempotency_key, attempt().number, what)


@pay.undo
async def refund(paid: str, what: str, *, idempotency_key: str = injected()) -> str:
    return await world().reach("refund", idempotency_key, attempt().number, what)


@activity(owner=ops, effect="once", retry=QUICK, timeout=seconds(20))
async def send(what: str, *, idempotency_key: str = injected()) -> str:
    return await world().reach("send", idempotency_key, attempt().number, what)


@send.verify
async def sent(what: str, *, idempotency_key: str = injected()) -> str | NotHappened:
    return ask_vendor(idempotency_key)


def ask_vendor(key: str) -> str | NotHappened:
    """Ask what became of an effect; what is still on its way by then comes to nothing."""
    if world().flaky():
        raise Down("cannot be asked")
    world().call_off(key, attempt().number)
    done = world().effects.get(key)
    return done if done is not None else NOT_HAPPENED


@activity(owner=ops, effect="once", retry=QUICK, timeout=seconds(20))
async def fax(what: str, *, idempotency_key: str = injected()) -> str:
    return await world().reach("fax", idempotency_key, attempt().number, what)


# Of two queues: one bounded in how many run at once, one in how many begin, and narrower in each worker.
lab = Queue("lab", concurrency=1)
press = Queue("press", rate=(2, seconds(15)))
bench = System("bench", ops, concurrency=1)


@activity(owner=ops, effect="repeatable", retry=QUICK, timeout=seconds(20), queue=lab, system=bench)
async def scan(what: str, *, idempotency_key: str = injected()) -> str:
    return await world().reach("scan", idempotency_key, attempt().number, what)


@scan.undo
async def unscan(scanned: str, what: str, *, idempotency_key: str = injected()) -> str:
    return await world().reach("unscan", idempotency_key, attempt().number, what)


@activity(owner=ops, retry=QUICK, timeout=seconds(20), queue=lab, priority=5)
async def proof(what: str, *, idempotency_key: str = injected()) -> str:
    return await world().reach("proof", idempotency_key, attempt().number, what)


@activity(owner=ops, effect="once", retry=QUICK, timeout=seconds(20), queue=press, system=bench, concurrency=1)
async def post(what: str, *, idempotency_key: str = injected()) -> str:
    return await world().reach("post", idempotency_key, attempt().number, what)


@post.verify
async def posted(what: str, *, idempotency_key: str = injected()) -> str | NotHappened:
    return ask_vendor(idempotency_key)


ACTIVITIES = {made.name: made for made in (check, pay, refund, send, fax, scan, unscan, proof, post)}
ANYWHERE = ("check", "pay", "pay", "send", "fax")  # what the steps of a plan are drawn from
QUEUED = ("scan", "scan", "proof", "post", "post", "pay", "fax")

sub = Workflow("sub", object=Thing, key="id", owner=desk, expect=days(20))
main = Workflow("main", object=Thing, key="id", owner=desk, expect=days(20))
ping = main.signal("ping", Note)
pong = main.signal("pong", Note)
halt = main.signal("halt", Note, owner=boss)
jot = main.signal("jot", Jot)
SIGNALS: dict[str, Any] = {"ping": ping, "pong": pong}


def note(case: Case[Thing], step: Step, text: str) -> None:
    case.update(trace=[*case.object.trace, f"{step['at']}={text}"])


async def run(case: Case[Thing], steps: list[Step]) -> str:
    """Run steps; returns the answer of the last approval, which decides where a stage goes."""
    answer = ""
    for step in steps:
        answer = await take(case, step) or answer
        if answer in ("returned", "rejected"):
            return answer
    return answer


async def take(case: Case[Thing], step: Step) -> str:
    label = step["at"]
    match step["kind"]:
        case "do":
            made: Any = ACTIVITIES[step["name"]].labelled(label)
            try:
                result = await made(label)
            except ActivityFailed:
                if not step["catch"]:
                    raise
                result = "failed"
            note(case, step, result)
        case "pause":
            await case.pause(minutes(step["minutes"]), because="cooling off", label=label)
            note(case, step, "rested")
        case "get":
            note(case, step, (await case.receive(SIGNALS[step["name"]], label=label, within=hours(9))).text)
        case "ask":
            asked = await case.approval(
                "May it go on?", of=desk, label=label, quorum=step["quorum"], within=hours(1), remind=hours(3),
                shows=[lambda thing: thing.amount] if step["shows"] else None, escalate=[(hours(5), boss)],
                expires=(minutes(step["expires"]), "approved") if step["expires"] else None,
            )  # fmt: skip
            note(case, step, f"{asked.answer}{'!' if asked.expired else ''}")
            return asked.answer
        case "need":
            await case.require(lambda thing: thing.memo, asked_of=desk, within=hours(4))
            note(case, step, "given")
        case "all":
            async with asyncio.TaskGroup() as group:
                for branch in step["branches"]:
                    group.create_task(run(case, branch))
            note(case, step, "joined")
        case "race":
            try:
                async with asyncio.timeout(step["seconds"]):
                    await run(case, step["steps"])
                note(case, step, "won")
            except TimeoutError:
                note(case, step, "late")
        case "child":
            body = Thing(id=f"{case.key}.{label}.{case.visit}", plan={"only": step["steps"]})
            note(case, step, (await case.child(sub, body, label=label)).name)
        case "undo":
            await case.undo()
            note(case, step, "undone")
        case unknown:
            raise AssertionError(unknown)
    return ""


@sub.stage
async def only(case: Case[Thing]) -> Next:
    await run(case, case.object.plan["only"])
    return sub.close("made")


async def _stage(case: Case[Thing], name: str, following: Any) -> Next:
    answer = await run(case, case.object.plan[name])
    if answer == "returned" and case.visit < VISITS:
        return first
    if answer == "rejected":
        return main.close("declined")
    return following  # type: ignore[no-any-return]


@main.stage(expect=hours(20))
async def first(case: Case[Thing]) -> Next:
    return await _stage(case, "first", second)


@main.stage(expect=hours(20), owner=ops)
async def second(case: Case[Thing]) -> Next:
    return await _stage(case, "second", main.close("done"))


@main.on(halt, owner=boss)
async def halted(case: Case[Thing], message: Note) -> Next:
    await case.undo()
    return main.close("halted", reason=message.text)


@main.on(jot, interrupts=False, owner=ops)
async def jotted(case: Case[Thing], message: Jot) -> None:
    await run(case, message.steps)


def codes() -> dict[str, WorkflowCode]:
    """Return both workflows as loaded; their stages are one interpreter, so they have no map."""
    return {workflow.name: WorkflowCode(workflow, ACTIVITIES) for workflow in (main, sub)}


class Grammar:
    """Draws plans from a seed.

    Args:
        queued: whether some of the activities are bound to queues.
    """

    def __init__(self, random: Random, queued: bool = False) -> None:
        self.random = random
        self.labels = 0
        self.queued = queued
        self.names = QUEUED if queued else ANYWHERE
        self.sub_names = ("scan", "proof") if queued else ("check", "pay")

    def plan(self) -> dict[str, list[Any]]:
        return {"first": self.steps(self.random.randint(1, 4), 0), "second": self.steps(self.random.randint(1, 3), 0)}

    def steps(self, count: int, depth: int) -> list[Step]:
        return [self.step(depth) for _ in range(count)]

    def step(self, depth: int) -> Step:
        kinds = ["do"] * 5 + ["pause", "get", "get", "ask", "ask"]
        if depth == 0:
            kinds += ["need", "child", "undo", "all", "race", "race", *["all", "undo"] * self.queued]
        elif depth == 1:
            kinds += ["all", "race"]
        kind = self.random.choice(kinds)
        self.labels += 1
        step: Step = {"kind": kind, "at": f"{kind}{self.labels}"}
        match kind:
            case "do":
                step |= {
                    "name": self.random.choice(self.names),
                    "catch": self.random.random() < 0.6,
                }
            case "pause":
                step["minutes"] = self.random.choice([1, 30, 300])
            case "get":
                step["name"] = self.random.choice(["ping", "pong"])
            case "ask":
                step |= {
                    "quorum": self.random.choice([1, 1, 2]), "expires": self.random.choice([0, 0, 45, 600]),
                    "shows": self.random.random() < 0.5,
                }  # fmt: skip
            case "all":
                step["branches"] = [
                    self.steps(self.random.randint(1, 2), depth + 1) for _ in range(self.random.randint(2, 3))
                ]
            case "race":
                # An odd number of seconds names the timer in the history.
                step["seconds"] = self.random.choice([2, 10, 1800, 7200]) + self.labels / 1000
                step["steps"] = self.steps(self.random.randint(1, 2), depth + 1)
            case "child":
                step["steps"] = self.sub_steps()
        return step

    def sub_steps(self) -> list[Step]:
        """A child's steps: no signals and no approvals, so that nobody need know its address."""
        steps = []
        for _ in range(self.random.randint(1, 2)):
            self.labels += 1
            if self.random.random() < 0.7:
                steps.append(
                    {
                        "kind": "do",
                        "at": f"do{self.labels}",
                        "name": self.random.choice(self.sub_names),
                        "catch": True,
                    }
                )
            else:
                steps.append({"kind": "pause", "at": f"pause{self.labels}", "minutes": self.random.choice([1, 60])})
        return steps
