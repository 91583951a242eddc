package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"fdc/internal/platform/fault"
)

// Config is how to reach the database.
type Config struct {
	URL            string        `env:"DATABASE_URL,required,notEmpty" file:"yes"` // they hold passwords
	DirectURL      string        `env:"DATABASE_DIRECT_URL" file:"yes"`
	ReplicaURL     string        `env:"DATABASE_REPLICA_URL" file:"yes"`
	MaxConns       int32         `env:"DATABASE_MAX_CONNS" envDefault:"10"`
	ConnectTimeout time.Duration `env:"DATABASE_CONNECT_TIMEOUT" envDefault:"10s"`
	QueryTimeout   time.Duration `env:"DATABASE_QUERY_TIMEOUT" envDefault:"30s"`

	// MaxWait bounds how long a caller waits for a connection of the pool, and with it how many wait. Zero is no bound.
	MaxWait time.Duration `env:"-"`
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

// Open makes a pool, whose statements and transactions are bounded as the package says. It does not wait for the server:
// the first query does.
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
	l := newLimits(c)
	pc.ConnConfig.Tracer = l
	if !l.pooled { // a pooler refuses such parameters; see TxOptions
		for _, s := range l.settings() {
			pc.ConnConfig.RuntimeParams[s[0]] = s[1]
		}
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

// HangUp closes a connection, which frees its locks. It waits a second at most, also after the end of ctx; a dead connection has freed
// its locks already.
func HangUp(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// SQLSTATEs that features ask for by name.
const (
	UniqueViolation     = "23505"
	ForeignKeyViolation = "23503"
	CheckViolation      = "23514"
	UndefinedTable      = "42P01"
	LockNotAvailable    = "55P03"
	DeadlockDetected    = "40P01"
	QueryCanceled       = "57014"
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

// Ping reports whether the database accepts a new connection and answers on it.
func Ping(ctx context.Context, pool *pgxpool.Pool) error { return Probe(ctx, pool, (*pgx.Conn).Ping) }

// Probe calls ask with a new connection to the database, and closes it. It doesn't use one of the pool: when slow statements
// hold all of them, the database is reachable nevertheless.
func Probe(ctx context.Context, pool *pgxpool.Pool, ask func(*pgx.Conn, context.Context) error) error {
	conn, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
	if err != nil {
		return fmt.Errorf("ping the database: %w", err)
	}
	defer HangUp(ctx, conn)
	if err := ask(conn, ctx); err != nil {
		return fmt.Errorf("ping the database: %w", err)
	}
	return nil
}

// Unreachable reports whether err looks as if the database were unavailable or refused work for now, so that the same call
// may succeed later. A statement that took too long can look so too; only Ping tells an outage.
func Unreachable(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		if pgErr.Code == QueryCanceled {
			return false // the server is there, and the statement took too long
		}
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

// Busy reports whether err says that the database is there and has no room right now: no connection of the pool was free
// in time, or the transaction waited too long for others and was rolled back whole. The same call may succeed later.
func Busy(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return slices.Contains([]string{LockNotAvailable, DeadlockDetected, QueryCanceled}, pgErr.Code)
	}
	// What pgconn gives up it marks as its own; so this is a wait for a connection that a deadline ended.
	return errors.Is(err, context.DeadlineExceeded) && !pgconn.Timeout(err)
}

// Fault gives err the kind Unavailable when the database is away or busy, and returns it unchanged otherwise.
func Fault(err error) error {
	if err == nil || fault.KindOf(err) != fault.Internal {
		return err
	}
	unavailable := &fault.Error{Kind: fault.Unavailable, RetryAfter: time.Second, Err: err}
	switch {
	case Busy(err):
		unavailable.Code = "database-busy"
		unavailable.Detail = "The database is busy right now; try again in a moment."
	case Unreachable(err):
		unavailable.Code = "database-unavailable"
		unavailable.Detail = "The database can't be reached right now; try again in a moment."
	default:
		return err
	}
	return unavailable
}
