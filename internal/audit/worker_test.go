package audit

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/embedpg"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/worker"
)

func provisioned(t *testing.T) jetstream.JetStream {
	t.Helper()
	js, err := bus.JetStream(natstest.Connect(t, natstest.New(t), "provision"))
	require.NoError(t, err)
	require.NoError(t, bus.Provision(t.Context(), js, 1))
	return js
}

// consume runs the writer behind the declared consumer until the test is over.
func consume(t *testing.T, js jetstream.JetStream, pool *pgxpool.Pool, batch int) {
	t.Helper()
	declared, ok := bus.ConsumerNamed(bus.AuditArchiver)
	require.True(t, ok)
	w := worker.New(js, worker.Config{
		Consumer: declared, HandleBatch: newWriter(t, pool).HandleBatch, BatchSize: batch,
		Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel), Metrics: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// awaitAll returns when the consumer has answered for every event.
func awaitAll(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	consumer, err := js.Consumer(t.Context(), bus.Events, bus.AuditArchiver)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := consumer.Info(t.Context())
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0
	}, patience, 10*time.Millisecond)
}

// TestPoisonGoesAsideAlone runs the writer as the service does: what can have no row becomes a dead letter with its
// reason, and everything around it is written.
func TestPoisonGoesAsideAlone(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	// Stands for whatever Postgres may refuse in a row that the wire contract lets pass.
	_, err := db.Pool.Exec(t.Context(), `ALTER TABLE audit_logs ADD CONSTRAINT no_boom CHECK (request_id NOT LIKE 'boom%')`)
	require.NoError(t, err)

	js := provisioned(t)
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
	for reason, spoil := range map[string][]string{
		"NUL":                   {`"r-1"`, `"r-\u0000"`},
		"half a surrogate pair": {"curl/8", `curl\ud800`},
		"invalid UTF-8":         {"curl/8", "curl\xff"},
		"too large":             {`"data":`, `"padding":"` + strings.Repeat("x", 900_000) + `","data":`},
		"byte 0":                {"{", "", "}", ""},
		"time":                  {now.Format("2006-"), "1492-"},
		"unknown event type":    {"fdc.task.created.v1", "fdc.task.imagined.v1"},
		"data after the event":  {"}}", "}}{}"},
		"want a string":         {`"r-1"`, "1e999"},
		`"version"`:             {`"version":1`, `"version":99999999999999999999`},
	} {
		bad := taskEvent(now)
		publish(bad, spoil...)
		poison[bad.ID] = reason
		some(3)
	}
	old := taskEvent(time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC))
	next := taskEvent(now.AddDate(1, 0, 0)) // a clock that is ahead, but not absurd
	publish(old)
	publish(next)
	good += 2

	consume(t, js, db.Pool, 5000)
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
		id, ours := strings.CutPrefix(msg.Headers().Get(jetstream.MsgIDHeader), bus.AuditArchiver+":")
		require.True(t, ours)
		require.Contains(t, poison, id)
		require.Contains(t, msg.Headers().Get(worker.HeaderReason), poison[id])
		require.Equal(t, "1", msg.Headers().Get(worker.HeaderAttempts))
		delete(poison, id)
	}
	awaitAll(t, js)
	require.Equal(t, good, count(t, db.Pool, `SELECT count(*) FROM audit_logs`))
	require.Equal(t, good, count(t, db.Pool, `SELECT count(DISTINCT event_id) FROM audit_logs`))
	require.Equal(t, 1, count(t, db.Pool, `SELECT count(*) FROM audit_logs_2020_01`))
	require.Equal(t, 1, count(t, db.Pool, `SELECT count(*) FROM `+MonthOf(next.Time).Table()))
}

// TestDatabaseCrashes kills Postgres under the writer, twice: every event has its row in the end, once, and none is a
// dead letter.
func TestDatabaseCrashes(t *testing.T) {
	t.Parallel()
	server := pgtest.Cluster(t)
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: server.URL(embedpg.Database), MaxConns: 4, ConnectTimeout: patience}, "test")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, err = EnsurePartitions(t.Context(), pool, time.Now(), 0)
	require.NoError(t, err)
	js := provisioned(t)
	const total = 3000
	publish := func(n int) {
		for range n {
			ev := taskEvent(time.Time{})
			body, err := events.Encode(ev)
			require.NoError(t, err)
			_, err = js.PublishAsync(ev.NATSSubject(), body, jetstream.WithMsgID(ev.ID))
			require.NoError(t, err)
		}
		<-js.PublishAsyncComplete()
	}
	publish(total / 3)
	consume(t, js, pool, 50)
	for range 2 {
		require.Eventually(t, func() bool {
			var n int
			return pool.QueryRow(t.Context(), `SELECT count(*) FROM audit_logs`).Scan(&n) == nil && n > 0
		}, patience, time.Millisecond)
		require.NoError(t, server.Crash())
		publish(total / 3)
		require.NoError(t, server.Restart(t.Context()))
	}
	awaitAll(t, js)
	require.Equal(t, total, count(t, pool, `SELECT count(DISTINCT event_id) FROM audit_logs`))
	require.Equal(t, total, count(t, pool, `SELECT count(*) FROM audit_logs`))
	dead, err := js.Stream(t.Context(), bus.Dead)
	require.NoError(t, err)
	require.Zero(t, dead.CachedInfo().State.Msgs)
}
