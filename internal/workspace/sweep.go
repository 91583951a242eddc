package workspace

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"fdc/events"
)

const (
	sweepEvery = time.Minute
	sweepBatch = 200 // keeps a transaction, and the burst of its events, short
)

// SweepInvitations deletes up to 200 expired invitations and returns how many it deleted. Several nodes may do it at once.
func (s *Service) SweepInvitations(ctx context.Context, meta events.Meta) (int, error) {
	var list []invitationRow
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) (err error) {
		list, err = deleteInvitations(ctx, tx, `i.id = ANY (ARRAY(
			SELECT id FROM invitations WHERE expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))`, sweepBatch)
		if err != nil {
			return err
		}
		return emitWithdrawn(ctx, tx, meta, list, events.InvitationExpired)
	})
	if err != nil {
		return 0, fmt.Errorf("sweep invitations: %w", err)
	}
	return len(list), nil
}

// Run sweeps invitations and purges deleted workspaces every minute until ctx ends, and then returns nil. It continues after every failure of Postgres.
func (s *Service) Run(ctx context.Context, source string, log zerolog.Logger) error {
	meta := events.Meta{Source: source, ActorID: events.SystemActor}
	again := time.NewTicker(sweepEvery)
	defer again.Stop()
	for {
		n, err := sweepBatch, error(nil)
		for n == sweepBatch && err == nil {
			n, err = s.SweepInvitations(ctx, meta)
		}
		for more := true; more && err == nil; {
			more, err = s.Purge(ctx)
		}
		if err != nil && ctx.Err() == nil {
			log.Warn().Err(err).Msg("expired invitations and deleted workspaces not swept")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
	}
}
