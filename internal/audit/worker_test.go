package audit

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/worker"
)

// TestPoisonGoesAsideAlone runs the writer as the service does: what can have no row becomes a dead letter with its
// reason, and everything around it is written.
func TestPoisonGoesAsideAlone(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	// Stands for whatever Postgres may refuse in a row that the wire contract lets pass.
	_, err := db.Pool.Exec(t.Context(), `ALTER TABLE audit_logs ADD CONSTRAINT no_boom CHECK (request_id NOT LIKE 'boom%')`)
	require.NoError(t, err)

	js, err := bus.JetStream(natstest.Connect(t, natstest.New(t), "provision"))
	require.NoError(t, err)
	require.NoError(t, bus.Provision(t.Context(), js, 1))
	publish := func(ev events.Event, spoil ...string) {
		body, err := events.Encode(ev)
		require.NoError(t, err)
		_, err = js.PublishMsg(t.Context(), &nats.Msg{
			Subject: ev.NATSSubject(), Data: []byte(strings.NewReplacer(spoil...).Replace(string(body))),
			Header: nats.Header{jetstream.MsgIDHeader: []string{ev.ID}},
		})
		require.NoError(t, err)
	}
	good := 0
	some := func(n int) {
		for range n {
			publish(taskEvent(time.Time{}))
			good++
		}
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	poison := map[string]string{} // event id → part of the reason
	some(40)
	ancient := taskEvent(now)
	publish(ancient, ancient.Time.Format(time.RFC3339Nano), "0001-01-01T00:00:00Z")
	poison[ancient.ID] = "time"
	some(1)
	far := taskEvent(time.Date(2200, time.June, 1, 0, 0, 0, 0, time.UTC))
	publish(far)
	poison[far.ID] = "event time 2200-06-01T00:00:00Z is out of the audit log's range, 2020-01 to "
	early := taskEvent(time.Date(2019, time.December, 31, 23, 59, 59, 0, time.UTC))
	publish(early)
	poison[early.ID] = "out of the audit log's range"
	for _, id := range []string{"boom-1", "boom-2"} {
		boom := taskEvent(now)
		boom.RequestID = id
		publish(boom)
		poison[boom.ID] = "no_boom"
		some(13)
	}
	old := taskEvent(time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC))
	publish(old)
	good++

	declared, ok := bus.ConsumerNamed(bus.AuditArchiver)
	require.True(t, ok)
	w := worker.New(js, worker.Config{
		Consumer: declared, HandleBatch: newWriter(t, db.Pool).HandleBatch, BatchSize: 5000,
		Log: zerolog.New(zerolog.NewTestWriter(t)), Metrics: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { require.NoError(t, w.Run(ctx)) })

	dead, err := js.OrderedConsumer(t.Context(), bus.Dead, jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	messages, err := dead.Messages()
	require.NoError(t, err)
	defer messages.Stop()
	for range len(poison) {
		within, stop := context.WithTimeout(t.Context(), patience)
		msg, err := messages.Next(jetstream.NextContext(within))
		stop()
		require.NoError(t, err)
		var body struct{ ID string }
		require.NoError(t, json.Unmarshal(msg.Data(), &body))
		require.Contains(t, poison, body.ID)
		require.Contains(t, msg.Headers().Get(worker.HeaderReason), poison[body.ID])
		require.Equal(t, "1", msg.Headers().Get(worker.HeaderAttempts))
		delete(poison, body.ID)
	}
	consumer, err := js.Consumer(t.Context(), bus.Events, bus.AuditArchiver)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0
	}, patience, 10*time.Millisecond)
	require.Equal(t, good, count(t, db.Pool, `SELECT count(*) FROM audit_logs`))
	require.Equal(t, good, count(t, db.Pool, `SELECT count(DISTINCT event_id) FROM audit_logs`))
	require.Equal(t, 1, count(t, db.Pool, `SELECT count(*) FROM audit_logs_2020_01`))
}
