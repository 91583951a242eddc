-- +goose Up

-- Accesses to Google that have ended here and are still to be revoked there. The row is written in the transaction that ends the
-- access, and a syncer deletes it when Google has answered. It may outlive its user. Tokens are sealed as in google_accounts.
CREATE TABLE google_revocations (
    id                uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id           uuid        NOT NULL,
    google_id         text        NOT NULL,
    access_token      bytea,
    refresh_token     bytea,
    access_expires_at timestamptz,
    channels          jsonb       NOT NULL DEFAULT '[]',
    attempt           integer     NOT NULL DEFAULT 0,
    next_at           timestamptz NOT NULL DEFAULT now(),
    created_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX google_revocations_due_idx ON google_revocations (next_at);
CREATE INDEX google_revocations_google_idx ON google_revocations (google_id);

-- Until now, disabling a user left their access to Google as it was.
INSERT INTO google_revocations (user_id, google_id, access_token, refresh_token, access_expires_at)
SELECT g.user_id, g.google_id, g.access_token, g.refresh_token, g.access_expires_at
FROM google_accounts g JOIN users u ON u.id = g.user_id
WHERE u.disabled_at IS NOT NULL AND coalesce(g.refresh_token, g.access_token) IS NOT NULL;
UPDATE google_accounts g
SET state = 'disconnected', scopes = '{}', access_token = NULL, refresh_token = NULL, access_expires_at = NULL, version = g.version + 1
FROM users u WHERE u.id = g.user_id AND u.disabled_at IS NOT NULL AND g.state <> 'disconnected';

-- +goose Down
DROP TABLE google_revocations;
