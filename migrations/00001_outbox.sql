-- +goose Up

-- One row per event that is committed and not yet acknowledged by JetStream. Rows are inserted after the row of their
-- aggregate was locked or bumped, so id order is commit order per aggregate; the relay deletes what was acknowledged.
CREATE TABLE outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id    uuid        NOT NULL UNIQUE,
    aggregate   text        NOT NULL,
    version     bigint      NOT NULL CHECK (version > 0),
    subject     text        NOT NULL,
    body        bytea       NOT NULL,
    traceparent text        NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (aggregate, version)
) WITH (
    -- A queue is all churn: vacuum by count, not by share, or the relay walks dead index entries at the head.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- +goose Down
DROP TABLE outbox;
