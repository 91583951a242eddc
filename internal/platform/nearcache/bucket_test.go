package nearcache_test

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/nearcache"
)

func bucket(t *testing.T) *nearcache.Bucket {
	t.Helper()
	nc, err := natstest.New(t).Connect("provision")
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := bus.JetStream(nc)
	require.NoError(t, err)
	require.NoError(t, bus.Provision(t.Context(), js, 1))
	kv, err := bus.BindBucket(t.Context(), js, bus.WorkspaceData, nil)
	require.NoError(t, err)
	return nearcache.NewSignedBucket(kv, signer)
}

// Whatever the order, the concurrency and the repetitions of writes, the newest stays, and a tombstone beats the value of
// its own version.
func TestTheNewestEntryStays(t *testing.T) {
	t.Parallel()
	b := bucket(t)
	for round := range 20 {
		key := "k" + strconv.Itoa(round)
		var writes []nearcache.Entry
		newest := int64(1 + rand.IntN(6))
		buried := rand.IntN(2) == 0
		for version := range newest + 1 {
			entry := nearcache.Entry{Version: version, Data: []byte(strconv.FormatInt(version, 10))}
			writes = append(writes, entry, entry)
			if version < newest || buried {
				writes = append(writes, nearcache.Entry{Version: version, Tombstone: true})
			}
		}
		rand.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
		var all sync.WaitGroup
		for _, entry := range writes {
			all.Go(func() {
				if _, err := b.PutIfNewer(t.Context(), key, entry); err != nil {
					t.Errorf("put version %d: %v", entry.Version, err)
				}
			})
		}
		all.Wait()
		got, found, err := b.Get(t.Context(), key)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, newest, got.Version)
		require.Equal(t, buried, got.Tombstone)
		if !buried {
			require.Equal(t, strconv.FormatInt(newest, 10), string(got.Data))
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for _, e := range []nearcache.Entry{{Version: 7, Data: []byte("x")}, {Version: 7, Tombstone: true}} {
		b, err := e.Encode(signer, "b", "k", time.Unix(1, 0))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := nearcache.DecodeEntry(b)
		if err == nil && (e.Version < 0 || e.Tombstone && e.Data != nil || !bytes.HasSuffix(b, e.Data)) {
			t.Fatalf("%x decodes to %+v", b, e)
		}
	})
}
