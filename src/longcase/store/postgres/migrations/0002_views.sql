-- The documented views: what any SQL tool may ask of a store. Read-only; '' of the tables is NULL here.
-- Names and columns are those of the SQLite store; JSON is of type json. Written for PostgreSQL 14 and newer.
-- Columns that all of them share:
--     case_no, tenant, workflow, key    the case; workflow/key is its address
--     instants                          UTC, ISO 8601 with microseconds and Z; text order is time order
--
-- clock          one row: the store's instant now
--     now            real time, or the scaled clock of the setting `clock` (a demo on compressed time)
CREATE VIEW clock AS
SELECT to_char(
    CASE
        WHEN setting.value IS NULL THEN clock_timestamp()
        ELSE (setting.value ->> 'epoch')::timestamptz + make_interval(
            secs => (extract(epoch FROM clock_timestamp())::float8 - (setting.value ->> 'epoch_real')::float8)
                * (setting.value ->> 'factor')::float8
        )
    END AT TIME ZONE 'UTC',
    'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
) COLLATE "C" AS now
FROM (SELECT (SELECT value FROM settings WHERE name = 'clock') AS value) AS setting;

-- case_overview  one row per case: where it is, whose it is, what it waits on
--     uid            the case's identity, stable over exports
--     status         open | closed
--     closed_as      the name of the close, NULL while open
--     stage, visit   where it is (or was at its close), and the number of the visit
--     stage_kind     stage | path (an exception path)
--     owner          who is accountable: exactly one
--     started_at, entered_at, closed_at    of the case, of the stage, of the close
--     expected_by, stage_expected_by       when the case, and the stage, are expected to end
--     waiting_for, waiting_on, whose_move, waiting_since, waiting_until
--                    the headline wait: its kind, what, who must act, since, expected end
--     waits, incidents, accepted_inputs    how many are open, and not yet applied
--     events         how long its history is
--     parent_case    the case that started it, if one did
--     object         the business object, JSON
CREATE VIEW case_overview AS
SELECT
    case_no, tenant, workflow, key, uid, status,
    nullif(close_name, '') AS closed_as,
    stage, visit, kind AS stage_kind, owner, started_at, entered_at,
    nullif(closed_at, '') AS closed_at,
    nullif(expected_by, '') AS expected_by,
    nullif(stage_expected, '') AS stage_expected_by,
    nullif(wait_kind, '') AS waiting_for,
    nullif(wait_what, '') AS waiting_on,
    nullif(wait_whose, '') AS whose_move,
    nullif(wait_since, '') AS waiting_since,
    nullif(wait_expected, '') AS waiting_until,
    wait_count AS waits,
    incident_count AS incidents,
    (SELECT count(*) FROM inbox WHERE inbox.case_no = cases.case_no) AS accepted_inputs,
    seq AS events,
    parent_case,
    object
FROM cases;

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
        j.value ->> 'since', j.value ->> 'due', j.value ->> 'node', 0::bigint
    FROM cases, json_each(cases.state -> 'incidents') AS j
    UNION ALL
    SELECT
        case_no, 'activity',
        (j.value ->> 'activity') || CASE
            WHEN j.value ->> 'status' = 'backoff'
                THEN ', attempt ' || ((j.value ->> 'attempt')::bigint + 1) || ' at ' || (j.value ->> 'next_try')
            WHEN j.value ->> 'status' = 'unknown' THEN ', outcome of attempt ' || (j.value ->> 'attempt') || ' unknown'
            WHEN (j.value ->> 'attempt')::bigint > 1 THEN ', attempt ' || (j.value ->> 'attempt')
            ELSE ''
        END,
        CASE WHEN j.value ->> 'system' <> '' THEN j.value ->> 'system' ELSE j.value ->> 'owner' END,
        j.value ->> 'since', j.value ->> 'expected', j.value ->> 'node', (j.value ->> 'seq')::bigint
    FROM cases, json_each(cases.state -> 'calls') AS j
    WHERE (j.value ->> 'awaited')::boolean AND j.value ->> 'status' <> 'incident'
    UNION ALL
    SELECT
        case_no, CASE j.value ->> 'kind' WHEN 'require' THEN 'data' ELSE 'person' END,
        (j.value ->> 'question') || CASE
            WHEN (j.value ->> 'quorum')::bigint = 1 THEN ''
            ELSE ' (' || json_array_length(j.value -> 'votes') || ' of ' || (j.value ->> 'quorum') || ')'
        END,
        (
            SELECT string_agg(w.name, ', ' ORDER BY w.place)
            FROM json_array_elements_text(j.value -> 'whose') WITH ORDINALITY AS w (name, place)
        ),
        j.value ->> 'since', j.value ->> 'expected', j.value ->> 'node', (j.value ->> 'seq')::bigint
    FROM cases, json_each(cases.state -> 'tasks') AS j
    WHERE j.value ->> 'status' IN ('ready', 'reserved')
    UNION ALL
    SELECT
        case_no, 'signal', 'signal ' || (j.value ->> 'signal'), j.value ->> 'whose',
        j.value ->> 'since', j.value ->> 'expected', j.value ->> 'node', (j.value ->> 'seq')::bigint
    FROM cases, json_each(cases.state -> 'receives') AS j
    UNION ALL
    SELECT
        case_no, 'timer', j.value ->> 'because', j.value ->> 'whose',
        j.value ->> 'since', j.value ->> 'due', j.value ->> 'node', (j.value ->> 'seq')::bigint
    FROM cases, json_each(cases.state -> 'timers') AS j
    WHERE j.value ->> 'kind' = 'pause'
    UNION ALL
    SELECT
        case_no, 'child', 'child ' || (j.value ->> 'workflow') || '/' || (j.value ->> 'key'), cases.owner::text,
        j.value ->> 'since', j.value ->> 'expected', j.value ->> 'node', (j.value ->> 'seq')::bigint
    FROM cases, json_each(cases.state -> 'children') AS j
    WHERE (j.value ->> 'awaited')::boolean
    UNION ALL
    SELECT
        case_no, 'undo', 'undoing', cases.owner,
        state #>> '{undoing,at}', '', state #>> '{undoing,node}', (state #>> '{undoing,seq}')::bigint
    FROM cases
    WHERE state -> 'undoing' IS NOT NULL
),
bare AS (  -- a timeout is a wait of its own where the stage waits for nothing else
    SELECT
        case_no, 'timer' AS kind, j.value ->> 'because' AS what, j.value ->> 'whose' AS whose,
        j.value ->> 'since' AS since, j.value ->> 'due' AS expected, j.value ->> 'node' AS node,
        (j.value ->> 'seq')::bigint AS event
    FROM cases, json_each(cases.state -> 'timers') AS j
    WHERE j.value ->> 'kind' = 'timeout' AND NOT EXISTS (SELECT 1 FROM waits WHERE waits.case_no = cases.case_no)
)
SELECT
    cases.case_no, tenant, workflow, cases.key, stage, owner, w.kind, w.what COLLATE "C" AS what,
    w.whose COLLATE "C" AS whose, w.since COLLATE "C" AS since,
    nullif(w.expected COLLATE "C", '') AS expected, w.node COLLATE "C" AS node, w.event
FROM cases JOIN (SELECT * FROM waits UNION ALL SELECT * FROM bare) AS w ON w.case_no = cases.case_no
WHERE cases.status = 'open';

-- overdue        one row per expectation that has passed: of a wait, of a stage, of a case
--     stage, owner   of the case
--     level          wait | stage | case
--     what, whose    what is late, and who must act
--     expected       when it was expected
--     now            the store's instant this row was made at
CREATE VIEW overdue AS
SELECT case_no, tenant, workflow, key, stage, owner, 'wait' AS level, what, whose, expected, now
FROM waiting, clock WHERE expected < now
UNION ALL
SELECT case_no, tenant, workflow, key, stage, owner, 'stage', 'stage ' || stage, owner, stage_expected, now
FROM cases, clock WHERE status = 'open' AND stage_expected <> '' AND stage_expected < now
UNION ALL
SELECT case_no, tenant, workflow, key, stage, owner, 'case', 'case ' || key, owner, expected_by, now
FROM cases, clock WHERE status = 'open' AND expected_by <> '' AND expected_by < now;

-- approvals      one row per answer a person gave to a task, refused ones too
--     task_no, task  the question's number, and its name in the case
--     question, kind, round    what was asked; the n-th time at that place
--     person, on_behalf        who answered, and whom they stood in for
--     answer, reason, at       what, why, when
--     counted        1 if the answer was accepted, 0 if it was refused
--     refused        why it was refused, else NULL
--     shown          what the person had before them, JSON text; NULL for a refused answer
--     outcome, decided_at      what the task came to and when; NULL while it is open
CREATE VIEW approvals AS
SELECT
    h.case_no, c.tenant, c.workflow, c.key, t.task_no, t.task, t.question, t.kind, t.round,
    coalesce(h.data #>> '{vote,by}', h.data ->> 'by') AS person,
    nullif(h.on_behalf, '') AS on_behalf,
    coalesce(h.data #>> '{vote,answer}', h.data ->> 'answer') AS answer,
    coalesce(h.data #>> '{vote,reason}', h.data ->> 'reason') AS reason,
    h.at,
    (h.type = 'vote_given')::int AS counted,
    h.data ->> 'why' AS refused,
    h.data ->> 'shown' AS shown,
    nullif(t.answer, '') AS outcome,
    nullif(t.decided_at, '') AS decided_at,
    h.seq AS event
FROM history AS h
JOIN cases AS c ON c.case_no = h.case_no
LEFT JOIN tasks AS t ON t.case_no = h.case_no AND t.task = h.data ->> 'task'
WHERE h.type IN ('vote_given', 'vote_refused');

-- attempts       one row per attempt of an activity
--     call           the call's name in the case; activity, attempt: which try of what
--     worker         the incarnation that ran it
--     started_at, ended_at     ended_at is NULL while it runs
--     outcome        running | completed | failed | lost | late | undone
--     error          class and message of a failure
--     next_try       when the next attempt was planned
--     idempotency_key          what the outside world was handed
CREATE VIEW attempts AS
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
    ON k.case_no = s.case_no AND k.type IN ('activity_scheduled', 'undo_started')
    AND k.data ->> 'call' = s.data ->> 'call'
LEFT JOIN history AS e
    ON e.case_no = s.case_no AND e.data ->> 'call' = s.data ->> 'call' AND e.data ->> 'attempt' = s.data ->> 'attempt'
    AND e.type IN ('activity_completed', 'activity_failed', 'attempt_failed', 'attempt_lost', 'result_late', 'undone')
WHERE s.type IN ('activity_scheduled', 'undo_started', 'attempt_started') AND (s.data ->> 'attempt')::bigint > 0;

-- decisions      one row per ruling of a decision
--     decision, question, policy, decided_by    its name, what it answers, policy version, its owner
--     inputs         what it was given, JSON
--     answer, rule, because    what it said, and the rule and reason it gave
--     again          1 if the case asked for the ruling anew under the policy of that day
CREATE VIEW decisions AS
SELECT
    h.case_no, c.tenant, c.workflow, c.key, h.at, h.visit, h.node,
    h.data ->> 'decision' AS decision, h.data ->> 'question' AS question, h.data ->> 'policy' AS policy,
    h.data ->> 'owner' AS decided_by, h.data -> 'inputs' AS inputs, h.data ->> 'answer' AS answer,
    nullif(h.data ->> 'rule', '') AS rule, nullif(h.data ->> 'because', '') AS because,
    CASE WHEN h.data ->> 'again' IN ('true', '1') THEN 1 ELSE 0 END AS again, h.seq AS event
FROM history AS h JOIN cases AS c ON c.case_no = h.case_no
WHERE h.type = 'ruling_recorded';

-- ownership      one row per stretch of time in which one owner was accountable
--     owner          the team or person
--     since, until   until is NULL for the present owner of an open case
--     by             who brought it about
CREATE VIEW ownership AS
WITH owned AS (
    SELECT
        h.case_no, h.seq, h.at, h.actor,
        h.data ->> 'owner' AS owner
    FROM history AS h
    WHERE h.type IN ('case_started', 'stage_entered')
),
changes AS (
    SELECT *, lag(owner) OVER (PARTITION BY case_no ORDER BY seq) AS before FROM owned
)
SELECT
    o.case_no, c.tenant, c.workflow, c.key, o.owner, o.at AS since,
    coalesce(lead(o.at) OVER (PARTITION BY o.case_no ORDER BY o.seq), nullif(c.closed_at, '')) AS until,
    o.actor AS by, o.seq AS event
FROM changes AS o JOIN cases AS c ON c.case_no = o.case_no
WHERE o.before IS NULL OR o.before <> o.owner;

-- incidents      one row per incident, open and closed
--     incident       its name in the case
--     kind, message, owner, due    what is wrong, who must act, until when
--     call           the activity's call it is about, NULL for an incident of the visit
--     repairs        what may be done, JSON list
--     opened_at, closed_at, how, by    how: what ended it; NULL while open
CREATE VIEW incidents AS
SELECT
    o.case_no, c.tenant, c.workflow, c.key,
    o.data ->> 'incident' AS incident, o.data ->> 'kind' AS kind, o.data ->> 'message' AS message,
    o.data ->> 'owner' AS owner, o.data ->> 'due' AS due, nullif(o.data ->> 'call', '') AS call,
    o.data -> 'repairs' AS repairs, o.visit, o.node, o.at AS opened_at,
    CASE WHEN c.state -> 'incidents' -> (o.data ->> 'incident') IS NULL
        THEN coalesce(e.at, (
            SELECT min(n.at) FROM history AS n
            WHERE n.case_no = o.case_no AND n.seq > o.seq
              AND (n.type IN ('interrupted', 'case_closed') OR n.data ->> 'call' = o.data ->> 'call')
        ))
    END AS closed_at,
    e.data ->> 'how' AS how, e.actor AS by, o.seq AS event
FROM history AS o
JOIN cases AS c ON c.case_no = o.case_no
LEFT JOIN history AS e
    ON e.case_no = o.case_no AND e.type = 'incident_closed' AND e.data ->> 'incident' = o.data ->> 'incident'
WHERE o.type = 'incident_opened';

-- timeline       one row per event: who did what, when, where, because of what
--     event          seq of the event in its case
--     what           its type; version: of its format
--     actor, on_behalf, channel    who, whom they stood in for, where it came in
--     cause          seq of the event that led to it
--     visit, map, node, n, strand  its place
--     data           the payload, JSON
CREATE VIEW timeline AS
SELECT
    h.case_no, c.tenant, c.workflow, c.key, h.seq AS event, h.at, h.type AS what, h.version, h.actor,
    nullif(h.on_behalf, '') AS on_behalf, h.channel, h.cause, h.visit, h.map, nullif(h.node, '') AS node, h.n, h.strand,
    h.data
FROM history AS h JOIN cases AS c ON c.case_no = h.case_no;
