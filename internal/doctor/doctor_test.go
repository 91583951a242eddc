package doctor_test

import (
	"context"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc"
	"fdc/internal/audit/archive"
	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/embedpg"
	"fdc/internal/devstack/faultproxy"
	"fdc/internal/devstack/googleemu"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/doctor"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/seal"
	"fdc/internal/service"
)

// patience is more than anything takes that happens at all.
const patience = 2 * time.Minute

// world is a system without its services.
type world struct {
	doctor.Config
	broker *embednats.Server
	js     jetstream.JetStream // as provision
	db     *pgxpool.Pool
	google *httptest.Server
}

func newWorld(t *testing.T, database string) *world {
	t.Helper()
	w := &world{broker: natstest.New(t, natstest.WithTCP())}
	emulator, err := googleemu.New(googleemu.Options{Log: zerolog.Nop()})
	require.NoError(t, err)
	w.google = httptest.NewServer(emulator)
	t.Cleanup(func() { w.google.Close(); require.NoError(t, emulator.Close()) })
	folder := "file://" + t.TempDir()
	w.Config = doctor.Config{
		Database: postgres.Config{URL: database, MaxConns: 4, ConnectTimeout: patience, QueryTimeout: patience},
		Bus:      bus.Config{URL: w.broker.URL("ops"), User: "ops", Replicas: 1},
		Users:    map[string]seal.Secret{}, Google: w.google.URL, Keys: seal.NewKey("v1"), ArchiveURL: folder,
		OpenArchive: func(ctx context.Context, js jetstream.JetStream) (archive.Storage, error) {
			return archive.OpenStorage(ctx, folder, js)
		},
		Patience: patience,
	}
	for user := range embednats.NewPasswords() {
		w.Users[user] = seal.Secret(w.broker.Password(user))
	}
	w.js, err = bus.JetStream(natstest.Connect(t, w.broker, "provision"))
	require.NoError(t, err)
	w.db, err = pgxpool.New(t.Context(), database)
	require.NoError(t, err)
	t.Cleanup(w.db.Close)
	w.migrate(t)
	return w
}

func (w *world) migrate(t *testing.T) {
	t.Helper()
	require.NoError(t, service.RunMigrate(t.Context(), service.MigrateConfig{
		Database: w.Database, Bus: bus.Config{URL: w.broker.URL("provision"), User: "provision", Replicas: 1},
	}, zerolog.Nop()))
	w.exec(t, `DELETE FROM outbox`) // partition_created: there is no relay here
}

func (w *world) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	_, err := w.db.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// found are the findings that are not ok.
func (w *world) found(t *testing.T) []doctor.Finding {
	t.Helper()
	var bad []doctor.Finding
	for _, f := range doctor.Examine(t.Context(), w.Config) {
		require.NotEmpty(t, f.Check)
		require.NotEmpty(t, f.Message)
		if f.Status == doctor.OK {
			require.Empty(t, f.Fix, "%+v", f)
			continue
		}
		require.Contains(t, []string{doctor.Warning, doctor.Error}, f.Status)
		require.NotEmpty(t, f.Fix, "%+v", f)
		bad = append(bad, f)
	}
	return bad
}

// only wants one finding and no other.
func (w *world) only(t *testing.T, check, status string, words ...string) {
	t.Helper()
	bad := w.found(t)
	require.Len(t, bad, 1, "%+v", bad)
	require.Equal(t, check, bad[0].Check, "%+v", bad[0])
	require.Equal(t, status, bad[0].Status, "%+v", bad[0])
	for _, word := range words {
		require.Contains(t, bad[0].Message+" "+bad[0].Fix, word)
	}
}

// Each fault is found under its name, nothing else is, and what the finding says to do puts it right.
func TestEachFaultIsOneFinding(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Empty(t).URL)
	require.Empty(t, w.found(t), "a new system")

	// The steps share the system, so they come one after the other.
	step := func(name string, fault, cure func(), check, status string, words ...string) {
		t.Log(name)
		fault()
		w.only(t, check, status, words...)
		cure()
		require.Empty(t, w.found(t), "cured")
	}
	migrate := func() { w.migrate(t) }
	stream := func(name string, change func(*jetstream.StreamConfig)) func() {
		return func() {
			s, err := w.js.Stream(t.Context(), name)
			require.NoError(t, err)
			config := s.CachedInfo().Config
			change(&config)
			_, err = w.js.UpdateStream(t.Context(), config)
			require.NoError(t, err)
		}
	}
	consumer := func(name string, change func(*jetstream.ConsumerConfig)) func() {
		return func() {
			s, err := w.js.Consumer(t.Context(), bus.Events, name)
			require.NoError(t, err)
			config := s.CachedInfo().Config
			change(&config)
			_, err = w.js.UpdateConsumer(t.Context(), bus.Events, config)
			require.NoError(t, err)
		}
	}
	drop := func(name string) func() {
		return func() { require.NoError(t, w.js.DeleteStream(t.Context(), name)) }
	}

	step("a stream is gone", drop(bus.Dead), migrate, "streams", doctor.Error, "stream DEAD is missing", "fdc migrate")
	step("the stream of all events is gone", drop(bus.Events), migrate, "streams", doctor.Error, "stream EVENTS is missing")
	step("a stream was changed", stream(bus.Events, func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour * 24 }), migrate,
		"streams", doctor.Warning, "EVENTS", "max_age", "24h0m0s", "2160h0m0s")
	step("a bucket is gone", drop("KV_"+bus.Sessions), migrate, "buckets", doctor.Error, "bucket sessions is missing")
	step("a bucket was changed", stream("KV_"+bus.Flags, func(c *jetstream.StreamConfig) { c.MaxBytes = 2 << 20 }), migrate,
		"buckets", doctor.Warning, "flags", "max_bytes")
	step("a consumer is gone",
		func() { require.NoError(t, w.js.DeleteConsumer(t.Context(), bus.Events, bus.Syncer)) }, migrate,
		"consumers", doctor.Error, "consumer syncer is missing")
	step("a consumer was changed", consumer(bus.CacheInvalidator, func(c *jetstream.ConsumerConfig) { c.AckWait = time.Hour }), migrate,
		"consumers", doctor.Warning, "cache-invalidator", "ack_wait", "1h0m0s", "10s")
	step("a consumer is paused",
		func() {
			_, err := w.js.PauseConsumer(t.Context(), bus.Events, bus.AuditArchiver, time.Now().Add(time.Hour))
			require.NoError(t, err)
		},
		func() {
			_, err := w.js.ResumeConsumer(t.Context(), bus.Events, bus.AuditArchiver)
			require.NoError(t, err)
		}, "consumers", doctor.Error, "audit-archiver is paused")
	step("a dead letter waits",
		func() {
			_, err := w.js.Publish(t.Context(), "dead.syncer.evt.doctor", nil)
			require.NoError(t, err)
		},
		func() {
			s, err := w.js.Stream(t.Context(), bus.Dead)
			require.NoError(t, err)
			require.NoError(t, s.Purge(t.Context()))
		}, "dead-letters", doctor.Warning, "1 dead letters", "fdc dlq")
	step("a consumer is late",
		func() {
			_, err := w.js.Publish(t.Context(), "evt.doctor.probe.v1.system", nil)
			require.NoError(t, err)
			w.Late = time.Nanosecond
		},
		func() {
			w.Late = 0
			s, err := w.js.Stream(t.Context(), bus.Events)
			require.NoError(t, err)
			require.NoError(t, s.Purge(t.Context())) // or it is late by itself, by and by
		}, "lag", doctor.Error, "audit-archiver", "1 events", "no copy of the service is running")

	step("an event waits in the outbox",
		func() {
			w.exec(t, `INSERT INTO outbox (event_id, aggregate, version, subject, body, created_at)
				VALUES (gen_random_uuid(), 'x', 1, 'evt.x', 'x', now() - interval '20 s')`)
		},
		func() { w.exec(t, `DELETE FROM outbox`) }, "outbox", doctor.Warning, "1 events wait")
	step("it waits for minutes",
		func() {
			w.exec(t, `INSERT INTO outbox (event_id, aggregate, version, subject, body, created_at)
				VALUES (gen_random_uuid(), 'x', 1, 'evt.x', 'x', now() - interval '2 min')`)
		},
		func() { w.exec(t, `DELETE FROM outbox`) }, "outbox", doctor.Error, "relay")
	month := func(ahead int) string {
		now := time.Now().UTC()
		return time.Date(now.Year(), now.Month()+time.Month(ahead), 1, 0, 0, 0, 0, time.UTC).Format("2006_01")
	}
	step("a month ahead is missing", func() { w.exec(t, `DROP TABLE audit_logs_`+month(2)) }, migrate,
		"partitions", doctor.Warning, "1 months ahead")
	step("this month is missing", func() { w.exec(t, `DROP TABLE audit_logs_`+month(0)) }, migrate,
		"partitions", doctor.Error, "this month")
	var newest int64
	step("a migration is missing",
		func() {
			require.NoError(t, w.db.QueryRow(t.Context(), `
				DELETE FROM goose_db_version WHERE version_id = (SELECT max(version_id) FROM goose_db_version) RETURNING version_id`).Scan(&newest))
		},
		func() {
			w.exec(t, `INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, true)`, newest)
		},
		"schema", doctor.Error, "Migrations are missing", "fdc migrate")
	step("a role lacks a right", func() { w.exec(t, `REVOKE INSERT ON tasks FROM fdc_app`) }, migrate,
		"postgres-rights", doctor.Error, "fdc_app may not INSERT in tasks", "fdc migrate")
	step("a role can forge the audit log", func() { w.exec(t, `GRANT UPDATE ON audit_logs TO fdc_app`) },
		func() { w.exec(t, `REVOKE UPDATE ON audit_logs FROM fdc_app`) },
		"postgres-rights", doctor.Error, "fdc_app may UPDATE in audit_logs", "REVOKE UPDATE ON audit_logs FROM fdc_app")

	right, other := w.Keys, seal.NewKey("v1")
	w.sealTokens(t, right)
	require.Empty(t, w.found(t), "tokens that the key opens")
	rekey := func(keys seal.Secret) func() { return func() { w.Keys = keys } }
	step("another key of the same name", rekey(other), rekey(right), "keys", doctor.Error, "v1 opens 0 of 2")
	step("a key is missing", rekey(seal.NewKey("v2")), rekey(right), "keys", doctor.Error, "key v1, which is not in MASTER_ENCRYPTION_KEYS")
	step("the keys are malformed", rekey("v1:hunter2"), rekey(right), "keys", doctor.Error, "malformed")
	step("a sync job waits",
		func() {
			w.exec(t, `INSERT INTO sync_jobs (id, user_id, type, mode, run_after) SELECT gen_random_uuid(), id, 'full', 'incremental', now() - interval '5 min' FROM users`)
		},
		func() { w.exec(t, `DELETE FROM sync_jobs`) }, "sync-jobs", doctor.Warning, "start a syncer")

	archive, google := w.ArchiveURL, w.Google
	step("the archive is gone", func() { w.ArchiveURL = "file://" + filepath.Join(t.TempDir(), "nothing") },
		func() { w.ArchiveURL = archive }, "archive", doctor.Error, "There is no folder")
	step("Google is away", func() { w.Google = "http://" + closedPort(t) }, func() { w.Google = google },
		"google", doctor.Warning, "does not answer")
	step("the replica is away", func() { w.Database.ReplicaURL = "postgres://x:hunter2@" + closedPort(t) + "/x" },
		func() { w.Database.ReplicaURL = "" }, "replica", doctor.Error, "can't be reached")
	step("the replica is none", func() { w.Database.ReplicaURL = w.Database.URL },
		func() { w.Database.ReplicaURL = "" }, "replica", doctor.Warning, "no replica")
	password := w.Users[bus.Syncer]
	step("a service's password is wrong", func() { w.Users[bus.Syncer] = "hunter2" },
		func() { w.Users[bus.Syncer] = password }, "nats-rights", doctor.Error, "syncer can't sign in", "NATS_PASSWORD_SYNCER")

	w.Now = func() time.Time { return time.Now().Add(time.Minute) }
	bad := w.found(t)
	require.Len(t, bad, 2, "%+v", bad)
	require.Equal(t, []string{"nats-clock", "postgres-clock"}, []string{bad[0].Check, bad[1].Check})
	require.Contains(t, bad[0].Message, "behind")
	w.Now = nil

	state, err := w.js.Stream(t.Context(), bus.Events)
	require.NoError(t, err)
	require.EqualValues(t, 1, state.CachedInfo().State.LastSeq, "trying rights has published something")
	for _, f := range doctor.Examine(t.Context(), w.Config) {
		require.NotContains(t, f.Message+f.Fix, "hunter2")
	}
}

// sealTokens makes a user whose tokens of Google are sealed with the keys.
func (w *world) sealTokens(t *testing.T, list seal.Secret) {
	t.Helper()
	keys, err := seal.ParseKeys(list)
	require.NoError(t, err)
	var id string
	require.NoError(t, w.db.QueryRow(t.Context(), `INSERT INTO users (id, email, google_id) VALUES (gen_random_uuid(), 'a@example.com', 'g-a') RETURNING id::text`).Scan(&id))
	w.exec(t, `INSERT INTO google_accounts (user_id, google_id, email, state, access_token, refresh_token) VALUES ($1, 'g', 'a@example.com', 'connected', $2, $3)`,
		id, keys.Seal("google/access/"+id, []byte("a")), keys.Seal("google/refresh/"+id, []byte("r")))
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close() //nolint:errcheck // the port is what matters
	return l.Addr().String()
}

// A server that is down, or doesn't answer, is one finding; what it held isn't examined, and all else is.
func TestWhatIsAwayIsOneFinding(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Cluster(t)
	w := newWorld(t, cluster.URL(embedpg.Database))
	require.Empty(t, w.found(t))
	url := w.Database.URL

	proxy := faultproxy.New(t, url)
	w.Database.URL, w.Patience = proxy.URL, 3*time.Second
	proxy.Pause()
	bad := w.found(t)
	require.NotEmpty(t, bad)
	require.Equal(t, "postgres", bad[len(bad)-1].Check)
	require.Contains(t, bad[len(bad)-1].Message, "No answer within 3s")
	proxy.Heal()
	w.Database.URL, w.Patience = url, patience
	require.Empty(t, w.found(t))

	require.NoError(t, cluster.Crash())
	w.only(t, "postgres", doctor.Error, "can't be reached")
	require.NoError(t, cluster.Restart(t.Context()))
	require.Empty(t, w.found(t))

	w.broker.Stop()
	w.only(t, "nats", doctor.Error, "can't be reached")
	require.NoError(t, cluster.Crash())
	require.Len(t, w.found(t), 2)
}

// A right that nats.conf does not give is found under the user and the subject; so is one that it should not.
func TestRightsInNATS(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, new, status, want string }{
		"too few":   {`"dead.syncer.>", `, ``, doctor.Error, "syncer may not publish to dead.syncer.doctor"},
		"too many":  {`"outbox.nudge", "dead.audit-archiver.>"`, `"outbox.nudge", "dead.audit-archiver.>", "$JS.API.STREAM.DELETE.>"`, doctor.Warning, "audit-archiver may publish to $JS.API.STREAM.DELETE.FDC_DOCTOR"},
		"too quiet": {`subscribe: ["_INBOX_api.>", "live.>", `, `subscribe: ["_INBOX_api.>", `, doctor.Error, "api may not subscribe to live.>"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Contains(t, fdc.NATSConf, c.old)
			dir, passwords := t.TempDir(), embednats.NewPasswords()
			text := "NATS_STORE_DIR: " + dir + "\n"
			users := map[string]seal.Secret{}
			for user, password := range passwords {
				text += "NATS_PASSWORD_" + strings.ToUpper(strings.ReplaceAll(user, "-", "_")) + ": " + password + "\n"
				users[user] = seal.Secret(password)
			}
			opts := &server.Options{NoSigs: true, NoLog: true}
			require.NoError(t, opts.ProcessConfigString(text+strings.Replace(fdc.NATSConf, c.old, c.new, 1)))
			opts.Port, opts.HTTPPort, opts.SyncAlways = server.RANDOM_PORT, 0, false
			broker, err := server.NewServer(opts)
			require.NoError(t, err)
			broker.Start()
			t.Cleanup(func() { broker.Shutdown(); broker.WaitForShutdown() })
			require.True(t, broker.ReadyForConnections(patience))
			nc, err := nats.Connect(broker.ClientURL(), nats.UserInfo("provision", passwords["provision"]), nats.CustomInboxPrefix(bus.InboxPrefix("provision")))
			require.NoError(t, err)
			t.Cleanup(nc.Close)
			js, err := bus.JetStream(nc)
			require.NoError(t, err)
			require.NoError(t, bus.Provision(t.Context(), js, 1))

			config := doctor.Config{
				Bus: bus.Config{URL: broker.ClientURL(), User: "ops", Password: users["ops"], Replicas: 1}, Users: users,
				Database: postgres.Config{URL: "postgres://" + closedPort(t) + "/x", ConnectTimeout: time.Second, QueryTimeout: time.Second},
				Google:   "http://" + closedPort(t), Patience: patience,
			}
			var bad []doctor.Finding
			for _, f := range doctor.Examine(t.Context(), config) {
				if f.Status != doctor.OK && f.Check != "postgres" && f.Check != "google" {
					bad = append(bad, f)
				}
			}
			require.Len(t, bad, 1, "%+v", bad)
			require.Equal(t, "nats-rights", bad[0].Check)
			require.Equal(t, c.status, bad[0].Status)
			require.Contains(t, bad[0].Message, c.want)
		})
	}
}
