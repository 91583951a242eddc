package identity_test

import (
	"context"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
)

func TestSweepingExpiredSessions(t *testing.T) {
	t.Parallel()
	d := open(t)
	ctx := t.Context()
	_, old := d.signIn(t, person("alice"))
	_, revoked := d.signIn(t, person("alice"))
	_, late := d.signIn(t, person("alice"))
	fresh, alive := d.signIn(t, person("alice"))
	require.NoError(t, d.Logout(ctx, by(alive.User.ID), revoked.ID))
	d.exec(t, `UPDATE sessions SET expires_at = now() - interval '2 hours' WHERE id IN ($1, $2)`, old.ID, revoked.ID)
	d.exec(t, `UPDATE sessions SET expires_at = now() - interval '1 minute' WHERE id = $1`, late.ID)
	d.db.Told(t)

	system := events.Meta{Source: "/fdc/api", ActorID: events.SystemActor}
	// While another place sweeps, nothing happens here.
	tx, err := d.db.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, 0x0fdc_5e55)
	require.NoError(t, err)
	n, err := d.Sweep(ctx, system)
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, tx.Rollback(ctx))

	n, err = d.Sweep(ctx, system)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	facts := d.db.Told(t)
	require.Len(t, facts, 1, "the revoked one was told of before")
	require.Equal(t, events.SessionRevoked{SessionID: old.ID, UserID: old.User.ID, Version: 2, Reason: events.RevokedExpired}, facts[0].Data)
	require.Equal(t, events.SystemActor, facts[0].ActorID)
	require.Equal(t, 2, d.count(t, `SELECT count(*) FROM sessions`), "the live one, and the one that ended just now")
	_, err = d.Authenticate(ctx, fresh.Reveal())
	require.NoError(t, err)
	n, err = d.Sweep(ctx, system)
	require.NoError(t, err)
	require.Zero(t, n)
}

// The sweeper takes as many batches as there are, and ends with its context.
func TestTheSweeperClearsABacklog(t *testing.T) {
	t.Parallel()
	d := open(t)
	_, sess := d.signIn(t, person("alice"))
	d.exec(t, `INSERT INTO sessions (id, user_id, token_hash, expires_at)
		SELECT gen_random_uuid(), $1, sha256(n::text::bytea), now() - interval '1 day' FROM generate_series(1, 450) n`, sess.User.ID)
	d.db.Told(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, "/fdc/api", zerolog.Nop()) }()
	require.Eventually(t, func() bool { return d.count(t, `SELECT count(*) FROM sessions`) == 1 }, patience, 10*time.Millisecond)
	stop()
	require.NoError(t, <-ended)
	require.Len(t, d.db.Told(t), 450)
}
