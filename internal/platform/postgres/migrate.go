package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// MinServerVersion is the oldest PostgreSQL that FDC is tested on, as server_version_num writes it.
const MinServerVersion = 150000

// ErrSchemaNewer says that the database was migrated by a newer binary.
var ErrSchemaNewer = errors.New("the database's schema is newer than this binary; run a binary of the same or a later version")

// ErrSchemaOlder says that migrations are missing.
var ErrSchemaOlder = errors.New("the database's schema is older than this binary; run fdc migrate")

// ErrServerTooOld says that the server is older than MinServerVersion.
var ErrServerTooOld = errors.New("the PostgreSQL server is too old")

// Applied is one migration that Migrate ran.
type Applied struct {
	Version  int64
	Name     string
	Duration time.Duration
}

// Migrate brings the schema at url (a direct connection) to the newest version. Concurrent calls wait for each other.
// It refuses a server older than MinServerVersion and a schema newer than the binary, and then changes nothing.
func Migrate(ctx context.Context, url string, files fs.FS) ([]Applied, error) {
	db, provider, err := open(url, files)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }() // only reads are left on it
	if err := supported(ctx, db); err != nil {
		return nil, err
	}
	if err := compare(ctx, db, provider); err != nil && !errors.Is(err, ErrSchemaOlder) {
		return nil, err
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	applied := make([]Applied, 0, len(results))
	for _, r := range results {
		applied = append(applied, Applied{Version: r.Source.Version, Name: r.Source.Path, Duration: r.Duration})
	}
	return applied, nil
}

// CheckSchema reports whether the schema at url is the one this binary wants: nil, ErrSchemaOlder or ErrSchemaNewer.
func CheckSchema(ctx context.Context, url string, files fs.FS) error {
	db, provider, err := open(url, files)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // only reads were made
	if err := supported(ctx, db); err != nil {
		return err
	}
	return compare(ctx, db, provider)
}

func open(url string, files fs.FS) (*sql.DB, *goose.Provider, error) {
	cc, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, nil, fmt.Errorf("parse database URL: %w", err)
	}
	db := stdlib.OpenDB(*cc)
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make migration lock: %w", err), db.Close())
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read migrations: %w", err), db.Close())
	}
	return db, provider, nil
}

func supported(ctx context.Context, db *sql.DB) error {
	var number int
	var name string
	err := db.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version')`).
		Scan(&number, &name)
	if err != nil {
		return fmt.Errorf("ask for the server's version: %w", err)
	}
	return recent(number, name)
}

func recent(number int, name string) error {
	if number < MinServerVersion {
		return fmt.Errorf("%w: it is %s, FDC needs %d or newer", ErrServerTooOld, name, MinServerVersion/10_000)
	}
	return nil
}

// compare holds the applied version against the newest file. It asks the table itself: goose's own call would create it,
// and services never create anything.
func compare(ctx context.Context, db *sql.DB, provider *goose.Provider) error {
	sources := provider.ListSources()
	newest := sources[len(sources)-1].Version
	var current int64
	err := db.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM `+goose.DefaultTablename+` WHERE is_applied`).
		Scan(&current)
	switch {
	case IsState(err, UndefinedTable):
		return fmt.Errorf("%w (database empty, binary %d)", ErrSchemaOlder, newest)
	case err != nil:
		return fmt.Errorf("ask for the schema's version: %w", err)
	case current > newest:
		return fmt.Errorf("%w (database %d, binary %d)", ErrSchemaNewer, current, newest)
	case current < newest:
		return fmt.Errorf("%w (database %d, binary %d)", ErrSchemaOlder, current, newest)
	}
	return nil
}
