-- +goose Up

-- role_epoch counts the changes of a user's roles, the system's and those in workspaces. A session whose role_epoch is behind
-- has a token from before such a change, and gets a new one.
ALTER TABLE users ADD COLUMN role_epoch bigint NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN role_epoch bigint NOT NULL DEFAULT 0;

-- The tokens that sessions had before. They stay until the session's row goes: whoever ends the session has to withdraw all
-- of them from the cache.
CREATE TABLE replaced_tokens (
    token_hash  bytea PRIMARY KEY CHECK (length(token_hash) = 32),
    session_id  uuid        NOT NULL REFERENCES sessions ON DELETE CASCADE,
    replaced_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX replaced_tokens_session_idx ON replaced_tokens (session_id);

-- +goose Down
DROP TABLE replaced_tokens;
ALTER TABLE sessions DROP COLUMN role_epoch;
ALTER TABLE users DROP COLUMN role_epoch;
