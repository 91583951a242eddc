package bus_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
)

// What Provision has made differs in nothing; every change, and every absence, is told by its field.
func TestDrift(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	broker := natstest.Provisioned(t)
	js, err := bus.JetStream(natstest.Connect(t, broker, "provision"))
	require.NoError(t, err)
	streams := func() []bus.Drift {
		drifts, err := bus.StreamDrift(ctx, js, append(bus.Streams(1), bus.Buckets(1)...))
		require.NoError(t, err)
		return drifts
	}
	consumers := func() []bus.Drift {
		drifts, err := bus.ConsumerDrift(ctx, js, 1)
		require.NoError(t, err)
		return drifts
	}
	require.Empty(t, streams())
	require.Empty(t, consumers())

	stream, err := js.Stream(ctx, bus.Events)
	require.NoError(t, err)
	changed := stream.CachedInfo().Config
	changed.MaxAge = time.Hour
	changed.Duplicates = time.Minute
	_, err = js.UpdateStream(ctx, changed)
	require.NoError(t, err)
	require.Equal(t, []bus.Drift{
		{Name: bus.Events, Field: "max_age", Have: "1h0m0s", Want: "2160h0m0s"},
		{Name: bus.Events, Field: "duplicate_window", Have: "1m0s", Want: "1h0m0s"},
	}, streams())

	consumer, err := js.Consumer(ctx, bus.Events, bus.Syncer)
	require.NoError(t, err)
	filters := consumer.CachedInfo().Config
	filters.FilterSubject, filters.FilterSubjects, filters.MaxAckPending = "", []string{"evt.sync.>"}, 7
	_, err = js.UpdateConsumer(ctx, bus.Events, filters)
	require.NoError(t, err)
	require.Equal(t, []bus.Drift{
		{Name: bus.Syncer, Field: "max_ack_pending", Have: "7", Want: "1000"},
		{Name: bus.Syncer, Field: "filter_subjects", Have: "[evt.sync.>]", Want: "[evt.sync.requested.v1.>]"},
	}, consumers())

	require.NoError(t, bus.Provision(ctx, js, 1))
	require.Empty(t, streams())
	require.Empty(t, consumers())

	_, err = js.PauseConsumer(ctx, bus.Events, bus.AuditArchiver, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Len(t, consumers(), 1)
	require.Equal(t, "pause_until", consumers()[0].Field)
	_, err = js.ResumeConsumer(ctx, bus.Events, bus.AuditArchiver)
	require.NoError(t, err)

	require.NoError(t, js.DeleteStream(ctx, "KV_"+bus.Flags))
	require.NoError(t, js.DeleteConsumer(ctx, bus.Events, bus.CacheInvalidator))
	require.Equal(t, []bus.Drift{{Name: "KV_" + bus.Flags}}, streams())
	require.Equal(t, []bus.Drift{{Name: bus.CacheInvalidator}}, consumers())
	require.True(t, consumers()[0].Missing())

	require.NoError(t, js.DeleteStream(ctx, bus.Events))
	require.Len(t, consumers(), len(bus.Consumers()), "without their stream they are missing")
	var declared []jetstream.StreamConfig
	drifts, err := bus.StreamDrift(ctx, js, declared)
	require.NoError(t, err)
	require.Empty(t, drifts)
}
