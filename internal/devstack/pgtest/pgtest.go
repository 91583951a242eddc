package pgtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"fdc/internal/devstack/embedpg"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/postgres"
	"fdc/migrations"
)

const (
	patience       = 2 * time.Minute // for the cluster, the template or a clone, on a busy machine
	maxConnections = 500             // of the shared cluster
	poolSize       = 4               // of each test
)

// DB is a database of one test. The test may do anything to it.
type DB struct {
	URL  string        // the owner's
	Pool *pgxpool.Pool // a few connections, closed with the test
}

// New gives the test a database with the schema of fdc/migrations. Without PostgreSQL on the machine the test fails,
// unless -short skips it.
func New(tb testing.TB) *DB {
	tb.Helper()
	skipIfShort(tb)
	return open(tb, "TEMPLATE "+template(tb))
}

// Empty gives the test a database without any schema.
func Empty(tb testing.TB) *DB {
	tb.Helper()
	skipIfShort(tb)
	return open(tb, "TEMPLATE template0")
}

// Cluster gives the test a whole server of its own, to stop, crash and restart, with the schema in [embedpg.Database].
// It doesn't wait for the disk on commit: what it has committed outlives its own crash, not the machine's.
func Cluster(tb testing.TB) *embedpg.Server {
	tb.Helper()
	skipIfShort(tb)
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	cfg := config(os.Getpid(), strings.ToLower(rand.Text()))
	cfg.Log = zerolog.New(zerolog.NewTestWriter(tb))
	server, err := embedpg.Start(ctx, cfg)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var stopped error
		if server != nil {
			stopped = server.Stop(ctx)
		}
		if err := errors.Join(stopped, embedpg.Remove(ctx, cfg.Dir)); err != nil {
			tb.Error(err)
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := postgres.Migrate(ctx, server.URL(embedpg.Database), migrations.FS); err != nil {
		tb.Fatal(err)
	}
	if err := grant(ctx, server.URL(embedpg.Database)); err != nil {
		tb.Fatal(err)
	}
	return server
}

func skipIfShort(tb testing.TB) {
	tb.Helper()
	if testing.Short() {
		tb.Skip("-short: no PostgreSQL")
	}
}

// join is done once per process: the cluster is there for all of its tests.
var join = sync.OnceValues(func() (*embedpg.Shared, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience) // it may have to fetch PostgreSQL first
	defer cancel()
	cfg := config(testenv.Run(), "shared")
	cfg.MaxConnections = maxConnections
	return embedpg.Join(ctx, cfg)
})

func config(owner int, name string) embedpg.Config {
	return embedpg.Config{
		Dir:    filepath.Join(room(), fmt.Sprintf("fdc-pgtest-%d-%d-%s", os.Getuid(), owner, name)),
		BinDir: os.Getenv("FDC_PG_BIN"),
		Owner:  owner,
		Log:    zerolog.Nop(),
	}
}

// room is where clusters go: into memory when there is plenty, because a clone is some 300 small files, which take 15 ms
// there and 160 ms on a disk.
func room() string {
	const memory, plenty = "/dev/shm", 4 << 30
	var stat unix.Statfs_t
	if unix.Statfs(memory, &stat) == nil && stat.Blocks*uint64(stat.Bsize) >= plenty { //nolint:gosec // not negative
		return memory
	}
	return os.TempDir()
}

func cluster(tb testing.TB) *embedpg.Shared {
	tb.Helper()
	shared, err := join()
	if err != nil {
		tb.Fatal(err)
	}
	return shared
}

// built is the template of this process's migrations, once it is there.
var built = sync.OnceValues(func() (string, error) {
	shared, err := join()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return buildTemplate(ctx, shared, migrations.FS)
})

func template(tb testing.TB) string {
	tb.Helper()
	name, err := built()
	if err != nil {
		tb.Fatal(err)
	}
	return name
}

// grant gives the services' roles their rights, as fdc migrate does.
func grant(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("grant rights: %w", err)
	}
	defer conn.Close(ctx)
	return execute(ctx, conn, migrations.Grants())
}

// buildTemplate migrates a database and closes it to everybody, unless another process has done so. Its name is that of
// the migrations' content, so that processes built from different sources don't meet.
func buildTemplate(ctx context.Context, shared *embedpg.Shared, files fs.FS) (name string, err error) {
	sum := sha256.New()
	err = fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(files, path)
		if err == nil {
			_, err = fmt.Fprintf(sum, "%s %d\n%s", path, len(text), text)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read migrations: %w", err)
	}
	_, _ = sum.Write([]byte(migrations.Grants())) // a hash never fails
	name = fmt.Sprintf("template_%x", sum.Sum(nil)[:8])

	conn, err := pgx.Connect(ctx, shared.URL("postgres"))
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer conn.Close(ctx)
	const lock = 0x66646370 // any number; the end of the session frees it
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", lock); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	var ready bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&ready); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	if ready {
		return name, nil
	}
	for _, step := range []func() error{
		func() error { return execute(ctx, conn, "DROP DATABASE IF EXISTS unfinished") },
		func() error { return execute(ctx, conn, "CREATE DATABASE unfinished TEMPLATE template0") },
		func() error {
			_, err := postgres.Migrate(ctx, shared.URL("unfinished"), files)
			return err
		},
		func() error { return grant(ctx, shared.URL("unfinished")) },
		func() error { return execute(ctx, conn, "ALTER DATABASE unfinished ALLOW_CONNECTIONS false") },
		func() error { return execute(ctx, conn, "ALTER DATABASE unfinished RENAME TO "+name) },
	} {
		if err := step(); err != nil {
			return "", fmt.Errorf("build %s: %w", name, err)
		}
	}
	return name, nil
}

func open(tb testing.TB, from string) *DB {
	tb.Helper()
	shared := cluster(tb)
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	name := "test_" + strings.ToLower(rand.Text())
	if err := maintain(ctx, shared, "CREATE DATABASE "+name+" "+from+" "); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { drop(tb, shared, name) })

	db := &DB{URL: shared.URL(name)}
	cfg, err := pgxpool.ParseConfig(db.URL)
	if err != nil {
		tb.Fatal(err)
	}
	cfg.MaxConns = poolSize
	if db.Pool, err = pgxpool.NewWithConfig(tb.Context(), cfg); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closePool(tb, db.Pool) })
	return db
}

// closePool does not wait for ever, as Close does, for a connection that a failed test still holds.
func closePool(tb testing.TB, pool *pgxpool.Pool) {
	tb.Helper()
	closed := make(chan struct{})
	go func() {
		pool.Close()
		close(closed)
	}()
	wait := 5 * time.Second
	if tb.Failed() {
		wait = 200 * time.Millisecond // such a test has often left its connections, and no goroutine to give them back
	}
	select {
	case <-closed:
	case <-time.After(wait):
		tb.Errorf("%d connections were not given back to the pool", pool.Stat().AcquiredConns())
	}
}

func drop(tb testing.TB, shared *embedpg.Shared, name string) {
	tb.Helper()
	if tb.Failed() {
		file, err := shared.Keep()
		if err != nil {
			tb.Error(err)
		}
		tb.Logf("its database is kept until five minutes after the run (or until %s is removed): %s", file, shared.URL(name))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := maintain(ctx, shared, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
		tb.Error(err)
	}
}

// maintain runs a statement on databases, over a connection of its own.
func maintain(ctx context.Context, shared *embedpg.Shared, statement string) error {
	conn, err := pgx.Connect(ctx, shared.URL("postgres"))
	if err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return errors.Join(execute(ctx, conn, statement), conn.Close(ctx))
}

func execute(ctx context.Context, conn *pgx.Conn, statement string) error {
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}
