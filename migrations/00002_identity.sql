-- +goose Up

-- A user without google_id was invited by email and has not signed in yet.
CREATE TABLE users (
    id          uuid PRIMARY KEY,
    email       text        NOT NULL CHECK (email <> '' AND length(email) <= 320),
    name        text        NOT NULL DEFAULT '',
    google_id   text        UNIQUE,
    system_role text        NOT NULL DEFAULT 'USER' CHECK (system_role IN ('SA', 'USER')),
    version     bigint      NOT NULL DEFAULT 1,
    disabled_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_email_key ON users (lower(email));

-- token_hash is the SHA-256 of the cookie's token; the token itself is never stored.
CREATE TABLE sessions (
    id            uuid PRIMARY KEY,
    user_id       uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    token_hash    bytea       NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    version       bigint      NOT NULL DEFAULT 1,
    ip            text        NOT NULL DEFAULT '',
    user_agent    text        NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,
    revoked_at    timestamptz
);
CREATE INDEX sessions_user_idx ON sessions (user_id, created_at DESC);
CREATE INDEX sessions_expiry_idx ON sessions (expires_at);

-- +goose Down
DROP TABLE sessions;
DROP TABLE users;
