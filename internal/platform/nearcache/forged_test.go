package nearcache_test

import (
	"bytes"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/seal"
)

// encoded is an entry as its writer stores it.
func encoded(t *testing.T, e nearcache.Entry, by *seal.Signer, bucket, key string, age time.Duration) []byte {
	t.Helper()
	b, err := e.Encode(by, bucket, key, time.Now().Add(-age))
	require.NoError(t, err)
	return b
}

// A value that somebody else than an api put into the bucket, or an api for another key, bucket or time, is never served: neither
// to a reader of the bucket nor by way of the watch. It is counted, and the next write takes its place.
func TestForgedEntriesAreIgnored(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	rows := newTable()
	metrics := prometheus.NewRegistry()
	nc := natstest.Connect(t, s, "api")
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	kv, err := bus.BindBucket(t.Context(), js, bus.WorkspaceData, nil)
	require.NoError(t, err)
	a, err := nearcache.New(nearcache.Config{
		KV: kv, Signer: signer, JS: js, NATS: nc, MaxBytes: 1 << 20, Log: zerolog.Nop(), Metrics: metrics,
	}, rows.load, decode)
	require.NoError(t, err)
	a.Wait(4 * time.Second)
	runCache(t, a)

	thief := bucketOf(t, s, bus.CacheInvalidator)
	evil := nearcache.Entry{Version: 7, Data: []byte("evil")}
	flipped := encoded(t, evil, signer, kv.Bucket(), "flipped", 0)
	flipped[len(flipped)-1] ^= 1
	raised := encoded(t, evil, signer, kv.Bucket(), "raised", 0)
	raised[8]++ // its version
	forgeries := map[string][]byte{
		"unsigned":  append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 7}, evil.Data...),
		"zeros":     append(append([]byte{3, 0, 0, 0, 0, 0, 0, 0, 7}, make([]byte, 40)...), evil.Data...),
		"other-key": encoded(t, evil, newSigner(), kv.Bucket(), "other-key", 0),
		"moved":     encoded(t, evil, signer, kv.Bucket(), "elsewhere", 0),
		"bucket":    encoded(t, evil, signer, bus.Sessions, "bucket", 0),
		"flipped":   flipped,
		"raised":    raised,
		"old":       encoded(t, evil, signer, kv.Bucket(), "old", 6*time.Minute),
		"to-come":   encoded(t, evil, signer, kv.Bucket(), "to-come", -2*time.Minute),
		"tombstone": append([]byte{2, 0, 0, 0, 0, 0, 0, 0, 7}, evil.Data...),
	}
	counted := func() float64 { return counter(t, metrics, "cache_unsigned_total") }
	for key, forged := range forgeries {
		put(t, a, key, rows.commit(key), data(1))
		require.Eventually(t, func() bool { return get(t, a, key).Layer == nearcache.Near }, patience, time.Millisecond)
		before := counted()
		_, err := thief.Put(t.Context(), key, forged)
		require.NoError(t, err, "the attack was not made")
		require.Eventually(t, func() bool { // by the watch
			require.Equal(t, data(1), get(t, a, key).Data, key)
			return counted() > before
		}, patience, time.Millisecond, key)

		before = counted()
		_, err = thief.Put(t.Context(), key+"-read", bytes.Clone(forged)) // a key that this node knows nothing of
		require.NoError(t, err)
		v := get(t, a, key+"-read")
		require.Equal(t, data(0), v.Data, key)
		require.Equal(t, nearcache.DB, v.Layer, key)
		require.Greater(t, counted(), before, key)
		if key != "old" && key != "to-come" { // whose version counts: their writer was an api
			e, found, err := nearcache.NewSignedBucket(kv, signer).Get(t.Context(), key+"-read")
			require.NoError(t, err)
			require.True(t, found && bytes.Equal(e.Data, data(0)), "%s is not replaced: %+v", key, e)
		}
	}
}

// An entry that was outdated keeps its signature, but its version tells: a node that has a newer one does not go back.
func TestReplayedEntriesAreOutdated(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	rows := newTable()
	a := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	thief := bucketOf(t, s, bus.CacheInvalidator)
	put(t, a, "k", rows.commit("k"), data(1))
	recorded, err := thief.Get(t.Context(), "k")
	require.NoError(t, err)
	put(t, a, "k", rows.commit("k"), data(2))
	for _, key := range []string{"k", "sentinel"} {
		require.Eventually(t, func() bool { return get(t, a, key).Layer == nearcache.Near }, patience, time.Millisecond)
	}
	_, err = thief.Put(t.Context(), "k", recorded.Value())
	require.NoError(t, err)
	_, err = thief.Put(t.Context(), "sentinel", encoded(t, tombstone(0), nil, "", "", 0))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return get(t, a, "sentinel").Layer != nearcache.Near }, patience, time.Millisecond)
	require.Equal(t, data(2), get(t, a, "k").Data, "the watch delivers in order, so it has delivered the old entry")
}

// Tombstones are not signed. The worst that a forged one does is that the key is read from the database.
func TestForgedTombstonesOnlyWithdraw(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	rows := newTable()
	a := node(t, natstest.Connect(t, s, "api"), rows.load, 1<<20)
	thief := bucketOf(t, s, bus.CacheInvalidator)
	for i, version := range []int64{1, math.MaxInt64 - 1, math.MaxInt64} {
		key := "k" + strconv.Itoa(i)
		put(t, a, key, rows.commit(key), data(1))
		require.Eventually(t, func() bool { return get(t, a, key).Layer == nearcache.Near }, patience, time.Millisecond)
		_, err := thief.Put(t.Context(), key, encoded(t, tombstone(version), nil, "", "", 0))
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			v := get(t, a, key)
			require.Equal(t, int64(1), v.Version)
			return v.Layer == nearcache.DB
		}, patience, time.Millisecond, key)
		put(t, a, key, rows.commit(key), data(2))
		awaitVersion(t, a, key, 2)
	}
	_, err := nearcache.NewBucket(thief).PutIfNewer(t.Context(), "k", nearcache.Entry{Version: 99, Data: []byte("evil")})
	require.Error(t, err, "who has no key writes tombstones only")
}

// While keys are rotated, nodes with the new list and nodes with the old one that knows the new key read each other's entries.
func TestEntriesOutliveARotation(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	kv := bucketOf(t, s, "api")
	v1, v2 := seal.NewKey("v1"), seal.NewKey("v2")
	before, during, after := signerOf(v1), signerOf(v2+","+v1), signerOf(v2)
	reads := func(key string, by *seal.Signer) bool {
		_, found, err := nearcache.NewSignedBucket(kv, by).Get(t.Context(), key)
		require.NoError(t, err)
		return found
	}
	for key, by := range map[string]*seal.Signer{"old": before, "new": during} {
		_, err := nearcache.NewSignedBucket(kv, by).PutIfNewer(t.Context(), key, nearcache.Entry{Version: 1, Data: data(1)})
		require.NoError(t, err)
	}
	require.True(t, reads("old", during), "an old entry, a new node")
	require.True(t, reads("new", signerOf(v1+","+v2)), "a new entry, a node that signs with the old key still")
	require.True(t, reads("new", after))
	require.False(t, reads("old", after), "the key has left the list")
}

// counter is the sum of a counter.
func counter(t *testing.T, metrics prometheus.Gatherer, name string) (sum float64) {
	t.Helper()
	families, err := metrics.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == name {
				sum += metric.GetCounter().GetValue()
			}
		}
	}
	return sum
}
