-- What was sent over a line that broke may reach the server late: it is told from what was sent after that.
-- workers first: turns name it before queued, and wait for it here holding nothing that this waits for.

-- Turns are refused that name a smaller fence: they were sent before the worker's process lost a connection.
ALTER TABLE workers ADD COLUMN fence bigint NOT NULL DEFAULT 0;

-- Which taking from the queue a claim is of, by its number in the worker's process: giving back an earlier one does
-- not end it.
ALTER TABLE queued ADD COLUMN claim bigint NOT NULL DEFAULT 0;
