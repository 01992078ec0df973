-- In the view of attempts, those of a call that an operator had called anew have their idempotency key too.

-- attempts       one row per attempt of an activity
--     call           the call's name in the case; activity, attempt: which try of what
--     worker         the incarnation that ran it
--     started_at, ended_at     ended_at is NULL while it runs
--     outcome        running | completed | failed | lost | late | undone
--     error          class and message of a failure
--     next_try       when the next attempt was planned
--     idempotency_key          what the outside world was handed
CREATE OR REPLACE VIEW attempts AS
SELECT
    s.case_no, c.tenant, c.workflow, c.key, s.data ->> 'activity' AS activity, s.data ->> 'call' AS call,
    (s.data ->> 'attempt')::bigint AS attempt, (s.data ->> 'worker')::bigint AS worker, s.visit, s.node,
    s.at AS started_at, e.at AS ended_at,
    CASE e.type
        WHEN 'activity_completed' THEN 'completed'
        WHEN 'attempt_lost' THEN 'lost'
        WHEN 'result_late' THEN 'late'
        WHEN 'undone' THEN 'undone'
        WHEN 'attempt_failed' THEN 'failed'
        WHEN 'activity_failed' THEN 'failed'
        ELSE 'running'
    END AS outcome,
    (e.data #>> '{error,type}') || ': ' || (e.data #>> '{error,message}') AS error,
    nullif(e.data ->> 'next_try', '') AS next_try,
    k.data ->> 'key' AS idempotency_key
FROM history AS s
JOIN cases AS c ON c.case_no = s.case_no
LEFT JOIN history AS k
    ON k.case_no = s.case_no AND k.type IN ('activity_scheduled', 'call_redone', 'undo_started')
    AND k.data ->> 'call' = s.data ->> 'call'
LEFT JOIN history AS e
    ON e.case_no = s.case_no AND e.data ->> 'call' = s.data ->> 'call' AND e.data ->> 'attempt' = s.data ->> 'attempt'
    AND e.type IN ('activity_completed', 'activity_failed', 'attempt_failed', 'attempt_lost', 'result_late', 'undone')
WHERE s.type IN ('activity_scheduled', 'undo_started', 'attempt_started') AND (s.data ->> 'attempt')::bigint > 0;
