-- +goose Up

-- Deleted tasks stay as tombstones until every Google link has heard of it.
CREATE TABLE tasks (
    id           uuid PRIMARY KEY,
    workspace_id uuid        NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    title        text        NOT NULL CHECK (length(title) <= 1024),
    notes        text        NOT NULL DEFAULT '' CHECK (length(notes) <= 8192),
    status       text        NOT NULL DEFAULT 'todo' CHECK (status IN ('todo', 'done')),
    due_date     date,
    start_at     timestamptz,
    end_at       timestamptz,
    time_zone    text        NOT NULL DEFAULT '',
    suit         text        NOT NULL DEFAULT 'unclassified'
                 CHECK (suit IN ('spade', 'heart', 'diamond', 'club', 'joker', 'unclassified')),
    version      bigint      NOT NULL DEFAULT 1,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    deleted_at   timestamptz,
    CHECK (end_at IS NULL OR (start_at IS NOT NULL AND end_at > start_at))
);
-- Ids are UUIDv7, so id order is creation order and one index serves the keyset pages.
CREATE INDEX tasks_workspace_idx ON tasks (workspace_id, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_changed_idx ON tasks (workspace_id, updated_at);

-- +goose Down
DROP TABLE tasks;
