package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/embedpg"
	"fdc/internal/devstack/faultproxy"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// patience bounds what takes milliseconds on a machine that has nothing else to do.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	testenv.Parallel(6) // they wait for timeouts of both sides, and write meanwhile
	m.Run()
}

// world is a database with aggregates that writers bump, and a server with the project's streams.
type world struct {
	url    string
	pool   *pgxpool.Pool
	server *embednats.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	outbox *outbox.Outbox
	ids    []string
}

const aggregates = 8

func newWorld(t *testing.T, url string, opts ...natstest.Option) *world {
	t.Helper()
	pool, err := postgres.Open(t.Context(), config(url), "test")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), `CREATE TABLE aggregate (id uuid PRIMARY KEY, version bigint NOT NULL DEFAULT 0)`)
	require.NoError(t, err)
	w := &world{url: url, pool: pool, server: natstest.New(t, append(opts, natstest.WithTCP())...)}
	w.nc = w.connect(t)
	w.js = natstest.JetStream(t, w.nc)
	require.NoError(t, bus.Provision(t.Context(), w.js, 1))
	w.outbox = outbox.New(pool, w.nc)
	for range aggregates {
		id := events.NewID()
		_, err := pool.Exec(t.Context(), `INSERT INTO aggregate (id) VALUES ($1)`, id)
		require.NoError(t, err)
		w.ids = append(w.ids, id)
	}
	return w
}

func config(url string) postgres.Config {
	return postgres.Config{URL: url, MaxConns: 6, ConnectTimeout: patience, QueryTimeout: patience}
}

func (w *world) connect(t *testing.T) *nats.Conn {
	t.Helper()
	nc, err := bus.Connect(bus.Config{URL: w.server.URL("provision")}, "provision", zerolog.Nop())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// relay starts a relay on a connection of its own, until the test ends.
func (w *world) relay(t *testing.T, prepare func(*outbox.Relay)) {
	t.Helper()
	w.relayOn(t, w.connect(t), prepare)
}

func (w *world) relayOn(t *testing.T, nc *nats.Conn, prepare func(*outbox.Relay)) {
	t.Helper()
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	relay := outbox.NewRelay(config(w.url), js, zerolog.New(zerolog.NewTestWriter(t)), prometheus.NewRegistry())
	if prepare != nil {
		prepare(relay)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- relay.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
}

var errChangedMind = errors.New("changed my mind")

// fact bumps a random aggregate; now and then the transaction is rolled back after the append.
func (w *world) fact(ctx context.Context) error {
	id := w.ids[rand.IntN(len(w.ids))]
	err := w.outbox.Tx(ctx, func(tx pgx.Tx) error {
		var version int64
		err := tx.QueryRow(ctx, `UPDATE aggregate SET version = version + 1 WHERE id = $1 RETURNING version`, id).Scan(&version)
		if err != nil {
			return err
		}
		if err := outbox.Append(ctx, tx, event(id, version)); err != nil {
			return err
		}
		if rand.IntN(10) == 0 {
			return errChangedMind
		}
		return nil
	})
	if errors.Is(err, errChangedMind) {
		return nil
	}
	return err
}

func event(id string, version int64) events.Event {
	return events.New(events.Meta{Source: "/fdc/test", ActorID: events.SystemActor, WorkspaceID: id}, id,
		events.WorkspaceDataUpdated{WorkspaceID: id, Version: version, Changed: []string{"/a"}})
}

// write commits facts from several writers until each has done n. Writers outlive a database that is away.
func (w *world) write(t *testing.T, n int) {
	t.Helper()
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range n {
				for err := w.fact(t.Context()); err != nil; err = w.fact(t.Context()) {
					if !postgres.Unreachable(err) {
						t.Errorf("write: %v", err)
						return
					}
				}
			}
		})
	}
	writers.Wait()
}

// writing keeps writers busy until the returned function is called, and leaves something of the machine to others.
func (w *world) writing(t *testing.T) (stop func()) {
	t.Helper()
	var writers sync.WaitGroup
	var done atomic.Bool
	for range 4 {
		writers.Go(func() {
			pace := time.NewTicker(5 * time.Millisecond)
			defer pace.Stop()
			for ; !done.Load(); <-pace.C {
				if err := w.fact(t.Context()); err != nil && !postgres.Unreachable(err) {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	return func() { done.Store(true); writers.Wait() }
}

// pending waits until want holds of the number of waiting rows.
func (w *world) pending(t *testing.T, want func(int64) bool, why string) {
	t.Helper()
	require.Eventually(t, func() bool {
		stats, err := outbox.ReadStats(t.Context(), w.pool)
		return err == nil && want(stats.Pending)
	}, patience, 5*time.Millisecond, why)
}

// progress waits until n more facts are committed.
func (w *world) progress(t *testing.T, n int64) {
	t.Helper()
	var from int64
	require.Eventually(t, func() bool {
		var total int64
		if err := w.pool.QueryRow(t.Context(), `SELECT sum(version)::bigint FROM aggregate`).Scan(&total); err != nil {
			return false
		}
		if from == 0 {
			from = total
		}
		return total >= from+n
	}, patience, 5*time.Millisecond, "nothing is committed")
}

// accounted drains the outbox and holds the stream against the table: every committed version of every aggregate once, in
// order, and nothing else.
func (w *world) accounted(t *testing.T) {
	t.Helper()
	w.pending(t, func(n int64) bool { return n == 0 }, "the outbox does not drain")
	require.Eventually(t, w.nc.IsConnected, patience, time.Millisecond, "the relay's connection was restored before the test's own")
	stream, err := w.js.Stream(t.Context(), bus.Events)
	require.NoError(t, err)
	consumer, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	messages, err := consumer.Messages()
	require.NoError(t, err)
	defer messages.Stop()
	last, ids := map[string]int64{}, map[string]bool{}
	for range stream.CachedInfo().State.Msgs {
		msg, err := messages.Next(jetstream.NextMaxWait(patience))
		require.NoError(t, err)
		e, err := events.Decode(msg.Data())
		require.NoError(t, err)
		require.Equal(t, e.NATSSubject(), msg.Subject())
		require.Equal(t, e.ID, msg.Headers().Get("Nats-Msg-Id"))
		require.False(t, ids[e.ID], "event %s is there twice", e.ID)
		ids[e.ID] = true
		require.Equal(t, last[e.Subject]+1, e.Version(), "aggregate %s", e.Subject)
		last[e.Subject] = e.Version()
	}
	rows, err := w.pool.Query(t.Context(), `SELECT id::text, version FROM aggregate`)
	require.NoError(t, err)
	var id string
	var version, total int64
	_, err = pgx.ForEachRow(rows, []any{&id, &version}, func() error {
		if last[id] != version {
			return fmt.Errorf("aggregate %s: committed %d, in the stream %d", id, version, last[id])
		}
		total += version
		return nil
	})
	require.NoError(t, err)
	require.Positive(t, total)
	t.Logf("%d facts, each once", total)
}

func TestEveryFactOnceInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t).URL)
	w.relay(t, nil)
	w.write(t, 300)
	w.accounted(t)
}

// A backlog of several batches and singles keeps its order, and the polled relay needs no nudge for it.
func TestABacklogDrains(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t).URL)
	w.outbox = outbox.New(w.pool, nil)
	w.write(t, 650)
	w.relay(t, nil)
	w.accounted(t)
}

// Each relay is stopped after its first publish, before it can delete.
func TestRelaysKilledBetweenPublishAndDelete(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t).URL)
	stop := w.writing(t)
	for range 8 {
		w.pending(t, func(n int64) bool { return n > 0 }, "the writers write nothing")
		published := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		relay := w.killable(t)
		relay.AfterPublish(sync.OnceFunc(func() { cancel(); close(published) }))
		require.NoError(t, relay.Run(ctx))
		<-published
	}
	stop()
	w.relay(t, nil)
	w.accounted(t)
}

// The same when the stream has forgotten the message ids: only the comparison with its tail tells.
func TestATakeoverAfterTheDedupeWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t).URL)
	stream := bus.Streams(1)[0]
	stream.Duplicates = 100 * time.Millisecond
	_, err := w.js.UpdateStream(t.Context(), stream)
	require.NoError(t, err)
	w.write(t, 100)
	ctx, cancel := context.WithCancel(t.Context())
	relay := w.killable(t)
	relay.AfterPublish(cancel)
	require.NoError(t, relay.Run(ctx))
	w.pending(t, func(n int64) bool { return n > 0 }, "the relay deleted what it should have left")
	// The probe's id is forgotten when it can be stored again; those of the events are older.
	publish := func() bool {
		ack, err := w.js.Publish(t.Context(), "evt.probe", nil, jetstream.WithMsgID("probe"))
		require.NoError(t, err)
		return !ack.Duplicate
	}
	require.True(t, publish())
	require.Eventually(t, publish, patience, 20*time.Millisecond)
	s, err := w.js.Stream(t.Context(), bus.Events)
	require.NoError(t, err)
	require.NoError(t, s.Purge(t.Context(), jetstream.WithPurgeSubject("evt.probe")))
	w.relay(t, nil)
	w.accounted(t)
}

func (w *world) killable(t *testing.T) *outbox.Relay {
	t.Helper()
	js, err := bus.JetStream(w.connect(t))
	require.NoError(t, err)
	return outbox.NewRelay(config(w.url), js, zerolog.Nop(), prometheus.NewRegistry())
}

// A new leader reads the last 2,000 headers of the stream. Over a slow link that takes longer than a publish may, and longer than its
// session may be silent; it leads nevertheless.
func TestALeaderStartsOnASlowLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t).URL)
	for n := range 2000 {
		_, err := w.js.PublishAsync(fmt.Sprintf("evt.workspace.data_updated.v1.%s", w.ids[0]), []byte("{}"), jetstream.WithMsgID(events.NewID()))
		require.NoError(t, err, n)
	}
	<-w.js.PublishAsyncComplete()
	proxy := faultproxy.New(t, w.server.URL("provision"))
	nc, err := bus.Connect(bus.Config{URL: proxy.URL}, "provision", zerolog.Nop())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	proxy.Slow(100 * time.Millisecond)
	for err := w.fact(t.Context()); ; err = w.fact(t.Context()) { // one in ten is rolled back
		require.NoError(t, err)
		stats, err := outbox.ReadStats(t.Context(), w.pool)
		require.NoError(t, err)
		if stats.Pending > 0 {
			break
		}
	}
	w.relayOn(t, nc, nil)
	w.pending(t, func(n int64) bool { return n == 0 }, "no relay leads")
}

// Three relays stand by; whoever leads loses its session, again and again.
func TestTheLeaderIsCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t).URL)
	for range 3 {
		w.relay(t, nil)
	}
	stop := w.writing(t)
	for range 5 {
		require.Eventually(t, func() bool {
			var cut int
			err := w.pool.QueryRow(t.Context(), `
				SELECT count(pg_terminate_backend(pid)) FROM pg_locks
				WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).
				Scan(&cut)
			return err == nil && cut == 1
		}, patience, 10*time.Millisecond, "nobody leads")
	}
	stop()
	w.accounted(t)
}

// A leader that hangs between publish and delete loses its session after some silent seconds. Another takes over, and
// when the first wakes up it can do no harm.
func TestAPausedLeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t).URL)
	w.write(t, 20)
	paused, resume := make(chan struct{}), make(chan struct{})
	hang := sync.OnceFunc(func() { close(paused); <-resume })
	w.relay(t, func(r *outbox.Relay) { r.AfterPublish(hang) })
	<-paused
	w.relay(t, nil)
	w.write(t, 20)
	w.pending(t, func(n int64) bool { return n == 0 }, "nobody took over from the paused leader")
	close(resume)
	w.write(t, 20)
	w.accounted(t)
}

// A leader that is cut off from NATS, or whose messages get lost, makes way for one that is not.
func TestTheLeaderLosesNATS(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*faultproxy.Proxy){"cut": (*faultproxy.Proxy).Cut, "paused": (*faultproxy.Proxy).Pause} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pgtest.New(t).URL)
			proxy := faultproxy.New(t, w.server.URL("provision"))
			nc, err := bus.Connect(bus.Config{URL: proxy.URL}, "provision", zerolog.Nop())
			require.NoError(t, err)
			t.Cleanup(nc.Close)
			leads := make(chan struct{})
			w.relayOn(t, nc, func(r *outbox.Relay) { r.AfterPublish(sync.OnceFunc(func() { close(leads) })) })
			w.write(t, 20)
			<-leads
			w.relay(t, nil)
			stop := w.writing(t)
			w.progress(t, 100)
			lose(proxy)
			w.progress(t, 100)
			stop()
			w.accounted(t)
			proxy.Heal()
			w.write(t, 20)
			w.accounted(t)
		})
	}
}

// An outage lasts until each relay has given up and nobody leads.
func TestNATSIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t).URL)
	w.relay(t, nil)
	w.relay(t, nil)
	stop := w.writing(t)
	w.server.Stop()
	w.pending(t, func(n int64) bool { return n > 100 }, "commits stopped with NATS")
	require.Eventually(t, func() bool {
		var sessions int
		err := w.pool.QueryRow(t.Context(), `
			SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fdc-outbox-relay' AND datname = current_database()`).Scan(&sessions)
		return err == nil && sessions == 0
	}, patience, 5*time.Millisecond, "a relay that can't reach NATS stands in the way")
	require.NoError(t, w.server.Restart(t.Context()))
	stop()
	w.accounted(t)
}

func TestPostgresCrashes(t *testing.T) {
	t.Parallel()
	server := pgtest.Cluster(t)
	// The shared settings of test clusters let a crash take back what was committed.
	url := server.URL(embedpg.Database)
	separator := "?"
	if strings.Contains(url, "?") {
		separator = "&"
	}
	w := newWorld(t, url+separator+"options=-c%20synchronous_commit%3Don")
	w.relay(t, nil)
	w.relay(t, nil)
	stop := w.writing(t)
	for range 3 {
		require.NoError(t, server.Crash())
		require.NoError(t, server.Restart(t.Context()))
		w.progress(t, 100)
	}
	stop()
	w.accounted(t)
}

// audited acknowledges n events for the audit-archiver, as if it had written them, and returns them.
func (w *world) audited(t *testing.T, n int) []events.Event {
	t.Helper()
	consumer, err := w.js.Consumer(t.Context(), bus.Events, bus.AuditArchiver)
	require.NoError(t, err)
	list := make([]events.Event, n)
	for i := range n {
		msg, err := consumer.Next(jetstream.FetchMaxWait(patience))
		require.NoError(t, err)
		require.NoError(t, msg.DoubleAck(t.Context()))
		list[i], err = events.Decode(msg.Data())
		require.NoError(t, err)
	}
	return list
}

// rows is how many the table has, whether published or not.
func (w *world) rows(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox`).Scan(&n))
	return n
}

// left waits until the table has n rows.
func (w *world) left(t *testing.T, n int, why string) {
	t.Helper()
	require.Eventually(t, func() bool { return w.rows(t) == n }, patience, 5*time.Millisecond, why)
}

func TestAnEventStaysUntilTheAuditLogHasIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t).URL)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.killable(t).Run(ctx) }()
	w.write(t, 50)
	w.accounted(t)
	total := w.rows(t)
	require.Positive(t, total, "published, and in no audit log")
	w.audited(t, 10)
	w.left(t, total-10, "ten are written")
	cancel()
	require.NoError(t, <-ended)

	w.audited(t, 10)
	w.relay(t, nil)
	w.left(t, total-20, "the next relay goes on")
	w.audited(t, total-20)
	w.left(t, 0, "all are written")
}

// The server comes back with an empty store, as after the loss of its disk.
func TestALostStreamGetsAgainWhatTheAuditLogLacks(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	w := newWorld(t, pgtest.New(t).URL, func(c *embednats.Config) { c.StoreDir = store })
	w.relay(t, nil)
	w.relay(t, nil)
	for range 2 {
		w.write(t, 50)
		w.pending(t, func(n int64) bool { return n == 0 }, "the outbox does not drain")
		lacks := w.rows(t) - 30
		last := map[string]int64{}
		for _, e := range w.audited(t, 30) {
			last[e.Subject] = e.Version()
		}
		w.left(t, lacks, "thirty are written")

		w.server.Stop()
		require.NoError(t, os.RemoveAll(store))
		require.NoError(t, w.server.Restart(t.Context()))
		w.js = natstest.JetStream(t, w.connect(t))
		require.NoError(t, bus.Provision(t.Context(), w.js, 1))
		for _, e := range w.audited(t, lacks) {
			if known, ok := last[e.Subject]; ok {
				require.Equal(t, known+1, e.Version(), "aggregate %s", e.Subject)
			}
			last[e.Subject] = e.Version()
		}
		w.left(t, 0, "all are written")
		stream, err := w.js.Stream(t.Context(), bus.Events)
		require.NoError(t, err)
		require.EqualValues(t, lacks, stream.CachedInfo().State.Msgs)
	}
}

// Without an audit-archiver the table does not grow without end.
func TestWhatIsHeldIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t).URL)
	const most, more = 1500, 500
	list := make([]events.Event, most+more)
	for i := range list {
		list[i] = event(w.ids[0], int64(i)+1)
	}
	for portion := range slices.Chunk(list, 1000) {
		require.NoError(t, w.outbox.Tx(t.Context(), func(tx pgx.Tx) error { return outbox.AppendAll(t.Context(), tx, portion) }))
	}
	w.relay(t, func(r *outbox.Relay) { r.HoldAtMost(most) })
	w.left(t, most, "too many are held")
	var first int64
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT min(version) FROM outbox`).Scan(&first))
	require.EqualValues(t, more+1, first, "the oldest go first")
}

// The order of ids is the order of commits only if the aggregate is locked first; a caller that forgot is told.
func TestAVersionIsAppendedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t).URL)
	again := func() error {
		return w.outbox.Tx(t.Context(), func(tx pgx.Tx) error { return outbox.Append(t.Context(), tx, event(w.ids[0], 1)) })
	}
	require.NoError(t, again())
	err := again()
	require.Error(t, err)
	require.True(t, postgres.IsState(err, postgres.UniqueViolation), err)
}

func TestAnEventThatBreaksTheContractIsNotCommitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.New(t).URL)
	err := w.outbox.Tx(t.Context(), func(tx pgx.Tx) error {
		return outbox.Append(t.Context(), tx, event("not-an-id", 1))
	})
	require.Error(t, err)
	stats, err := outbox.ReadStats(t.Context(), w.pool)
	require.NoError(t, err)
	require.Zero(t, stats.Pending)
}
