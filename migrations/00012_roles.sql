-- +goose Up

-- Roles to grant to logins: fdc_app for the services api, syncer and cache-invalidator, fdc_auditor for people who read the
-- audit log. fdc migrate gives them their rights after every change of the schema. Roles belong to the cluster: another database
-- of it may have made them, or be making them right now. Who may make none goes without, as the owner.
-- +goose StatementBegin
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['fdc_app', 'fdc_auditor'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN RAISE NOTICE 'role % is not made: no right to make roles', name;
        END;
    END LOOP;
END $$;
-- +goose StatementEnd

-- What has become of months that went to the archive, one row per manifest; the newest of a month counts.
CREATE TABLE audit_archives (
    sequence    bigint      PRIMARY KEY CHECK (sequence >= 1), -- of the chain of manifests
    month       text        NOT NULL CHECK (month ~ '^\d{4}-(0[1-9]|1[0-2])$'),
    manifest    bytea       NOT NULL, -- as it was signed
    signature   bytea       NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT now(),
    restored_at timestamptz, -- the month is back; NULL again when it goes anew
    dropped_at  timestamptz  -- its table is no more
);
CREATE INDEX audit_archives_month_idx ON audit_archives (month, sequence DESC);

-- +goose Down
DROP TABLE audit_archives;
