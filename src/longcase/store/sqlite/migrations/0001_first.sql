-- The whole store of the first release: cases, their history, and what waits to become history.
-- Instants are text: UTC, ISO 8601 with microseconds and Z; text order is time order; '' is "none".
-- Every table is STRICT; foreign keys are on in every connection of ours.

-- One row per case: the folded state (I3), and below `-- operation` what lies outside the fold.
CREATE TABLE cases (
    case_no        INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused
    tenant         TEXT    NOT NULL,
    workflow       TEXT    NOT NULL,
    key            TEXT    NOT NULL CHECK (trim(key) <> ''), -- the business key (I12)
    uid            TEXT    NOT NULL,
    status         TEXT    NOT NULL CHECK (status IN ('open', 'closed')),
    stage          TEXT    NOT NULL,
    kind           TEXT    NOT NULL, -- stage | path
    visit          INTEGER NOT NULL,
    owner          TEXT    NOT NULL CHECK (owner <> ''), -- accountable, exactly one (I30)
    close_name     TEXT    NOT NULL,
    started_at     TEXT    NOT NULL,
    entered_at     TEXT    NOT NULL, -- the stage
    closed_at      TEXT    NOT NULL,
    expected_by    TEXT    NOT NULL, -- the case to close
    stage_expected TEXT    NOT NULL, -- the stage to end
    seq            INTEGER NOT NULL, -- of the newest event
    seen_seq       INTEGER NOT NULL, -- of the newest event that stage code can see (A2)
    at             TEXT    NOT NULL, -- of the newest event
    hash           BLOB    NOT NULL CHECK (length(hash) = 32), -- of the newest event: the chain's head
    wait_kind      TEXT    NOT NULL, -- the headline wait: incidents first, then the earliest expected
    wait_what      TEXT    NOT NULL,
    wait_whose     TEXT    NOT NULL,
    wait_since     TEXT    NOT NULL,
    wait_expected  TEXT    NOT NULL,
    wait_count     INTEGER NOT NULL,
    incident_count INTEGER NOT NULL,
    -- operation
    wake_at        TEXT    NOT NULL, -- when the case wants to be advanced
    lease          INTEGER NOT NULL, -- the worker incarnation that keeps it moving, 0 for none
    parent_case    INTEGER REFERENCES cases (case_no),
    -- last, because they are long
    object         TEXT    NOT NULL, -- the business object, JSON
    state          TEXT    NOT NULL  -- the rest of the folded state, JSON; empty fields are left out
) STRICT;
CREATE UNIQUE INDEX one_live_case_per_key ON cases (tenant, workflow, key) WHERE status = 'open';
CREATE INDEX cases_by_key ON cases (tenant, workflow, key);
CREATE INDEX cases_to_wake ON cases (wake_at, lease) WHERE wake_at <> '';
CREATE INDEX cases_leased ON cases (lease) WHERE lease <> 0;
CREATE INDEX cases_open ON cases (tenant, workflow, stage, wait_kind, wait_expected, entered_at) WHERE status = 'open';
CREATE INDEX cases_of_parent ON cases (parent_case) WHERE parent_case IS NOT NULL;

-- What happened, append-only, chained by hash (history/chain.py says what the hash covers). Kept in the order
-- of the commits, not clustered by case: a commit of many cases then fills a few pages instead of one each.
CREATE TABLE history (
    no        INTEGER PRIMARY KEY, -- the order of the commits, over all cases
    case_no   INTEGER NOT NULL REFERENCES cases (case_no),
    seq       INTEGER NOT NULL CHECK (seq > 0), -- 1, 2, 3 ... without a gap (I1)
    visit     INTEGER NOT NULL,
    type      TEXT    NOT NULL,
    version   INTEGER NOT NULL,
    at        TEXT    NOT NULL,
    actor     TEXT    NOT NULL CHECK (actor <> ''), -- I33
    on_behalf TEXT    NOT NULL,
    channel   TEXT    NOT NULL,
    cause     INTEGER, -- seq of the event that led to it
    map       INTEGER NOT NULL,
    node      TEXT    NOT NULL,
    n         INTEGER NOT NULL,
    strand    TEXT    NOT NULL,
    data      TEXT    NOT NULL, -- the payload, JSON, byte for byte what the digest is over
    salt      TEXT    NOT NULL,
    digest    BLOB    NOT NULL,
    hash      BLOB    NOT NULL CHECK (length(hash) = 32),
    UNIQUE (case_no, seq)
) STRICT;
CREATE INDEX history_visits ON history (case_no, visit, seq) WHERE type = 'stage_entered';
CREATE TRIGGER history_is_never_changed BEFORE UPDATE ON history
BEGIN
    SELECT raise(ABORT, 'history is append-only: an event is never changed (I2)');
END;
CREATE TRIGGER history_is_never_deleted BEFORE DELETE ON history
BEGIN
    SELECT raise(ABORT, 'history is append-only: an event is never deleted (I2)');
END;

-- Accepted inputs that no turn has applied yet. A row leaves in the transaction that puts it in history (I8).
CREATE TABLE inbox (
    no          INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of acceptance
    case_no     INTEGER NOT NULL REFERENCES cases (case_no),
    id          TEXT    NOT NULL, -- the sender's, so that a repeat is recognised
    type        TEXT    NOT NULL, -- of the event it will become
    data        TEXT    NOT NULL,
    actor       TEXT    NOT NULL,
    on_behalf   TEXT    NOT NULL,
    channel     TEXT    NOT NULL,
    accepted_at TEXT    NOT NULL,
    cause       INTEGER,
    UNIQUE (case_no, id)
) STRICT;

-- Questions to people, open and settled: a projection of the history, kept as long as it.
CREATE TABLE tasks (
    task_no     INTEGER PRIMARY KEY AUTOINCREMENT, -- how people address it
    case_no     INTEGER NOT NULL REFERENCES cases (case_no),
    task        TEXT    NOT NULL, -- its name in the case
    kind        TEXT    NOT NULL, -- approval | choice | task | require
    node        TEXT    NOT NULL,
    round       INTEGER NOT NULL,
    status      TEXT    NOT NULL, -- ready | reserved | decided | withdrawn
    question    TEXT    NOT NULL,
    of_team     TEXT    NOT NULL,
    whose       TEXT    NOT NULL, -- JSON list of who may answer now
    opened_at   TEXT    NOT NULL,
    expected_by TEXT    NOT NULL,
    next_due    TEXT    NOT NULL, -- the next reminder, escalation or expiry
    answer      TEXT    NOT NULL,
    decided_at  TEXT    NOT NULL,
    decided_by  TEXT    NOT NULL, -- JSON list
    data        TEXT    NOT NULL, -- the whole record, JSON
    UNIQUE (case_no, task)
) STRICT;
CREATE INDEX tasks_open ON tasks (of_team, expected_by) WHERE status IN ('ready', 'reserved');

-- Answers remembered under a sender's key (I9).
CREATE TABLE dedup (
    tenant  TEXT    NOT NULL,
    scope   TEXT    NOT NULL, -- the recipient
    key     TEXT    NOT NULL,
    body    TEXT    NOT NULL, -- digest: tells the same message from another under the same key
    answer  TEXT    NOT NULL, -- JSON
    case_no INTEGER REFERENCES cases (case_no),
    at      TEXT    NOT NULL,
    PRIMARY KEY (tenant, scope, key)
) STRICT, WITHOUT ROWID;

-- The last heartbeat of a running attempt, handed to the next one if this one is lost with its worker.
-- Not history: heartbeats are no events. The worker that kept or read a row removes it when the call is over;
-- one whose call ended elsewhere (a repair while no worker ran) stays, and is read by nobody.
CREATE TABLE heartbeats (
    case_no INTEGER NOT NULL REFERENCES cases (case_no),
    call    TEXT    NOT NULL,
    attempt INTEGER NOT NULL,
    details TEXT    NOT NULL, -- JSON
    at      TEXT    NOT NULL,
    PRIMARY KEY (case_no, call)
) STRICT, WITHOUT ROWID;

-- Worker incarnations. Each holds an OS lock on `lock_file`; a free lock is certain death.
CREATE TABLE workers (
    no         INTEGER PRIMARY KEY AUTOINCREMENT,
    host       TEXT    NOT NULL,
    pid        INTEGER NOT NULL,
    started_at TEXT    NOT NULL,
    beat_at    TEXT    NOT NULL,
    lock_file  TEXT    NOT NULL
) STRICT;

-- Maps by fingerprint: events name the map their place is on.
CREATE TABLE maps (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    workflow    TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    graph       TEXT NOT NULL, -- JSON
    first_seen  TEXT NOT NULL,
    UNIQUE (workflow, fingerprint)
) STRICT;
CREATE TABLE map_nodes (
    map  INTEGER NOT NULL REFERENCES maps (number),
    node TEXT    NOT NULL,
    PRIMARY KEY (map, node)
) STRICT, WITHOUT ROWID;

-- Facts of the store itself: history format, the epoch and factor of a scaled clock.
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL -- JSON
) STRICT, WITHOUT ROWID;
INSERT INTO settings (name, value) VALUES ('history_format', '1');
