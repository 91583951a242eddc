-- +goose Up

-- One row per event, every column a function of the event alone. The key starts with the partition key, so an event
-- delivered twice meets its own row. No default partition: it would block DETACH CONCURRENTLY.
CREATE TABLE audit_logs (
    event_id     uuid        NOT NULL,
    occurred_at  timestamptz NOT NULL,
    workspace_id uuid,
    actor_id     text        NOT NULL,
    user_id      uuid,
    action       text        NOT NULL,
    target_type  text        NOT NULL,
    target_id    text        NOT NULL,
    request_id   text        NOT NULL DEFAULT '',
    ip           text        NOT NULL DEFAULT '',
    user_agent   text        NOT NULL DEFAULT '',
    result       text        NOT NULL,
    changes      jsonb       NOT NULL,
    PRIMARY KEY (occurred_at, event_id)
) PARTITION BY RANGE (occurred_at);
CREATE INDEX audit_logs_time_idx ON audit_logs USING brin (occurred_at);
CREATE INDEX audit_logs_workspace_idx ON audit_logs (workspace_id, occurred_at DESC, event_id DESC);
CREATE INDEX audit_logs_actor_idx ON audit_logs (actor_id, occurred_at DESC);

-- +goose Down
DROP TABLE audit_logs;
