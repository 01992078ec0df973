-- Keeping and purging: receipts of exports, the tombstones of purged cases, and the rule that only a purge deletes.

-- A file that was written with closed cases in it, and proven to hold them.
CREATE TABLE exports (
    export_no INTEGER PRIMARY KEY AUTOINCREMENT,
    file      TEXT    NOT NULL, -- as it was named; where it is kept is its owner's affair
    digest    BLOB    NOT NULL CHECK (length(digest) = 32), -- SHA-256 of its bytes
    cases     INTEGER NOT NULL,
    events    INTEGER NOT NULL,
    at        TEXT    NOT NULL,
    actor     TEXT    NOT NULL CHECK (actor <> '')
) STRICT;

-- The newest export that holds a case. A case that got another event since has to be exported again.
CREATE TABLE exported_cases (
    case_no   INTEGER PRIMARY KEY REFERENCES cases (case_no),
    export_no INTEGER NOT NULL REFERENCES exports (export_no),
    events    INTEGER NOT NULL, -- how long the history was
    hash      BLOB    NOT NULL CHECK (length(hash) = 32) -- of its newest event
) STRICT;

-- What is left of a purged case. Written in the transaction that deletes it, and before: see the triggers.
CREATE TABLE tombstones (
    case_no     INTEGER PRIMARY KEY, -- never given to another case
    tenant      TEXT    NOT NULL,
    workflow    TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    uid         TEXT    NOT NULL,
    close_name  TEXT    NOT NULL,
    started_at  TEXT    NOT NULL,
    closed_at   TEXT    NOT NULL,
    events      INTEGER NOT NULL,
    hash        BLOB    NOT NULL CHECK (length(hash) = 32), -- of the newest event: the chain's head
    parent_case INTEGER,
    export_no   INTEGER NOT NULL REFERENCES exports (export_no),
    purged_at   TEXT    NOT NULL,
    actor       TEXT    NOT NULL CHECK (actor <> ''),
    reason      TEXT    NOT NULL
) STRICT;
CREATE INDEX tombstones_by_key ON tombstones (tenant, workflow, key);

-- A tombstone is for a closed case that stands in an export as it is now; it is for ever.
CREATE TRIGGER a_tombstone_needs_an_export BEFORE INSERT ON tombstones
WHEN NOT EXISTS (
    SELECT 1 FROM cases JOIN exported_cases USING (case_no)
    WHERE cases.case_no = NEW.case_no AND cases.status = 'closed' AND cases.seq = NEW.events
      AND cases.hash = NEW.hash AND exported_cases.hash = NEW.hash AND exported_cases.export_no = NEW.export_no
)
BEGIN
    SELECT raise(ABORT, 'only a closed case that was exported as it is now may be purged (I2)');
END;
CREATE TRIGGER a_tombstone_is_never_changed BEFORE UPDATE ON tombstones
BEGIN
    SELECT raise(ABORT, 'a tombstone is never changed (I2)');
END;
CREATE TRIGGER a_tombstone_is_never_deleted BEFORE DELETE ON tombstones
BEGIN
    SELECT raise(ABORT, 'a tombstone is never deleted (I2)');
END;

-- Replaces the one of the first schema: events go only with their case, under its tombstone.
DROP TRIGGER history_is_never_deleted;
CREATE TRIGGER history_is_never_deleted BEFORE DELETE ON history
WHEN NOT EXISTS (SELECT 1 FROM tombstones WHERE tombstones.case_no = OLD.case_no)
BEGIN
    SELECT raise(ABORT, 'history is append-only: an event is deleted only by the purge of its case (I2)');
END;

CREATE INDEX cases_closed ON cases (tenant, workflow, closed_at) WHERE status = 'closed';
CREATE INDEX dedup_of_case ON dedup (case_no); -- or the purge of a case would read every key ever sent

-- purged         one row per case that was purged: all that is left of it
--     uid            the case's identity, stable over exports
--     closed_as, started_at, closed_at    as the case had them
--     events, hash   how long its history was, and the head of its chain, hex
--     parent_case    the case that had started it, if one did
--     purged_at, by, reason               when, who, why
--     export, file, digest    the export that holds it: its number, the file as it was named, the SHA-256 of the file
CREATE VIEW purged AS
SELECT
    t.case_no, t.tenant, t.workflow, t.key, t.uid, t.close_name AS closed_as, t.started_at, t.closed_at, t.events,
    lower(hex(t.hash)) AS hash, t.parent_case, t.purged_at, t.actor AS by, t.reason,
    t.export_no AS export, e.file, lower(hex(e.digest)) AS digest
FROM tombstones AS t JOIN exports AS e ON e.export_no = t.export_no;

-- retention      one row per closed case that is kept: what a purge looks at
--     closed_as, closed_at, events    as the case has them
--     export, file, exported_at       the export that holds it as it is now, NULL if none does
--     newest_key_at  when a message under a sender's key was last accepted for it, NULL if none was
--     held_by        what refers to it or still moves it, so that it may not go; NULL if nothing does
CREATE VIEW retention AS
SELECT
    c.case_no, c.tenant, c.workflow, c.key, c.close_name AS closed_as, c.closed_at, c.seq AS events,
    e.export_no AS export, e.file, e.at AS exported_at,
    (SELECT max(dedup.at) FROM dedup WHERE dedup.case_no = c.case_no) AS newest_key_at,
    CASE
        WHEN EXISTS (SELECT 1 FROM inbox WHERE inbox.case_no = c.case_no) THEN 'an accepted input that is not applied'
        WHEN c.wake_at <> '' THEN 'a turn that is due'
        WHEN c.lease IN (SELECT no FROM workers) THEN 'worker ' || c.lease || ', which moves it'
        WHEN EXISTS (
            SELECT 1 FROM json_each(c.state, '$.calls') AS j WHERE j.value ->> 'worker' IN (SELECT no FROM workers)
        ) THEN 'an attempt that runs'
        WHEN EXISTS (SELECT 1 FROM cases AS p WHERE p.case_no = c.parent_case AND p.status = 'open')
            THEN 'its parent, which is open'
        WHEN EXISTS (SELECT 1 FROM cases AS k WHERE k.parent_case = c.case_no AND k.status = 'open')
            THEN 'a child, which is open'
        WHEN EXISTS (SELECT 1 FROM cases AS k WHERE k.parent_case = c.case_no) THEN 'a child, which is kept'
        WHEN EXISTS (
            SELECT 1 FROM cases AS o
            WHERE o.tenant = c.tenant AND o.workflow = c.workflow AND o.key = c.key AND o.case_no < c.case_no
        ) THEN 'an older case of its key, which is kept'
    END AS held_by
FROM cases AS c
LEFT JOIN exported_cases AS x ON x.case_no = c.case_no AND x.hash = c.hash
LEFT JOIN exports AS e ON e.export_no = x.export_no
WHERE c.status = 'closed';

-- receipts       one row per export
--     export, file, digest    its number, the file as it was named, the SHA-256 of the file
--     cases, events  how many it holds
--     at, by         when, who
CREATE VIEW receipts AS
SELECT export_no AS export, file, lower(hex(digest)) AS digest, cases, events, at, actor AS by FROM exports;
