package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
)

// Messages that are deleted while a scan is under way never come; it ends without them.
func TestAScanEndsWithoutWhatWasDeleted(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t, natstest.Connect(t, natstest.New(t), "provision"))
	const total, prefetched = 700, 500 // the client asks for so many at once
	for name, gone := range map[string]struct {
		first  int  // the first that is deleted
		before bool // the scan begins
	}{"the rest": {prefetched + 1, false}, "the last": {total, false}, "all": {1, true}} {
		stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "SCAN", Subjects: []string{"evt.scan"}, MaxBytes: 1 << 20, Storage: jetstream.MemoryStorage})
		require.NoError(t, err)
		for range total {
			_, err := js.PublishAsync("evt.scan", nil)
			require.NoError(t, err)
		}
		<-js.PublishAsyncComplete()
		consumer, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
		require.NoError(t, err)
		remove := func() {
			for sequence := gone.first; sequence <= total; sequence++ {
				require.NoError(t, stream.DeleteMsg(t.Context(), uint64(sequence))) //nolint:gosec // small
			}
		}
		if gone.before {
			remove()
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		seen := 0
		require.NoError(t, bus.Scan(ctx, consumer, patience, func(jetstream.Msg, *jetstream.MsgMetadata) bool {
			if seen++; seen == 1 && !gone.before {
				remove()
			}
			return true
		}), name)
		cancel()
		require.Equal(t, gone.first-1, seen, name)
		require.NoError(t, js.DeleteStream(t.Context(), "SCAN"))
	}
}

// A scan ends when it has seen enough, and when there is nothing.
func TestAScanEnds(t *testing.T) {
	t.Parallel()
	js := natstest.JetStream(t, natstest.Connect(t, natstest.New(t), "provision"))
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "SCAN", Subjects: []string{"evt.scan"}, MaxBytes: 1 << 20, Storage: jetstream.MemoryStorage})
	require.NoError(t, err)
	for most := range 3 {
		seen := 0
		consumer, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
		require.NoError(t, err)
		require.NoError(t, bus.Scan(t.Context(), consumer, time.Second, func(jetstream.Msg, *jetstream.MsgMetadata) bool {
			seen++
			return seen < most
		}))
		require.Equal(t, most, seen)
		for range 3 {
			_, err := js.Publish(t.Context(), "evt.scan", nil)
			require.NoError(t, err)
		}
	}
}
