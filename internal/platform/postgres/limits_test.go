package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
)

// patience bounds what takes milliseconds on a machine that has nothing else to do.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	testenv.Parallel(8) // they wait for limits
	m.Run()
}

func open(t *testing.T, c postgres.Config) *pgxpool.Pool {
	t.Helper()
	c.ConnectTimeout = patience
	pool, err := postgres.Open(t.Context(), c, "limits")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// ways are how a database is reached, and whether that is through a pooler.
var ways = map[string]bool{"direct": false, "through PgBouncer": true}

// reach gives the test a database, and a pool to it whose statements take at most two seconds.
func reach(t *testing.T, pooled bool) (*pgtest.DB, *pgxpool.Pool) {
	t.Helper()
	db := pgtest.Empty(t)
	config := postgres.Config{URL: db.URL, MaxConns: 8, QueryTimeout: 2 * time.Second}
	if pooled {
		config.URL, config.DirectURL = pgtest.Bouncer(t, db.URL, 4), db.URL
	}
	return db, open(t, config)
}

// A transaction has all limits of the server's, however it was reached.
func TestATransactionHasItsLimits(t *testing.T) {
	t.Parallel()
	for way, pooled := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			_, pool := reach(t, pooled)
			require.NoError(t, pgx.BeginTxFunc(t.Context(), pool, postgres.TxOptions(pool), func(tx pgx.Tx) error {
				require.Equal(t, "2s", show(t, tx, "statement_timeout"))
				require.Equal(t, "1s", show(t, tx, "lock_timeout"))
				require.Equal(t, "30s", show(t, tx, "idle_in_transaction_session_timeout"))
				return nil
			}))
		})
	}
}

// A statement ends, on the server too, whether it is in a transaction or on its own.
func TestEveryStatementEnds(t *testing.T) {
	t.Parallel()
	for way, pooled := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			db, pool := reach(t, pooled)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			exec := func(q postgres.Querier) error {
				_, err := q.Exec(ctx, `SELECT pg_sleep(600)`)
				return err
			}
			query := func(q postgres.Querier) error {
				return q.QueryRow(ctx, `SELECT pg_sleep($1)`, 600).Scan(nil)
			}
			within := func(run func(postgres.Querier) error) error {
				return pgx.BeginTxFunc(ctx, pool, postgres.TxOptions(pool), func(tx pgx.Tx) error { return run(tx) })
			}
			ended := make(chan error, 4)
			for _, run := range []func() error{
				func() error { return exec(pool) }, func() error { return query(pool) },
				func() error { return within(exec) }, func() error { return within(query) },
			} {
				go func() { ended <- run() }()
			}
			for range 4 {
				err := <-ended
				require.Equal(t, fault.Unavailable, fault.KindOf(postgres.Fault(err)), "%v", err)
			}
			require.NoError(t, ctx.Err(), "only the caller's own deadline ended it")
			require.Eventually(t, func() bool {
				var left int
				err := db.Pool.QueryRow(t.Context(),
					`SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active' AND pid <> pg_backend_pid()
						AND datname = current_database()`).Scan(&left)
				return err == nil && left == 0
			}, patience, 10*time.Millisecond, "a statement goes on")
			require.NoError(t, pool.Ping(t.Context()))
		})
	}
}

// A transaction waits for a lock for less than a statement may take, and says so.
func TestALockIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	for way, pooled := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			db, pool := reach(t, pooled)
			_, err := db.Pool.Exec(t.Context(), `CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1)`)
			require.NoError(t, err)
			holder, err := db.Pool.Begin(t.Context())
			require.NoError(t, err)
			_, err = holder.Exec(t.Context(), `SELECT FROM things FOR UPDATE`)
			require.NoError(t, err)

			update := func() error {
				return pgx.BeginTxFunc(t.Context(), pool, postgres.TxOptions(pool), func(tx pgx.Tx) error {
					_, err := tx.Exec(t.Context(), `UPDATE things SET id = 2`)
					return err
				})
			}
			err = update()
			require.True(t, postgres.IsState(err, postgres.LockNotAvailable), "%v", err)
			require.Equal(t, fault.Unavailable, fault.KindOf(postgres.Fault(err)))
			require.NoError(t, holder.Rollback(t.Context()))
			require.NoError(t, update())
		})
	}
}

// Of two transactions that wait for each other one is given up, and told to try again.
func TestADeadlocksVictimMayTryAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	_, err := db.Pool.Exec(t.Context(), `CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1), (2)`)
	require.NoError(t, err)
	pool := open(t, postgres.Config{URL: db.URL, MaxConns: 2, QueryTimeout: patience})
	first, second := make(chan struct{}), make(chan struct{})
	lock := func(id, other int, mine, theirs chan struct{}) error {
		return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `SELECT FROM things WHERE id = $1 FOR UPDATE`, id)
			close(mine)
			if err != nil {
				return err
			}
			<-theirs
			_, err = tx.Exec(t.Context(), `SELECT FROM things WHERE id = $1 FOR UPDATE`, other)
			return err
		})
	}
	ended := make(chan error, 2)
	go func() { ended <- lock(1, 2, first, second) }()
	go func() { ended <- lock(2, 1, second, first) }()
	winner, victim := <-ended, <-ended
	if winner != nil {
		winner, victim = victim, winner
	}
	require.NoError(t, winner)
	require.True(t, postgres.IsState(victim, postgres.DeadlockDetected), "%v", victim)
	require.Equal(t, fault.Unavailable, fault.KindOf(postgres.Fault(victim)))
}

// Through a pooler, clients with other limits share the server connections: none finds what another has set.
func TestNothingIsLeftOnASharedConnection(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	const servers = 2
	config := postgres.Config{
		URL: pgtest.Bouncer(t, db.URL, servers), DirectURL: db.URL, MaxConns: 4, QueryTimeout: 2 * time.Second,
	}
	pool := open(t, config)
	for range 10 * servers {
		require.NoError(t, pgx.BeginTxFunc(t.Context(), pool, postgres.TxOptions(pool), func(tx pgx.Tx) error {
			require.Equal(t, "2s", show(t, tx, "statement_timeout"))
			return nil
		}))
	}
	// All server connections at once, so that none is left out.
	for range servers {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback(t.Context())) }()
		for _, name := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
			require.Equal(t, "0", show(t, tx, name), name)
		}
		var prepared int
		require.NoError(t, tx.QueryRow(t.Context(), `SELECT count(*) FROM pg_prepared_statements`).Scan(&prepared))
		require.Zero(t, prepared, "prepared statements")
	}
}

func show(t *testing.T, q postgres.Querier, setting string) string {
	t.Helper()
	var value string
	require.NoError(t, q.QueryRow(t.Context(), `SELECT current_setting($1)`, setting).Scan(&value))
	return value
}

// Who finds every server connection of the pooler taken hears so when the pooler's patience ends.
func TestASaturatedPoolerRefuses(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	pool := open(t, postgres.Config{URL: pgtest.Bouncer(t, db.URL, 1), DirectURL: db.URL, MaxConns: 2, QueryTimeout: patience})
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `SELECT`)
	require.Equal(t, fault.Unavailable, fault.KindOf(postgres.Fault(err)), "%v", err)
	require.ErrorContains(t, err, "query_wait_timeout")
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, pool.Ping(t.Context()))
}

// Who finds every connection taken waits no longer than MaxWait, and not at all behind a long queue.
func TestASaturatedPoolRefuses(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	pool := open(t, postgres.Config{URL: db.URL, MaxConns: 2, QueryTimeout: patience, MaxWait: time.Second})
	held := []*pgxpool.Conn{acquire(t, pool), acquire(t, pool)}

	err := pool.QueryRow(t.Context(), `SELECT 1`).Scan(nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	unavailable := new(fault.Error)
	require.ErrorAs(t, postgres.Fault(err), &unavailable)
	require.Equal(t, "database-busy", unavailable.Code)
	require.Positive(t, unavailable.RetryAfter)

	for _, conn := range held {
		conn.Release()
	}
	require.NoError(t, pool.Ping(t.Context()))

	// However long one may wait: a crowd is refused but for the queue.
	patient := open(t, postgres.Config{URL: db.URL, MaxConns: 1, QueryTimeout: patience, MaxWait: patience})
	only := acquire(t, patient)
	const crowd = 150
	ended := make(chan error, crowd)
	for range crowd {
		go func() { ended <- patient.Ping(t.Context()) }()
	}
	for range crowd - 100 {
		require.True(t, postgres.Busy(<-ended))
	}
	only.Release()
	for range 100 {
		require.NoError(t, <-ended)
	}
}

// acquire takes a connection of a pool that has one. On a busy machine that may take longer to be made than one may wait for it.
func acquire(t *testing.T, pool *pgxpool.Pool) *pgxpool.Conn {
	t.Helper()
	var conn *pgxpool.Conn
	require.Eventually(t, func() bool {
		var err error
		conn, err = pool.Acquire(t.Context())
		return err == nil
	}, patience, time.Millisecond)
	t.Cleanup(conn.Release)
	return conn
}
