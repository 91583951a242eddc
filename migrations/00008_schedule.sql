-- +goose Up

-- When each user is synced next without asking. It is a table of its own so that the end of a job, which holds the job's row,
-- needs no lock that a disconnect takes first.
CREATE TABLE sync_schedules (
    user_id uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    next_at timestamptz NOT NULL
);
CREATE INDEX sync_schedules_due_idx ON sync_schedules (next_at);

INSERT INTO sync_schedules (user_id, next_at)
SELECT g.user_id, now() + coalesce(s.interval_minutes, 15) * interval '1 minute' * random()
FROM google_accounts g LEFT JOIN sync_settings s USING (user_id)
WHERE g.state = 'connected' AND coalesce(s.auto_sync, true);

-- Somebody waits for what a user asked for; the others come after it.
DROP INDEX sync_jobs_claim_idx;
CREATE INDEX sync_jobs_claim_idx ON sync_jobs ((trigger <> 'user'), previous_start NULLS FIRST, id)
    WHERE status = 'pending';
CREATE INDEX sync_jobs_ended_idx ON sync_jobs (completed_at) WHERE completed_at IS NOT NULL;

-- +goose Down
DROP INDEX sync_jobs_ended_idx;
DROP INDEX sync_jobs_claim_idx;
CREATE INDEX sync_jobs_claim_idx ON sync_jobs (previous_start NULLS FIRST, id) WHERE status = 'pending';
DROP TABLE sync_schedules;
