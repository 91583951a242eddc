package natstest_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
)

func TestServersAreApart(t *testing.T) {
	t.Parallel()
	for i := range 12 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			var opts []natstest.Option
			if i%2 == 0 {
				opts = append(opts, natstest.WithTCP())
			}
			if i%3 == 0 {
				opts = append(opts, natstest.WithSyncAlways())
			}
			s := natstest.New(t, opts...)
			require.Equal(t, i%2 == 0, s.URL("ops") != "")
			firstSequence(t, s)
		})
	}
}

// firstSequence fails when the server already has what another test has made.
func firstSequence(t *testing.T, s *embednats.Server) {
	t.Helper()
	js, err := jetstream.New(natstest.Connect(t, s, "provision"))
	require.NoError(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ONE", Subjects: []string{"one"}})
	require.NoError(t, err)
	ack, err := js.Publish(t.Context(), "one", nil)
	require.NoError(t, err)
	require.Equal(t, uint64(1), ack.Sequence)
}

func TestProvisioned(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	js, err := jetstream.New(natstest.Connect(t, s, "provision"))
	require.NoError(t, err)
	for _, want := range append(bus.Streams(1), bus.Buckets(1)...) {
		_, err := js.Stream(t.Context(), want.Name)
		require.NoError(t, err, want.Name)
	}
}

func TestConnectionLastsOverRestart(t *testing.T) {
	t.Parallel()
	s := natstest.New(t)
	reconnected := make(chan struct{}, 1)
	conn := natstest.Connect(t, s, "ops", nats.ReconnectHandler(func(*nats.Conn) { reconnected <- struct{}{} }))
	require.NoError(t, s.Restart(t.Context()))
	<-reconnected
	require.NoError(t, conn.Flush())
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		natstest.New(b).Stop()
	}
}
