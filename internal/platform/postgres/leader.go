package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

const (
	standbyWait   = 500 * time.Millisecond
	maxLeaderWait = 2 * time.Second
	steadyTerm    = time.Minute // what breaks after so long is no series of failures
)

// Leader has one process of many do something: the one that holds an advisory lock of the database. The lock lives on the very
// connection that the work is done with, and the server ends that session when it was silent for too long: whoever hangs or is cut
// off can't keep the lock and, once it lost it, can't write.
type Leader struct {
	DB      Config
	Session string        // the connection's application name
	Key     int64         // of the lock
	Silence time.Duration // after which the server ends the session
	Able    func() bool   // whoever is not able leaves the lock to others
	Leads   prometheus.Gauge
	Log     zerolog.Logger
}

// Run stands by, calls work whenever this process has got the lock, and returns nil when ctx ends. A work that returns gives the lock
// up; its error is logged, and holds this process back for up to two seconds. Run outlives every failure of the database.
func (l Leader) Run(ctx context.Context, work func(context.Context, *pgx.Conn) error) error {
	backoff := standbyWait
	for ctx.Err() == nil {
		began := time.Now()
		err := l.term(ctx, work)
		failed := err != nil && ctx.Err() == nil
		if failed {
			l.Log.Warn().Err(err).Str("session", l.Session).Msg("leader interrupted")
		}
		if failed && time.Since(began) < steadyTerm {
			backoff = min(backoff*2, maxLeaderWait)
		} else {
			backoff = standbyWait
		}
		Wait(ctx, backoff/2+rand.N(backoff/2)) //nolint:gosec // jitter is no secret
	}
	return nil
}

// term is one connection's life: wait for the lock, work, until something breaks.
func (l Leader) term(ctx context.Context, work func(context.Context, *pgx.Conn) error) error {
	if !l.Able() {
		return nil
	}
	conn, err := Connect(ctx, l.DB, l.Session)
	if err != nil {
		return err
	}
	defer HangUp(ctx, conn)
	silence := l.Silence.Milliseconds()
	_, err = conn.Exec(ctx, fmt.Sprintf(`SET idle_session_timeout = '%d ms'; SET tcp_user_timeout = '%d ms'`, silence, silence))
	if err != nil {
		return fmt.Errorf("prepare session %s: %w", l.Session, err)
	}
	for {
		var leads bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, l.Key).Scan(&leads); err != nil {
			return fmt.Errorf("try the lock of %s: %w", l.Session, err)
		}
		if leads {
			break
		}
		if !Wait(ctx, standbyWait/2+rand.N(standbyWait)) || !l.Able() { //nolint:gosec // jitter is no secret
			return nil
		}
	}
	l.Log.Info().Str("session", l.Session).Msg("leads")
	l.Leads.Set(1)
	defer l.Leads.Set(0)
	return work(ctx, conn)
}

// Wait waits for a time, and reports whether it is over; false when ctx has ended before.
func Wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
