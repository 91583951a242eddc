-- +goose Up

-- fdc explain asks for all that one request caused. Most requests cause nothing, and background work has none.
CREATE INDEX audit_logs_request_idx ON audit_logs (request_id) WHERE request_id <> '';

-- +goose Down
DROP INDEX audit_logs_request_idx;
