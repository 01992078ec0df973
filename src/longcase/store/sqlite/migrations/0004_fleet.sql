-- A fleet: what each worker runs and serves, calls that wait in queues, and cases that a release does not replay.

-- JSON: the fingerprint of the worker's code by workflow, and the names of the queues it serves.
ALTER TABLE workers ADD COLUMN codes TEXT NOT NULL DEFAULT '{}';
ALTER TABLE workers ADD COLUMN queues TEXT NOT NULL DEFAULT '[]';

-- By workflow too: what a dead worker held is taken over fairly.
DROP INDEX cases_leased;
CREATE INDEX cases_leased ON cases (lease, workflow) WHERE lease <> 0;

-- Visits that a worker's code did not replay, while workers of another code live: those are offered the case.
-- Not history: it is forgotten when the case is taken up, or when no other code is left.
CREATE TABLE declined (
    case_no INTEGER NOT NULL REFERENCES cases (case_no) ON DELETE CASCADE,
    visit   INTEGER NOT NULL,
    code    TEXT    NOT NULL, -- fingerprint
    PRIMARY KEY (case_no, visit, code)
) STRICT, WITHOUT ROWID;

-- Calls of activities bound to a queue: those that wait for a worker that serves it, and those that run.
-- Written with the turn, from the case's state; a claim (worker, and not begun) lies outside of it.
CREATE TABLE queued (
    case_no INTEGER NOT NULL REFERENCES cases (case_no) ON DELETE CASCADE,
    call    TEXT    NOT NULL,
    queue   TEXT    NOT NULL,
    rank    INTEGER NOT NULL, -- the priority, negative: the lowest comes first
    tenant  TEXT    NOT NULL,
    attempt INTEGER NOT NULL, -- number of the attempt to begin, or of the one that runs
    due     TEXT    NOT NULL, -- not to be begun before
    since   TEXT    NOT NULL, -- the call was commanded
    worker  INTEGER NOT NULL, -- that has claimed or runs it; 0 for none
    begun   INTEGER NOT NULL CHECK (begun IN (0, 1)),
    stop    INTEGER NOT NULL CHECK (stop IN (0, 1)), -- the running attempt is asked to stop
    PRIMARY KEY (case_no, call)
) STRICT, WITHOUT ROWID;
CREATE INDEX queued_by_queue ON queued (queue, worker, rank, tenant, due);
CREATE INDEX queued_by_worker ON queued (worker) WHERE worker <> 0;

-- What the limits of a queue and the fairness between tenants are counted with, over the whole fleet.
CREATE TABLE queue_rates (
    queue TEXT PRIMARY KEY,
    begun TEXT NOT NULL -- JSON list: the latest instants, as many as the queue's rate counts
) STRICT, WITHOUT ROWID;
CREATE TABLE queue_tenants (
    queue  TEXT    NOT NULL,
    tenant TEXT    NOT NULL,
    served INTEGER NOT NULL, -- the tenant with the smallest comes first
    PRIMARY KEY (queue, tenant)
) STRICT, WITHOUT ROWID;

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
        (j.value ->> 'activity') || CASE
            WHEN j.value ->> 'status' = 'backoff'
                THEN ', attempt ' || ((j.value ->> 'attempt') + 1) || ' at ' || (j.value ->> 'next_try')
            WHEN j.value ->> 'status' = 'unknown' THEN ', outcome of attempt ' || (j.value ->> 'attempt') || ' unknown'
            WHEN j.value ->> 'status' = 'ready' AND j.value ->> 'queue' <> ''
                THEN ', for a worker of queue ' || (j.value ->> 'queue')
            WHEN j.value ->> 'attempt' > 1 THEN ', attempt ' || (j.value ->> 'attempt')
            ELSE ''
        END,
        CASE WHEN j.value ->> 'system' <> '' THEN j.value ->> 'system' ELSE j.value ->> 'owner' END,
        j.value ->> 'since', j.value ->> 'expected', j.value ->> 'node', j.value ->> 'seq'
    FROM cases, json_each(cases.state, '$.calls') AS j
    WHERE j.value ->> 'awaited' AND j.value ->> 'status' <> 'incident'
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

-- queued_calls   one row per call that waits in a queue, or runs from it
--     queue, priority    where it waits; higher goes first
--     call, attempt      the call's name in the case; the attempt that is to begin, or runs
--     since, due         when it was commanded; the attempt is not begun before `due`
--     worker             the incarnation that has claimed or runs it, NULL while it waits
--     status             waiting | claimed | running | stopping
CREATE VIEW queued_calls AS
SELECT
    q.case_no, c.tenant, c.workflow, c.key, q.queue, -q.rank AS priority, q.call, q.attempt, q.since,
    nullif(q.due, '') AS due, nullif(q.worker, 0) AS worker,
    CASE WHEN q.worker = 0 THEN 'waiting' WHEN q.begun = 0 THEN 'claimed' WHEN q.stop THEN 'stopping' ELSE 'running' END
        AS status
FROM queued AS q JOIN cases AS c ON c.case_no = q.case_no;

-- queues         one row per queue in which calls wait or run
--     waiting, running   how many
--     waiting_since      when the call that waits longest was commanded, NULL if none waits
--     workers            how many registered workers serve it; whether they live, `longcase workers` says
CREATE VIEW queues AS
SELECT
    queue, sum(worker = 0) AS waiting, sum(worker <> 0) AS running,
    min(CASE WHEN worker = 0 THEN since END) AS waiting_since,
    (SELECT count(*) FROM workers WHERE queued.queue IN (SELECT value FROM json_each(workers.queues))) AS workers
FROM queued GROUP BY queue;

-- running_attempts   one row per attempt that is recorded as running
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
  AND j.value ->> 'status' = 'running';
