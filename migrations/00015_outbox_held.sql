-- +goose Up

-- An event stays in the outbox until the audit log has it, so that a stream that lost its data can be given again what is
-- written nowhere else: sequence is the event's in the stream, and stream when that stream was created, which is what tells two
-- streams of one name apart. Both are NULL until the event is published.
ALTER TABLE outbox
    ADD COLUMN sequence bigint,
    ADD COLUMN stream   timestamptz,
    ADD CONSTRAINT outbox_published_check CHECK ((sequence IS NULL) = (stream IS NULL)),
    SET (fillfactor = 50); -- each row is updated once, in place as long as its page has room

-- +goose Down
ALTER TABLE outbox
    DROP COLUMN sequence,
    DROP COLUMN stream,
    RESET (fillfactor);
