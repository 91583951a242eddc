package service_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/programs"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/postgres"
	"fdc/internal/service"
	"fdc/migrations"
)

// A second run changes nothing that is right, puts right what has been changed, and recreates nothing.
func TestMigrateTwice(t *testing.T) {
	t.Parallel()
	db, broker := pgtest.Empty(t), natstest.New(t, natstest.WithTCP())
	config := service.MigrateConfig{Database: databaseConfig(db.URL), Bus: bus.Config{URL: broker.URL("provision"), Replicas: 1}}
	migrate := func() { require.NoError(t, service.RunMigrate(t.Context(), config, zerolog.Nop())) }
	migrate()
	js, err := bus.JetStream(natstest.Connect(t, broker, "provision"))
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "evt.probe", nil)
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), bus.Events)
	require.NoError(t, err)
	before := stream.CachedInfo()
	changed := before.Config
	changed.MaxAge = time.Hour
	_, err = js.UpdateStream(t.Context(), changed)
	require.NoError(t, err)

	migrate()
	after, err := stream.Info(t.Context())
	require.NoError(t, err)
	require.Equal(t, before.Created, after.Created)
	require.Equal(t, before.Config.MaxAge, after.Config.MaxAge)
	require.EqualValues(t, 1, after.State.Msgs)
	for _, declared := range bus.Consumers() {
		_, err := js.Consumer(t.Context(), bus.Events, declared.Name)
		require.NoError(t, err)
	}
	_, err = js.Stream(t.Context(), "NOTHING")
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
}

// What keeps a migration from running is said in one line that names the variable or what to do, and nothing has been
// changed on the other side.
func TestMigrateSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	fine, broker := pgtest.Empty(t), natstest.New(t, natstest.WithTCP())
	newer := pgtest.New(t)
	_, err := newer.Pool.Exec(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)`)
	require.NoError(t, err)
	plain, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	require.NoError(t, err)
	plain.Start()
	t.Cleanup(plain.Shutdown)
	require.True(t, plain.ReadyForConnections(10*time.Second))
	nobody := "127.0.0.1:" + unused(t)

	provision := broker.URL("provision")
	for name, c := range map[string]struct{ database, nats, want string }{
		"no database":          {"postgres://x:hunter2@" + nobody + "/x", provision, "DATABASE_URL"},
		"newer schema":         {newer.URL, provision, "newer than this binary"},
		"no NATS":              {fine.URL, "nats://" + nobody, "NATS_URL"},
		"NATS, no JetStream":   {fine.URL, plain.ClientURL(), "without JetStream"},
		"NATS, wrong password": {fine.URL, "nats://provision:hunter2@" + broker.Addr(), "Authorization Violation"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := service.RunMigrate(t.Context(), service.MigrateConfig{
				Database: databaseConfig(c.database), Bus: bus.Config{URL: c.nats, Replicas: 1},
			}, zerolog.Nop())
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "hunter2")
			require.ErrorIs(t, schema(t, fine), postgres.ErrSchemaOlder, "the schema was touched")
		})
	}
}

func schema(t *testing.T, db *pgtest.DB) error {
	t.Helper()
	var exists bool
	err := db.Pool.QueryRow(t.Context(), `SELECT to_regclass('users') IS NOT NULL`).Scan(&exists)
	require.NoError(t, err)
	if exists {
		return nil
	}
	return postgres.ErrSchemaOlder
}

func unused(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(free(t))
	require.NoError(t, err)
	return port
}

// A binary that meets a schema from the future says so and ends; it does not wait for the past to come back.
func TestAServiceRefusesANewerSchema(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, err := s.pool.Exec(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)`)
	require.NoError(t, err)
	cmd := exec.Command(filepath.Join(programs.Dir(t), bus.AuditArchiver)) //nolint:gosec,noctx // built above; it ends by itself
	cmd.Env = s.environ[bus.AuditArchiver]
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, daemon.ExitFailed, cmd.ProcessState.ExitCode())
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Contains(t, lines[len(lines)-1], "newer than this binary")
}

// Services may start before anything they need: they live, are not ready, say what they wait for, and are ready once it
// is there. Asked to stop while they wait, they stop.
func TestServicesStartInAnyOrder(t *testing.T) {
	t.Parallel()
	db, broker := pgtest.Empty(t), natstest.New(t, natstest.WithTCP())
	metrics := map[string]string{}
	s := &system{environ: map[string][]string{}, metrics: map[string]string{}, running: map[string]*exec.Cmd{}}
	services := []string{"api", bus.Syncer, bus.CacheInvalidator, bus.AuditArchiver}
	for _, name := range services {
		metrics[name] = free(t)
		s.metrics[name] = "http://" + metrics[name]
		s.environ[name] = append(environment(db.URL, broker, name, "http://127.0.0.1:1", metrics[name]), "HTTP_ADDR="+free(t))
		cmd := s.launch(t, name)
		t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has usually ended
	}
	for _, name := range services {
		require.Eventually(t, func() bool {
			status, err := get(t.Context(), s.metrics[name]+"/healthz")
			return err == nil && status == http.StatusOK
		}, patience, 20*time.Millisecond, "%s does not live", name)
		status, err := get(t.Context(), s.metrics[name]+"/readyz")
		require.NoError(t, err)
		require.Equal(t, http.StatusServiceUnavailable, status, name)
	}
	s.stop(t, bus.Syncer)
	require.NoError(t, service.RunMigrate(t.Context(), service.MigrateConfig{
		Database: databaseConfig(db.URL), Bus: bus.Config{URL: broker.URL("provision"), Replicas: 1},
	}, zerolog.Nop()))
	s.start(t, bus.Syncer)
	for _, name := range services {
		s.awaitReady(t, name)
	}
	for _, name := range services {
		s.stop(t, name)
	}
}

// Every metric that the documents name is there under its name.
func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start(t, "api")
	s.start(t, bus.AuditArchiver)
	s.signUp(t, "metrics@example.com")
	for name, want := range map[string][]string{
		"api":             {"outbox_leader", "outbox_published_total", "outbox_pending", "outbox_oldest_age_seconds", "http_request_seconds_count", "postgres_pool_acquired_connections", "go_goroutines"},
		bus.AuditArchiver: {"worker_handled_total", "consumer_lag", "dlq_total", "audit_partition_months_ahead", "stream_backup_leader", "stream_backup_pending", "stream_backup_failures_total"},
	} {
		require.Eventually(t, func() bool {
			page := fetch(t, s.metrics[name]+"/metrics")
			for _, metric := range want {
				if !strings.Contains(page, "\n"+metric) {
					return false
				}
			}
			return true
		}, patience, 50*time.Millisecond, "%s does not show %v", name, want)
	}
	require.NoError(t, s.running["api"].Process.Signal(syscall.SIGTERM))
	require.NoError(t, s.running["api"].Wait())
	delete(s.running, "api")
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	u := &user{client: http.DefaultClient}
	body, err := u.call(t.Context(), http.MethodGet, url, "")
	require.NoError(t, err, fmt.Sprint(url))
	return string(body)
}

// Each role may do with each table what package migrations declares, and nothing else: it tries every verb.
func TestRoles(t *testing.T) {
	t.Parallel()
	db, broker := pgtest.Empty(t), natstest.New(t, natstest.WithTCP())
	config := service.MigrateConfig{Database: databaseConfig(db.URL), Bus: bus.Config{URL: broker.URL("provision"), Replicas: 1}}
	for range 2 { // the second run has a log that is the audit-archiver's
		require.NoError(t, service.RunMigrate(t.Context(), config, zerolog.Nop()))
	}
	declared := map[string]map[string]string{}
	for _, table := range migrations.Tables {
		declared[table.Name] = table.Rights()
	}
	rows, err := db.Pool.Query(t.Context(), `
		SELECT relname, (SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum LIMIT 1)
		FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')`)
	require.NoError(t, err)
	columns := map[string]string{}
	var table, column string
	_, err = pgx.ForEachRow(rows, []any{&table, &column}, func() error { columns[table] = column; return nil })
	require.NoError(t, err)
	for table := range declared {
		require.Contains(t, columns, table, "migrations/rights.go declares a table that is not there")
	}
	for _, role := range []string{
		migrations.API, migrations.Syncer, migrations.CacheInvalidator, migrations.AuditArchiver, migrations.App, migrations.Auditor,
	} {
		conn, err := pgx.Connect(t.Context(), db.URL+"&role="+role)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the database goes away
		may := func(statement string) bool {
			tx, err := conn.Begin(t.Context())
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), statement)
			require.NoError(t, tx.Rollback(t.Context()))
			return !postgres.IsState(err, "42501")
		}
		for table, column := range columns {
			month := strings.HasPrefix(table, "audit_logs_")
			rights, ok := declared[table]
			require.True(t, ok || month, "add the table %s to Tables in migrations/rights.go, with what each service does there", table)
			owns := role == migrations.AuditArchiver && (month || table == "audit_logs")
			for letter, statement := range map[string]string{
				"S": `SELECT FROM ` + table + ` LIMIT 0`,
				"I": `INSERT INTO ` + table + ` DEFAULT VALUES`,
				"U": `UPDATE ` + table + ` SET ` + column + ` = DEFAULT WHERE false`,
				"D": `DELETE FROM ` + table + ` WHERE false`,
				"L": `SELECT FROM ` + table + ` LIMIT 0 FOR KEY SHARE`,
				"T": `TRUNCATE ` + table + ` CASCADE`,
				"A": `ALTER TABLE ` + table + ` ADD COLUMN mine int`,
				"X": `DROP TABLE ` + table + ` CASCADE`,
			} {
				want := owns || strings.Contains(rights[role], letter) ||
					letter == "L" && strings.Contains(rights[role], "S") && strings.Contains(rights[role], "U")
				require.Equal(t, want, may(statement), "%s: %s", role, statement)
			}
		}
		require.Equal(t, role == migrations.AuditArchiver, may(`CREATE TABLE mine ()`), role)
		require.False(t, may(`CREATE ROLE mine`), role)
		require.False(t, may(`COPY (SELECT 1) TO PROGRAM 'true'`), role)
	}
}
