package service_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/nearcache"
)

// Each schedule is one that chance finds too seldom. The first node relays the outbox and is left alone, so that events flow.
//
// Each fails when the safeguard of package nearcache is missing that it is about. To see that, take one out by hand:
//
//   - put-if-newer: PutIfNewer stores whatever it finds. A late writer's old document is served from the bucket.
//   - the tombstones: PutIfNewer takes a tombstone for a free key. A late fill brings an ended session back for other nodes.
//   - the fence of a flight: land keeps what is older. A late fill keeps an ended session and an old document on its node.
//   - the beat: Live asks only whether one ever came back. A blind watch leaves an ended session in the memory of a node. (One
//     that is silent altogether is found out by its heartbeats as well, which is why a reader who is cut off doesn't tell.)
//   - the one load: join joins no flight. Each reader loads.
func TestCachesAreCoherentOnSchedules(t *testing.T) {
	t.Parallel()
	type test struct {
		name string
		run  func(schedule)
	}
	// Each cluster has its schedules one after the other. Most of them wait for a bound of the contract to pass.
	for name, tests := range map[string][]test{
		"late": {
			{"a writer is late", schedule.aWriterIsLate},
			{"a fill is late", schedule.aFillIsLate},
			{"a session's fill is late", schedule.aSessionsFillIsLate},
			{"many misses are one load", schedule.manyMissesAreOneLoad},
			{"both stores are away", schedule.bothStoresAreAway},
		},
		"deaf": {
			{"a load outlives the watch", schedule.aLoadOutlivesTheWatch},
			{"a reader is cut off", schedule.aReaderIsCutOff},
		},
		"unheard": {
			{"the watches are blind", schedule.theWatchesAreBlind},
			{"a writer is cut off", schedule.aWriterIsCutOff},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3)
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) { //nolint:paralleltest // they share the cluster
					test.run(newSchedule(t, c))
				})
			}
			c.t = t
			c.historyOf([]window{{0, c.now(), "all of it"}}, 0).check(len(c.nodes))
		})
	}
}

// schedule is the scene of one: three nodes that serve from memory, and a user with a session and a document.
type schedule struct {
	*cluster
	relay, a, b *node
	user        *session
	workspace   string
}

func newSchedule(t *testing.T, c *cluster) schedule {
	t.Helper()
	c.t = t
	t.Cleanup(c.heal)
	s := schedule{cluster: c, relay: c.nodes[0], a: c.nodes[1], b: c.nodes[2]}
	warm := c.newUser(s.b, "warm")
	for _, n := range c.nodes {
		c.near(n, warm, warm.home)
	}
	s.user = c.newUser(s.b, "user")
	s.workspace = s.user.home
	return s
}

// aWriterIsLate: the first of two writers reaches the bucket after the second, when the invalidator has been there as well.
func (s schedule) aWriterIsLate() {
	require.Equal(s.t, http.StatusOK, s.getSession(s.a, s.user).status)
	s.a.nats.Deafen()
	var writer sync.WaitGroup
	writer.Go(func() { s.putData(s.a, s.user, s.workspace, `{"n":1}`, unknown) })
	s.soon(func() bool { return s.version(s.workspace) == 1 }, "the first writer does not commit")
	second := s.putData(s.b, s.user, s.workspace, `{"n":2}`, unknown)
	require.Equal(s.t, int64(2), second.version(), "%s", second)
	s.drained()
	s.a.nats.Heal()
	writer.Wait()
	s.allServe(2)
	s.holdsAtMost(bus.WorkspaceData, s.workspace, nearcache.Entry{Version: 2, Data: s.getData(s.b, s.user, s.workspace).body})
}

// aFillIsLate: a document is written between the read of the row and the fill of the caches with it.
func (s schedule) aFillIsLate() {
	first := s.putData(s.b, s.user, s.workspace, `{"n":"the first"}`, unknown)
	require.Equal(s.t, int64(1), first.version(), "%s", first)
	s.drained()
	require.NoError(s.t, s.evict(bus.WorkspaceData, s.workspace))
	require.Equal(s.t, http.StatusOK, s.getSession(s.a, s.user).status)
	held := s.a.postgres.Hold("the first")
	var reader sync.WaitGroup
	reader.Go(func() { s.getData(s.a, s.user, s.workspace) })
	await(s.t, held)
	second := s.putData(s.b, s.user, s.workspace, `{"n":"the second"}`, unknown)
	require.Equal(s.t, int64(2), second.version(), "%s", second)
	s.drained()
	s.a.postgres.Heal()
	reader.Wait()
	s.allServe(2)
	s.holdsAtMost(bus.WorkspaceData, s.workspace, nearcache.Entry{Version: 2, Data: s.getData(s.b, s.user, s.workspace).body})
}

// allServe waits until every node serves a version of the document. A node may serve the one before until its watch hears of the write, and
// a wrong entry would outlast the wait.
func (s schedule) allServe(version int64) {
	s.t.Helper()
	for _, n := range s.nodes {
		s.soon(func() bool { return s.getData(n, s.user, s.workspace).version() == version }, "another version than %d", version)
	}
}

// aSessionsFillIsLate: a session ends between the read of its row and the fill of the caches with it.
func (s schedule) aSessionsFillIsLate() {
	held := s.a.postgres.Hold(s.user.email)
	var reader sync.WaitGroup
	reader.Go(func() { s.getSession(s.a, s.user) })
	await(s.t, held)
	require.Equal(s.t, http.StatusNoContent, s.logout(s.b, s.user).status)
	s.drained()
	s.a.postgres.Heal()
	reader.Wait()
	for _, n := range s.nodes {
		s.soon(func() bool { return s.getSession(n, s.user).status == http.StatusUnauthorized }, "the session lives on")
	}
	s.holdsAtMost(bus.Sessions, cacheKey(s.user.cookie()), nearcache.Entry{Tombstone: true})
}

// aLoadOutlivesTheWatch: a node that reads a session's row hears nothing any more, of the bucket nor of the row, and the session
// ends elsewhere. Who comes when the bound has passed must not be given what was read before.
func (s schedule) aLoadOutlivesTheWatch() {
	held := s.a.postgres.Hold(s.user.email)
	var readers sync.WaitGroup
	readers.Go(func() { s.getSession(s.a, s.user) })
	await(s.t, held)
	s.a.nats.Pause()
	require.Equal(s.t, http.StatusNoContent, s.logout(s.b, s.user).status)
	pass(s.t, faultBound+margin)
	sent := make(chan struct{})
	readers.Go(func() {
		r := s.do(s.a, request{what: getSession, session: s.user}, call{url: "/api/auth/session", written: func() { close(sent) }})
		if r.status != http.StatusUnauthorized {
			s.t.Errorf("accepted: %s", r)
		}
	})
	await(s.t, sent)
	pass(s.t, 200*time.Millisecond) // it is at the door of the load by then
	s.a.postgres.Heal()
	readers.Wait()
}

// manyMissesAreOneLoad: fifty readers of a document that is in no cache.
func (s schedule) manyMissesAreOneLoad() {
	first := s.putData(s.b, s.user, s.workspace, `{"n":"the only"}`, unknown)
	require.Equal(s.t, int64(1), first.version(), "%s", first)
	s.drained()
	require.NoError(s.t, s.evict(bus.WorkspaceData, s.workspace))
	require.Equal(s.t, http.StatusOK, s.getSession(s.a, s.user).status)
	held := s.a.postgres.Hold("the only")
	var written sync.WaitGroup
	written.Add(many)
	go func() {
		await(s.t, held)
		written.Wait()
		pass(s.t, 200*time.Millisecond) // all have missed by then, and wait
		s.a.postgres.Heal()
	}()
	sideBySide(func() {
		r := s.do(s.a, request{what: getData, session: s.user, workspace: s.workspace},
			call{url: dataPath(s.workspace), written: sync.OnceFunc(written.Done)})
		if r.status != http.StatusOK || r.version() != 1 {
			s.t.Errorf("%s", r)
		}
	})
	require.Empty(s.t, held, "%d loads, beside the one", len(held))
}

// aReaderIsCutOff: a node that holds a document and a session hears nothing of what others do.
func (s schedule) aReaderIsCutOff() {
	s.near(s.a, s.user, s.workspace)
	other, err := s.signIn(s.b, s.user.email)
	require.NoError(s.t, err)
	s.a.nats.Pause()
	second := s.putData(s.b, other, s.workspace, `{}`, unknown)
	require.Equal(s.t, int64(1), second.version(), "%s", second)
	require.Equal(s.t, http.StatusNoContent, s.logout(s.b, s.user).status)
	pass(s.t, faultBound+margin)
	r := s.getSession(s.a, s.user)
	require.Equal(s.t, http.StatusUnauthorized, r.status, "%s", r)
	r = s.getData(s.a, other, s.workspace)
	require.Equal(s.t, int64(1), r.version(), "%s", r)
}

// theWatchesAreBlind: the bus paused the watches; they look alive, their heartbeats come, and bring nothing.
func (s schedule) theWatchesAreBlind() {
	s.near(s.a, s.user, s.workspace)
	other, err := s.signIn(s.b, s.user.email)
	require.NoError(s.t, err)
	for _, bucket := range []string{bus.Sessions, bus.WorkspaceData} {
		stream, err := s.provision.Stream(s.t.Context(), "KV_"+bucket)
		require.NoError(s.t, err)
		watches := stream.ConsumerNames(s.t.Context())
		for name := range watches.Name() {
			_, err := stream.PauseConsumer(s.t.Context(), name, time.Now().Add(patience))
			require.NoError(s.t, err)
		}
		require.NoError(s.t, watches.Err())
	}
	r := s.putData(s.b, other, s.workspace, `{}`, unknown)
	require.Equal(s.t, int64(1), r.version(), "%s", r)
	require.Equal(s.t, http.StatusNoContent, s.logout(s.b, s.user).status)
	pass(s.t, faultBound+margin)
	r = s.getSession(s.a, s.user)
	require.Equal(s.t, http.StatusUnauthorized, r.status, "%s", r)
	r = s.getData(s.a, other, s.workspace)
	require.Equal(s.t, int64(1), r.version(), "%s", r)
}

// aWriterIsCutOff: a node that nobody hears, the one that relays the outbox at that, ends a session and writes a document
// that others hold.
func (s schedule) aWriterIsCutOff() {
	other, err := s.signIn(s.relay, s.user.email)
	require.NoError(s.t, err)
	s.near(s.a, s.user, s.workspace)
	require.Equal(s.t, http.StatusOK, s.getSession(s.relay, s.user).status)
	s.relay.nats.Pause()
	var writers sync.WaitGroup
	writers.Go(func() {
		r := s.putData(s.relay, other, s.workspace, `{}`, unknown)
		if r.version() != 1 {
			s.t.Errorf("%s", r)
		}
	})
	r := s.logout(s.relay, s.user)
	require.Equal(s.t, http.StatusNoContent, r.status, "%s", r)
	writers.Wait()
	pass(s.t, faultBound+margin)
	r = s.getSession(s.a, s.user)
	require.Equal(s.t, http.StatusUnauthorized, r.status, "%s", r)
	r = s.getData(s.a, other, s.workspace)
	require.Equal(s.t, int64(1), r.version(), "%s", r)
}

// bothStoresAreAway: a node that can ask nobody says so, once what it holds is not proven any more. To one node the stores are
// cut off, to the other they are silent.
func (s schedule) bothStoresAreAway() {
	s.near(s.a, s.user, s.workspace)
	s.near(s.b, s.user, s.workspace)
	s.a.nats.Cut()
	s.a.postgres.Cut()
	s.b.nats.Pause()
	s.b.postgres.Pause()
	pass(s.t, faultBound+margin)
	var readers sync.WaitGroup
	for _, away := range []*node{s.a, s.b} {
		for range 5 {
			for _, get := range []func() request{
				func() request { return s.getSession(away, s.user) },
				func() request { return s.getData(away, s.user, s.workspace) },
			} {
				readers.Go(func() {
					r := get()
					if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
						s.t.Errorf("%s", r)
					}
				})
			}
		}
	}
	readers.Wait()
}

// await waits for a signal.
func await(t *testing.T, signal <-chan struct{}) {
	t.Helper()
	select {
	case <-signal:
	case <-time.After(patience):
		t.Fatal("it does not happen")
	}
}

// pass lets a bound of the contract pass: there is no signal for what must not happen after it.
func pass(t *testing.T, bound time.Duration) {
	t.Helper()
	select {
	case <-time.After(bound):
	case <-t.Context().Done():
	}
}
