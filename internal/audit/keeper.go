package audit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"fdc/events"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

const (
	// keeperLock is the advisory lock of the one working keeper of a database.
	keeperLock = 0x0fdc_a0d2

	checkEvery = time.Minute
	retryAfter = 2 * time.Second

	// A keeper that is silent for so long loses its session, and with it the lock.
	sessionTimeout = 3 * checkEvery
)

// Keeper makes partitions ahead, and tells (audit.partitions_low) when it can't. Run it in every copy of the service: one works, the others stand by and watch.
type Keeper struct {
	db    postgres.Config
	log   zerolog.Logger
	now   func() time.Time
	every time.Duration // between two looks
	retry time.Duration // before the next connection

	ahead  prometheus.Gauge
	leader prometheus.Gauge
	low    atomic.Bool // alerted of too few months ahead
}

// NewKeeper returns a keeper that works over direct connections of its own.
func NewKeeper(db postgres.Config, log zerolog.Logger, metrics prometheus.Registerer) *Keeper {
	k := &Keeper{
		db: db, log: log.With().Str("component", "audit").Logger(), now: time.Now,
		every: checkEvery, retry: retryAfter,
		ahead: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "audit_partition_months_ahead",
			Help: "Months after the current one that have their partition; -1 when the current one has none. Alert at 2.",
		}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "audit_keeper_leader", Help: "1 while this process makes the partitions.",
		}),
	}
	metrics.MustRegister(k.ahead, k.leader)
	return k
}

// EnsureAhead makes the missing partitions now, leader or not. A service calls it before it starts the writer.
func (k *Keeper) EnsureAhead(ctx context.Context) error {
	conn, err := postgres.Connect(ctx, k.db, "fdc-audit-keeper")
	if err != nil {
		return err
	}
	defer postgres.HangUp(ctx, conn)
	return k.ensure(ctx, conn)
}

// Run looks after the partitions every minute until ctx ends, and then returns nil. It outlives every failure of
// Postgres.
func (k *Keeper) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := k.term(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		k.log.Warn().Err(err).Msg("audit keeper interrupted")
		select {
		case <-ctx.Done():
		case <-time.After(k.retry):
		}
	}
	return nil
}

// term is one connection's life: look, and work while it holds the lock, until something breaks.
func (k *Keeper) term(ctx context.Context) error {
	conn, err := postgres.Connect(ctx, k.db, "fdc-audit-keeper")
	if err != nil {
		return err
	}
	defer postgres.HangUp(ctx, conn)
	timeout := sessionTimeout.Milliseconds()
	_, err = conn.Exec(ctx, fmt.Sprintf(`SET idle_session_timeout = '%d ms'; SET tcp_user_timeout = '%d ms'`, timeout, timeout))
	if err != nil {
		return fmt.Errorf("prepare keeper session: %w", err)
	}
	check := time.NewTicker(k.every)
	defer check.Stop()
	defer k.leader.Set(0)
	leads := false
	for {
		if !leads {
			if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, keeperLock).Scan(&leads); err != nil {
				return fmt.Errorf("try keeper lock: %w", err)
			}
		}
		if leads {
			k.leader.Set(1)
			err = k.ensure(ctx, conn)
		} else {
			_, err = k.look(ctx, conn)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-check.C:
		}
	}
}

func (k *Keeper) ensure(ctx context.Context, conn *pgx.Conn) error {
	created, err := EnsurePartitions(ctx, conn, k.now(), MonthsAhead)
	if len(created) > 0 {
		k.log.Info().Strs("months", created).Msg("audit partitions made")
	}
	ahead, lookErr := k.look(ctx, conn)
	if lookErr == nil {
		lookErr = k.alert(ctx, conn, ahead)
	}
	return errors.Join(err, lookErr)
}

func (k *Keeper) look(ctx context.Context, q postgres.Querier) (ahead int, err error) {
	list, err := Partitions(ctx, q)
	if err != nil {
		return 0, err
	}
	ahead = Ahead(list, k.now())
	k.ahead.Set(float64(ahead))
	return ahead, nil
}

// AlertBelow is how many months ahead are too few: time to see why no more are made.
const AlertBelow = 2

// alert tells that the months run out, once until there are enough again.
func (k *Keeper) alert(ctx context.Context, conn *pgx.Conn, ahead int) error {
	low := ahead < AlertBelow
	if low && !k.low.Load() {
		k.log.Error().Int("months_ahead", ahead).Msg("audit partitions run out")
		last := MonthOf(k.now()).Add(max(ahead, 0))
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			return outbox.Append(ctx, tx, events.New(events.Meta{Source: Source, ActorID: events.SystemActor}, "",
				events.AuditPartitionsLow{Month: last.String(), Ahead: int64(max(ahead, 0))}))
		})
		if err != nil {
			return fmt.Errorf("tell of missing partitions: %w", err)
		}
	}
	k.low.Store(low)
	return nil
}
