-- +goose Up

-- Google's promises to tell of changes in a calendar (events.watch). A row is made before Google is asked, so that none is open that
-- nobody knows of; resource_id is empty until Google has said it. A refused one keeps FDC from asking again until it expires.
-- The channel's token is not here: it is sealed for the channel and says whose it is. key_version is the key's.
CREATE TABLE google_channels (
    id           uuid PRIMARY KEY,
    user_id      uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    calendar_id  text        NOT NULL,
    state        text        NOT NULL DEFAULT 'opening' CHECK (state IN ('opening', 'open', 'refused')),
    resource_id  text        NOT NULL DEFAULT '',
    key_version  text        NOT NULL,
    last_message bigint      NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL
);
CREATE INDEX google_channels_user_idx ON google_channels (user_id, calendar_id);

-- +goose Down
DROP TABLE google_channels;
