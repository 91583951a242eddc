-- +goose Up

-- When the user of a session last signed in with Google again during the session. NULL: not since the sign-in, at created_at.
ALTER TABLE sessions ADD COLUMN reauthenticated_at timestamptz;

-- +goose Down
ALTER TABLE sessions DROP COLUMN reauthenticated_at;
