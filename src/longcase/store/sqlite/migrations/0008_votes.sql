-- Where the people of a quorum disagree, the wait says how their answers stand: "rail 1, road 1; 2 needed".
DROP VIEW waiting;

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
            ELSE ' (' || CASE
                WHEN (SELECT count(DISTINCT v.value ->> 'answer') FROM json_each(j.value, '$.votes') AS v) < 2
                    THEN json_array_length(j.value, '$.votes') || ' of ' || (j.value ->> 'quorum')
                ELSE (
                    SELECT group_concat(s.said, ', ') FROM (
                        SELECT (v.value ->> 'answer') || ' ' || count(*) AS said FROM json_each(j.value, '$.votes') AS v
                        GROUP BY v.value ->> 'answer' ORDER BY v.value ->> 'answer'
                    ) AS s
                ) || '; ' || (j.value ->> 'quorum') || ' needed'
            END || ')'
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

-- What rows say that were written before.
UPDATE cases SET wait_what = (
    SELECT (j.value ->> 'question') || ' (' || CASE
        WHEN (SELECT count(DISTINCT v.value ->> 'answer') FROM json_each(j.value, '$.votes') AS v) < 2
            THEN json_array_length(j.value, '$.votes') || ' of ' || (j.value ->> 'quorum')
        ELSE (
            SELECT group_concat(s.said, ', ') FROM (
                SELECT (v.value ->> 'answer') || ' ' || count(*) AS said FROM json_each(j.value, '$.votes') AS v
                GROUP BY v.value ->> 'answer' ORDER BY v.value ->> 'answer'
            ) AS s
        ) || '; ' || (j.value ->> 'quorum') || ' needed'
    END || ')'
    FROM json_each(cases.state, '$.tasks') AS j
    WHERE j.value ->> 'status' IN ('ready', 'reserved') AND j.value ->> 'kind' <> 'require'
    ORDER BY coalesce(nullif(j.value ->> 'expected', ''), '9999'), j.value ->> 'seq' LIMIT 1
)
WHERE status = 'open' AND wait_kind = 'person' AND wait_what LIKE '%(_% of _%)' AND (
    SELECT (j.value ->> 'quorum') <> 1 AND json_array_length(j.value, '$.votes') > 1
    FROM json_each(cases.state, '$.tasks') AS j
    WHERE j.value ->> 'status' IN ('ready', 'reserved') AND j.value ->> 'kind' <> 'require'
    ORDER BY coalesce(nullif(j.value ->> 'expected', ''), '9999'), j.value ->> 'seq' LIMIT 1
);
