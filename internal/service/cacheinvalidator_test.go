package service_test

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/httpapi"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/seal"
	"fdc/internal/service"
	"fdc/internal/workspace"
)

// What was outdated while the service was away is withdrawn when it starts, without any event; what an event finds wrong in
// the bucket is counted and withdrawn; what is true stays.
func TestTheInvalidatorPutsTheBucketRight(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	broker := natstest.Provisioned(t, natstest.WithTCP())
	apiNATS := natstest.Connect(t, broker, "api")
	js, err := bus.JetStream(apiNATS)
	require.NoError(t, err)
	kv, err := bus.BindBucket(t.Context(), js, bus.WorkspaceData, nil)
	require.NoError(t, err)
	bucket := nearcache.NewBucket(kv)

	workspaces := workspace.New(outbox.New(db.Pool, apiNATS))
	owner := events.NewID()
	_, err = db.Pool.Exec(t.Context(), `INSERT INTO users (id, email, google_id) VALUES ($1, 'alice@example.com', 'g-1')`, owner)
	require.NoError(t, err)
	meta := events.Meta{Source: "/fdc/api", ActorID: owner, UserID: owner}
	home, err := workspaces.Create(t.Context(), meta, owner, "Home")
	require.NoError(t, err)
	keys, err := seal.ParseKeys(seal.NewKey("v1"))
	require.NoError(t, err)
	signer, err := keys.Signer("cache")
	require.NoError(t, err)
	documents, err := httpapi.NewDocuments(workspaces, nearcache.Config{
		KV: kv, Signer: signer, JS: js, NATS: apiNATS, MaxBytes: 1 << 20, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	put := func(data string) {
		_, err := workspaces.PutData(t.Context(), meta, owner, home.ID, json.RawMessage(data), workspace.Expect{})
		require.NoError(t, err)
	}
	entry := func() nearcache.Entry {
		e, _, err := bucket.Get(t.Context(), home.ID)
		require.NoError(t, err)
		return e
	}
	// fill has the bucket filled with a version by somebody who asks for it.
	fill := func(version int64) nearcache.Entry {
		require.Eventually(t, func() bool {
			_, err := documents.Get(t.Context(), home.ID, version)
			return err == nil && !entry().Tombstone && entry().Version == version && len(entry().Data) > 0
		}, patience, 5*time.Millisecond)
		return entry()
	}
	fill(0)
	put(`{"a":1}`)

	metrics := prometheus.NewRegistry()
	admin := daemon.NewAdmin().Service(bus.CacheInvalidator)
	admin.Metrics = metrics
	run(t, func(ctx context.Context) error {
		return service.RunCacheInvalidator(ctx, service.CacheInvalidatorConfig{Common: service.Common{
			Database: databaseConfig(as(bus.CacheInvalidator, db.URL)), Bus: bus.Config{URL: broker.URL(bus.CacheInvalidator), Replicas: 1},
		}}, service.Runtime{Log: zerolog.New(zerolog.NewTestWriter(t)), Admin: admin})
	})
	require.Eventually(t, func() bool { return entry().Tombstone }, patience, 5*time.Millisecond, "no event tells, and nobody looked")

	relay := outbox.NewRelay(databaseConfig(db.URL), js, zerolog.Nop(), prometheus.NewRegistry())
	first := fill(1)
	run(t, relay.Run)
	require.Eventually(t, func() bool { return count(t, metrics, "cache_checks_total", "1s") == 1 }, patience, 5*time.Millisecond)
	require.Zero(t, count(t, metrics, "cache_inconsistency_total", "1s"))
	require.Equal(t, first, entry(), "it was true")

	stored, err := nearcache.NewSignedBucket(kv, signer).PutIfNewer(t.Context(), home.ID, nearcache.Entry{Version: 2, Data: []byte(`{}`)})
	require.NoError(t, err)
	require.True(t, stored)
	put(`{"a":2}`)
	require.Eventually(t, func() bool { return count(t, metrics, "cache_inconsistency_total", "1s") == 1 }, patience, 5*time.Millisecond)
	require.Eventually(t, func() bool { return entry().Tombstone }, patience, 5*time.Millisecond)
}

// run runs a service until the test ends.
func run(t *testing.T, service func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
}

// count is the sum of the counters of a name that have a label of the value.
func count(t *testing.T, metrics prometheus.Gatherer, name, value string) (total float64) {
	t.Helper()
	families, err := metrics.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if family.GetName() == name && label.GetValue() == value {
					total += metric.GetCounter().GetValue()
				}
			}
		}
	}
	return total
}

// consistent waits until the running invalidator has compared the cache with its rows, and wants that they never differed.
func (s *system) consistent(t *testing.T) {
	t.Helper()
	checked := regexp.MustCompile(`(?m)^cache_checks_total{.*window="1s"} [1-9]`)
	var page []byte
	require.Eventually(t, func() bool {
		var err error
		page, err = new(user{client: http.DefaultClient}).call(t.Context(), http.MethodGet, s.metrics[bus.CacheInvalidator]+"/metrics", "")
		return err == nil && checked.Match(page)
	}, patience, 100*time.Millisecond, "nothing was compared")
	counters := regexp.MustCompile(`(?m)^cache_inconsistency_total{.*} (\S+)$`).FindAllSubmatch(page, -1)
	require.NotEmpty(t, counters)
	for _, counter := range counters {
		require.Equal(t, "0", string(counter[1]), "%s", counter[0])
	}
}

// Events that vanish before they were delivered are noticed; those of others, deliveries and redeliveries are none such.
func TestLostEventsAreNoticed(t *testing.T) {
	t.Parallel()
	broker := natstest.Provisioned(t)
	js, err := bus.JetStream(natstest.Connect(t, broker, bus.CacheInvalidator))
	require.NoError(t, err)
	provision, err := bus.JetStream(natstest.Connect(t, broker, "provision"))
	require.NoError(t, err)
	consumer, err := js.Consumer(t.Context(), bus.Events, bus.CacheInvalidator)
	require.NoError(t, err)
	before := consumer.CachedInfo()
	look := func() bool {
		now, err := consumer.Info(t.Context())
		require.NoError(t, err)
		lost := service.EventsLost(before, now)
		before = now
		return lost
	}
	// The server counts what is pending a moment after a message was stored or purged.
	pending := func(n uint64) {
		t.Helper()
		require.Eventually(t, func() bool {
			require.False(t, look())
			return before.NumPending == n
		}, patience, time.Millisecond)
	}
	publish := func(subject string) {
		_, err := provision.Publish(t.Context(), subject, nil)
		require.NoError(t, err)
	}
	fetch := func(n int, settle func(jetstream.Msg) error) {
		batch, err := consumer.Fetch(n)
		require.NoError(t, err)
		for msg := range batch.Messages() {
			require.NoError(t, settle(msg))
		}
		require.NoError(t, batch.Error())
	}
	for range 5 {
		publish("evt.workspace.data_updated.v1.x")
		publish("evt.task.created.v1.x")
	}
	pending(5)
	fetch(2, jetstream.Msg.Ack)
	pending(3)
	fetch(1, jetstream.Msg.Nak)
	fetch(3, jetstream.Msg.Ack) // the same again, and two more
	pending(0)
	publish("evt.workspace.data_updated.v1.x")
	publish("evt.workspace.data_updated.v1.x")
	pending(2)

	events, err := provision.Stream(t.Context(), bus.Events)
	require.NoError(t, err)
	require.NoError(t, events.Purge(t.Context()))
	require.Eventually(t, look, patience, time.Millisecond, "two are purged")
	publish("evt.workspace.data_updated.v1.x")
	pending(1)
	fetch(1, jetstream.Msg.Ack)
	pending(0)
	require.NoError(t, events.Purge(t.Context()))
	require.False(t, look(), "all were handled before the purge")
	require.NoError(t, provision.DeleteStream(t.Context(), bus.Events))
	require.NoError(t, bus.Provision(t.Context(), provision, 1))
	require.Eventually(t, look, patience, time.Millisecond, "the stream was made anew")
}
