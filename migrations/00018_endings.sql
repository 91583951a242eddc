-- +goose Up

-- A deleted workspace has no members: they are former_members until an OWNER restores it, or purge_at, when it is deleted for good.
ALTER TABLE workspaces
    ADD COLUMN deleted_at timestamptz,
    ADD COLUMN purge_at   timestamptz,
    ADD CONSTRAINT workspaces_deleted_check CHECK ((deleted_at IS NULL) = (purge_at IS NULL)),
    ALTER COLUMN created_by DROP NOT NULL,
    DROP CONSTRAINT workspaces_created_by_fkey,
    ADD CONSTRAINT workspaces_created_by_fkey FOREIGN KEY (created_by) REFERENCES users ON DELETE SET NULL;
CREATE INDEX workspaces_purge_idx ON workspaces (purge_at) WHERE purge_at IS NOT NULL;
CREATE INDEX workspaces_creator_idx ON workspaces (created_by);

CREATE TABLE former_members (
    workspace_id uuid        NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    user_id      uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    role         text        NOT NULL CHECK (role IN ('OWNER', 'ADMIN', 'MEMBER')),
    joined_at    timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, user_id)
);
CREATE INDEX former_members_user_idx ON former_members (user_id);

-- The row of an erased user holds nothing of the person. It stays for an hour, for those who look up its sessions by late events.
ALTER TABLE users ADD COLUMN erased_at timestamptz;
CREATE INDEX users_erased_idx ON users (erased_at) WHERE erased_at IS NOT NULL;

-- +goose Down
ALTER TABLE users DROP COLUMN erased_at;
DROP TABLE former_members;
DELETE FROM workspaces WHERE deleted_at IS NOT NULL OR created_by IS NULL;
DROP INDEX workspaces_creator_idx;
ALTER TABLE workspaces
    DROP COLUMN deleted_at,
    DROP COLUMN purge_at,
    ALTER COLUMN created_by SET NOT NULL,
    DROP CONSTRAINT workspaces_created_by_fkey,
    ADD CONSTRAINT workspaces_created_by_fkey FOREIGN KEY (created_by) REFERENCES users;
