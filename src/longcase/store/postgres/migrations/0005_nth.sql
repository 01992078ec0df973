-- A case is numbered within its key, so that two that are begun at once under one key never both land, also if
-- the first is closed before the second is written: no lock of the key is needed (decision 0011).
ALTER TABLE cases ADD COLUMN nth bigint NOT NULL DEFAULT 1; -- 1 for the first case of its key, then one more each time
UPDATE cases SET nth = o.nth
FROM (SELECT case_no, row_number() OVER (PARTITION BY tenant, workflow, key ORDER BY case_no) AS nth FROM cases) AS o
WHERE o.case_no = cases.case_no AND o.nth > 1;
DROP INDEX cases_by_key;
CREATE UNIQUE INDEX cases_by_key ON cases (tenant, workflow, key, nth);
