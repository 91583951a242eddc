package backup

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
)

// From a publish that waits for the disk to the moment when another connection sees the row.
func BenchmarkCopy(b *testing.B) {
	server, db := natstest.Provisioned(b, natstest.WithSyncAlways()), pgtest.New(b)
	js, err := bus.JetStream(natstest.Connect(b, server, bus.AuditArchiver))
	require.NoError(b, err)
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- NewKeeper(postgres.Config{URL: db.URL, ConnectTimeout: patience}, js, zerolog.Nop(), prometheus.NewRegistry()).Run(ctx)
	}()
	for b.Loop() {
		ack, err := js.Publish(b.Context(), bus.CheckpointSubject, []byte("a checkpoint"))
		require.NoError(b, err)
		for there := false; !there; {
			require.NoError(b, db.Pool.QueryRow(b.Context(), `SELECT EXISTS (SELECT FROM stream_backup WHERE sequence = $1)`, clamp(ack.Sequence)).Scan(&there))
		}
	}
	stop()
	require.NoError(b, <-ended)
}
