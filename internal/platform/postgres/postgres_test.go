package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"fdc/internal/platform/fault"
)

func TestTheServerMustBeRecent(t *testing.T) {
	t.Parallel()
	require.NoError(t, recent(150000, "15.0"))
	require.NoError(t, recent(180001, "18.1"))
	err := recent(140011, "14.11")
	require.ErrorIs(t, err, ErrServerTooOld)
	require.EqualError(t, err, "the PostgreSQL server is too old: it is 14.11, FDC needs 15 or newer")
}

func TestOnlyWhatMayPassIsUnavailable(t *testing.T) {
	t.Parallel()
	refused := func(code string) error { return &pgconn.PgError{Code: code} }
	for name, err := range map[string]error{
		"cut": io.ErrUnexpectedEOF, "closed": net.ErrClosed, "dial": &net.OpError{Op: "dial", Err: errors.New("refused")},
		"admin shutdown": refused("57P01"), "too many connections": refused("53300"), "connection failure": refused("08006"),
		"lock not available": refused("55P03"), "deadlock": refused("40P01"), "statement timeout": refused("57014"),
		"no connection in time": fmt.Errorf("read: %w", context.DeadlineExceeded),
	} {
		require.Equal(t, fault.Unavailable, fault.KindOf(Fault(err)), name)
	}
	for name, err := range map[string]error{
		"duplicate": refused("23505"), "syntax": refused("42601"), "ours": errors.New("x"), "gone": context.Canceled,
	} {
		require.Equal(t, err, Fault(err), name)
	}
	require.NoError(t, Fault(nil))
	missing := fault.Missing("task")
	require.Equal(t, error(missing), Fault(missing), "a fault stays what it is")
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	fine := Config{URL: "postgres://u@h/db?password=hunter2", MaxConns: 10, ConnectTimeout: time.Second, QueryTimeout: time.Second}
	require.NoError(t, fine.Validate())
	require.False(t, fine.pooled())
	for want, change := range map[string]func(*Config){
		"DATABASE_URL":             func(c *Config) { c.URL = "postgres://u@h:port/db?password=hunter2" },
		"DATABASE_DIRECT_URL":      func(c *Config) { c.DirectURL = "postgres://u@h/db?sslmode=perhaps&password=hunter2" },
		"DATABASE_MAX_CONNS":       func(c *Config) { c.MaxConns = 1 },
		"DATABASE_CONNECT_TIMEOUT": func(c *Config) { c.ConnectTimeout = 0 },
		"DATABASE_QUERY_TIMEOUT":   func(c *Config) { c.QueryTimeout = -1 },
	} {
		c := fine
		change(&c)
		err := c.Validate()
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
