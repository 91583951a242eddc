package backup

import (
	"context"
	"fmt"
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

	askTimeout = 2 * time.Second // of NATS

	// A keeper that is silent for so long, on a connection that beats, loses its session, and with it the lock.
	sessionTimeout = 10 * time.Second
	beats          = 5 // in that time

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

	compareEvery, sessionTimeout time.Duration

	beforeWrite func(stream string) // called when a batch was read and before it is written; tests kill the keeper there
}

// NewKeeper returns a keeper that writes over a direct connection of its own.
func NewKeeper(db postgres.Config, js jetstream.JetStream, log zerolog.Logger, metrics prometheus.Registerer) *Keeper {
	k := &Keeper{
		db: db, js: js, log: log.With().Str("component", "backup").Logger(), compareEvery: compareEvery, sessionTimeout: sessionTimeout,
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
	leader := postgres.Leader{
		DB: k.db, Session: "fdc-stream-backup", Key: lockKey, Silence: k.sessionTimeout, Able: k.js.Conn().IsConnected, Leads: k.leader, Log: k.log,
	}
	return leader.Run(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		err := k.lead(ctx, &session{conn: conn, timeout: k.sessionTimeout})
		if err != nil {
			k.failures.Inc()
		}
		return err
	})
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
		for postgres.Wait(groupCtx, k.sessionTimeout/beats) {
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
	mu      sync.Mutex
	conn    *pgx.Conn
	timeout time.Duration
}

// use runs fn, bounded in time: a statement that hangs costs the session.
func (s *session) use(ctx context.Context, fn func(context.Context, *pgx.Conn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return fn(ctx, s.conn)
}
