package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"fdc/internal/audit"
	"fdc/internal/gsync"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/seal"
	"fdc/migrations"
)

// database is a connection to PostgreSQL.
type database struct {
	Config
	pool *pgxpool.Pool
}

// databaseConns is as many as there are checks that may ask at once.
const databaseConns = 8

func (c Config) examinePostgres(ctx context.Context) []Finding {
	c.Database.MaxConns = databaseConns
	c.Database.ConnectTimeout = min(c.Database.ConnectTimeout, c.Patience)
	d := &database{Config: c}
	pool, err := postgres.Open(ctx, c.Database, "fdc-doctor")
	if err != nil {
		return []Finding{{Check: "postgres", Status: Error, Message: sentence(err), Fix: "set DATABASE_URL to where PostgreSQL is"}}
	}
	d.pool = pool
	// A pool waits for its connections when it is closed, and one that hangs must not hold up the rest.
	defer func() { go pool.Close() }()
	found := c.run(ctx, check{"postgres", d.connect})
	if found[0].Status != OK {
		return found
	}
	found = append(found, c.run(ctx, check{"schema", d.schema})...)
	if found[1].Status == Error { // most of the rest would complain of the same
		return found
	}
	return append(found, c.run(ctx,
		check{"postgres-clock", d.clock}, check{"postgres-rights", d.rights}, check{"outbox", d.outbox}, check{"partitions", d.partitions},
		check{"sync-jobs", d.syncJobs}, check{"keys", d.keys},
	)...)
}

func (d *database) connect(ctx context.Context) ([]Finding, error) {
	began := time.Now()
	var number int
	var name, who string
	err := d.pool.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_user`).Scan(&number, &name, &who)
	switch {
	case pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded):
		return nil, context.DeadlineExceeded
	case err != nil:
		return []Finding{failure("start it, or set DATABASE_URL to where it listens", "PostgreSQL can't be reached, so that nothing in it was examined: %v.",
			oneLine(err))}, nil
	case number < postgres.MinServerVersion:
		return []Finding{failure(fmt.Sprintf("run PostgreSQL %d or newer", postgres.MinServerVersion/10_000), "PostgreSQL %s is too old.", name)}, nil
	}
	return ok("PostgreSQL %s answers the user %s in %s.", name, who, time.Since(began).Round(10*time.Microsecond)), nil
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func (d *database) schema(ctx context.Context) ([]Finding, error) {
	switch err := postgres.CheckSchema(ctx, d.Database.Direct(), migrations.FS); {
	case errors.Is(err, postgres.ErrSchemaOlder):
		return []Finding{failure("run fdc migrate", "Migrations are missing, so that the tables were not examined: %v.", err)}, nil
	case errors.Is(err, postgres.ErrSchemaNewer):
		return []Finding{failure("use the fdc of the release that runs", "The schema is from the future, so that the tables were not examined: %v.", err)}, nil
	case err != nil:
		return []Finding{failure("set DATABASE_DIRECT_URL to a connection past any pooler", "The schema can't be read over the direct connection: %v.",
			oneLine(err))}, nil
	}
	var version int64
	err := d.pool.QueryRow(ctx, `SELECT max(version_id) FROM goose_db_version WHERE is_applied`).Scan(&version)
	if err != nil {
		return nil, fmt.Errorf("ask for the schema's version: %w", err)
	}
	return ok("All %d migrations are there.", version), nil
}

func (d *database) clock(ctx context.Context) ([]Finding, error) {
	if err := d.pool.Ping(ctx); err != nil { // so that no connection is made in between
		return nil, fmt.Errorf("ask PostgreSQL for its time: %w", err)
	}
	before := d.Now()
	var theirs time.Time
	if err := d.pool.QueryRow(ctx, `SELECT clock_timestamp()`, pgx.QueryExecModeSimpleProtocol).Scan(&theirs); err != nil {
		return nil, fmt.Errorf("ask PostgreSQL for its time: %w", err)
	}
	return clock(theirs, before, d.Now(), "PostgreSQL"), nil
}

// rights compares what the roles may do with what package migrations declares. Our own user must be able to do at least what fdc_app can.
func (d *database) rights(ctx context.Context) ([]Finding, error) {
	rows, err := d.pool.Query(ctx, `
		WITH declared AS (`+migrations.Declared()+`), roles AS (
			SELECT d.role, d.name, d.verbs, true AS exact FROM declared d JOIN pg_roles r ON r.rolname = d.role
			UNION SELECT current_user::text, d.name, d.verbs, false FROM declared d
				WHERE d.role = '`+migrations.App+`' AND NOT EXISTS (SELECT FROM declared own WHERE own.role = current_user)
		), rights AS (
			SELECT role, name, verb, exact, verb = ANY (string_to_array(verbs, ', ')) AS must, has_table_privilege(role, to_regclass(name), verb) AS may,
				pg_get_userbyid(c.relowner) = role AS owns
			FROM roles JOIN pg_class c ON c.oid = to_regclass(name)
				CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS verb
		)
		SELECT role, name, verb, must FROM rights WHERE must AND NOT may OR exact AND may AND NOT must AND NOT owns
		ORDER BY role, name, verb`)
	if err != nil {
		return nil, fmt.Errorf("ask for rights: %w", err)
	}
	var found []Finding
	var role, table, verb string
	var must bool
	_, err = pgx.ForEachRow(rows, []any{&role, &table, &verb, &must}, func() error {
		if must {
			found = append(found, failure("run fdc migrate as the owner of the schema: it grants what is missing", "The role %s may not %s in %s, which it must.",
				role, verb, table))
		} else {
			found = append(found, failure(fmt.Sprintf("REVOKE %s ON %s FROM %s", verb, table, role),
				"The role %s may %s in %s, which its service never does.", role, verb, table))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask for rights: %w", err)
	}
	if len(found) > 0 {
		return found, nil
	}
	var missing []string
	var owns bool
	services := []string{migrations.API, migrations.Syncer, migrations.CacheInvalidator, migrations.AuditArchiver}
	err = d.pool.QueryRow(ctx, `
		SELECT (SELECT coalesce(array_agg(name), '{}') FROM unnest($1::text[]) AS name WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)),
			pg_get_userbyid(relowner) = $2 FROM pg_class WHERE oid = 'audit_logs'::regclass`, services, migrations.AuditArchiver).Scan(&missing, &owns)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask for the services' roles: %w", err)
	case len(missing) > 0:
		return []Finding{warning("let a user who may make roles run fdc migrate, and give each service the login of its role",
			"There is no role %s: those services work as the owner, who can change everything.", strings.Join(missing, ", "))}, nil
	case !owns:
		return []Finding{warning("GRANT "+migrations.AuditArchiver+" TO the user who runs fdc migrate, and run it",
			"The role %s does not own the audit log, so that the audit-archiver needs the owner's login.", migrations.AuditArchiver)}, nil
	}
	return ok("Our own user and the services' roles may do what they must, and no more."), nil
}

// How long the oldest event may wait for the relay, which looks five times a second.
const (
	outboxWarning = 10 * time.Second
	outboxFailure = time.Minute
)

func (d *database) outbox(ctx context.Context) ([]Finding, error) {
	stats, err := outbox.ReadStats(ctx, d.pool)
	if err != nil {
		return nil, err
	}
	if stats.Pending == 0 {
		return ok("Nothing waits in the outbox."), nil
	}
	return []Finding{graded(stats.OldestAgeSeconds, outboxWarning.Seconds(), outboxFailure.Seconds(),
		"see whether an api runs and reaches NATS (outbox_leader in /metrics is 1 on one of them), and what its log says of the relay",
		"%d events wait in the outbox, the oldest for %.0f s.", stats.Pending, stats.OldestAgeSeconds)}, nil
}

func (d *database) partitions(ctx context.Context) ([]Finding, error) {
	list, err := audit.Partitions(ctx, d.pool)
	if err != nil {
		return nil, err
	}
	const fix = "start the audit-archiver, or run fdc migrate; both make the months that are missing"
	var found []Finding
	ahead := audit.Ahead(list, d.Now())
	switch {
	case ahead < 0:
		found = append(found, failure(fix, "The audit log has no partition for this month: nothing can be written to it."))
	case ahead < audit.AlertBelow:
		found = append(found, warning(fix, "The audit log has partitions for %d months ahead; %d are made, and fewer than %d are too few.",
			ahead, audit.MonthsAhead, audit.AlertBelow))
	}
	for _, p := range list {
		if p.State == audit.StateDetaching {
			found = append(found, warning("start the audit-archiver, which goes on with it", "The month %s of the audit log was left half detached.", p.Month))
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	return ok("The audit log has partitions for %d months ahead.", ahead), nil
}

func (d *database) syncJobs(ctx context.Context) ([]Finding, error) {
	stats, err := gsync.ReadStats(ctx, d.pool)
	if err != nil {
		return nil, err
	}
	late, err := gsync.Overdue(ctx, d.pool)
	if err != nil {
		return nil, err
	}
	return []Finding{graded(late.Seconds(), (2 * time.Minute).Seconds(), (30 * time.Minute).Seconds(),
		"start a syncer, or more of them; see what its log says",
		"%d sync jobs wait and %d are under way; the one that is most overdue waits for %s.", stats.Pending, stats.Processing, late.Round(time.Second))}, nil
}

// sample is how many tokens per key are tried.
const sample = 20

func (d *database) keys(ctx context.Context) ([]Finding, error) {
	const variable = "MASTER_ENCRYPTION_KEYS"
	if d.Keys == "" {
		return ok("Not examined: %s is not set here.", variable), nil
	}
	keys, err := seal.ParseKeys(d.Keys)
	if err != nil {
		return []Finding{failure("write it as v2:BASE64,v1:BASE64, 32 bytes each", "%s is malformed: %v.", variable, err)}, nil
	}
	google := gsync.New(gsync.Config{Outbox: outbox.New(d.pool, nil), Keys: keys, Log: zerolog.Nop()})
	tried, err := google.TryTokens(ctx, sample)
	if err != nil {
		return nil, err
	}
	var found []Finding
	opened := 0
	for _, t := range tried {
		opened += t.Opened
		switch {
		case !t.Known:
			found = append(found, failure("add the key "+t.Key+" to "+variable+" again, on every api and syncer, and take it away only after fdc keys rotate --yes",
				"%d tokens of Google are sealed with the key %s, which is not in %s.", t.Sealed, t.Key, variable))
		case t.Unreadable > 0:
			found = append(found, failure("find the key "+t.Key+" that sealed them: this one has its name only",
				"The key %s opens %d of %d tokens that are sealed under its name.", t.Key, t.Opened, t.Opened+t.Unreadable))
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	return ok("%s opens what is sealed: %d tokens were tried.", variable, opened), nil
}
