"""What must hold of any history, whatever happened (INVARIANTS.md): functions of data, shared by seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from tests.simulation.plans import ACTIVITIES
from tests.simulation.world import World

from longcase.history.chain import GENESIS, link, payload_digest
from longcase.history.event import Event, instant_of
from longcase.history.state import UNKNOWN_KINDS, CaseState, apply
from longcase.history.waits import waits
from longcase.model.codec import dump_json
from longcase.store.records import CaseRow

CALLED = ("activity_scheduled", "undo_started")


def case_checks(row: CaseRow, events: Sequence[Event], latest: str) -> list[str]:
    """Check one case by itself."""
    name = row.state.address
    found = [
        *_chain(row, events),
        *_fold(row, events),
        *_attempts(events),
        *_clocks(events, latest),
        *_votes(events),
        *_signals(events),
        *_undo(events),
        *_paths(events),
    ]
    return [f"{name}: {problem}" for problem in found]


def _chain(row: CaseRow, events: Sequence[Event]) -> Iterator[str]:
    previous = GENESIS
    for number, event in enumerate(events, 1):
        if event.seq != number:
            yield f"I1: event {number} has seq {event.seq}"
            return
        if number > 1 and event.at < events[number - 2].at:
            yield f"I1: event {number} is before the one before it"
        if payload_digest(event.salt, event.text or dump_json(event.data)) != event.digest:
            yield f"I39: event {number}: payload does not fit its digest"
        previous = link(previous, event)
        if previous != event.hash:
            yield f"I39: event {number}: broken chain"
            return
    if row.hash != previous:
        yield "I39: the row's hash is not the head's"


def _fold(row: CaseRow, events: Sequence[Event]) -> Iterator[str]:
    state = CaseState()
    for event in events:
        try:
            apply(state, event)
        except Exception as error:
            yield f"I3: event {event.seq} {event.type} cannot be folded: {error!r}"
            return
        if not state.owner:
            yield f"I30: no owner after event {event.seq}"
        if event.type == "stage_entered":
            snapshot = dict(event.data["snapshot"])
            mine = state.to_json()
            for field in sorted(snapshot.keys() | mine.keys()):
                if dump_json(snapshot.get(field)) != dump_json(mine.get(field)):
                    yield f"B2: snapshot at {event.seq}: {field}: {snapshot.get(field)!r}, fold: {mine.get(field)!r}"
        if event.type == "case_closed" and any(later.seen for later in events[event.seq :]):
            yield "I10: a seen event after the close"
    state.ended_tasks.clear()
    stored = row.state
    stored.ended_tasks.clear()
    for field in sorted(state.to_json().keys() | stored.to_json().keys()):
        if dump_json(state.to_json().get(field)) != dump_json(stored.to_json().get(field)):
            yield f"I3: {field}: the row says {stored.to_json().get(field)!r}, the fold {state.to_json().get(field)!r}"
    if state.status == "open" and not waits(state):
        yield "I31: open, and waiting for nothing"


def _attempts(events: Sequence[Event]) -> Iterator[str]:
    """I13, I15, I17: one attempt at a time, numbers rise by one, one success, no more tries than granted."""
    number: dict[str, int] = {}
    running: dict[str, bool] = {}
    failures: Counter[str] = Counter()
    told: dict[str, int] = {}  # the attempt whose failure was counted last
    names: dict[str, str] = {}
    ended: set[str] = set()
    for event in events:
        data = event.data
        call = data.get("call", "")
        if event.type in CALLED:
            names[call] = data["activity"]
            number[call], running[call] = data["attempt"], data["attempt"] == 1
        elif event.type == "attempt_started":
            if running.get(call):
                yield f"I15: {call}: attempt {data['attempt']} begins while another runs (event {event.seq})"
            if data["attempt"] != number.get(call, 0) + 1:
                yield f"I15: {call}: attempt {data['attempt']} follows {number.get(call)} (event {event.seq})"
            if call in ended:
                yield f"I13: {call}: an attempt after the call's end"
            number[call], running[call] = data["attempt"], True
        elif event.type in ("attempt_failed", "attempt_lost", "activity_failed") and "runs" not in data:
            running[call] = False
            lost = event.type == "attempt_lost"
            # The failure a refused close held back is told twice: of the attempt, then to the stage.
            failures[call] += 0 if lost or told.get(call) == data["attempt"] else 1
            told[call] = 0 if lost else data["attempt"]
            policy = ACTIVITIES[names[call]].retry
            if failures[call] > policy.max_attempts:
                yield f"I17: {call}: {failures[call]} failures, at most {policy.max_attempts}"
            if data.get("error", {}).get("kind") == "non_retryable" and data.get("next_try"):
                yield f"I17: {call}: tried again after a non-retryable error"
            if data.get("next_try") and not lost:
                pause = instant_of(data["next_try"]) - instant_of(event.at)
                if pause > policy.cap or pause > policy.initial * policy.factor ** (failures[call] - 1) + timedelta(
                    milliseconds=1
                ):
                    yield f"I17: {call}: waits {pause} after failure {failures[call]}"
            if event.type == "activity_failed" and data["error"]["kind"] not in UNKNOWN_KINDS:
                ended.add(call)  # else an undo has yet to find out, and may be told of a result (A4)
        elif event.type == "call_retried":
            failures[call] = 0
        elif event.type in ("activity_completed", "result_late", "undone"):
            if call in ended:
                yield f"I13: {call}: a second outcome (event {event.seq})"
            if event.actor.startswith("worker:") and (data["attempt"] != number.get(call) or not running.get(call)):
                yield f"I14: {call}: attempt {data['attempt']} counts, not {number.get(call)} (event {event.seq})"
            ended.add(call)
            running[call] = False


def _clocks(events: Sequence[Event], latest: str) -> Iterator[str]:
    """I21, I24, B1: never early, never twice, never after a cancel; what was due comes before the input."""
    armed: dict[str, str] = {}
    expiries: dict[str, str] = {}
    for event in events:
        data = event.data
        if event.at > latest:
            yield f"I21: event {event.seq} is later than the clock ever was"
        match event.type:
            case "stage_entered" | "interrupted":
                armed.clear()
            case "timer_set":
                armed[data["timer"]] = data["due"]
            case "timer_cancelled":
                armed.pop(data["timer"], None)
            case "timer_fired":
                due = armed.pop(data["timer"], None)
                if due is None:
                    yield f"I24: {data['timer']} fires without being armed (event {event.seq})"
                elif event.at < due:
                    yield f"I21: {data['timer']} fires at {event.at}, due {due}"
            case "task_opened":
                expiries[data["task"]] = data["request"]["expires_at"]
            case "task_expired":
                if event.at < expiries[data["task"]]:
                    yield f"I21: {data['task']} expires early (event {event.seq})"
            case "vote_given":
                if expiries[data["task"]] and event.at >= expiries[data["task"]]:
                    yield f"B1: a vote counts after the expiry (event {event.seq})"
            case "attempt_started" | "activity_scheduled":
                pass
        if event.type == "signal_received":
            for timer, due in armed.items():
                if due < data["accepted_at"]:
                    yield f"B1: {timer}, due {due}, belongs before event {event.seq}, accepted {data['accepted_at']}"
        if event.type == "attempt_started" and event.node:
            tried = [
                e.data.get("next_try", e.at)  # an operator's `retry` says: now
                for e in events[: event.seq - 1]
                if e.data.get("call") == data["call"] and (e.data.get("next_try") or e.type == "call_retried")
            ]
            if tried and event.at < tried[-1]:
                yield f"I21: {data['call']} is tried early (event {event.seq})"


def _votes(events: Sequence[Event]) -> Iterator[str]:
    """I25 to I28: one vote a person stands, none after the decision, quorum of distinct people, nothing stale."""
    votes: dict[str, dict[str, str]] = {}
    shown: dict[str, str] = {}
    task: dict[str, dict[str, Any]] = {}
    over: set[str] = set()
    decided: set[str] = set()
    amount = 0
    for event in events:
        data = event.data
        ref = data.get("task", "")
        if event.type in ("corrected", "object_changed"):
            amount = data["patch"].get("amount", amount)
        match event.type:
            case "task_opened":
                votes[ref], task[ref], shown[ref] = {}, data["request"], str(amount)
            case "vote_stale":
                votes[ref] = {by: answer for by, answer in votes[ref].items() if by not in data["asked_again"]}
                shown[ref] = str(amount)
            case "vote_given":
                by, answer = data["vote"]["by"], data["vote"]["answer"]
                if ref in over:
                    yield f"I27: a vote on {ref} counts after it was over (event {event.seq})"
                if data.get("before") != votes[ref].get(by):
                    yield f"I25: {by} votes twice on {ref}, before: {data.get('before')}"
                if task[ref]["fields"] and shown[ref] != str(amount):
                    yield f"I26: a vote on {ref} for what is no longer shown (event {event.seq})"
                votes[ref][by] = answer
                enough = answer != "approved" or sum(a == answer for a in votes[ref].values()) >= task[ref]["quorum"]
                if bool(data["decides"]) != enough:
                    yield f"I28: {ref}: vote {votes[ref]} decides: {data['decides']}"
                if data["decides"]:
                    over.add(ref)
            case "task_expired":
                if ref in over:
                    yield f"I27: {ref} expires after it was over"
                over.add(ref)
            case "task_decided":
                if ref in decided:
                    yield f"I25: {ref} is decided twice"
                if ref not in over:
                    yield f"I25: {ref} is decided, by nobody"
                decided.add(ref)


def _signals(events: Sequence[Event]) -> Iterator[str]:
    """I8, I10, I11: applied once, consumed once and in order of arrival per name, never lost at the close."""
    kept: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    used: list[str] = []
    for event in events:
        data = event.data
        match event.type:
            case "signal_received":
                if data["id"] in seen:
                    yield f"I8: signal {data['id']} is applied twice"
                seen[data["id"]] = data["signal"]
                kept.append((data["id"], data["signal"]))
            case "signal_consumed" | "signal_unhandled" | "handler_started":
                same = [ident for ident, name in kept if name == data["signal"]]
                if event.type != "signal_unhandled" and (not same or same[0] != data["id"]):
                    yield f"I11: {data['id']} is consumed, {same[:1]} was first"
                if event.type != "signal_unhandled":
                    used.append(data["id"])
                kept = [(ident, name) for ident, name in kept if ident != data["id"]]
            case "stage_entered":
                if data["reason"] == "restart":
                    back = {ident for ident, _ in kept} | set(used)
                    kept = [(ident, name) for ident, name in seen.items() if ident in back]
                used = []
    if events[-1].type == "case_closed" and kept:
        yield f"I10: closed with {kept} neither consumed nor listed"


def _paths(events: Sequence[Event]) -> Iterator[str]:
    """B7: while an exception path runs, no other message interrupts it."""
    kind = ""
    for event in events:
        if event.type == "stage_entered":
            kind = event.data["kind"]
        elif event.type == "interrupted" and kind == "path" and event.data["by"] == "signal":
            yield f"B7: an exception path is interrupted by {event.data['signal']} (event {event.seq})"


def _undo(events: Sequence[Event]) -> Iterator[str]:
    """A4, B12: what took effect is undone once, in reverse order of command, before undo says it is finished."""
    order: list[str] = []
    done: set[str] = set()
    undone: list[str] = []
    gone: set[str] = set()
    running: str | None = None
    for event in events:
        data = event.data
        match event.type:
            case "activity_scheduled" if data.get("undo"):
                order.append(data["call"])
            case "activity_completed" | "result_late":
                done.add(data["call"])
            case "undo_skipped":
                gone.add(data["call"])
                if running is not None and data["call"].startswith(f"{running}-undo"):
                    running = None  # it failed for good, and an interrupt went past it: it may be begun anew
            case "undo_started":
                if running is not None:
                    yield f"B12: {data['undoes']} is undone while {running} is"
                running = data["undoes"]
                later = [
                    c for c in order[order.index(running) + 1 :] if c in done and c not in undone and c not in gone
                ]
                if later:
                    yield f"B12: {running} is undone before {later}"
                if running not in done:
                    yield f"A4: {running} is undone, and was never done"
            case "undone":
                if running in undone:
                    yield f"B12: {running} is undone twice"
                if running is not None:
                    undone.append(running)
                running = None
            case "interrupted":
                pass
            case "undo_finished":
                left = [c for c in order if c in done and c not in undone and c not in gone]
                if left:
                    yield f"A4: undo is finished, and {left} are not undone (event {event.seq})"


def world_checks(world: World, histories: Mapping[str, Sequence[Event]]) -> list[str]:
    """I14, I16, I20: the outside's own log against history."""
    found: list[str] = [f"I20: once-effect {key} happened twice" for key in world.doubled]
    started: dict[str, set[int]] = {}
    results: dict[str, Any] = {}
    where: dict[str, str] = {}
    for address, events in histories.items():
        keys: dict[str, str] = {}
        labels: Counter[tuple[int, str]] = Counter()
        for event in events:
            data = event.data
            if event.type in CALLED:
                keys[data["call"]] = data["key"]
                if where.setdefault(data["key"], address) != address:
                    found.append(f"A5: key {data['key']} serves two cases")
                started.setdefault(data["key"], set())
                if data["attempt"] == 1:
                    started[data["key"]].add(1)
                labels[(event.visit, data["call"])] += 1
            elif event.type == "attempt_started":
                started[keys[data["call"]]].add(data["attempt"])
            elif event.type in ("activity_completed", "result_late") and event.actor.startswith("worker"):
                results[keys[data["call"]]] = data["result"]
    for called in world.log:
        if called.attempt not in started.get(called.key, ()):
            found.append(
                f"I16: the world saw attempt {called.attempt} of {called.activity} {called.key}, history did not"
            )
    for key, result in results.items():
        if world.effects.get(key) != result:
            found.append(f"I13: {key}: history says {result!r}, the world {world.effects.get(key)!r}")
    return found


def client_checks(sent: Sequence[Mapping[str, Any]], histories: Mapping[str, Sequence[Event]]) -> list[str]:
    """I6, I8, I9, I11, I12, I25: what was acknowledged is there once; what was refused did nothing."""
    found: list[str] = []
    for address in {entry["case"] for entry in sent}:
        events = histories.get(address, ())
        mine = [entry for entry in sent if entry["case"] == address]
        if any(e["kind"] == "start" and e["told"] == "ack" for e in mine) and not events:
            found.append(f"I6: {address} was acknowledged and is not there")
        arrived = Counter(
            e.data["id"]
            for e in events
            if e.type in ("signal_received", "interrupted") or (e.type == "signal_unhandled")
            if e.data.get("id")
        )
        received = {e.data["id"] for e in events if e.type == "signal_received"}
        keys: dict[str, Mapping[str, Any]] = {}  # the first message under each key
        for e in mine:
            if e["kind"] == "signal":
                keys.setdefault(f"{e['detail']['signal']}:{e['detail']['key']}", e)
        for ident, entry in keys.items():
            count = arrived[ident] - (1 if ident in received and arrived[ident] == 2 else 0)
            told = [e["told"] for e in mine if e["kind"] == "signal" and e["detail"]["key"] == entry["detail"]["key"]]
            if count > 1 or ("ack" in told and count == 0):
                found.append(f"I8: {address}: signal {ident} ({told}) stands {count} times in history")
            if "ack" not in told and "unknown" not in told and count:
                found.append(f"I8: {address}: signal {ident} was refused and applied")
        order = [e.data["id"] for e in events if e.type == "signal_received"]
        for client in sorted({entry["client"] for entry in mine}):
            asked: list[str] = []  # in the order in which this client was told of them; repeats do not count
            for entry in mine:
                if entry["client"] == client and entry["kind"] == "signal" and entry["told"] == "ack":
                    ident = f"{entry['detail']['signal']}:{entry['detail']['key']}"
                    if keys[ident] is entry and ident in order:
                        asked.append(ident)
            applied = [ident for ident in order if ident in asked]
            if applied != asked:
                found.append(f"I11: {address}: signals came as {asked} and were applied as {applied}")
        votes = Counter((e.data["task"], e.data["vote"]["by"]) for e in events if e.type == "vote_given")
        for entry in mine:
            if entry["kind"] == "decide" and entry["told"] == "ack":
                stale = any(e.type == "vote_stale" and e.data["task"] == entry["detail"]["task"] for e in events)
                if not votes[(entry["detail"]["task"], entry["detail"]["by"])] and not stale:
                    found.append(f"I25: {address}: the vote of {entry['detail']} was acknowledged and is not there")
    return found
