package nearcache_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/faultproxy"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/seal"
)

// patience bounds what takes milliseconds on a machine that has nothing else to do.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	testenv.Parallel(6) // they wait for timeouts
	m.Run()
}

// signer is every api's.
var signer = newSigner()

// newSigner returns a Signer of the first of new keys and of the others.
func newSigner(others ...seal.Secret) *seal.Signer {
	list := seal.NewKey("new")
	for _, other := range others {
		list += "," + other
	}
	return signerOf(list)
}

func signerOf(list seal.Secret) *seal.Signer {
	keys, err := seal.ParseKeys(list)
	if err != nil {
		panic(err)
	}
	s, err := keys.Signer("cache")
	if err != nil {
		panic(err)
	}
	return s
}

type (
	cache = nearcache.Cache[[]byte]
	value = nearcache.Value[[]byte]
)

func decode(data []byte) ([]byte, int, error) { return data, len(data), nil }

// table is where the truth is: a key's data is its version in digits.
type table struct {
	mu    sync.Mutex
	rows  map[string]int64
	loads int
	down  error
	gate  chan struct{} // a load waits for it, after it has read
}

func newTable() *table { return &table{rows: map[string]int64{}} }

func (r *table) load(_ context.Context, key string) (int64, []byte, error) {
	r.mu.Lock()
	version, gate, down := r.rows[key], r.gate, r.down
	r.loads++
	r.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return version, data(version), down
}

func (r *table) set(change func(*table)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

// commit makes a new version.
func (r *table) commit(key string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows[key]++
	return r.rows[key]
}

func (r *table) version(key string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rows[key]
}

func (r *table) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loads
}

func data(version int64) []byte { return []byte(strconv.FormatInt(version, 10)) }

// node is a cache of its own connection, running. Nothing breaks the connection, so a bucket that answers late is given the time.
func node(t *testing.T, nc *nats.Conn, load nearcache.Load, maxBytes uint64) *cache {
	t.Helper()
	return start(t, nc, load, maxBytes, 4*time.Second)
}

// start is node for a connection that breaks. Zero waits as long as a service does.
func start(t *testing.T, nc *nats.Conn, load nearcache.Load, maxBytes uint64, wait time.Duration, log ...io.Writer) *cache {
	t.Helper()
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	kv, err := bus.BindBucket(t.Context(), js, bus.WorkspaceData, nil)
	require.NoError(t, err)
	c, err := nearcache.New(nearcache.Config{
		KV: kv, Signer: signer, JS: js, NATS: nc, MaxBytes: maxBytes, Log: zerolog.New(io.MultiWriter(log...)),
		Metrics: prometheus.NewRegistry(),
	}, load, decode)
	require.NoError(t, err)
	if wait > 0 {
		c.Wait(wait)
	}
	runCache(t, c)
	return c
}

func runCache(t *testing.T, c *cache) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	awaitLive(t, c)
}

// proxied is a connection that the proxy can break.
func proxied(t *testing.T, s *embednats.Server) (*faultproxy.Proxy, *nats.Conn) {
	t.Helper()
	line := faultproxy.New(t, s.URL("api"))
	nc, err := bus.Connect(bus.Config{URL: line.URL}, "api", zerolog.Nop())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return line, nc
}

func awaitLive(t *testing.T, c *cache) {
	t.Helper()
	require.Eventually(t, c.Live, patience, time.Millisecond, "the near layer does not come to life")
}

func get(t *testing.T, c *cache, key string) value {
	t.Helper()
	v, err := c.Get(t.Context(), key, 0)
	require.NoError(t, err)
	require.Equal(t, string(data(v.Version)), string(v.Data))
	return v
}

// put writes through to a bucket that answers, perhaps not at once: it is left alone for a second when it didn't.
func put(t *testing.T, c *cache, key string, version int64, data []byte) {
	t.Helper()
	require.Eventually(t, func() bool { return c.Put(t.Context(), key, version, data) == nil }, patience, time.Millisecond)
}

// awaitNear reads until the near layer serves: on a machine that stalls, a beat may lapse at any time.
func awaitNear(t *testing.T, c *cache) {
	t.Helper()
	require.Eventually(t, func() bool { return get(t, c, "k").Layer == nearcache.Near }, patience, time.Millisecond)
}

// awaitVersion reads until the cache has it, and fails when a version goes back.
func awaitVersion(t *testing.T, c *cache, key string, want int64) {
	t.Helper()
	last := int64(0)
	require.Eventually(t, func() bool {
		v, err := c.Get(t.Context(), key, 0)
		if err != nil || v.Version < last {
			t.Errorf("version %d after %d: %v", v.Version, last, err)
		}
		last = v.Version
		return v.Version == want
	}, patience, time.Millisecond)
}

func TestLayers(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	rows := newTable()
	a := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	b := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)

	require.Equal(t, value{Version: 0, Data: data(0), Layer: nearcache.DB}, get(t, a, "k"))
	awaitNear(t, a)
	require.Equal(t, nearcache.KV, get(t, b, "k").Layer)
	awaitNear(t, b)
	require.Equal(t, 1, rows.count())

	put(t, a, "k", rows.commit("k"), data(1))
	require.Equal(t, int64(1), get(t, a, "k").Version, "who wrote reads it at once")
	awaitVersion(t, b, "k", 1)
	awaitNear(t, b)
	require.Equal(t, 1, rows.count(), "written through")

	// A reader who has seen version 2 elsewhere does not get version 1.
	rows.commit("k")
	v, err := b.Get(t.Context(), "k", 2)
	require.NoError(t, err)
	require.Equal(t, int64(2), v.Version)
	require.Equal(t, nearcache.DB, v.Layer)
	v, err = b.Get(t.Context(), "k", 99)
	require.NoError(t, err)
	require.Equal(t, int64(2), v.Version, "there is no such version")
}

// What was in the bucket before the watch began is not believed, but written again when the database says the same.
func TestOldEntriesAreDoubted(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	nc := natstest.Connect(t, s, "api")
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	kv, err := bus.BindBucket(t.Context(), js, bus.WorkspaceData, nil)
	require.NoError(t, err)
	bucket := nearcache.NewSignedBucket(kv, signer)
	rows := newTable()
	for _, key := range []string{"true", "outdated"} {
		_, err = bucket.PutIfNewer(t.Context(), key, nearcache.Entry{Version: 0, Data: data(0)})
		require.NoError(t, err)
	}
	rows.commit("outdated")
	before, err := kv.Get(t.Context(), "true")
	require.NoError(t, err)

	a := node(t, nc, rows.load, 1<<20)
	require.Equal(t, value{Version: 1, Data: data(1), Layer: nearcache.DB}, get(t, a, "outdated"))
	require.Equal(t, value{Version: 0, Data: data(0), Layer: nearcache.DB}, get(t, a, "true"))
	after, err := kv.Get(t.Context(), "true")
	require.NoError(t, err)
	require.Greater(t, after.Revision(), before.Revision())
	e, _, err := bucket.Get(t.Context(), "outdated")
	require.NoError(t, err)
	require.Equal(t, int64(1), e.Version)
}

func TestTheInvalidatorsTombstone(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	rows := newTable()
	nc := natstest.Connect(t, s, "api")
	a := node(t, nc, rows.load, 1<<20)
	get(t, a, "other")
	// Another writer committed version 1 and could not tell; the invalidator does, twice.
	rows.commit("other")
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	kv, err := bus.BindBucket(t.Context(), js, bus.WorkspaceData, nil)
	require.NoError(t, err)
	for range 2 {
		_, err = nearcache.NewBucket(kv).PutIfNewer(t.Context(), "other", nearcache.Entry{Version: 0, Tombstone: true})
		require.NoError(t, err)
		awaitVersion(t, a, "other", 1)
	}
	require.Equal(t, 2, rows.count(), "the second changes nothing")
}

func TestOneLoadPerNode(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	rows := newTable()
	c := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	gate := make(chan struct{})
	rows.set(func(r *table) { r.gate = gate })
	var readers sync.WaitGroup
	for range 100 {
		readers.Go(func() {
			if _, err := c.Get(t.Context(), "k", 0); err != nil {
				t.Errorf("get: %v", err)
			}
		})
	}
	require.Eventually(t, func() bool { return rows.count() == 1 }, patience, time.Millisecond)
	close(gate)
	readers.Wait()
	require.Equal(t, 1, rows.count())
}

// Who comes long after a load has begun is not served from it: the row may have changed where nobody could say so.
func TestAnOldLoadIsNotJoined(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	rows := newTable()
	c := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	gate := make(chan struct{})
	rows.set(func(r *table) { r.gate = gate })
	var readers sync.WaitGroup
	read := func() {
		readers.Go(func() {
			if _, err := c.Get(t.Context(), "k", 0); err != nil {
				t.Errorf("get: %v", err)
			}
		})
	}
	read()
	require.Eventually(t, func() bool { return rows.count() == 1 }, patience, time.Millisecond)
	rows.commit("k")
	require.Eventually(t, func() bool {
		read()
		return rows.count() == 2
	}, patience, 10*time.Millisecond, "a load that hangs is joined for ever")
	close(gate)
	readers.Wait()
	require.Equal(t, int64(1), get(t, c, "k").Version)
}

// A write that commits and tells of itself while a load is under way outdates that load, for everybody who joined it.
func TestASlowLoadIsFenced(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	rows := newTable()
	a := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	b := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	for _, writer := range []*cache{a, b} {
		gate := make(chan struct{})
		key := "k" + strconv.Itoa(rows.count())
		rows.set(func(r *table) { r.gate = gate })
		got := make(chan value, 1)
		loads := rows.count()
		go func() {
			v, err := a.Get(t.Context(), key, 0)
			if err != nil {
				t.Errorf("get: %v", err)
			}
			got <- v
		}()
		require.Eventually(t, func() bool { return rows.count() > loads }, patience, time.Millisecond)
		put(t, writer, key, rows.commit(key), data(1))
		rows.set(func(r *table) { r.gate = nil })
		close(gate)
		if v := <-got; writer == a {
			require.Equal(t, int64(1), v.Version)
		}
		awaitVersion(t, a, key, 1)
		awaitVersion(t, b, key, 1)
	}
}

// While the bucket does not take what is loaded, each load leaves a fence above its version, in case it was taken after all. A write
// of that very version outdates a load under way none the less.
func TestASlowLoadIsFencedWithoutTheBucket(t *testing.T) {
	t.Parallel()
	line, nc := proxied(t, natstest.Provisioned(t, natstest.WithTCP()))
	rows := newTable()
	c := start(t, nc, rows.load, 1<<20, 0)
	// slow begins a read, which has read the row when slow returns and ends after release.
	slow := func() (release func()) {
		gate, loads, ended := make(chan struct{}), rows.count(), make(chan struct{})
		rows.set(func(r *table) { r.gate = gate })
		go func() {
			defer close(ended)
			if _, err := c.Get(t.Context(), "k", 1); err != nil { // 1: past the near layer
				t.Errorf("get: %v", err)
			}
		}()
		require.Eventually(t, func() bool { return rows.count() > loads }, patience, time.Millisecond)
		rows.set(func(r *table) { r.gate = nil })
		return sync.OnceFunc(func() {
			close(gate)
			<-ended
		})
	}

	release := slow()
	line.Deafen()
	release()
	require.Equal(t, int64(1), c.Owed("k"))

	release = slow()
	require.Error(t, c.Put(t.Context(), "k", rows.commit("k"), data(1)))
	joined := make(chan value)
	go func() {
		v, err := c.Get(t.Context(), "k", 0)
		if err != nil {
			t.Errorf("get: %v", err)
		}
		joined <- v
	}()
	select {
	case v := <-joined: // a read of its own
		require.Equal(t, int64(1), v.Version)
	case <-time.After(100 * time.Millisecond): // it has joined by now
		release()
		require.Equal(t, int64(1), (<-joined).Version)
	}
	release()
}

// An operator purges a key, or the bucket is lost with its server, while a writer is slow: the old version that then finds a bucket
// without fences takes nobody back who has seen a newer one.
func TestASlowWriterFindsTheBucketEmpty(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t, natstest.WithTCP())
	rows := newTable()
	a := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	js, err := bus.JetStream(natstest.Connect(t, s, "provision"))
	require.NoError(t, err)
	kv, err := bus.BindBucket(t.Context(), js, bus.WorkspaceData, nil)
	require.NoError(t, err)
	slow := func() {
		_, err := nearcache.NewSignedBucket(kv, signer).PutIfNewer(t.Context(), "k", nearcache.Entry{Version: 0, Data: data(0)})
		require.NoError(t, err)
	}
	beyond := func() { // the near layer, which never shows the old version either
		require.Eventually(t, func() bool {
			v := get(t, a, "k")
			require.Equal(t, int64(1), v.Version)
			return v.Layer != nearcache.Near
		}, patience, time.Millisecond)
	}
	put(t, a, "k", rows.commit("k"), data(1))
	awaitNear(t, a)
	require.NoError(t, kv.Purge(t.Context(), "k"))
	slow()
	beyond()

	awaitNear(t, a)
	s.Stop()
	require.Eventually(t, func() bool { return !a.Live() }, patience, time.Millisecond)
	require.NoError(t, s.Restart(t.Context()))
	awaitLive(t, a)
	slow()
	beyond()
}

// late reports whether err says that a busy bucket has not answered in time: a writer repeats it, and what was written is served by it.
func late(err error) bool {
	return bus.Unreachable(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nearcache.ErrAway)
}

// What a node serves never goes back, whoever writes, wherever, and what is left in the bucket is the row's version, a
// tombstone or nothing. Every third write reaches the bucket only by the invalidator, some twice. FDC_CACHE_WRITES writes of each writer,
// or few.
func TestVersionsNeverGoBack(t *testing.T) {
	t.Parallel()
	writes := testenv.Size(t, "FDC_CACHE_WRITES", 50)
	s := natstest.Provisioned(t)
	rows := newTable()
	nc := natstest.Connect(t, s, "api")
	nodes := []*cache{
		node(t, nc, rows.load, 1<<20), node(t, natstest.Connect(t, s, "api"), rows.load, 2000), // the second evicts
	}
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	kv, err := bus.BindBucket(t.Context(), js, bus.WorkspaceData, nil)
	require.NoError(t, err)
	bucket := nearcache.NewSignedBucket(kv, signer)
	keys := make([]string, 12)
	for i := range keys {
		keys[i] = "k" + strconv.Itoa(i)
	}
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for _, n := range nodes {
		for range 4 {
			readers.Go(func() {
				seen := map[string]int64{}
				pace := time.NewTicker(200 * time.Microsecond) // which leaves the writers something of the machine
				defer pace.Stop()
				for {
					select {
					case <-stop:
						return
					case <-pace.C:
					}
					key := keys[rand.IntN(len(keys))]
					v, err := n.Get(t.Context(), key, 0)
					if err != nil || v.Version < seen[key] || string(v.Data) != string(data(v.Version)) {
						t.Errorf("%s: %d %q from %s after %d: %v", key, v.Version, v.Data, v.Layer, seen[key], err)
						return
					}
					seen[key] = v.Version
				}
			})
		}
		for range 3 {
			writers.Go(func() {
				for range writes {
					key := keys[rand.IntN(len(keys))]
					version := rows.commit(key)
					if rand.IntN(3) > 0 {
						if err := n.Put(t.Context(), key, version, data(version)); err != nil && !late(err) {
							t.Errorf("put: %v", err)
						}
						if v, err := n.Get(t.Context(), key, 0); err != nil || v.Version < version {
							t.Errorf("%s: wrote %d, read %d: %v", key, version, v.Version, err)
						}
					}
					for range 1 + rand.IntN(2) {
						if _, err := bucket.PutIfNewer(t.Context(), key, nearcache.Entry{Version: version - 1, Tombstone: true}); err != nil && !late(err) {
							t.Errorf("invalidate: %v", err)
						}
					}
				}
			})
		}
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	for _, key := range keys {
		for _, n := range nodes {
			awaitVersion(t, n, key, rows.version(key))
		}
		e, found, err := bucket.Get(t.Context(), key)
		require.NoError(t, err)
		require.True(t, !found || e.Tombstone || e.Version == rows.version(key), "%s: %+v, row %d", key, e, rows.version(key))
	}
}

// The server restarts, and then the bucket is lost and made anew, empty, with sequences from 1: what changed meanwhile is
// seen, and nothing old is served.
func TestTheServerRestarts(t *testing.T) {
	t.Parallel()
	s := natstest.New(t, natstest.WithTCP())
	provision, err := bus.JetStream(natstest.Connect(t, s, "provision"))
	require.NoError(t, err)
	require.NoError(t, bus.Provision(t.Context(), provision, 1))
	rows := newTable()
	a := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	b := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	for range 50 {
		put(t, a, "k", rows.commit("k"), data(rows.version("k")))
	}
	awaitVersion(t, b, "k", 50)

	s.Stop()
	require.Eventually(t, func() bool { return !a.Live() && !b.Live() }, patience, time.Millisecond, "served without a watch")
	require.Error(t, a.Put(t.Context(), "k", rows.commit("k"), data(51)), "the bus is away")
	require.Equal(t, value{Version: 51, Data: data(51), Layer: nearcache.DB}, get(t, b, "k"), "the database answers alone")
	rows.set(func(r *table) { r.down = errors.New("the database is away") })
	_, err = b.Get(t.Context(), "k", 0)
	require.ErrorContains(t, err, "away", "neither: no stale answer")
	rows.set(func(r *table) { r.down = nil })

	require.NoError(t, s.Restart(t.Context()))
	awaitLive(t, a)
	awaitLive(t, b)
	require.Equal(t, int64(51), get(t, b, "k").Version)
	put(t, a, "k", rows.commit("k"), data(52))
	awaitVersion(t, b, "k", 52)

	require.NoError(t, provision.DeleteStream(t.Context(), "KV_"+bus.WorkspaceData))
	require.Eventually(t, func() bool { return !a.Live() && !b.Live() }, patience, time.Millisecond, "served without a bucket")
	rows.commit("k")
	awaitVersion(t, a, "k", 53)
	require.NoError(t, bus.Provision(t.Context(), provision, 1))
	awaitLive(t, a)
	awaitLive(t, b)
	awaitVersion(t, b, "k", 53)
	put(t, b, "k", rows.commit("k"), data(54))
	awaitVersion(t, a, "k", 54)
	awaitNear(t, a)
}

// A watch that hangs while its connection stands proves nothing: the near layer stops serving.
func TestThePausedWatch(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t, natstest.WithTCP())
	rows := newTable()
	line, nc := proxied(t, s)
	a := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	b := start(t, nc, rows.load, 1<<20, 0)
	get(t, b, "k")

	line.Pause()
	put(t, a, "k", rows.commit("k"), data(1))
	require.Eventually(t, func() bool { return !b.Live() }, patience, time.Millisecond, "served without a beat")
	require.Equal(t, value{Version: 1, Data: data(1), Layer: nearcache.DB}, get(t, b, "k"))
	line.Heal()
	awaitLive(t, b)
	require.Equal(t, int64(1), get(t, b, "k").Version)
	put(t, a, "k", rows.commit("k"), data(2))
	awaitVersion(t, b, "k", 2)
}

// A writer whose connection is cut repeats what it could not say.
func TestAWriterRepeats(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t, natstest.WithTCP())
	rows := newTable()
	line, nc := proxied(t, s)
	a := start(t, nc, rows.load, 1<<20, 0)
	b := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	require.Equal(t, int64(0), get(t, b, "k").Version)

	line.Pause()
	require.Error(t, a.Put(t.Context(), "k", rows.commit("k"), data(1)))
	require.Equal(t, int64(1), get(t, a, "k").Version, "who wrote reads it")
	line.Heal()
	awaitVersion(t, b, "k", 1)
}

// A node is delivered its own heartbeats and everybody's entries, in one order, and no other node's heartbeats.
func TestANodeReceivesOnlyItsOwnHeartbeats(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	nc := natstest.Connect(t, s, "api")
	rows := newTable()
	a := node(t, nc, rows.load, 1<<20)
	stream, err := natstest.JetStream(t, natstest.Connect(t, s, "provision")).Stream(t.Context(), "KV_"+bus.WorkspaceData)
	require.NoError(t, err)
	get(t, a, "k")
	const others = 500
	for n := range others {
		require.NoError(t, nc.Publish("$KV."+bus.WorkspaceData+".beat.other"+strconv.Itoa(n), []byte("1")))
	}
	require.NoError(t, nc.Flush())
	b := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	put(t, b, "k", rows.commit("k"), data(1))
	awaitVersion(t, a, "k", 1) // the watch has come past all of them
	watches := 0
	for info := range stream.ListConsumers(t.Context()).Info() {
		watches++
		require.Less(t, info.Delivered.Consumer, uint64(others), "heartbeats of other nodes are delivered")
	}
	require.Equal(t, 2, watches)
	require.True(t, a.Live())
}

// A server that speaks and does not hear leaves the watch's own heartbeats whole: only the beat tells.
func TestTheLapsedBeat(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t, natstest.WithTCP())
	rows := newTable()
	line, nc := proxied(t, s)
	said, logged := io.Pipe()
	giveUp := time.AfterFunc(patience, func() { _ = said.Close() })
	defer giveUp.Stop()
	c := start(t, nc, rows.load, 1<<20, 0, logged)
	get(t, c, "k")
	line.Deafen()
	reason, err := bufio.NewReader(said).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, reason, "the watch is blind", "another safeguard was first")
	require.NoError(t, said.Close())
	require.Eventually(t, func() bool { return !c.Live() }, patience, time.Millisecond, "served without a beat")
	rows.commit("k")
	require.Equal(t, int64(1), get(t, c, "k").Version)
	line.Heal()
	awaitLive(t, c)
}

// The near layer stays within its bytes, and what is too large for the bucket is never kept.
func TestBounds(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	size := 10_000
	c := node(t, natstest.Connect(t, s, "api"), func(context.Context, string) (int64, []byte, error) {
		return 1, make([]byte, size), nil
	}, 200_000)
	for i := range 200 {
		_, err := c.Get(t.Context(), "k"+strconv.Itoa(i), 0)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return c.NearBytes() <= 200_000 && c.NearBytes() > 0 }, patience, time.Millisecond)

	size = 1 << 20
	put(t, c, "large", 1, make([]byte, size))
	for range 2 {
		v, err := c.Get(t.Context(), "large", 0)
		require.NoError(t, err)
		require.Len(t, v.Data, size)
		require.Equal(t, nearcache.Bypass, v.Layer)
	}
}

func BenchmarkNearHit(b *testing.B) {
	s := natstest.Provisioned(b)
	nc := natstest.Connect(b, s, "api")
	js, err := bus.JetStream(nc)
	require.NoError(b, err)
	kv, err := bus.BindBucket(b.Context(), js, bus.WorkspaceData, nil)
	require.NoError(b, err)
	c, err := nearcache.New(nearcache.Config{
		KV: kv, Signer: signer, JS: js, NATS: nc, MaxBytes: 1 << 20, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
	}, newTable().load, decode)
	require.NoError(b, err)
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	for !c.Live() {
		_ = nc.Flush()
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Get(b.Context(), "k", 0); err != nil {
			b.Fatal(err)
		}
	}
	stop()
	require.NoError(b, <-ended)
}
