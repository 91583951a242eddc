package nearcache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/nearcache"
)

// truth tells of the keys that were ever committed.
func (r *table) truth(_ context.Context, keys []string) (map[string]nearcache.Row, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loads++
	rows := map[string]nearcache.Row{}
	for _, key := range keys {
		if version, ok := r.rows[key]; ok {
			rows[key] = nearcache.Row{Version: version, Holds: func(b []byte) bool { return bytes.Equal(b, data(version)) }}
		}
	}
	return rows, r.down
}

// watched is a bucket with its monitor, who is nats.conf's own user.
type watched struct {
	*nearcache.Monitor
	rows    *table
	kv      jetstream.KeyValue // as the api has it, to write anything
	metrics *prometheus.Registry
	log     *bytes.Buffer
}

func watch(t *testing.T, s *embednats.Server, windows ...time.Duration) *watched {
	t.Helper()
	w := &watched{rows: newTable(), kv: bucketOf(t, s, "api"), metrics: prometheus.NewRegistry(), log: &bytes.Buffer{}}
	nc := natstest.Connect(t, s, bus.CacheInvalidator)
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	kv, err := bus.BindBucket(t.Context(), js, bus.WorkspaceData, nil)
	require.NoError(t, err)
	w.Monitor = nearcache.NewMonitor(nearcache.MonitorConfig{
		KV: kv, JS: js, NATS: nc, Truth: w.rows.truth, Log: zerolog.New(zerolog.SyncWriter(w.log)), Metrics: w.metrics, Windows: windows,
	})
	return w
}

func bucketOf(t *testing.T, s *embednats.Server, user string) jetstream.KeyValue {
	t.Helper()
	js, err := bus.JetStream(natstest.Connect(t, s, user))
	require.NoError(t, err)
	kv, err := bus.BindBucket(t.Context(), js, bus.WorkspaceData, nil)
	require.NoError(t, err)
	return kv
}

// run runs the monitor until the function that it returns is called.
func (w *watched) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// tell is an event: a version was committed.
func (w *watched) tell(ctx context.Context, key string, version int64) error {
	return w.Withdraw(ctx, map[string]int64{key: version - 1})
}

// force writes past the rules.
func (w *watched) force(t *testing.T, key string, e nearcache.Entry) {
	t.Helper()
	encoded, err := e.Encode(signer, w.kv.Bucket(), key, time.Now())
	require.NoError(t, err)
	_, err = w.kv.Put(t.Context(), key, encoded)
	require.NoError(t, err)
}

func (w *watched) entry(t *testing.T, key string) (nearcache.Entry, bool) {
	t.Helper()
	e, found, err := nearcache.NewBucket(w.kv).Get(t.Context(), key)
	require.NoError(t, err)
	return e, found
}

// count is the sum of a counter, or of those of its children that have the label's value.
func (w *watched) count(t *testing.T, name string, value ...string) (sum float64) {
	t.Helper()
	families, err := w.metrics.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if len(value) == 0 && label.GetName() == "cache" || len(value) > 0 && label.GetValue() == value[0] {
					sum += metric.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}

func holding(version int64) nearcache.Entry {
	return nearcache.Entry{Version: version, Data: data(version)}
}

func tombstone(version int64) nearcache.Entry {
	return nearcache.Entry{Version: version, Tombstone: true}
}

// What no order of writes can bring about is found, counted and withdrawn, with one statement for all keys; what may be is
// left alone.
func TestTheMonitorFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := watch(t, natstest.Provisioned(t))
	stale := nearcache.Entry{Version: 4, Data: []byte("four")}
	cases := map[string]struct {
		row   int64            // -1: none
		put   *nearcache.Entry // nil: the tombstone that the monitor left
		want  nearcache.Entry
		fault string
	}{
		"true":          {5, new(holding(5)), holding(5), ""},
		"withdrawn":     {5, nil, tombstone(4), ""},
		"fenced":        {5, new(tombstone(5)), tombstone(5), ""},
		"changed-since": {7, new(holding(6)), holding(6), ""},
		"removed":       {-1, new(holding(5)), holding(5), ""},
		"stale":         {5, &stale, tombstone(4), "stale"},
		"outdated":      {9, &stale, tombstone(8), "stale"},
		"ghost":         {-1, &stale, tombstone(4), "stale"},
		"ahead":         {5, new(holding(6)), tombstone(6), "ahead"},
		"corrupt":       {5, new(nearcache.Entry{Version: 5, Data: []byte("secret")}), tombstone(5), "corrupt"},
	}
	for key, c := range cases {
		if c.row >= 0 {
			w.rows.set(func(r *table) { r.rows[key] = c.row })
		}
		require.NoError(t, w.tell(t.Context(), key, 5))
		if c.put != nil {
			w.force(t, key, *c.put)
		}
	}
	require.NoError(t, w.tell(t.Context(), "unreadable", 5))
	_, err := w.kv.Put(t.Context(), "unreadable", []byte("?"))
	require.NoError(t, err)
	require.NoError(t, w.tell(t.Context(), "gone", 5))
	require.NoError(t, w.kv.Purge(t.Context(), "gone"))

	now := time.Now()
	require.NoError(t, w.Check(t.Context(), now), "nothing is due")
	require.Zero(t, w.count(t, "cache_checks_total"))
	require.Zero(t, w.rows.count())

	require.NoError(t, w.Check(t.Context(), now.Add(time.Second)))
	require.InDelta(t, 12, w.count(t, "cache_checks_total", "1s"), 0)
	require.InDelta(t, 5, w.count(t, "cache_inconsistency_total", "1s"), 0, "%s", w.log)
	require.InDelta(t, 5, w.count(t, "cache_withdrawn_total", "check"), 0)
	require.Equal(t, 1, w.rows.count(), "one statement for all")
	require.Contains(t, w.log.String(), `"key":"corrupt","fault":"corrupt","window":"1s","entry_version":5,"outdated_version":4,"row_version":5`)
	require.NotContains(t, w.log.String(), "secret", "content in the log")
	for key, c := range cases {
		if c.fault == "" {
			require.NotContains(t, w.log.String(), `"key":"`+key+`"`)
		} else {
			require.Contains(t, w.log.String(), `"key":"`+key+`","fault":"`+c.fault+`"`)
		}
		got, found := w.entry(t, key)
		require.True(t, found, key)
		require.Equal(t, c.want.Version, got.Version, key)
		require.Equal(t, c.want.Tombstone, got.Tombstone, key)
	}

	w.force(t, "true", stale)
	require.NoError(t, w.Check(t.Context(), now.Add(10*time.Second)))
	require.InDelta(t, 12, w.count(t, "cache_checks_total", "10s"), 0)
	require.InDelta(t, 1, w.count(t, "cache_inconsistency_total", "10s"), 0)
	require.NoError(t, w.Check(t.Context(), now.Add(time.Hour)), "nothing is left to check")
	require.InDelta(t, 24, w.count(t, "cache_checks_total"), 0)
}

// Many events of a key are one comparison, keys without a value cost no statement, and large numbers go in batches.
func TestTheMonitorSparesTheDatabase(t *testing.T) {
	t.Parallel()
	w := watch(t, natstest.Provisioned(t))
	for range 3 {
		w.rows.commit("k")
		require.NoError(t, w.tell(t.Context(), "k", w.rows.version("k")))
	}
	require.NoError(t, w.Check(t.Context(), time.Now().Add(time.Second)))
	require.InDelta(t, 1, w.count(t, "cache_checks_total"), 0)
	require.Zero(t, w.rows.count())
	for i := range 450 {
		key := strconv.Itoa(i)
		w.force(t, key, holding(w.rows.commit(key)))
		w.Expect(key, 0)
	}
	require.NoError(t, w.Check(t.Context(), time.Now().Add(time.Second)))
	require.Equal(t, 3, w.rows.count())
	require.Zero(t, w.count(t, "cache_inconsistency_total"), "%s", w.log)
}

// While the database is away the checks wait; when too many do, the oldest are dropped and counted.
func TestChecksWait(t *testing.T) {
	t.Parallel()
	w := watch(t, natstest.Provisioned(t))
	w.rows.commit("k")
	require.NoError(t, w.tell(t.Context(), "k", 1))
	w.force(t, "k", holding(0))
	w.rows.set(func(r *table) { r.down = errors.New("the database is away") })
	for range 2 {
		require.ErrorContains(t, w.Check(t.Context(), time.Now().Add(time.Second)), "away")
	}
	w.rows.set(func(r *table) { r.down = nil })
	require.NoError(t, w.Check(t.Context(), time.Now().Add(time.Second)))
	require.InDelta(t, 1, w.count(t, "cache_inconsistency_total"), 0)

	for i := range 10_005 {
		w.Expect(strconv.Itoa(i), 0)
	}
	require.InDelta(t, 5+6, w.count(t, "cache_checks_dropped_total"), 0, "of 1s, and of 10s with the one of before")
}

// A monitor that ends makes the checks that wait.
func TestTheLastChecks(t *testing.T) {
	t.Parallel()
	w := watch(t, natstest.Provisioned(t), time.Hour)
	stop := w.run(t)
	w.awaitReconciled(t)
	w.rows.commit("k")
	require.NoError(t, w.tell(t.Context(), "k", 1))
	w.force(t, "k", holding(0))
	stop()
	require.InDelta(t, 1, w.count(t, "cache_inconsistency_total", "1h0m0s"), 0)
	e, _ := w.entry(t, "k")
	require.True(t, e.Tombstone)
}

func (w *watched) awaitReconciled(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return w.count(t, "cache_reconciliations_total") > 0 }, patience, time.Millisecond)
}

// Nodes that read, write through and evict, and events that come late, twice and in any order, are consistent at any moment:
// FDC_CACHE_WRITES times each, or a few.
func TestTheMonitorFindsNothingWrong(t *testing.T) {
	t.Parallel()
	times := testenv.Size(t, "FDC_CACHE_WRITES", 50)
	s := natstest.Provisioned(t)
	w := watch(t, s, 20*time.Millisecond, 100*time.Millisecond)
	stop := w.run(t)
	nodes := []*cache{
		node(t, natstest.Connect(t, s, "api"), w.rows.load, 1<<20), node(t, natstest.Connect(t, s, "api"), w.rows.load, 2000),
	}
	for i := range 8 {
		w.rows.commit(fmt.Sprint("k", i))
	}
	var all sync.WaitGroup
	for _, n := range nodes {
		for range 4 {
			all.Go(func() {
				var again []func() error // what is said when newer versions may have been told
				for range times {
					key := fmt.Sprint("k", rand.IntN(8))
					if rand.IntN(2) == 0 {
						if _, err := n.Get(t.Context(), key, 0); err != nil {
							t.Errorf("get: %v", err)
						}
						continue
					}
					version := w.rows.commit(key)
					write := func() error { return n.Put(t.Context(), key, version, data(version)) }
					event := func() error { return w.tell(t.Context(), key, version) }
					steps := [][]func() error{{write, event}, {event, write, event}, {event}}
					for _, step := range steps[rand.IntN(len(steps))] {
						if err := step(); err != nil && !late(err) {
							t.Errorf("%s, version %d: %v", key, version, err)
						}
					}
					again = append(again, write, event)
				}
				for _, i := range rand.Perm(len(again)) {
					if err := again[i](); err != nil && !late(err) {
						t.Errorf("again: %v", err)
					}
				}
			})
		}
	}
	all.Wait()
	stop()
	require.Positive(t, w.count(t, "cache_checks_total", "20ms"))
	require.Positive(t, w.count(t, "cache_checks_total", "100ms"))
	require.Zero(t, w.count(t, "cache_inconsistency_total"), "%s", w.log)
}

// What the bucket holds of outdated versions when a monitor starts, and when its connection comes back, is withdrawn.
func TestReconcile(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	w := watch(t, s, 20*time.Millisecond)
	const keys = 450
	for i := range keys {
		key := strconv.Itoa(i)
		w.rows.commit(key)
		w.force(t, key, holding(int64(i%3))) // before, the row's own, and after
	}
	w.force(t, "nothing", holding(1))
	_, err := w.kv.Put(t.Context(), "beat.node", []byte("17"))
	require.NoError(t, err)
	w.run(t)
	require.Eventually(t, func() bool { return w.count(t, "cache_withdrawn_total", "reconcile") == 301 }, patience, time.Millisecond)
	w.awaitReconciled(t)
	for i := range keys {
		e, found := w.entry(t, strconv.Itoa(i))
		require.True(t, found)
		require.Equal(t, i%3 != 1, e.Tombstone, "entry of %d, row of 1", e.Version)
	}

	s.Stop()
	for i := range keys {
		w.rows.commit(strconv.Itoa(i))
	}
	require.NoError(t, s.Restart(t.Context()))
	require.Eventually(t, func() bool { return w.count(t, "cache_withdrawn_total", "reconcile") == 301+150 }, patience, time.Millisecond)

	// Asked for: events were lost.
	w.force(t, "1", holding(1))
	w.Reconcile()
	require.Eventually(t, func() bool { return w.count(t, "cache_withdrawn_total", "reconcile") == 301+151 }, patience, time.Millisecond)
	require.Zero(t, w.count(t, "cache_inconsistency_total"), "no event told so")
}
