-- +goose Up

-- One role per service. Give each a password and LOGIN, or grant it to a login. fdc migrate gives them their rights after every change
-- of the schema (see rights.go), and the ownership of the audit log to fdc_audit_archiver; who hands it over must be a member of it.
-- Roles belong to the cluster: another database of it may have made them. Who may make none goes without, as the owner.
-- fdc_app, for all services but the audit-archiver, stays for the logins that have it.
-- +goose StatementBegin
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['fdc_api', 'fdc_syncer', 'fdc_cache_invalidator', 'fdc_audit_archiver'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN RAISE NOTICE 'role % is not made: no right to make roles', name;
        END;
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'fdc_audit_archiver') AND NOT pg_has_role('fdc_audit_archiver', 'USAGE') THEN
        BEGIN
            GRANT fdc_audit_archiver TO CURRENT_USER;
        EXCEPTION
            WHEN insufficient_privilege THEN RAISE NOTICE 'fdc_audit_archiver is not granted to %', current_user;
        END;
    END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
SELECT 1; -- roles belong to the cluster, and other databases of it may use them
