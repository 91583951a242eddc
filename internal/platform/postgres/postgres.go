package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"fdc/internal/platform/fault"
)

// Config is how to reach the database.
type Config struct {
	URL            string        `env:"DATABASE_URL,required,notEmpty"`
	DirectURL      string        `env:"DATABASE_DIRECT_URL"`
	ReplicaURL     string        `env:"DATABASE_REPLICA_URL"`
	MaxConns       int32         `env:"DATABASE_MAX_CONNS" envDefault:"10"`
	ConnectTimeout time.Duration `env:"DATABASE_CONNECT_TIMEOUT" envDefault:"10s"`
	QueryTimeout   time.Duration `env:"DATABASE_QUERY_TIMEOUT" envDefault:"30s"`
}

// Validate names what is malformed.
func (c Config) Validate() error {
	var errs []error
	for name, url := range map[string]string{
		"DATABASE_URL": c.URL, "DATABASE_DIRECT_URL": c.DirectURL, "DATABASE_REPLICA_URL": c.ReplicaURL,
	} {
		if url == "" {
			continue
		}
		if _, err := pgconn.ParseConfig(url); err != nil {
			// pgconn's text redacts the password.
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	if c.MaxConns < 2 || c.MaxConns > 10_000 {
		errs = append(errs, fmt.Errorf("DATABASE_MAX_CONNS: %d is not between 2 and 10000", c.MaxConns))
	}
	if c.ConnectTimeout <= 0 {
		errs = append(errs, errors.New("DATABASE_CONNECT_TIMEOUT: must be positive"))
	}
	if c.QueryTimeout <= 0 {
		errs = append(errs, errors.New("DATABASE_QUERY_TIMEOUT: must be positive"))
	}
	return errors.Join(errs...)
}

// Direct is the URL for migrations and advisory locks: past any transaction pooler.
func (c Config) Direct() string {
	if c.DirectURL != "" {
		return c.DirectURL
	}
	return c.URL
}

// pooled reports whether URL may lead to a transaction pooler: whoever has one names the direct way past it.
func (c Config) pooled() bool { return c.Direct() != c.URL }

// Querier is what a pool, a connection and a transaction share.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Open makes a pool. It does not wait for the server: the first query does.
func Open(ctx context.Context, c Config, application string) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, fmt.Errorf("parse DATABASE_URL: %w", err)
	}
	pc.MaxConns = c.MaxConns
	pc.MinConns = min(2, c.MaxConns)
	pc.MaxConnIdleTime = 5 * time.Minute
	pc.HealthCheckPeriod = 15 * time.Second
	pc.ConnConfig.ConnectTimeout = c.ConnectTimeout
	if c.pooled() {
		// What is prepared on one server connection is unknown on the next; only descriptions are kept, by the client.
		pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	pc.ConnConfig.RuntimeParams["application_name"] = application
	// A startup parameter would be refused by a pooler; all users of its server connections want the same.
	limit := fmt.Sprintf("SET statement_timeout = %d", c.QueryTimeout.Milliseconds())
	pc.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, limit)
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	return pool, nil
}

// Connect opens one direct connection, for sessions that hold advisory locks.
func Connect(ctx context.Context, c Config, application string) (*pgx.Conn, error) {
	cc, err := pgx.ParseConfig(c.Direct())
	if err != nil {
		return nil, fmt.Errorf("parse DATABASE_DIRECT_URL: %w", err)
	}
	cc.ConnectTimeout = c.ConnectTimeout
	cc.RuntimeParams["application_name"] = application
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, nil
}

// SQLSTATEs that features ask for by name.
const (
	UniqueViolation     = "23505"
	ForeignKeyViolation = "23503"
	CheckViolation      = "23514"
	UndefinedTable      = "42P01"
)

// IsState reports whether err carries the given SQLSTATE.
func IsState(err error, state string) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == state
}

// Constraint names the violated constraint, empty when err is no violation.
func Constraint(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.ConstraintName
	}
	return ""
}

// Unreachable reports whether err says that the database is away or refuses work for now, so that the same call may
// succeed later.
func Unreachable(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pgErr.Code[:2] {
		case "08", "53", "57": // connection exception, insufficient resources, operator intervention
			return true
		}
		return false
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	for _, cut := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed} {
		if errors.Is(err, cut) {
			return true
		}
	}
	return pgconn.SafeToRetry(err) || pgconn.Timeout(err)
}

// Fault gives err the kind Unavailable when the database is away, and returns it unchanged otherwise.
func Fault(err error) error {
	if err == nil || fault.KindOf(err) != fault.Internal || !Unreachable(err) {
		return err
	}
	return &fault.Error{
		Kind: fault.Unavailable, Code: "database-unavailable",
		Detail: "The database can't be reached right now; try again in a moment.", RetryAfter: time.Second, Err: err,
	}
}
