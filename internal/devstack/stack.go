package devstack

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"fdc/internal/audit/archive"
	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/embedpg"
	"fdc/internal/devstack/googleemu"
	"fdc/internal/gsync"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/seal"
	"fdc/internal/service"
	"fdc/internal/service/auditarchiver"
	"fdc/migrations"
)

// Options are the flags of `fdc dev`. Addresses are HOST:PORT; port 0 picks a free one.
type Options struct {
	HTTP, NATS, Google, Metrics string

	Data            string  // where everything is kept
	Ephemeral       bool    // keep it in a temporary directory, removed at the end
	NoSeed          bool    // no demo data
	RateLimitFactor float64 // multiplies the API's rate limits; 1 when zero
	PGBin           string  // the folder of PostgreSQL's binaries; "" searches

	Logger   func(service string) zerolog.Logger
	Progress func(string)          // told what takes long
	Ready    func(Addresses) error // called once when everything works
}

// Addresses is where a running stack is found; the JSON object behind `ready`.
type Addresses struct {
	HTTP     string `json:"http"`
	NATS     string `json:"nats"`     // as the user ops
	Postgres string `json:"postgres"` // as the owner
	Google   string `json:"google"`
	Metrics  string `json:"metrics"`
	Data     string `json:"data"`
}

// stopTime bounds the end of each part.
const stopTime = 15 * time.Second

// Run starts everything, calls Ready, runs until ctx ends and stops it all in order: services, emulator, NATS,
// PostgreSQL. A part that can't start ends those that run already.
func Run(ctx context.Context, o Options) (err error) {
	log := o.Logger("dev")
	if o.Ephemeral {
		if o.Data, err = os.MkdirTemp("", "fdc-dev-"); err != nil {
			return fmt.Errorf("make a temporary data directory: %w", err)
		}
	}
	if o.Data, err = filepath.Abs(o.Data); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	if err := os.MkdirAll(o.Data, 0o700); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	postgresDir := filepath.Join(o.Data, "postgres")
	if o.Ephemeral {
		defer func() {
			removeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
			defer cancel()
			err = errors.Join(err, embedpg.Remove(removeCtx, postgresDir), os.RemoveAll(o.Data))
		}()
	}

	// The ports first: a taken one is known before anything has been started.
	listeners, err := listenAll(ctx, []port{{o.HTTP, "--http"}, {o.Google, "--google"}, {o.Metrics, "--metrics"}})
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	httpListener, googleListener, metricsListener := listeners[0], listeners[1], listeners[2]
	if err := probe(ctx, port{o.NATS, "--nats"}); err != nil {
		return err
	}

	// PostgreSQL's lock is also that of the data directory.
	database, err := embedpg.Start(ctx, embedpg.Config{
		Dir: postgresDir, BinDir: o.PGBin, Durable: true, Log: o.Logger("postgres"), Progress: o.Progress,
	})
	if err != nil {
		return fmt.Errorf("--data %s: %w", o.Data, err)
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		err = errors.Join(err, database.Stop(stopCtx))
	}()
	kept, err := loadSecrets(filepath.Join(o.Data, secretsFile))
	if err != nil {
		return err
	}
	broker, err := embednats.Start(ctx, embednats.Config{
		StoreDir: filepath.Join(o.Data, "nats"), Addr: o.NATS, Passwords: kept.NATS, Log: o.Logger("nats"),
	})
	if err != nil {
		return err
	}
	defer broker.Stop()
	emulator, err := googleemu.New(googleemu.Options{File: filepath.Join(o.Data, "google.json"), Log: o.Logger("google")}) //nolint:contextcheck // Close ends it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, emulator.Close()) }()
	if !o.NoSeed {
		if err := googleemu.SeedDemo(emulator, time.Now()); err != nil {
			return err
		}
	}

	s := &stack{
		Options: o, database: database, broker: broker, secrets: kept,
		addresses: Addresses{
			HTTP: "http://" + httpListener.Addr().String(), NATS: broker.URL("ops"), Postgres: database.URL(embedpg.Database),
			Google: "http://" + googleListener.Addr().String(), Metrics: "http://" + metricsListener.Addr().String() + "/metrics",
			Data: o.Data,
		},
	}
	if err := s.discardUnfinishedSeed(ctx); err != nil {
		return interrupted(ctx, err)
	}
	err = service.RunMigrate(ctx, service.MigrateConfig{Database: s.databaseConfig(), Bus: s.busConfig("provision")}, log)
	if err != nil {
		return interrupted(ctx, err)
	}

	if err := s.logins(ctx); err != nil {
		return interrupted(ctx, err)
	}

	// The emulator and the admin endpoints outlive the services, which still talk to them while they finish.
	outer, stopOuter := context.WithCancel(context.WithoutCancel(ctx))
	defer stopOuter()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		server := &http.Server{Handler: LoopbackOnly(emulator, googleListener, o.Google), ReadHeaderTimeout: 10 * time.Second}
		return daemon.ServeHTTP(outer, server, googleListener, time.Second)
	})
	admin := daemon.NewAdmin()
	admin.Wrap = func(h http.Handler) http.Handler { return LoopbackOnly(h, metricsListener, o.Metrics) }
	group.Go(func() error { return admin.Serve(outer, metricsListener) })
	group.Go(func() error {
		defer stopOuter()
		return s.run(groupCtx, admin, httpListener)
	})
	return group.Wait()
}

// stack is what a running Run passes on.
type stack struct {
	Options
	database  *embedpg.Server
	broker    *embednats.Server
	secrets   secrets
	addresses Addresses
	databases map[string]string // the URL of each service's own login, by its role
}

// logins gives each service's role of PostgreSQL a password for as long as this process lives.
func (s *stack) logins(ctx context.Context) error {
	conn, err := postgres.Connect(ctx, s.databaseConfig(), "fdc-dev")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // everything is committed by then
	s.databases = map[string]string{}
	for _, role := range []string{migrations.API, migrations.Syncer, migrations.CacheInvalidator, migrations.AuditArchiver} {
		password := rand.Text() // letters and digits
		if _, err := conn.Exec(ctx, fmt.Sprintf(`ALTER ROLE %s LOGIN PASSWORD '%s'`, role, password)); err != nil {
			return fmt.Errorf("make the login %s: %w", role, err)
		}
		u, err := url.Parse(s.database.URL(embedpg.Database))
		if err != nil {
			return fmt.Errorf("make the login %s: %w", role, err)
		}
		u.User = url.UserPassword(role, password)
		s.databases[role] = u.String()
	}
	return nil
}

// run seeds, starts the services, announces them and waits for their end.
func (s *stack) run(ctx context.Context, admin *daemon.Admin, httpListener net.Listener) error {
	if !s.NoSeed {
		if err := s.seed(ctx); err != nil {
			return interrupted(ctx, err)
		}
	}
	public, err := url.Parse(s.addresses.HTTP)
	if err != nil {
		return fmt.Errorf("--http: %w", err)
	}
	keys := service.KeyConfig{Master: s.secrets.MasterKeys}
	group, groupCtx := errgroup.WithContext(ctx)
	start := func(name string, run func(context.Context, service.Runtime) error) {
		runtime := service.Runtime{Log: s.Logger(name), Admin: admin.Service(name)}
		group.Go(func() error {
			if err := run(groupCtx, runtime); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	start("api", func(ctx context.Context, r service.Runtime) error {
		return service.RunAPI(ctx, service.APIConfig{
			Common: s.common("api"), Google: s.oauth(), Keys: keys, PublicURL: service.PublicURL{URL: public}, SyncAsync: true,
			RateLimitFactor: service.RateFactor(s.RateLimitFactor), Listener: httpListener,
			Wrap: func(h http.Handler) http.Handler { return LoopbackOnly(h, httpListener, s.HTTP) },
		}, r)
	})
	start(bus.Syncer, func(ctx context.Context, r service.Runtime) error {
		return service.RunSyncer(ctx, service.SyncerConfig{
			Common: s.common(bus.Syncer), Google: s.oauth(), Keys: keys, PublicURL: service.PublicURL{URL: public},
		}, r)
	})
	start(bus.CacheInvalidator, func(ctx context.Context, r service.Runtime) error {
		return service.RunCacheInvalidator(ctx, service.CacheInvalidatorConfig{Common: s.common(bus.CacheInvalidator)}, r)
	})
	start(bus.AuditArchiver, func(ctx context.Context, r service.Runtime) error {
		return auditarchiver.Run(ctx, auditarchiver.Config{
			Common: s.common(bus.AuditArchiver), Archive: archive.Location{URL: ArchiveURL(s.Data)},
			Signing: auditarchiver.SigningConfig{Key: s.secrets.AuditKey}, Retention: retentionMonths,
		}, r)
	})
	group.Go(func() error { return s.announce(groupCtx, admin) })
	return group.Wait()
}

// announce waits until all services are ready, leaves the addresses in the data directory and calls Ready.
func (s *stack) announce(ctx context.Context, admin *daemon.Admin) error {
	if err := admin.AwaitReady(ctx); err != nil {
		return interrupted(ctx, err)
	}
	if err := writeJSON(filepath.Join(s.Data, addressFile), s.addresses); err != nil {
		return err
	}
	return s.Ready(s.addresses)
}

func (s *stack) databaseConfig() postgres.Config {
	return postgres.Config{
		URL: s.database.URL(embedpg.Database), MaxConns: 10, ConnectTimeout: 10 * time.Second, QueryTimeout: 30 * time.Second,
	}
}

func (s *stack) busConfig(user string) bus.Config {
	return bus.Config{URL: s.broker.URL(user), User: user, Replicas: 1}
}

// common is what a service has: a user of NATS and a login of PostgreSQL of its own.
func (s *stack) common(name string) service.Common {
	database := s.databaseConfig()
	database.URL = s.databases[migrations.RoleOf(name)]
	return service.Common{Database: database, Bus: s.busConfig(name)}
}

func (s *stack) oauth() gsync.OAuth {
	return gsync.OAuth{ClientID: "fdc-dev", ClientSecret: "fdc-dev", Endpoint: s.addresses.Google}
}

// interrupted turns the error of a start that the user has broken off into an orderly end.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// addressFile is where a running stack leaves its addresses for the fdc command.
const addressFile = "dev.json"

// ReadAddresses finds the stack that runs, or ran last, on a data directory.
func ReadAddresses(data string) (Addresses, error) {
	var a Addresses
	content, err := os.ReadFile(filepath.Join(data, addressFile)) //nolint:gosec // the user's own --data
	if err != nil {
		return a, fmt.Errorf("no running fdc dev found in --data %s: %w", data, err)
	}
	if err := json.Unmarshal(content, &a); err != nil {
		return a, fmt.Errorf("read %s: %w", addressFile, err)
	}
	return a, nil
}

// ReadMasterKeys finds the keys that seal what is stored under a data directory.
func ReadMasterKeys(data string) (seal.Secret, error) {
	kept, err := readSecrets(data)
	return kept.MasterKeys, err
}

func readSecrets(data string) (secrets, error) {
	path := filepath.Join(data, secretsFile)
	if _, err := os.Stat(path); err != nil {
		return secrets{}, fmt.Errorf("no keys found in --data %s: %w", data, err)
	}
	return loadSecrets(path)
}

// retentionMonths is how many months of the audit log stay in the database.
const retentionMonths = 24

// ArchiveURL is where the months that left the audit log are.
func ArchiveURL(data string) string { return "file://" + filepath.Join(data, "archive") }

// publicKeyFile is the public half of the key that signs for the audit log, for those who verify it.
const publicKeyFile = "audit-public-key.pem"

// ReadAuditKey finds the key that signs for the audit log under a data directory.
func ReadAuditKey(data string) (seal.Secret, error) {
	kept, err := readSecrets(data)
	return kept.AuditKey, err
}

// ReplaceAuditKey has the next start of fdc dev sign for the audit log with another key.
func ReplaceAuditKey(data string, key seal.Secret) error {
	path := filepath.Join(data, secretsFile)
	content, err := os.ReadFile(path) //nolint:gosec // the user's own --data
	if err != nil {
		return fmt.Errorf("read secrets: %w", err)
	}
	var stored storedSecrets
	if err := json.Unmarshal(content, &stored); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	stored.AuditKey = key.Reveal()
	if err := writeJSON(path, stored); err != nil {
		return err
	}
	_, err = loadSecrets(path) // which writes the public half
	return err
}

// secretsFile holds what is made once per data directory.
const secretsFile = "secrets.json"

// secrets are made once per data directory.
type secrets struct {
	NATS       map[string]string // by user
	MasterKeys seal.Secret
	AuditKey   seal.Secret // signs for the audit log
}

// storedSecrets is their form on disk: seal.Secret does not print itself.
type storedSecrets struct {
	NATS       map[string]string `json:"nats"`
	MasterKeys string            `json:"masterKeys"`
	AuditKey   string            `json:"auditKey"`
}

// loadSecrets reads them, and makes those that aren't there.
func loadSecrets(path string) (secrets, error) {
	content, err := os.ReadFile(path) //nolint:gosec // the user's own --data
	var stored storedSecrets
	switch {
	case errors.Is(err, os.ErrNotExist):
		stored = storedSecrets{NATS: embednats.NewPasswords(), MasterKeys: seal.NewKey("v1").Reveal()}
	case err != nil:
		return secrets{}, fmt.Errorf("read secrets: %w", err)
	default:
		if err := json.Unmarshal(content, &stored); err != nil {
			return secrets{}, fmt.Errorf("read %s: %w; remove it together with its directory to start anew", path, err)
		}
	}
	if stored.AuditKey == "" {
		stored.AuditKey = newAuditKey()
		if err := writeJSON(path, stored); err != nil {
			return secrets{}, err
		}
	}
	key, err := archive.ParseSigningKey(stored.AuditKey)
	if err != nil {
		return secrets{}, fmt.Errorf("read %s: auditKey: %w", path, err)
	}
	public := filepath.Join(filepath.Dir(path), publicKeyFile)
	if err := os.WriteFile(public, archive.PublicKeyPEM(key), 0o600); err != nil {
		return secrets{}, fmt.Errorf("write %s: %w", publicKeyFile, err)
	}
	return secrets{NATS: stored.NATS, MasterKeys: seal.Secret(stored.MasterKeys), AuditKey: seal.Secret(stored.AuditKey)}, nil
}

// newAuditKey makes an Ed25519 seed.
func newAuditKey() string {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // it never fails
	return base64.StdEncoding.EncodeToString(seed)
}

// writeJSON replaces a file at once, readable by its owner only.
func writeJSON(path string, v any) error {
	content, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path+".new", append(content, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// port is an address and the flag that sets it.
type port struct{ addr, flag string }

func listenAll(ctx context.Context, ports []port) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, p := range ports {
		l, err := service.Listen(ctx, p.addr, p.flag)
		if err != nil {
			closeAll(listeners)
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close() // most have been closed by their servers
	}
}

// probe tells a taken port before something else is told to listen there.
func probe(ctx context.Context, p port) error {
	l, err := service.Listen(ctx, p.addr, p.flag)
	if err != nil {
		return err
	}
	return l.Close()
}

// ReadPasswords finds those of the users of NATS under a data directory.
func ReadPasswords(data string) (map[string]seal.Secret, error) {
	kept, err := readSecrets(data)
	if err != nil {
		return nil, err
	}
	passwords := map[string]seal.Secret{}
	for user, password := range kept.NATS {
		passwords[user] = seal.Secret(password)
	}
	return passwords, nil
}
