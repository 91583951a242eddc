package identity

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"fdc/events"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

const (
	// sweepLock is the advisory lock of a batch: one place at a time sweeps, and a transaction pooler may be in between.
	sweepLock = 0x0fdc_5e55

	sweepEvery = time.Minute
	// sweepBatch keeps a transaction, and the burst of its events, short.
	sweepBatch = 200
	// sweepGrace leaves the row of an ended session to those who still look it up by events that come late.
	sweepGrace = time.Hour
)

// Sweep removes up to 200 sessions whose lifetime ended over an hour ago, and tells of each that was not revoked before. The
// audit log keeps their history. It returns how many it removed; none while another place sweeps.
func (s *Service) Sweep(ctx context.Context, meta events.Meta) (int, error) {
	removed := 0
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		var alone bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, sweepLock).Scan(&alone); err != nil || !alone {
			return err
		}
		list, err := deleteExpired(ctx, tx)
		if err != nil {
			return err
		}
		for _, e := range list {
			if e.Revoked {
				continue
			}
			if err := outbox.Append(ctx, tx, e.event(meta, events.RevokedExpired)); err != nil {
				return err
			}
		}
		removed = len(list)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("sweep sessions: %w", err)
	}
	return removed, nil
}

// Run notes what was seen every second and sweeps every minute until ctx ends, and then returns nil. It outlives every
// failure of Postgres.
func (s *Service) Run(ctx context.Context, source string, log zerolog.Logger) error {
	var noting sync.WaitGroup
	defer noting.Wait()
	noting.Go(func() { s.runSeen(ctx, log) })
	meta := events.Meta{Source: source, ActorID: events.SystemActor}
	again := time.NewTicker(sweepEvery)
	defer again.Stop()
	for {
		total, n, err := 0, sweepBatch, error(nil)
		for n == sweepBatch && err == nil {
			n, err = s.Sweep(ctx, meta)
			total += n
		}
		if err == nil {
			err = s.sweepErased(ctx)
		}
		if total > 0 {
			log.Info().Int("sessions", total).Msg("expired sessions swept")
		}
		if err != nil && ctx.Err() == nil {
			log.Warn().Err(err).Msg("expired sessions not swept")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
	}
}

// swept is a session that was just removed.
type swept struct {
	ended
	Revoked bool // and told of, before
}

func deleteExpired(ctx context.Context, tx pgx.Tx) ([]swept, error) {
	rows, _ := tx.Query(ctx, `
		DELETE FROM sessions
		WHERE id = ANY (ARRAY(
			SELECT id FROM sessions WHERE expires_at < now() - $1::interval
			ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))
		RETURNING id, user_id, version + 1 AS version, revoked_at IS NOT NULL AS revoked`, sweepGrace, sweepBatch)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[swept])
	return list, postgres.Fault(err)
}
