-- +goose Up

-- What NATS alone holds, copied within milliseconds (package backup): fdc migrate puts it back when NATS has lost its data. A stream is
-- known by the time of its creation: rows of another one than the present are of a stream that was lost.
CREATE TABLE stream_backup (
    stream       text        NOT NULL,
    created      timestamptz NOT NULL, -- the stream
    sequence     bigint      NOT NULL CHECK (sequence >= 1),
    subject      text        NOT NULL,
    headers      jsonb       NOT NULL, -- a list of values each
    body         bytea       NOT NULL,
    published_at timestamptz NOT NULL,
    PRIMARY KEY (stream, created, sequence)
);

-- +goose Down
DROP TABLE stream_backup;
