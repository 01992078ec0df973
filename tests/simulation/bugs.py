"""The planted bugs: what somebody could have got wrong in the engine, the runtime, the store, in leases and queues.

Each must be found by the simulation within `planted.BOUND` seeds. A bug is a piece of a function's text,
or a function of its own that stands in for one; so a change of the code elsewhere leaves it alone. Where
the place is gone the plant fails loudly: mend it here. An outbox does not exist yet, so none is spoiled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.simulation.planted import Change, constant, instead, plant

from longcase.store.records import Written

ENGINE: dict[str, tuple[Change, ...]] = {
    "fence_dropped": (
        plant(
            "engine.attempts:outcome_counts",
            'and call["attempt"] == number\n        and call["status"] == "running"',
            "",
        ),
    ),
    "dedupe_dropped": (plant("store.sqlite.transaction:Transaction.remembered", "if row is None:", "if True:"),),
    "ack_before_commit": (
        plant(
            "store.sqlite.transaction:Transaction.put_input",
            "item.accepted_at = item.accepted_at or self.now",
            "item.accepted_at = item.accepted_at or self.now\n"
            '    if item.type == "signal_received" and self.now[18] in "02468": return True',
        ),
    ),
    "stale_turn_written": (
        plant("store.sqlite.writing:_run_batch", "seen_seq != write.base_seen", "False"),
        plant("store.folding:may_follow", "<= BESIDE", "is not None"),
    ),
    "mover_records_ignored": (plant("store.folding:may_follow", "<= BESIDE", "is not None"),),
    "timer_early": (
        plant("engine.advance:_Run._clocks", "earliest > until", "earliest[:13] > until[:13]"),
        plant("engine.advance:_Run._due", 'if timer["due"] <= until', 'if timer["due"][:13] <= until[:13]'),
    ),
    "seq_gap": (
        plant(
            "store.folding:refold",
            "event.seq = state.seq + 1",
            "event.seq = state.seq + 1 + (event.type == 'vote_given')",
        ),
        plant("history.state:apply", "if event.seq != state.seq + 1:", "if False:"),
    ),
    "input_applied_twice": (
        plant("store.sqlite.writing:_inbox", "if write.taken:", "if write.taken and write.taken[0] % 3:"),
    ),
    "wake_lost": (plant("engine.work:wake_at", "due = next_due(state)", 'due = ""'),),
    "retry_key_made_anew": (
        plant(
            "history.calls:_attempt_started",
            'call["status"] = "running"',
            'call["status"] = "running"\n    call["key"] += "x"',
        ),
    ),
    "abandoned_call_not_undone": (
        plant(
            "history.calls:_activity_cancelled",
            'call["awaited"] = False',
            'call["awaited"] = False\n    state.undo.pop(event.data["call"], None)',
        ),
    ),
    "late_result_dropped": (
        plant(
            "engine.advance:_Run._ended",
            "if isinstance(item.outcome, Failure):",
            'if not call["awaited"] and not call["undoes"]: return\n    if isinstance(item.outcome, Failure):',
        ),
    ),
    "inputs_batched_in_one_turn": (
        plant("engine.visit:Visit.feed", "self._offer_signals()", "return self._offer_signals()"),
    ),
    "incident_swallowed": (
        plant("engine.advance:refuse_input", "resident.append(event, work.now)\n    return result", "return result"),
    ),
    "lease_never_recovered": (plant("store.sqlite.workers:free_some", "(tx.now, worker,", '("", worker,'),),
    "unknown_commit_forgotten": (plant("runtime.doubt:Doubt.resolve", "commands.append(", "(lambda command: None)("),),
    "expiry_ignored": (
        plant(
            "engine.tasks:answer_task",
            'if task["status"] == "expired" or (task["expires_at"] and task["expires_at"] <= now):',
            "if False:",
        ),
    ),
    "vote_after_decision": (plant("engine.tasks:answer_task", 'if task["status"] == "decided":', "if False:"),),
    "stale_vote_counts": (plant("engine.tasks:shown_again", "not is_stale(", "True or not is_stale("),),
    "votes_asked_for_unseen": (plant("store.folding:may_follow", ', "vote_stale"}', "}"),),
    "one_vote_is_a_quorum": (plant("engine.tasks:decides", '>= task["quorum"]', ">= 1"),),
    "snapshot_without_signals": (
        plant(
            "engine.turn:Resident.enter",
            'data["snapshot"] = state.to_json()',
            'data["snapshot"] = {**state.to_json(), "signals": []}',
        ),
    ),
    "newest_signal_first": (
        plant("engine.visit:Visit._kept_signal", "in self.state.signals", "in self.state.signals[::-1]"),
    ),
    "signals_lost_at_close": (
        plant("engine.turn:Resident._close", "for kept in list(state.signals):", "for kept in []:"),
    ),
    "one_attempt_too_many": (
        plant(
            "engine.attempts:judge", "failures >= activity.retry.max_attempts", "failures > activity.retry.max_attempts"
        ),
    ),
    "jitter_unbounded": (plant("model.policy:Retry.delay", "longest * draw", "longest * (1 + 3 * draw)"),),
    "once_effect_repeated": (plant("engine.attempts:judge", 'activity.effect == "once" and', "False and"),),
    "undo_begun_twice": (plant("engine.attempts:undo_steps", "if begun is None:", "if True:"),),
    "answered_and_still_asked": (plant("engine.inputs:answered", "or item.damaged", "or True"),),
    "compensations_side_by_side": (
        plant("engine.attempts:undo_steps", "latest = _compensating(state)", 'latest = ""'),
    ),
    "undo_in_order_of_command": (
        plant("engine.attempts:undo_steps", "in reversed(state.undo.values())", "in list(state.undo.values())"),
    ),
    "input_before_due_timer": (plant("engine.advance:_Run.all", "self._clocks(item.at)", "pass"),),
}


# -- stand-ins: what takes the place of a function, given that function first ------------------------------


def _nothing(real: Any, *args: Any, **kwargs: Any) -> None:
    return None


def _zero(real: Any, *args: Any) -> int:
    return 0


def _no_items(real: Any, self: Any, case_no: int, items: Any) -> None:
    real(self, case_no, [])


def _frees_all(real: Any, tx: Any, worker: int) -> None:
    tx.execute("UPDATE cases SET lease = 0 WHERE lease <> 0")
    real(tx, worker)


def _others_are_dead(real: Any, self: Any, worker: int) -> bool:
    return bool(worker != self._worker)


def _denied(real: Any, self: Any, item: Any) -> None:
    real(self, replace(item, answer="not_happened") if item.answer == "happened" else item)


def _ownerless(real: Any, state: Any, event: Any) -> None:
    real(state, event)
    if event.data["kind"] == "path":
        state.owner = ""


def _only_fired(real: Any, state: Any, event: Any) -> None:
    if event.type == "timer_fired":
        real(state, event)


async def _unwritten(real: Any, self: Any, writes: Any, *, partial: bool = False) -> Any:
    if len(writes) == 1 and writes[0].new is None and self._fleet.witness.commits % 19 == 18:
        return [Written("done", writes[0].case_no, writes[0].state)]
    return await real(self, writes, partial=partial)


FLEET: dict[str, tuple[Change, ...]] = {
    "claim_without_skip_locked": (constant("store.sqlite.fleet:_DUE", "lease IN (0, ?)", "? IS NOT NULL"),),
    "lease_boundary": (plant("tests:processes:SharedStore.lapsed", "> LEASE", ">= LEASE"),),
    "beat_of_a_forgotten_worker_accepted": (
        plant("tests:processes:SharedStore.beat", "if worker not in self.beats:", "if False:"),
        plant("store.sqlite.workers:beat", "if not tx.cursor.connection.changes():", "if False:"),
    ),
    "recovered_without_a_second_look": (
        plant("tests:processes:SharedStore.recover", "or not self.lapsed(worker)", ""),
    ),
    "writes_of_the_forgotten_not_fenced": (
        plant("tests:processes:SharedStore.write", "if {write.lease, write.worker} - {", "if False and {"),
    ),
    "leases_of_others_given_up": (instead("store.sqlite.workers:leave", _frees_all),),
    "freed_and_not_woken": (
        constant("store.sqlite.workers:_FREE_SOME", "CASE status WHEN 'open' THEN ?", "CASE WHEN ? = '' THEN ''"),
    ),
    "outcomes_lost_with_the_store": (instead("runtime.agenda:Agenda.put_back", _no_items),),
    "no_second_joining": (instead("runtime.membership:Membership.forget", _nothing),),
    "coroutine_kept_after_a_lost_race": (plant("runtime.turns:Turns._round", "self.residents.evict(case_no)", "pass"),),
    "doubt_resolved_too_early": (plant("runtime.turns:Turns._settled", "await self.store.settle()", "pass"),),
    "doubt_not_noted": (instead("runtime.doubt:Doubt.note", _nothing),),
    "changes_unheard": (  # neither where the store tells of them, nor in the look that is taken now and then
        plant("runtime.worker:Worker._keep_watch", "self.agenda.store_at = self.agenda.queues_at = None", "pass"),
    ),
    "accepted_and_not_woken": (plant("store.editing:wake_after", "return now", "return row.wake_at"),),
    "lease_never_taken": (instead("runtime.composing:Writes.lease", _zero),),
    "dead_workers_taken_for_living": (
        plant("runtime.residents:Residents._is_dead", "self._store.is_dead(worker)", "False"),
    ),
    "living_workers_taken_for_dead": (instead("runtime.residents:Residents._is_dead", _others_are_dead),),
    "cancelled_timers_fire": (instead("history.state:_timer_gone", _only_fired),),
    "retried_at_once": (plant("engine.advance:_Run._begin", 'call["next_try"] <= now', "True"),),
    "close_of_a_child_unheard": (
        plant("store.sqlite.writing:_write_around", "tx.is_open(case_no) and tx.put_input(case_no, item)", "False"),
    ),
    "another_body_accepted": (
        plant("store.sqlite.transaction:Transaction.remembered", "if body != dedup.body:", "if False:"),
    ),
    "sender_keys_without_scope": (
        plant("store.sqlite.transaction:Transaction.remembered", "AND scope = ?", "AND ? <> ''"),
    ),
    "instants_go_back": (
        plant("store.folding:refold", "if event.at < state.at:", "if False:"),
        plant("store.sqlite.writing:_run_batch", "appended[0].at < at", "False"),
    ),
    "inbox_newest_first": (constant("store.sqlite.store:_INBOXES", "ORDER BY no", "ORDER BY no DESC"),),
    "verified_effect_repeated": (instead("engine.advance:_Run._verified", _denied),),
    "return_does_not_wait_for_its_handler": (
        plant("engine.handling:Handling._tell_returned", "self._returned = True", "self._returned = False"),
    ),
    "two_of_a_handler_at_once": (
        plant("engine.handling:Handling._begin_next", "or handler.stage.name in self._runs:", ":"),
    ),
    "handlers_begin_after_the_return": (
        plant("engine.handling:Handling._begin_next", "if self._stage_done and", "if False and"),
    ),
    "undo_takes_calls_that_are_awaited": (plant("engine.attempts:_comes_to_an_end", 'or call["awaited"]', ""),),
    "handlers_interrupted": (plant("engine.advance:_Run._exception", 'if state.kind == "path":', "if False:"),),
    "handler_without_owner": (instead("history.state:_stage_entered", _ownerless),),
    "wake_beside_a_turn_lost": (plant("store.sqlite.writing:_write_between", 'wake_at if interleaved else ""', '""'),),
    "kept_outcome_taken_for_lost": (plant("engine.advance:_Run._sweep_dead", "if ref in known or ", "if "),),
    "kept_failure_told_to_the_stage": (
        plant("engine.advance:_Run._outcome", 'if call["awaited"] or call["undoes"]:', "if True:"),
    ),
    "error_taken_for_success": (instead("tests:processes:SharedStore.write", _unwritten),),
}

QUEUES: dict[str, tuple[Change, ...]] = {
    "queued_calls_run_anywhere": (plant("runtime.residents:Residents._begin", "activity.queue is not None or ", ""),),
    "queues_of_others_asked": (
        plant("runtime.queues:Queues.__init__", "for name in self.serves if", "for name in declared if"),
    ),
    "claims_of_the_dead_kept": (plant("store.sqlite.queues:left", "give_back(tx, worker, claimed)", "pass"),),
    "queued_attempts_of_the_dead_kept": (
        constant("store.sqlite.queues:_WAKE_RUNNING", "AND begun = 1", "AND begun = 2"),
    ),
    "claims_not_counted": (constant("store.sqlite.queues:_RUNNING", "worker <> 0", "begun = 1"),),
    "claim_lost_by_anothers_turn": (
        constant("store.sqlite.queues:_UPSERT", "THEN queued.worker", "THEN excluded.worker"),
    ),
    "claims_without_an_answer_kept": (plant("store.sqlite.queues:take", "if granted is not None:", "if False:"),),
    "rate_counts_one_too_few": (plant("store.queue_limits:counted", "[-most:]", "[1 - most:]"),),
    "rate_refunded_twice": (plant("store.queue_limits:uncounted", "left.remove(ours[-1])", "left.clear()"),),
    "rate_not_refunded": (plant("store.sqlite.queues:give_back", "if begun := _begun(tx, queue):", "if False:"),),
    "begun_attempts_refunded": (
        constant("store.sqlite.queues:_CLAIMED", "AND begun = 0", ""),
        constant("store.sqlite.queues:_GIVE_BACK", "AND begun = 0 ", ""),
    ),
    "lowest_priority_first": (plant("store.sqlite.queues:replace", "-call.priority", "call.priority"),),
    "queued_retries_early": (constant("store.sqlite.queues:_WAITING", "due <= ?4", "?4 <> ''"),),
    "refused_queue_stays_shut": (instead("runtime.queues:Queues.reopen", _nothing),),
    "kept_outcomes_take_up_room": (plant("runtime.queues:queued_calls", " or ref in ended", ""),),
    "one_attempt_too_many_at_once": (plant("runtime.limits:Slots._free", ">= concurrency", "> concurrency"),),
}

# Planted, and not yet seen to be found within the bound: `longcase-sim bugs NAME` looks for one of them.
UNPROVEN = frozenset({
    "answered_and_still_asked", "begun_attempts_refunded", "claim_lost_by_anothers_turn", "compensations_side_by_side",
    "doubt_resolved_too_early", "incident_swallowed", "kept_failure_told_to_the_stage", "kept_outcome_taken_for_lost",
    "kept_outcomes_take_up_room", "votes_asked_for_unseen", "wake_beside_a_turn_lost",
})  # fmt: skip
ALL = ENGINE | FLEET | QUEUES
PLANTED = {name: changes for name, changes in ALL.items() if name not in UNPROVEN}
