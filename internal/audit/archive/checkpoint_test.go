package archive

import (
	"context"
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/backup"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
)

// NATS has lost its data: nothing is signed before the chain is back, and then it goes on.
func TestNoChainBeginsBeforeTheOldOneIsRestored(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	server := natstest.Provisioned(t, natstest.WithTCP())
	js, err := bus.JetStream(natstest.Connect(t, server, bus.AuditArchiver))
	require.NoError(t, err)
	provision, err := bus.JetStream(natstest.Connect(t, server, "provision"))
	require.NoError(t, err)
	config := postgres.Config{URL: db.URL, ConnectTimeout: patience}
	c := &Checkpointer{DB: config, JS: js, Key: testKey, Log: zerolog.New(zerolog.NewTestWriter(t))}
	start := audit.MonthOf(time.Now()).Start()
	write := func(at time.Time) {
		t.Helper()
		record(t, db.Pool, taskEvent(at))
	}
	write(start)
	require.NoError(t, c.Checkpoint(t.Context(), start.Add(2*time.Hour)))

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- backup.NewKeeper(config, js, zerolog.Nop(), prometheus.NewRegistry()).Run(ctx) }()
	require.Eventually(t, func() bool {
		var n int
		err := db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM stream_backup`).Scan(&n)
		return err == nil && n == 1
	}, patience, 10*time.Millisecond)
	stop()
	require.NoError(t, <-ended)
	require.NoError(t, provision.DeleteStream(t.Context(), bus.Checkpoints))
	require.NoError(t, bus.Provision(t.Context(), provision, 1))

	write(start.Add(3 * time.Hour))
	require.ErrorContains(t, c.Checkpoint(t.Context(), start.Add(5*time.Hour)), "run fdc migrate")
	conn, err := postgres.Connect(t.Context(), config, "test")
	require.NoError(t, err)
	defer postgres.HangUp(t.Context(), conn)
	require.NoError(t, backup.Restore(t.Context(), conn, provision, zerolog.Nop()))
	require.NoError(t, c.Checkpoint(t.Context(), start.Add(5*time.Hour)))
	public, ok := testKey.Public().(ed25519.PublicKey)
	require.True(t, ok)
	history, err := ReadCheckpoints(t.Context(), js, Trust(public))
	require.NoError(t, err)
	require.EqualValues(t, 2, history.sequence)
	require.Len(t, history.Hours, 2)
}

// Checkpoints tell rows that were changed or taken out from those that came late, and nothing can be taken out of them.
func TestCheckpoints(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	server := natstest.Provisioned(t, natstest.WithTCP())
	js, err := bus.JetStream(natstest.Connect(t, server, bus.AuditArchiver))
	require.NoError(t, err)
	public, ok := testKey.Public().(ed25519.PublicKey)
	require.True(t, ok)
	c := &Checkpointer{
		DB: postgres.Config{URL: db.URL, ConnectTimeout: patience}, JS: js, Key: testKey, Log: zerolog.New(zerolog.NewTestWriter(t)),
	}
	start := audit.MonthOf(time.Now()).Start()
	month := audit.MonthOf(start).String()
	write := func(from time.Time, n int) (ids []string) {
		t.Helper()
		list := make([]events.Event, n)
		for i := range list {
			list[i] = taskEvent(from.Add(time.Duration(i) * time.Minute))
			ids = append(ids, list[i].ID)
		}
		record(t, db.Pool, list...)
		return ids
	}
	verified := func() (added int64, findings []Finding) {
		t.Helper()
		history, err := ReadCheckpoints(t.Context(), js, Trust(public))
		require.NoError(t, err)
		_, added, findings, err = VerifyLive(t.Context(), db.Pool, history, month)
		require.NoError(t, err)
		return added, findings
	}
	ids := write(start, 150) // two hours and a half
	require.NoError(t, c.Checkpoint(t.Context(), start.Add(2*time.Hour+settleTime)))
	history, err := ReadCheckpoints(t.Context(), js, Trust(public))
	require.NoError(t, err)
	require.Len(t, history.Hours, 2, "what isn't over is not signed for")
	require.EqualValues(t, 60, history.Hours[start].Rows)
	require.NoError(t, c.Checkpoint(t.Context(), start.Add(2*time.Hour+settleTime)))
	again, err := ReadCheckpoints(t.Context(), js, Trust(public))
	require.NoError(t, err)
	require.Equal(t, history, again, "nothing new, nothing signed")

	write(start.Add(30*time.Second), 5)
	added, findings := verified()
	require.EqualValues(t, 5, added)
	require.Empty(t, findings)
	require.NoError(t, c.Checkpoint(t.Context(), start.Add(3*time.Hour+settleTime)))
	added, findings = verified()
	require.Zero(t, added, "they are signed for now")
	require.Empty(t, findings)

	change := func(sql string, args ...any) {
		t.Helper()
		_, err := db.Pool.Exec(t.Context(), sql, args...)
		require.NoError(t, err)
	}
	change(`UPDATE audit_logs SET actor_id = 'somebody else' WHERE event_id = $1`, ids[70])
	_, findings = verified()
	require.Len(t, findings, 1)
	require.Contains(t, findings[0].Problem, "01:00Z does not have the rows that were signed for")
	change(`DELETE FROM audit_logs WHERE event_id = $1`, ids[0])
	_, findings = verified()
	require.Len(t, findings, 2)
	require.Contains(t, findings[0].Problem, "00:00Z has 64 rows; 65 were signed for")

	provision, err := bus.JetStream(natstest.Connect(t, server, "provision"))
	require.NoError(t, err)
	stream, err := provision.Stream(t.Context(), bus.Checkpoints)
	require.NoError(t, err)
	require.Error(t, stream.DeleteMsg(t.Context(), 1))
	require.Error(t, stream.Purge(t.Context()))
	forged := &nats.Msg{Subject: bus.CheckpointSubject, Data: []byte(`{}`)}
	_, err = provision.PublishMsg(t.Context(), forged, jetstream.WithExpectLastSequence(2))
	require.NoError(t, err)
	_, err = ReadCheckpoints(t.Context(), js, Trust(public))
	require.ErrorIs(t, err, errSignature)
}
