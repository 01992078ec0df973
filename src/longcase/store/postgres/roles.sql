-- Roles with least rights for a Longcase store in PostgreSQL: what each part may do, and nothing else.
--
--     longcase_owner      owns the tables: `longcase migrate`, `keep` and `rebuild` run as it; no worker does
--     longcase_worker     moves cases: no UPDATE or DELETE on history, no deletion of a case, no DDL
--     longcase_api        accepts starts, signals, decisions and repairs; runs no activity, takes nothing from an inbox
--     longcase_reader     the documented views, nothing else: reports and dashboards, which ask with SQL
--     longcase_viewer     every table, to read: `longcase list`, `show`, `history`, `verify`, `doctor`; writes nothing
--     longcase_retention  exports and purges closed cases; starts, moves and changes none
--
-- They are groups without a login. Give each process a login of its own and make it a member of one of them:
--     CREATE ROLE worker_1 LOGIN PASSWORD '...' IN ROLE longcase_worker;
--
-- Run it as the owner of the database or a superuser, in the store's database, after every `longcase migrate`;
-- it may be run any number of times:
--     longcase migrate --roles | psql -v ON_ERROR_STOP=1 DATABASE
BEGIN;

DO $$
DECLARE
    part text;
BEGIN
    FOREACH part IN ARRAY ARRAY['owner', 'worker', 'api', 'reader', 'viewer', 'retention'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', 'longcase_' || part);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- roles belong to the server: another store of it has made them
        END;
    END LOOP;
END
$$;

-- Everything in the schema is the owner's; nobody else makes or changes a table.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CREATE, USAGE ON SCHEMA public TO longcase_owner;
GRANT USAGE ON SCHEMA public
    TO longcase_worker, longcase_api, longcase_reader, longcase_viewer, longcase_retention;
DO $$
DECLARE
    thing record;
BEGIN
    FOR thing IN
        SELECT format('ALTER TABLE %I OWNER TO longcase_owner', relname) AS command
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')
        UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO longcase_owner', oid::regprocedure)
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace
          AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e') -- of an extension
        UNION ALL
        -- A trigger means the store's tables: a temporary one of the same name would be found first.
        SELECT format('ALTER FUNCTION %s SET search_path = public, pg_temp', oid::regprocedure)
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prorettype = 'trigger'::regtype
          AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
    LOOP
        EXECUTE thing.command;
    END LOOP;
END
$$;
REVOKE ALL ON ALL TABLES IN SCHEMA public
    FROM PUBLIC, longcase_worker, longcase_api, longcase_reader, longcase_viewer, longcase_retention;

-- What those who open a store read.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO longcase_worker, longcase_api, longcase_viewer, longcase_retention;

-- A worker: turns, attempts, children, leases, its own incarnation.
GRANT INSERT ON history, dedup, maps, map_nodes TO longcase_worker;
GRANT INSERT, UPDATE ON cases, tasks TO longcase_worker;
GRANT INSERT, DELETE ON inbox TO longcase_worker;
GRANT INSERT, UPDATE, DELETE ON heartbeats, workers, declined, queued, queue_rates, queue_tenants TO longcase_worker;

GRANT USAGE ON SEQUENCE cases_case_no_seq TO longcase_worker, longcase_api; -- a case's number is drawn before its row

-- The door: starts, inputs, votes, repairs. An answer to a task changes the case's row and the task at once.
GRANT INSERT ON history, inbox, dedup TO longcase_api;
GRANT INSERT, UPDATE ON cases, tasks TO longcase_api;
GRANT UPDATE (host) ON workers TO longcase_api; -- so that it may lock the row of the worker that holds a case

-- The reader: the views, and no table.
DO $$
DECLARE
    thing record;
BEGIN
    FOR thing IN SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'v' LOOP
        EXECUTE format('GRANT SELECT ON %I TO longcase_reader', thing.relname);
    END LOOP;
END
$$;

-- Retention. The triggers of the schema hold that only closed and exported cases go, each under its tombstone.
GRANT INSERT ON exports, tombstones TO longcase_retention;
GRANT INSERT, UPDATE, DELETE ON exported_cases TO longcase_retention;
GRANT DELETE ON cases, history, tasks, dedup, heartbeats TO longcase_retention;
GRANT UPDATE (revision) ON cases TO longcase_retention; -- so that it may lock the rows it looks at

COMMIT;
