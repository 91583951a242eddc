package deploy_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/backup"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
)

// On three copies of everything, too: what NATS alone holds is copied while a node dies, and comes back into streams that were made anew.
func TestTheClusterIsBackedUp(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, secrets(t))
	db := pgtest.New(t)
	owner := connect(t, "provision", nodes...)
	require.Eventually(t, func() bool { return bus.Provision(t.Context(), owner, 3) == nil }, patience, 100*time.Millisecond)
	config := postgres.Config{URL: db.URL, ConnectTimeout: patience}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	keeper := backup.NewKeeper(config, connect(t, bus.AuditArchiver, nodes...), zerolog.New(zerolog.NewTestWriter(t)), prometheus.NewRegistry())
	go func() { ended <- keeper.Run(ctx) }()

	publish := func(from, to int) {
		for n := from; n < to; n++ {
			for _, m := range []*nats.Msg{
				{Subject: fmt.Sprintf("$KV.flags.f%d", n), Data: fmt.Append(nil, n)},
				{Subject: "dead.syncer.evt.x", Data: fmt.Append(nil, n), Header: nats.Header{jetstream.MsgIDHeader: {fmt.Sprint(n)}}},
				{Subject: bus.CheckpointSubject, Data: fmt.Append(nil, n), Header: nats.Header{jetstream.MsgIDHeader: {fmt.Sprint(n)}}},
			} {
				require.Eventually(t, func() bool { _, err := owner.PublishMsg(t.Context(), m); return err == nil }, patience, 50*time.Millisecond)
			}
		}
	}
	names := []string{"KV_" + bus.Flags, bus.Dead, bus.Checkpoints}
	rows := func() (present int) {
		for _, name := range names {
			stream, err := owner.Stream(t.Context(), name)
			if err != nil {
				return 0
			}
			var n int
			require.NoError(t, db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM stream_backup WHERE stream = $1 AND created = $2`,
				name, stream.CachedInfo().Created.Truncate(time.Microsecond)).Scan(&n))
			present += n
		}
		return present
	}
	publish(0, 10)
	nodes[0].kill()
	publish(10, 20)
	require.Eventually(t, func() bool { return rows() == 60 }, patience, 50*time.Millisecond)
	stop()
	require.NoError(t, <-ended)

	for _, name := range names {
		require.NoError(t, owner.DeleteStream(t.Context(), name))
	}
	nodes[0].start()
	nodes[0].healthy()
	require.Eventually(t, func() bool { return bus.Provision(t.Context(), owner, 3) == nil }, patience, 100*time.Millisecond)
	require.Zero(t, rows())
	for range 2 {
		require.Eventually(t, func() bool { // as often as an operator runs fdc migrate
			conn, err := pgx.Connect(t.Context(), db.URL)
			require.NoError(t, err)
			defer conn.Close(t.Context())
			err = backup.Restore(t.Context(), conn, owner, zerolog.Nop())
			return err == nil
		}, patience, 100*time.Millisecond)
		require.Equal(t, 60, rows())
		for _, name := range names {
			stream, err := owner.Stream(t.Context(), name)
			require.NoError(t, err)
			require.EqualValues(t, 20, stream.CachedInfo().State.Msgs, name)
			require.EqualValues(t, 20, stream.CachedInfo().State.LastSeq, name)
		}
	}
}
