-- +goose Up

CREATE TABLE workspaces (
    id         uuid PRIMARY KEY,
    name       text        NOT NULL CHECK (name <> '' AND length(name) <= 200),
    version    bigint      NOT NULL DEFAULT 1,
    created_by uuid        NOT NULL REFERENCES users,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE workspace_members (
    workspace_id uuid        NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    user_id      uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    role         text        NOT NULL CHECK (role IN ('OWNER', 'ADMIN', 'MEMBER')),
    joined_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace_id, user_id)
);
CREATE INDEX workspace_members_user_idx ON workspace_members (user_id);

-- The document has its own version: it starts at 0 and counts the writes.
CREATE TABLE workspace_data (
    workspace_id  uuid PRIMARY KEY REFERENCES workspaces ON DELETE CASCADE,
    data          jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(data) = 'object'),
    version       bigint      NOT NULL DEFAULT 0,
    last_modified timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE workspace_data;
DROP TABLE workspace_members;
DROP TABLE workspaces;
