package backup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"fdc/internal/platform/postgres"
)

const (
	// lockKey is the advisory lock of the one working keeper of a database.
	lockKey = 0x0fdc_bac0

	standbyWait = 500 * time.Millisecond
	maxBackoff  = 2 * time.Second
	askTimeout  = 2 * time.Second // of NATS

	// A keeper that is silent for so long, on a connection that beats, loses its session, and with it the lock.
	sessionTimeout = 10 * time.Second
	beatEvery      = 2 * time.Second
	writeTimeout   = sessionTimeout

	compareEvery = time.Minute
)

// Keeper copies the streams into Postgres. Run it in every copy of a service: one works, the others stand by.
type Keeper struct {
	db  postgres.Config
	js  jetstream.JetStream
	log zerolog.Logger

	leader   prometheus.Gauge
	sequence *prometheus.GaugeVec
	pending  *prometheus.GaugeVec
	failures prometheus.Counter

	compareEvery time.Duration
	beforeWrite  func(stream string) // called when a batch was read and before it is written; tests kill the keeper there
}

// NewKeeper returns a keeper that writes over a direct connection of its own.
func NewKeeper(db postgres.Config, js jetstream.JetStream, log zerolog.Logger, metrics prometheus.Registerer) *Keeper {
	k := &Keeper{
		db: db, js: js, log: log.With().Str("component", "backup").Logger(), compareEvery: compareEvery,
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "stream_backup_leader", Help: "1 while this process copies what NATS alone holds.",
		}),
		sequence: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "stream_backup_sequence", Help: "The last sequence of the stream that this process has copied.",
		}, []string{"stream"}),
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "stream_backup_pending", Help: "Messages of the stream that are not copied yet, as the leader last saw it.",
		}, []string{"stream"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stream_backup_failures_total", Help: "How often copying was interrupted, by NATS or Postgres.",
		}),
	}
	metrics.MustRegister(k.leader, k.sequence, k.pending, k.failures)
	return k
}

// Run stands by, copies while it holds the lock, and returns nil when ctx ends. It outlives every failure of Postgres and NATS.
func (k *Keeper) Run(ctx context.Context) error {
	backoff := standbyWait
	for ctx.Err() == nil {
		began := time.Now()
		err := k.term(ctx)
		if err != nil && ctx.Err() == nil {
			k.failures.Inc()
			k.log.Warn().Err(err).Msg("backup of streams interrupted")
			backoff = min(backoff*2, maxBackoff)
		}
		if err == nil || time.Since(began) > time.Minute {
			backoff = standbyWait
		}
		wait(ctx, backoff/2+rand.N(backoff/2)) //nolint:gosec // jitter is no secret
	}
	return nil
}

// term is one connection's life: wait for the lock, copy, until something breaks. Whoever is not connected to NATS leaves the lock
// to others.
func (k *Keeper) term(ctx context.Context) error {
	if !k.js.Conn().IsConnected() {
		return nil
	}
	conn, err := postgres.Connect(ctx, k.db, "fdc-stream-backup")
	if err != nil {
		return err
	}
	defer func() {
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closeCtx) // closing is what frees the lock; a dead connection has freed it
	}()
	timeout := sessionTimeout.Milliseconds()
	_, err = conn.Exec(ctx, fmt.Sprintf(`SET idle_session_timeout = '%d ms'; SET tcp_user_timeout = '%d ms'`, timeout, timeout))
	if err != nil {
		return fmt.Errorf("prepare backup session: %w", err)
	}
	for leads := false; !leads; {
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, lockKey).Scan(&leads); err != nil {
			return fmt.Errorf("try backup lock: %w", err)
		}
		if !leads && (!wait(ctx, standbyWait/2+rand.N(standbyWait)) || !k.js.Conn().IsConnected()) { //nolint:gosec // jitter is no secret
			return nil
		}
	}
	k.log.Info().Msg("backup of streams leads")
	k.leader.Set(1)
	defer k.leader.Set(0)
	return k.lead(ctx, &session{conn: conn})
}

// lead copies all streams until ctx ends or one of them can't be copied: then another keeper may be able to.
func (k *Keeper) lead(ctx context.Context, s *session) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for _, stream := range streams {
		group.Go(func() error { return k.follow(groupCtx, s, stream) })
	}
	// The consumers are in the memory of a server that may be another one after a reconnect.
	status := k.js.Conn().StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	defer k.js.Conn().RemoveStatusListener(status)
	group.Go(func() error {
		select {
		case <-groupCtx.Done():
			return nil
		case <-status:
			return nats.ErrDisconnected
		}
	})
	group.Go(func() error {
		for wait(groupCtx, beatEvery) {
			if !k.js.Conn().IsConnected() {
				return nats.ErrDisconnected
			}
			if err := s.use(groupCtx, func(ctx context.Context, conn *pgx.Conn) error { return conn.Ping(ctx) }); err != nil {
				return fmt.Errorf("keep backup session: %w", err)
			}
		}
		return nil
	})
	err := group.Wait()
	if ctx.Err() != nil {
		return nil // an orderly end
	}
	return err
}

// session is the connection that holds the lock, used by one at a time.
type session struct {
	mu   sync.Mutex
	conn *pgx.Conn
}

// use runs fn, bounded in time: a statement that hangs costs the session.
func (s *session) use(ctx context.Context, fn func(context.Context, *pgx.Conn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return fn(ctx, s.conn)
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
