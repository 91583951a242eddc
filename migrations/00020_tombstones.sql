-- +goose Up

-- Deleted tasks: those of a workspace in the order of their pages, to push deletions, and all by age, to remove them in the end.
CREATE INDEX tasks_deleted_idx ON tasks (workspace_id, id) WHERE deleted_at IS NOT NULL;
CREATE INDEX tasks_tombstone_idx ON tasks (deleted_at, id) WHERE deleted_at IS NOT NULL;

-- Pruning goes on after the last job that it looked at.
DROP INDEX sync_jobs_ended_idx;
CREATE INDEX sync_jobs_ended_idx ON sync_jobs (completed_at, id) WHERE completed_at IS NOT NULL;

-- +goose Down
DROP INDEX sync_jobs_ended_idx;
CREATE INDEX sync_jobs_ended_idx ON sync_jobs (completed_at) WHERE completed_at IS NOT NULL;
DROP INDEX tasks_tombstone_idx;
DROP INDEX tasks_deleted_idx;
