-- Which taking from the queue a claim is of, by its number in the worker's process: giving back an earlier one does
-- not end it.
ALTER TABLE queued ADD COLUMN claim INTEGER NOT NULL DEFAULT 0;
