package migrations

import (
	"fmt"
	"strings"
)

// Roles of PostgreSQL. Each service has one. App is the services' common role of earlier releases; Auditor is for people who read
// the audit log.
const (
	API              = "fdc_api"
	Syncer           = "fdc_syncer"
	CacheInvalidator = "fdc_cache_invalidator"
	AuditArchiver    = "fdc_audit_archiver"
	App              = "fdc_app"
	Auditor          = "fdc_auditor"
)

// RoleOf returns the role of a service, such as fdc_audit_archiver for audit-archiver.
func RoleOf(service string) string { return "fdc_" + strings.ReplaceAll(service, "-", "_") }

// Verbs are the letters of Rights.
//
// L allows the locks of SELECT … FOR KEY SHARE on workspace_members and no change that matters: PostgreSQL wants UPDATE of at least
// one column for a lock, and nothing depends on joined_at but the order of lists.
var Verbs = map[rune]string{'S': "SELECT", 'I': "INSERT", 'U': "UPDATE", 'D': "DELETE", 'L': "UPDATE (joined_at)"}

// Table declares what each role may do with a table: letters of Verbs. The owner may do everything.
type Table struct {
	Name                                         string
	API, Syncer, CacheInvalidator, AuditArchiver string
	App, Auditor                                 string
}

// Tables declares every table of the schema but the months of audit_logs, which need no rights of their own: they are read and
// written through audit_logs. Add a line with each new table; a test fails until it is there, and `fdc migrate` grants what it says.
// SELECT … FOR UPDATE or FOR SHARE, and ON CONFLICT DO UPDATE, need U.
var Tables = []Table{
	//  table                api     syncer  invalidator archiver app auditor
	{"audit_archives", "S", "", "", "SIU", "S", "S"},
	{"audit_logs", "S", "", "", owner, "S", "S"},
	{"calendar_events", "SIUD", "SIUD", "", "", "SIUD", ""},
	{"former_members", "SIUD", "", "", "", "SIUD", ""},
	{"goose_db_version", "S", "S", "S", "S", "S", ""},
	{"google_accounts", "SIUD", "SIU", "S", "", "SIUD", ""},
	{"google_channels", "SIUD", "SIUD", "", "", "SIUD", ""},
	{"google_revocations", "SIUD", "SIUD", "", "", "SIUD", ""},
	{"google_task_links", "SIUD", "SIUD", "", "", "SIUD", ""},
	{"invitations", "SIUD", "", "", "", "SIUD", ""},
	{"outbox", "SIUD", "SI", "", "SI", "SIUD", ""},
	{"replaced_tokens", "SIUD", "", "S", "", "SIUD", ""},
	{"sessions", "SIUD", "", "S", "", "SIUD", ""},
	{"stream_backup", "SD", "", "", "SIUD", "SIUD", ""},
	{"sync_jobs", "SIUD", "SIUD", "", "", "SIUD", ""},
	{"sync_schedules", "SIUD", "SIUD", "", "", "SIUD", ""},
	{"sync_settings", "SIUD", "SIU", "", "", "SIUD", ""},
	{"sync_state", "SIUD", "SIUD", "", "", "SIUD", ""},
	{"tasks", "SIUD", "SIUD", "", "", "SIUD", ""},
	{"users", "SIUD", "S", "S", "", "SIUD", ""},
	{"workspace_data", "SIUD", "", "S", "", "SIUD", ""},
	{"workspace_members", "SIUD", "SL", "S", "", "SIUD", ""},
	{"workspaces", "SIUD", "S", "S", "", "SIUD", ""},
}

// owner are the verbs of the role that owns the audit log.
const owner = "SIUD"

// Rights returns the verbs by role.
func (t Table) Rights() map[string]string {
	return map[string]string{
		API: t.API, Syncer: t.Syncer, CacheInvalidator: t.CacheInvalidator, AuditArchiver: t.AuditArchiver, App: t.App, Auditor: t.Auditor,
	}
}

// Declared returns a query with the columns name, role and verbs, such as 'SELECT, INSERT', of every table and role.
func Declared() string {
	var values []string
	for _, t := range Tables {
		for role, letters := range t.Rights() {
			var verbs []string
			for _, letter := range letters {
				verbs = append(verbs, Verbs[letter])
			}
			values = append(values, fmt.Sprintf("('%s', '%s', '%s')", t.Name, role, strings.Join(verbs, ", ")))
		}
	}
	return "SELECT * FROM (VALUES " + strings.Join(values, ", ") + ") AS declared (name, role, verbs)"
}

// Grants returns the statement that makes the rights of those roles that exist exactly what Tables declares, for the tables that
// exist, and the audit-archiver's role the owner of the audit log if the current user is a member of it.
func Grants() string {
	return fmt.Sprintf(grants, Declared(), AuditArchiver)
}

const grants = `
DO $grants$
DECLARE r record;
BEGIN
	PERFORM pg_advisory_xact_lock(266117331); -- of two at once, one fails
	FOR r IN SELECT name, role, verbs, row_number() OVER (PARTITION BY role) = 1 AS first FROM (%[1]s) AS declared
		WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = role) AND to_regclass(format('%%I.%%I', current_schema(), name)) IS NOT NULL
	LOOP
		IF r.first THEN
			EXECUTE format('GRANT USAGE ON SCHEMA %%I TO %%I', current_schema(), r.role);
		END IF;
		CONTINUE WHEN pg_get_userbyid((SELECT relowner FROM pg_class WHERE oid = r.name::regclass)) = r.role;
		EXECUTE format('REVOKE ALL ON %%I FROM %%I', r.name, r.role);
		IF r.verbs <> '' THEN
			EXECUTE format('GRANT %%s ON %%I TO %%I', r.verbs, r.name, r.role);
		END IF;
	END LOOP;
	-- The audit-archiver makes, attaches, detaches and drops the months of the log, which takes its ownership.
	IF EXISTS (SELECT FROM pg_roles WHERE rolname = '%[2]s') THEN
		IF pg_has_role('%[2]s', 'USAGE') THEN
			EXECUTE format('GRANT CREATE ON SCHEMA %%I TO %[2]s', current_schema());
			FOR r IN SELECT oid::regclass AS name FROM pg_class
				WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND relname ~ '^audit_logs(_\d{4}_\d{2})?$'
					AND pg_get_userbyid(relowner) <> '%[2]s'
			LOOP
				EXECUTE format('ALTER TABLE %%s OWNER TO %[2]s', r.name);
			END LOOP;
		END IF;
	END IF;
END $grants$`
