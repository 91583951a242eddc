-- +goose Up

-- What was sent to Google as the task's new state, until its answer is known: a change whose answer was lost is ours when it turns up
-- there, and no edit of its user's.
ALTER TABLE google_task_links ADD COLUMN sent jsonb;

-- +goose Down
ALTER TABLE google_task_links DROP COLUMN sent;
