-- A call that has ended, and whose outcome is not applied yet, is told as what it is: not as running.
DROP VIEW waiting;
DROP VIEW attempts;
DROP VIEW running_attempts;

-- waiting        one row per open wait of every open case
--     stage, owner   of the case
--     kind           incident | activity | person | data | signal | timer | child | undo
--     what, whose    what it waits for, and who must act
--     since          when the wait began
--     expected       when it is expected to end, NULL if no end is promised
--     node           its place on the map
--     event          seq of the event that opened it, 0 for an incident
CREATE VIEW waiting AS
WITH waits (case_no, kind, what, whose, since, expected, node, event) AS (
    SELECT
        case_no, 'incident', (j.value ->> 'kind') || ': ' || (j.value ->> 'message'), j.value ->> 'owner',
        j.value ->> 'since', j.value ->> 'due', j.value ->> 'node', 0
    FROM cases, json_each(cases.state, '$.incidents') AS j
    UNION ALL
    SELECT
        case_no, 'activity',
        (call ->> 'activity') || CASE
            WHEN kept IS NOT NULL THEN ', ended: incident ' || kept || ' keeps its outcome'
            WHEN held THEN ', called anew: begins when the call before it is settled'
            WHEN call ->> 'status' = 'backoff'
                THEN ', attempt ' || ((call ->> 'attempt') + 1) || ' at ' || (call ->> 'next_try')
            WHEN call ->> 'status' = 'unknown' THEN ', outcome of attempt ' || (call ->> 'attempt') || ' unknown'
            WHEN call ->> 'status' = 'ready' AND call ->> 'queue' <> ''
                THEN ', for a worker of queue ' || (call ->> 'queue')
            WHEN call ->> 'attempt' > 1 THEN ', attempt ' || (call ->> 'attempt')
            ELSE ''
        END,
        CASE
            WHEN kept IS NOT NULL THEN state ->> ('$.incidents."' || kept || '".owner')
            WHEN call ->> 'system' <> '' THEN call ->> 'system'
            ELSE call ->> 'owner'
        END,
        call ->> 'since', call ->> 'expected', call ->> 'node', call ->> 'seq'
    FROM (
        SELECT
            case_no, state, j.value AS call,
            (
                SELECT k.key FROM json_each(cases.state, '$.incidents') AS k
                WHERE k.value ->> '$.pending.call' = j.key
                   OR k.value ->> '$.details.input' = 'end-' || j.key || '-' || (j.value ->> 'attempt')
                LIMIT 1
            ) AS kept,
            j.value ->> 'attempt' = 0 AND (
                EXISTS (
                    SELECT 1 FROM json_each(cases.state, '$.redone') AS d
                    WHERE d.value ->> 'asked_as' IN (j.value ->> 'asked_as', j.value ->> 'after')
                ) OR j.value ->> 'asked_as' IS NOT NULL AND EXISTS (
                    SELECT 1 FROM json_each(cases.state, '$.incidents') AS k
                    WHERE k.value ->> 'kind' = 'unsettled_close' AND k.value ->> 'blocks'
                )
            ) AS held
        FROM cases, json_each(cases.state, '$.calls') AS j
        WHERE j.value ->> 'awaited' AND j.value ->> 'status' <> 'incident'
    )
    UNION ALL
    SELECT
        case_no, CASE j.value ->> 'kind' WHEN 'require' THEN 'data' ELSE 'person' END,
        (j.value ->> 'question') || CASE
            WHEN j.value ->> 'quorum' = 1 THEN ''
            ELSE ' (' || json_array_length(j.value, '$.votes') || ' of ' || (j.value ->> 'quorum') || ')'
        END,
        (SELECT group_concat(w.value, ', ') FROM (SELECT value FROM json_each(j.value, '$.whose') ORDER BY key) AS w),
        j.value ->> 'since', j.value ->> 'expected', j.value ->> 'node', j.value ->> 'seq'
    FROM cases, json_each(cases.state, '$.tasks') AS j
    WHERE j.value ->> 'status' IN ('ready', 'reserved')
    UNION ALL
    SELECT
        case_no, 'signal', 'signal ' || (j.value ->> 'signal'), j.value ->> 'whose',
        j.value ->> 'since', j.value ->> 'expected', j.value ->> 'node', j.value ->> 'seq'
    FROM cases, json_each(cases.state, '$.receives') AS j
    UNION ALL
    SELECT
        case_no, 'timer', j.value ->> 'because', j.value ->> 'whose',
        j.value ->> 'since', j.value ->> 'due', j.value ->> 'node', j.value ->> 'seq'
    FROM cases, json_each(cases.state, '$.timers') AS j
    WHERE j.value ->> 'kind' = 'pause'
    UNION ALL
    SELECT
        case_no, 'child', 'child ' || (j.value ->> 'workflow') || '/' || (j.value ->> 'key'), cases.owner,
        j.value ->> 'since', j.value ->> 'expected', j.value ->> 'node', j.value ->> 'seq'
    FROM cases, json_each(cases.state, '$.children') AS j
    WHERE j.value ->> 'awaited'
    UNION ALL
    SELECT
        case_no, 'undo', 'undoing', cases.owner,
        state ->> '$.undoing.at', '', state ->> '$.undoing.node', state ->> '$.undoing.seq'
    FROM cases
    WHERE state -> '$.undoing' IS NOT NULL
),
bare AS (  -- a timeout is a wait of its own where the stage waits for nothing else
    SELECT
        case_no, 'timer' AS kind, j.value ->> 'because' AS what, j.value ->> 'whose' AS whose,
        j.value ->> 'since' AS since, j.value ->> 'due' AS expected, j.value ->> 'node' AS node, j.value ->> 'seq' AS event
    FROM cases, json_each(cases.state, '$.timers') AS j
    WHERE j.value ->> 'kind' = 'timeout' AND NOT EXISTS (SELECT 1 FROM waits WHERE waits.case_no = cases.case_no)
)
SELECT
    cases.case_no, tenant, workflow, cases.key, stage, owner, w.kind, what, whose, since,
    nullif(expected, '') AS expected, node, event
FROM cases JOIN (SELECT * FROM waits UNION ALL SELECT * FROM bare) AS w ON w.case_no = cases.case_no
WHERE cases.status = 'open';

-- attempts       one row per attempt of an activity
--     call           the call's name in the case; activity, attempt: which try of what
--     worker         the incarnation that ran it
--     started_at, ended_at     ended_at is NULL while it runs
--     outcome        running | ended | completed | failed | lost | late | undone
--                    ended: its outcome is not applied yet, an incident keeps it or its transaction is committed
--     error          class and message of a failure
--     next_try       when the next attempt was planned
--     idempotency_key          what the outside world was handed
CREATE VIEW attempts AS
SELECT
    s.case_no, c.tenant, c.workflow, c.key, s.data ->> 'activity' AS activity, s.data ->> 'call' AS call,
    s.data ->> 'attempt' AS attempt, s.data ->> 'worker' AS worker, s.visit, s.node, s.at AS started_at,
    coalesce(e.at, d.at, (
        SELECT k.value ->> 'since' FROM json_each(c.state, '$.incidents') AS k
        WHERE k.value ->> '$.pending.call' = s.data ->> 'call'
    )) AS ended_at,
    CASE coalesce(e.type, d.type, (
        SELECT 'kept' FROM json_each(c.state, '$.incidents') AS k
        WHERE k.value ->> '$.pending.call' = s.data ->> 'call'
    ))
        WHEN 'activity_completed' THEN 'completed'
        WHEN 'attempt_lost' THEN 'lost'
        WHEN 'result_late' THEN 'late'
        WHEN 'undone' THEN 'undone'
        WHEN 'attempt_failed' THEN 'failed'
        WHEN 'activity_failed' THEN 'failed'
        WHEN 'attempt_committed' THEN 'ended'
        WHEN 'kept' THEN 'ended'
        ELSE 'running'
    END AS outcome,
    (e.data ->> '$.error.type') || ': ' || (e.data ->> '$.error.message') AS error,
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
LEFT JOIN history AS d
    ON e.type IS NULL AND d.case_no = s.case_no AND d.type = 'attempt_committed'
    AND d.data ->> 'call' = s.data ->> 'call' AND d.data ->> 'attempt' = s.data ->> 'attempt'
WHERE s.type IN ('activity_scheduled', 'undo_started', 'attempt_started') AND s.data ->> 'attempt' > 0;

-- running_attempts   one row per attempt that is recorded as running, and has not ended
--     call, activity, attempt    which call of the case, of what, and the number of the attempt
--     worker             the incarnation it was begun by; whether that lives, `longcase workers` says
--     started_at         when it began
--     queue              the queue its call is bound to, NULL for none
CREATE VIEW running_attempts AS
SELECT
    cases.case_no, tenant, workflow, cases.key, j.key AS call, j.value ->> 'activity' AS activity,
    j.value ->> 'attempt' AS attempt, j.value ->> 'worker' AS worker, j.value ->> 'started' AS started_at,
    j.value ->> 'queue' AS queue
FROM cases, json_each(cases.state, '$.calls') AS j
WHERE (lease <> 0 OR cases.case_no IN (SELECT case_no FROM queued WHERE begun = 1))
  AND j.value ->> 'status' = 'running' AND j.value ->> 'committed' IS NOT j.value ->> 'attempt'
  AND NOT EXISTS (
      SELECT 1 FROM json_each(cases.state, '$.incidents') AS k WHERE k.value ->> '$.pending.call' = j.key
  );
