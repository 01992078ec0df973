"""Stage code that would not replay, or would refuse an interrupt: each beside a near twin that is fine."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.definitions import check, codes

EXTRA = """
import collections, contextlib, datetime, gc, os, random, secrets, subprocess, threading, time, uuid, weakref
from datetime import datetime as moment
from pathlib import Path
from time import sleep as nap

ready = asyncio.Event()
seen = 0
CACHE: dict[str, int] = {}
LOG = list()
LINE = collections.deque([1])
FEES = {"a": 1, "b": {"c": 2}}

class Kept:
    tags = set()

def remembers(order: Order) -> None:
    LOG.append(order.id)

def sums(order: Order) -> int:
    log = [order.amount]
    log.append(FEES["a"])
    return sum(log)

def late(order: Order) -> bool:
    return deep(order)

def deep(order: Order) -> bool:
    return time.time() > order.amount

def fine(order: Order) -> bool:
    return order.amount > 5

def decides(order: Order) -> str:
    return is_big(order)

def writes(case: Case[Order]) -> None:
    case.update(amount=1)
"""


def two(statement: str) -> str:
    return f'{statement}\nawait notify("x")\nreturn last'


REFUSED = {
    "time.time": (two("now = time.time()"), ["time_in_stage"], two("now = case.now()")),
    "datetime.now": (
        two("now = datetime.datetime.now()"),
        ["time_in_stage"],
        two("now = datetime.datetime(2026, 1, 1)"),
    ),
    "datetime.now under another name": (two("now = moment.now()"), ["time_in_stage"], two("now = moment(2026, 1, 1)")),
    "date.today": (two("day = datetime.date.today()"), ["time_in_stage"], two("day = case.now().date()")),
    "time imported in the stage": (
        two("import time as t\nnow = t.monotonic()"),
        ["time_in_stage"],
        two("import math as t\nnow = t.pi"),
    ),
    "a blocking sleep": (two("nap(1)"), ["time_in_stage"], two("nap_ = 1")),
    "random": (two("n = random.random()"), ["random_in_stage"], two("n = case.random().random()")),
    "a generator of its own": (
        two("n = random.Random(7).random()"),
        ["random_in_stage"],
        two("n = case.random().randint(1, 7)"),
    ),
    "secrets": (two("n = secrets.token_hex()"), ["random_in_stage"], two("n = case.uuid().hex")),
    "uuid4": (two("n = uuid.uuid4()"), ["random_in_stage"], two("n = uuid.uuid5(uuid.NAMESPACE_DNS, case.key)")),
    "open": (two("text = open('x').read()"), ["io_in_stage"], two("text = 'x'.upper()")),
    "the environment": (two("home = os.environ['HOME']"), ["io_in_stage"], two("home = os.path.join('a', 'b')")),
    "a path that is read": (two("text = Path('x').read_text()"), ["io_in_stage"], two("text = Path('x').name")),
    "a path in a variable that is read": (
        two("file = Path('x')\ntext = file.read_text()"),
        ["io_in_stage"],
        two("file = Path('x')\ntext = file.name"),
    ),
    "a subprocess": (two("subprocess.run(['x'])"), ["io_in_stage"], two("words = ['x']")),
    "requests imported in the stage": (
        two("import requests\nrequests.get('x')"),
        ["io_in_stage"],
        two("import json\njson.loads('1')"),
    ),
    "httpx imported in the stage": (
        two("from httpx import get\nget('x')"),
        ["io_in_stage"],
        two("from json import loads\nloads('1')"),
    ),
    "print": (two("print('x')"), ["print_in_stage"], two("case.log('x')")),
    "a thread": (two("threading.Thread(target=len).start()"), ["thread_in_stage"], two("thread = 1")),
    "eval": (two("n = eval('1')"), ["dynamic_code"], two("n = int('1')")),
    "module state": (two("global seen\nseen = 1"), ["module_state"], two("seen = 1")),
    "an item of the module's": (two('CACHE["a"] = 1'), ["module_state"], two('cache = {}\ncache["a"] = 1')),
    "an item of an item": (two('FEES["b"]["c"] = 1'), ["module_state"], two('fee = FEES["b"]["c"]')),
    "an item counted up": (two('FEES["a"] += 1'), ["module_state"], two('fee = FEES["a"] + 1')),
    "an item taken away": (two('del CACHE["a"]'), ["module_state"], two('fees = dict(FEES)\ndel fees["a"]')),
    "a list that is added to": (two('LOG.append("x")'), ["module_state"], two('LOG = []\nLOG.append("x")')),
    "a line that is taken from": (two("first = LINE.popleft()"), ["module_state"], two("first = LINE[0]")),
    "a set of a class": (two('Kept.tags.add("x")'), ["module_state"], two('tags = Kept.tags | {"x"}')),
    "in a comprehension": (
        two("[LOG.append(tag) for tag in case.object.items]"),
        ["module_state"],
        two("[LOG.append(1) for LOG in ([], [])]"),
    ),
    "module state in a helper": (two("remembers(case.object)"), ["module_state"], two("sums(case.object)")),
    "the clock in a helper of a helper": (
        two("if late(case.object):  # longcase: technical\n    pass"),
        ["time_in_stage"],
        two("fine(case.object)"),
    ),
    "a decision inside a helper": (
        two("text = decides(case.object)"),
        ["helper_not_a_part"],
        two("text = fine(case.object)"),
    ),
    "a change inside a helper": (two("writes(case)"), ["helper_not_a_part"], two("case.update(amount=1)")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_stage_code_asks_the_case_and_not_the_machine(tmp_path: Path, what: str) -> None:
    bad, expected, twin = REFUSED[what]
    assert codes(tmp_path, bad, EXTRA) == expected
    assert codes(tmp_path, twin, EXTRA) == []


A9 = {
    "as_completed": (
        "for f in asyncio.as_completed([reserve(i) for i in case.object.items]):\n    await f\nreturn last",
        {"asyncio_not_replayable"},
        "async for name in case.as_completed([reserve(i) for i in case.object.items]):\n    await notify(name)\n"
        "return last",
    ),
    "all_tasks": (two("tasks = asyncio.all_tasks()"), {"asyncio_not_replayable"}, two("task = asyncio.current_task()")),
    "to_thread": ("await asyncio.to_thread(len, 'x')\nreturn last", {"asyncio_not_replayable"}, two("len('x')")),
    "run_in_executor": (
        "await asyncio.get_running_loop().run_in_executor(None, len)\nreturn last",
        {"asyncio_not_replayable"},
        two("loop = asyncio.get_running_loop()"),
    ),
    "a set iterated": (
        "for tag in {'a', 'b'}:\n    await notify(tag)\nreturn last",
        {"set_order"},
        "for tag in sorted({'a', 'b'}):\n    await notify(tag)\nreturn last",
    ),
    "a set in a variable iterated": (
        "tags = set(case.object.items)\nnames = [tag for tag in tags]\nawait notify(names[0])\nreturn last",
        {"set_order"},
        "tags = set(case.object.items)\nnames = sorted(tag for tag in tags)\nawait notify(names[0])\nreturn last",
    ),
    "a set field of the object iterated": (
        "for tag in case.object.tags:\n    await notify(tag)\nreturn last",
        {"set_order"},
        "for item in case.object.items:\n    await notify(item)\nreturn last",
    ),
    "a list made of a set": (
        two("tags = list(set(case.object.items) | {'x'})"),
        {"set_order"},
        two("known = 'x' in set(case.object.items) | {'x'}"),
    ),
    "a set joined": (
        two("text = ','.join(frozenset(case.object.items))"),
        {"set_order"},
        two("n = len(frozenset(case.object.items))"),
    ),
    "a set of small integers": (
        "for n in {'a', 'b'}:\n    await notify(n)\nreturn last",
        {"set_order"},
        "for n in {1, 2}:\n    await notify(str(n))\nreturn last",
    ),
    "id": (two("n = id(case)"), {"memory_address"}, two("n = case.key")),
    "hash": (two("n = hash(case.key)"), {"memory_address"}, two("n = len(case.key)")),
    "weakref": (two("n = weakref.ref(case)"), {"memory_address"}, two("n = case")),
    "gc": (two("gc.collect()"), {"memory_address"}, two("n = 1")),
}


@pytest.mark.parametrize("what", A9)
def test_rule_A9_what_has_another_order_in_another_process(tmp_path: Path, what: str) -> None:
    bad, expected, twin = A9[what]
    assert expected <= set(codes(tmp_path, bad, EXTRA))
    assert codes(tmp_path, twin, EXTRA) == []


def test_tasks_done_may_be_iterated(tmp_path: Path) -> None:
    body = """
    tasks = {asyncio.create_task(reserve(i)) for i in case.object.items}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        await notify(task.result())
    for task in pending:
        await task
    return last
    """
    assert codes(tmp_path, body) == []


A7 = {
    "a durable await in a finally": (
        'try:\n    await reserve("a")\nfinally:\n    await notify("x")\nreturn last',
        ["durable_in_finally"],
        'try:\n    await reserve("a")\nfinally:\n    n = 1\nawait notify("x")\nreturn last',
    ),
    "a change in a finally": (
        'try:\n    await reserve("a")\nfinally:\n    case.update(amount=1)\nreturn last',
        ["durable_in_finally"],
        'try:\n    await reserve("a")\nfinally:\n    n = 1\ncase.update(amount=1)\nreturn last',
    ),
    "a part in a finally": (
        'try:\n    await reserve("a")\nfinally:\n    await tell(case)\nreturn last',
        ["durable_in_finally"],
        'try:\n    await reserve("a")\nexcept ActivityFailed:\n    await tell(case)\nreturn last',
    ),
    "a durable await behind CancelledError": (
        'try:\n    await reserve("a")\nexcept asyncio.CancelledError:\n    await notify("x")\n    raise\nreturn last',
        ["durable_after_cancel"],
        'try:\n    await reserve("a")\nexcept asyncio.CancelledError:\n    n = 1\n    raise\nreturn last',
    ),
    "a swallowed CancelledError": (
        'try:\n    await reserve("a")\nexcept asyncio.CancelledError:\n    pass\nreturn last',
        ["cancel_swallowed"],
        'try:\n    await reserve("a")\nexcept ActivityFailed:\n    pass\nreturn last',
    ),
    "a swallowed BaseException": (
        'try:\n    await reserve("a")\nexcept BaseException:\n    return last\nreturn last',
        ["cancel_swallowed"],
        'try:\n    await reserve("a")\nexcept Exception:\n    return last\nreturn last',
    ),
    "a return in a finally": (
        'try:\n    await reserve("a")\nfinally:\n    return last',
        ["cancel_swallowed"],
        'try:\n    await reserve("a")\nfinally:\n    n = 1\nreturn last',
    ),
    "a bare except": (
        "while True:\n    try:\n        await case.receive(paid, within=days(1))\n    except:\n        pass\n"
        "    else:\n        return last",
        ["cancel_swallowed"],
        "while True:\n    try:\n        await case.receive(paid, within=days(1))\n    except ValueError:\n"
        "        pass\n"
        "    else:\n        return last",
    ),
    "BaseException around code that does not wait": (
        'try:\n    await reserve("a")\nexcept BaseException:\n    pass\nreturn last',
        ["cancel_swallowed"],
        'name = await reserve("a")\ntry:\n    n = int(name)\nexcept BaseException:\n    pass\nreturn last',
    ),
}


@pytest.mark.parametrize("what", A7)
def test_rule_A7_an_interrupt_ends_the_visit(tmp_path: Path, what: str) -> None:
    bad, expected, twin = A7[what]
    extra = "@wf.part\nasync def tell(case: Case[Order]) -> None:\n    await notify('x')\n"
    assert codes(tmp_path, bad, extra) == expected
    assert codes(tmp_path, twin, extra) == []


B14 = {
    "a sleep": (
        "await asyncio.sleep(60)\nreturn last",
        ["sleep_in_stage"],
        'await case.pause(minutes(1), because="cooling-off")\nreturn last',
    ),
    "a sleep of nothing": ("await asyncio.sleep(0.1)\nreturn last", ["sleep_in_stage"], two("await asyncio.sleep(0)")),
    "an event of the module": (
        'async with asyncio.timeout(5):\n    await ready.wait()\nawait notify("x")\nreturn last',
        ["shared_asyncio_object"],
        'ready = asyncio.Event()\nready.set()\nawait ready.wait()\nawait notify("x")\nreturn last',
    ),
}


@pytest.mark.parametrize("what", B14)
def test_rule_B14_a_wait_has_an_owner(tmp_path: Path, what: str) -> None:
    bad, expected, twin = B14[what]
    assert codes(tmp_path, bad, EXTRA) == expected
    assert codes(tmp_path, twin, EXTRA) == []


def test_rule_B10_a_decision_asks_nothing_of_the_world(tmp_path: Path) -> None:
    extra = """
    import datetime

    @decision(owner=boss, question="Late?", policy="v1")
    def is_late(order: Order) -> Literal["yes", "no"]:
        return "yes" if {test} else "no"
    """
    body = "await notify(is_late(case.object))\nreturn last"
    assert codes(tmp_path, body, extra.format(test="datetime.date.today().year > order.amount")) == ["time_in_stage"]
    assert codes(tmp_path, body, extra.format(test="2026 > order.amount")) == []


def test_rule_B10_a_decision_inside_an_activity_is_not_recorded(tmp_path: Path) -> None:
    extra = """
    @activity(owner=sales)
    async def judge(order: Order) -> str:
        return {answer}
    """
    body = "await judge(case.object)\nreturn last"
    assert codes(tmp_path, body, extra.format(answer="is_big(order)")) == ["decision_in_activity"]
    assert codes(tmp_path, body, extra.format(answer="order.id")) == []


RETRIES = {
    "a loop with a sleep": """
        while True:
            try:
                await reserve("a")
                break
            except ActivityFailed:
                await asyncio.sleep(5)
        return last
        """,
    "a loop with a pause": """
        for attempt in range(5):
            try:
                await reserve("a")
            except ActivityFailed:
                await case.pause(minutes(1), because="try again")
        return last
        """,
    "a loop left at the first success": """
        for attempt in range(5):
            try:
                await reserve("a")
                break
            except ActivityFailed:
                continue
        return last
        """,
    "a loop left by its else": """
        while True:
            try:
                await reserve("a")
            except ActivityFailed:
                pass
            else:
                return last
        """,
}


@pytest.mark.parametrize("what", RETRIES)
def test_row_G6_a_retry_loop_is_named_with_file_and_line(tmp_path: Path, what: str) -> None:
    found = [finding for finding in check(tmp_path, RETRIES[what]) if finding.code == "retry_loop"]
    assert len(found) == 1
    assert found[0].line > 0
    assert "reserve" in found[0].message


def test_row_G6_a_sleep_is_named_with_file_and_line(tmp_path: Path) -> None:
    (found,) = check(tmp_path, "await notify('x')\nawait asyncio.sleep(60)\nreturn last")
    assert found.code == "sleep_in_stage"
    source = (tmp_path / found.file.rpartition("/")[2]).read_text().splitlines()
    assert "asyncio.sleep(60)" in source[found.line - 1]


def test_a_blocking_sleep_is_told_how_a_stage_waits(tmp_path: Path) -> None:
    (found,) = check(tmp_path, two("nap(60)"), EXTRA)
    assert found.code == "time_in_stage"
    assert found.hint == 'a wait is the stage\'s: await case.pause(days(2), because="cooling-off")'


def test_a_loop_that_collects_failures_is_no_retry(tmp_path: Path) -> None:
    body = """
    lost = []
    for item in case.object.items:
        try:
            await reserve(item)
        except ActivityFailed:
            lost.append(item)
    await notify(",".join(lost))
    return last
    """
    assert codes(tmp_path, body) == []


def test_a_loop_in_which_people_decide_is_no_retry(tmp_path: Path) -> None:
    body = """
    while True:
        try:
            await reserve("a")
            return last
        except ActivityFailed:
            go = await case.approval("Try again?", of=sales, within=days(1))
            if go.answer != "approved":
                return wf.close("given-up")
    """
    assert codes(tmp_path, body) == []


def test_an_activity_that_is_a_plain_function_may_touch_the_world(tmp_path: Path) -> None:
    """It is called like a helper, and is none: what it asks of the world is recorded, not replayed."""
    extra = (
        EXTRA
        + """
@activity(owner=sales, system=erp, retry=Retry())
def read_price(sku: str) -> str:
    return Path(sku).read_text()

def read_price_at_once(sku: str) -> str:
    return Path(sku).read_text()
"""
    )
    assert codes(tmp_path, 'await read_price("a")\nreturn last', extra) == []
    assert codes(tmp_path, two('read_price_at_once("a")'), extra) == ["io_in_stage"]
