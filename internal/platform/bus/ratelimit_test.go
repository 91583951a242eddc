package bus_test

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
)

// Both streams of the rate limits, with what they hold, are there after a server that runs alone has restarted.
func TestARestartKeepsTheRateLimits(t *testing.T) {
	t.Parallel()
	server := natstest.Provisioned(t, natstest.WithTCP())
	nc := natstest.Connect(t, server, "provision")
	count := func() jetstream.StreamState {
		js, err := bus.JetStream(natstest.Connect(t, server, "provision"))
		require.NoError(t, err)
		stream, err := js.Stream(t.Context(), bus.RateLimits)
		require.NoError(t, err)
		return stream.CachedInfo().State
	}
	increment := func(nc *nats.Conn) string {
		msg := nats.NewMsg(bus.RateLimitSubject + ".default.x.1")
		msg.Header["Nats-Incr"] = []string{"2"}
		answer, err := nc.RequestMsgWithContext(t.Context(), msg)
		require.NoError(t, err)
		return string(answer.Data)
	}
	require.Contains(t, increment(nc), `"val":"2"`)
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), bus.RateLimitLogSubject+".auth/login.x", []byte("[1]"))
	require.NoError(t, err)
	before := count()

	server.Stop()
	require.NoError(t, server.Restart(t.Context()))
	require.Equal(t, before.Msgs, count().Msgs)
	again := natstest.Connect(t, server, "provision")
	require.Contains(t, increment(again), `"val":"4"`, "the count goes on")
	js, err = bus.JetStream(again)
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), bus.RateLimitLogs)
	require.NoError(t, err)
	log, err := stream.GetLastMsgForSubject(t.Context(), bus.RateLimitLogSubject+".auth/login.x")
	require.NoError(t, err)
	require.Equal(t, "[1]", string(log.Data))
}

// The storage of a stream can't be changed in place: the one in memory, of versions before, is replaced.
func TestProvisionReplacesTheRateLimitsInMemory(t *testing.T) {
	t.Parallel()
	js, err := bus.JetStream(natstest.Connect(t, natstest.New(t), "provision"))
	require.NoError(t, err)
	for _, config := range bus.Streams(1) {
		if config.Name == bus.RateLimits {
			config.Storage, config.PersistMode, config.RePublish = jetstream.MemoryStorage, jetstream.DefaultPersistMode, nil
			_, err := js.CreateStream(t.Context(), config)
			require.NoError(t, err)
		}
	}
	require.NoError(t, bus.Provision(t.Context(), js, 1))
	drifts, err := bus.StreamDrift(t.Context(), js, append(bus.Streams(1), bus.Buckets(1)...))
	require.NoError(t, err)
	require.Empty(t, drifts)
}
