-- +goose Up

-- The process that holds the lease asks Google for new tokens, without a transaction. What it gets is stored only while the lease is
-- its own and the account is of the version that it read.
ALTER TABLE google_accounts
    ADD COLUMN refresh_lease uuid,
    ADD COLUMN refresh_until timestamptz;

-- +goose Down
ALTER TABLE google_accounts DROP COLUMN refresh_lease, DROP COLUMN refresh_until;
