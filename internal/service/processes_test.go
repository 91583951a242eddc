package service_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/googleemu"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/programs"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/seal"
	"fdc/internal/service"
	"fdc/migrations"
)

const patience = 2 * time.Minute

// TestMain is also nats-server, when it is started under that name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == natsServerName {
		if err := natstest.Main(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is main
		}
		return
	}
	testenv.Parallel(5) // they wait for timeouts of killed processes
	os.Exit(m.Run())    //nolint:forbidigo // this is main
}

// system is what the services need, and the services as processes of their own.
type system struct {
	api      string // base URL
	google   string
	pool     *pgxpool.Pool
	js       jetstream.JetStream
	broker   *embednats.Server
	store    string              // its directory
	database string              // its URL
	environ  map[string][]string // by service
	metrics  map[string]string   // base URL by service
	running  map[string]*exec.Cmd
}

// free is an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	return testenv.Loopback(testenv.FreePort(t))
}

func newSystem(t *testing.T) *system {
	t.Helper()
	db := pgtest.New(t)
	store := t.TempDir()
	broker := natstest.New(t, natstest.WithTCP(), func(c *embednats.Config) { c.StoreDir = store })
	emulator, err := googleemu.New(googleemu.Options{Log: zerolog.Nop()})
	require.NoError(t, err)
	require.NoError(t, googleemu.SeedDemo(emulator, time.Now()))
	google := httptest.NewServer(emulator)
	t.Cleanup(func() { google.Close(); require.NoError(t, emulator.Close()) })

	err = service.RunMigrate(t.Context(), service.MigrateConfig{
		Database: databaseConfig(db.URL), Bus: bus.Config{URL: broker.URL("provision"), Replicas: 1},
	}, zerolog.Nop())
	require.NoError(t, err)
	js, err := bus.JetStream(natstest.Connect(t, broker, "ops"))
	require.NoError(t, err)

	httpAddr := free(t)
	s := &system{
		api: "http://" + httpAddr, google: google.URL, pool: db.Pool, js: js, broker: broker, store: store, database: db.URL,
		environ: map[string][]string{}, metrics: map[string]string{}, running: map[string]*exec.Cmd{},
	}
	for name, extra := range map[string][]string{
		"api": {"HTTP_ADDR=" + httpAddr, "PUBLIC_URL=" + s.api, "RATE_LIMIT_FACTOR=10000"}, bus.Syncer: nil, bus.CacheInvalidator: nil, bus.AuditArchiver: nil,
	} {
		metrics := free(t)
		s.metrics[name] = "http://" + metrics
		s.environ[name] = append(extra, environment(as(name, db.URL), broker, name, google.URL, metrics)...)
	}
	t.Cleanup(func() {
		for _, cmd := range s.running {
			_ = cmd.Process.Kill() // it may have ended
			_ = cmd.Wait()         // killed
		}
	})
	return s
}

func databaseConfig(url string) postgres.Config {
	return postgres.Config{URL: url, MaxConns: 4, ConnectTimeout: 10 * time.Second, QueryTimeout: 30 * time.Second}
}

// as is the URL of a database for a service, whose role has its rights and no others.
func as(service, url string) string { return url + "&role=" + migrations.RoleOf(service) }

var masterKey = seal.NewKey("v1")

func environment(database string, broker *embednats.Server, name, google, metrics string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "DATABASE_URL=" + database, "DATABASE_MAX_CONNS=8",
		"NATS_URL=nats://" + broker.Addr(), "NATS_PASSWORD=" + broker.Password(name), "METRICS_ADDR=" + metrics,
		"MASTER_ENCRYPTION_KEYS=" + masterKey.Reveal(), "ARCHIVE_URL=file://" + os.TempDir() + "/fdc-test-archive",
		"AUDIT_SIGNING_KEY=" + strings.Repeat("A", 43) + "=",
		"GOOGLE_CLIENT_ID=test", "GOOGLE_CLIENT_SECRET=test", "GOOGLE_ENDPOINT=" + google,
	}
}

// start runs a service until it says that it is ready.
func (s *system) start(t *testing.T, name string) {
	t.Helper()
	s.launch(t, name)
	s.awaitReady(t, name)
}

func (s *system) launch(t *testing.T, name string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(filepath.Join(programs.Dir(t), name)) //nolint:gosec,noctx // built above; it outlives no test
	cmd.Env = s.environ[name]
	cmd.Stderr = &output{t: t, name: name}
	require.NoError(t, cmd.Start())
	s.running[name] = cmd
	return cmd
}

func (s *system) awaitReady(t *testing.T, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		status, err := get(t.Context(), s.metrics[name]+"/readyz")
		return err == nil && status == http.StatusOK
	}, patience, 20*time.Millisecond, "%s is not ready", name)
}

func get(ctx context.Context, url string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// kill ends a service as a crash would. The leases of a killed syncer's jobs are as if their time were over.
func (s *system) kill(t *testing.T, name string) {
	t.Helper()
	cmd := s.running[name]
	require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
	require.Error(t, cmd.Wait(), "%s was not running", name)
	delete(s.running, name)
	if name == bus.Syncer {
		_, err := s.pool.Exec(t.Context(), `UPDATE sync_jobs SET lease_expires_at = now() WHERE status = 'processing'`)
		require.NoError(t, err)
	}
}

// stop asks a service to end, and wants exit code 0.
func (s *system) stop(t *testing.T, name string) {
	t.Helper()
	cmd := s.running[name]
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait(), "%s", name)
	delete(s.running, name)
}

// output passes a service's log on to the test's, a line at a time.
type output struct {
	t    *testing.T
	name string
	mu   sync.Mutex
	rest []byte
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rest = append(o.rest, p...)
	for {
		line, rest, found := bytes.Cut(o.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		if o.t.Context().Err() == nil {
			o.t.Logf("%s: %s", o.name, line)
		}
		o.rest = rest
	}
}
