-- +goose Up

-- A job that its user has told to delete here whatever Google lists no more, however much that is.
ALTER TABLE sync_jobs ADD COLUMN force boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE sync_jobs DROP COLUMN force;
