-- +goose Up

-- An invitation belongs to one workspace. Its address is spelled as the inviter typed it. The row is deleted when the
-- invitation is accepted, declined, withdrawn or expired; the version counts its events.
CREATE TABLE invitations (
    id           uuid PRIMARY KEY,
    workspace_id uuid        NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    email        text        NOT NULL CHECK (email <> '' AND length(email) <= 320),
    role         text        NOT NULL CHECK (role IN ('OWNER', 'ADMIN', 'MEMBER')),
    invited_by   uuid        REFERENCES users ON DELETE SET NULL, -- NULL: not known
    version      bigint      NOT NULL DEFAULT 1,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL DEFAULT now() + interval '30 days'
);
CREATE UNIQUE INDEX invitations_address_key ON invitations (workspace_id, lower(email));
CREATE INDEX invitations_email_idx ON invitations (lower(email));
CREATE INDEX invitations_inviter_idx ON invitations (invited_by);
CREATE INDEX invitations_expiry_idx ON invitations (expires_at);

-- How many invitations the workspace has sent on its newest day (UTC) with one. Rows of invitations can't tell: they go.
ALTER TABLE workspaces
    ADD COLUMN invitations_day  date,
    ADD COLUMN invitations_sent integer NOT NULL DEFAULT 0;

-- Until now an invited address was a row of users that all workspaces shared, and a row of workspace_members.
INSERT INTO invitations (id, workspace_id, email, role, created_at)
SELECT gen_random_uuid(), m.workspace_id, u.email, m.role, m.joined_at
FROM workspace_members m JOIN users u ON u.id = m.user_id
WHERE u.google_id IS NULL AND u.disabled_at IS NULL;
DELETE FROM users WHERE google_id IS NULL; -- their memberships go with them
ALTER TABLE users ALTER COLUMN google_id SET NOT NULL;

-- +goose Down
ALTER TABLE users ALTER COLUMN google_id DROP NOT NULL;
INSERT INTO users (id, email)
SELECT DISTINCT ON (lower(email)) id, email FROM invitations
ON CONFLICT (lower(email)) DO NOTHING;
INSERT INTO workspace_members (workspace_id, user_id, role, joined_at)
SELECT i.workspace_id, u.id, i.role, i.created_at
FROM invitations i JOIN users u ON lower(u.email) = lower(i.email)
WHERE u.google_id IS NULL; -- users who have signed in can't be invited there
ALTER TABLE workspaces
    DROP COLUMN invitations_day,
    DROP COLUMN invitations_sent;
DROP TABLE invitations;
