package service_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/nearcache"
)

// The plain run is short. FDC_COHERENCE_TIME=10m runs for longer, FDC_COHERENCE_SEED repeats a run's choices (not the
// interleaving, which is the machine's).
const (
	coherenceTime = "FDC_COHERENCE_TIME"
	coherenceSeed = "FDC_COHERENCE_SEED"
)

// Three nodes, a dozen clients that change nodes with each request, and one fault after the other. Every answer is recorded and
// held against a model afterwards; see history.check. What is not tried is two faults at once: a node that can tell nobody of
// an end relies on the relay and the invalidator.
func TestCachesAreCoherentUnderFaults(t *testing.T) {
	t.Parallel()
	lasts, seed := 6*time.Second, rand.Uint64()
	if text := os.Getenv(coherenceTime); text != "" {
		var err error
		lasts, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	if text := os.Getenv(coherenceSeed); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("%s=%d", coherenceSeed, seed)
	c := newCluster(t, 3)
	p := newPopulation(c)
	over := make(chan struct{})
	time.AfterFunc(lasts, func() { close(over) })
	var running sync.WaitGroup
	for client := range clients {
		running.Go(func() { p.live(over, rand.New(rand.NewPCG(seed, uint64(client)))) }) //nolint:gosec // to repeat a run
	}
	var stall time.Duration
	running.Go(func() { stall = longestStall(over) })
	faults := c.trouble(over, rand.New(rand.NewPCG(seed, clients)))
	running.Wait()

	c.heal()
	c.drained()
	t.Run("at rest", func(t *testing.T) { //nolint:paralleltest // the same cluster
		c.t = t
		p.quiesced()
	})
	c.t = t
	h := c.historyOf(faults, stall)
	for session, end := range p.aged {
		h.add("session "+session, op{do: "set", value: ended, version: unknown, expect: unknown, call: end, ret: end, node: everywhere})
	}
	h.check(len(c.nodes))
	t.Logf("%d requests: %v; %d registers; faults: %v; the machine stood still for %v at most", len(c.history), c.census(), len(h.registers), faults, stall)
}

const clients = 12

// longestStall measures for how long this process did not run when it should have. What the bounds promise can't be kept by a
// machine that stands still, so they are longer by that.
func longestStall(over <-chan struct{}) (longest time.Duration) {
	const every = 10 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-over:
			return longest
		case <-tick.C:
			longest, last = max(longest, time.Since(last)-every), time.Now()
		}
	}
}

func (c *cluster) census() map[string]int {
	counts := map[string]int{}
	for _, r := range c.history {
		layer, _, _ := strings.Cut(r.header.Get("Cache-Status"), "; hit")
		counts[strings.TrimSpace(fmt.Sprintf("%s %d %s", r.what, r.status, layer))]++
	}
	return counts
}

// trouble breaks one thing after the other, with a time of peace in between, and returns when it did so.
func (c *cluster) trouble(over <-chan struct{}, random *rand.Rand) (faults []window) {
	within := func(from, to time.Duration) bool {
		select {
		case <-over:
			return false
		case <-time.After(from + time.Duration(random.Int64N(int64(to-from)))):
			return true
		}
	}
	for within(time.Second, 2*time.Second) {
		n := c.nodes[random.IntN(len(c.nodes))]
		f := window{from: c.now()}
		switch kind := random.IntN(9); kind {
		case 0:
			f.what = fmt.Sprintf("NATS cut off from node %d", n.index)
			n.nats.Cut()
		case 1:
			f.what = fmt.Sprintf("NATS silent to node %d", n.index)
			n.nats.Pause()
		case 2:
			f.what = fmt.Sprintf("node %d unheard by NATS", n.index)
			n.nats.Deafen()
		case 3:
			f.what = fmt.Sprintf("Postgres cut off from node %d", n.index)
			n.postgres.Cut()
		case 4:
			f.what = fmt.Sprintf("Postgres silent to node %d", n.index)
			n.postgres.Pause()
		case 5:
			f.what = fmt.Sprintf("node %d paused", n.index)
			n.nats.Pause()
			n.postgres.Pause()
		case 6:
			f.what = "NATS stopped and started again"
			require.NoError(c.t, c.broker.Restart(c.t.Context()))
		case 7:
			f.what = "NATS silent to all"
			for _, n := range c.nodes {
				n.nats.Pause()
			}
		case 8:
			f.what = "the buckets of the caches emptied"
			for _, bucket := range []string{bus.Sessions, bus.WorkspaceData} {
				stream, err := c.provision.Stream(c.t.Context(), "KV_"+bucket)
				require.NoError(c.t, err)
				require.NoError(c.t, stream.Purge(c.t.Context()))
			}
		}
		within(500*time.Millisecond, 4*time.Second)
		c.heal()
		f.to = c.now()
		faults = append(faults, f)
	}
	return faults
}

// population is who uses the cluster: an owner with two workspaces, two people who come and go there, and their sessions.
type population struct {
	*cluster
	users      []*session // one session of each, the owner's first
	workspaces []string

	mu       sync.Mutex
	sessions []*session // the newest, also ended ones
	aged     map[string]time.Duration
}

// remembered is how many sessions are in use. Ended ones stay for a while, to be refused.
const remembered = 24

func newPopulation(c *cluster) *population {
	c.t.Helper()
	p := &population{cluster: c, aged: map[string]time.Duration{}}
	owner := c.newUser(c.nodes[0], "owner")
	p.users = []*session{owner}
	p.workspaces = []string{owner.home}
	r := c.do(c.nodes[0], request{what: setMember, session: owner}, call{
		method: http.MethodPost, url: "/api/workspaces", body: `{"name":"second"}`,
	})
	require.Equal(c.t, http.StatusCreated, r.status, "%s", r)
	var made struct{ ID string }
	require.NoError(c.t, json.Unmarshal(r.body, &made))
	p.workspaces = append(p.workspaces, made.ID)
	for i, name := range []string{"bob", "carol"} {
		s := c.newUser(c.nodes[i+1], name)
		p.users = append(p.users, s)
		for _, w := range p.workspaces {
			r := c.addMember(c.nodes[0], owner, w, s, "MEMBER")
			require.Equal(c.t, http.StatusOK, r.status, "%s", r)
		}
	}
	p.sessions = slices.Clone(p.users)
	return p
}

func (p *population) any(random *rand.Rand) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions[random.IntN(len(p.sessions))]
}

func (p *population) join(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions = append(p.sessions, s)
	p.sessions = p.sessions[max(0, len(p.sessions)-remembered):]
}

// live is one client. It takes a node and a session anew for each request, and remembers the newest version of each document
// that it has seen.
func (p *population) live(over <-chan struct{}, random *rand.Rand) {
	seen := map[string]int64{}
	for {
		n, s := p.nodes[random.IntN(len(p.nodes))], p.any(random)
		workspace := p.workspaces[random.IntN(len(p.workspaces))]
		tag := fmt.Sprintf(`"%d"`, seen[workspace])
		member := fmt.Sprintf(`{"m%d":"%x"}`, random.IntN(4), random.Uint32())
		switch chance := random.IntN(1000); {
		case chance < 450:
			p.look(seen, p.getData(n, s, workspace))
		case chance < 650:
			p.look(seen, p.getNewerData(n, s, workspace, seen[workspace]))
		case chance < 800:
			p.getSession(n, s)
		case chance < 815:
			p.putData(n, s, workspace, member, unknown)
		case chance < 830:
			p.putData(n, s, workspace, member, seen[workspace])
		case chance < 845:
			p.putData(n, s, workspace, member, seen[workspace], "If-Match", tag)
		case chance < 875:
			p.patchData(n, s, workspace, member)
		case chance < 895:
			_ = p.evict(bus.WorkspaceData, workspace) // when NATS is there
		case chance < 910:
			_ = p.evict(bus.Sessions, cacheKey(s.cookie())) // likewise
		case chance < 950:
			p.signInAgain(n, p.users[random.IntN(len(p.users))], random.IntN(8) == 0)
		case chance < 960:
			p.logout(n, s)
		case chance < 965:
			p.revoke(n, s, p.any(random))
		case chance < 966:
			p.revoke(n, s, nil)
		default:
			someone := p.users[1+random.IntN(len(p.users)-1)]
			role := []string{"", "MEMBER", "ADMIN", "OWNER"}[random.IntN(4)]
			if role != "" && random.IntN(3) > 0 {
				p.addMember(n, s, workspace, someone, role)
			} else {
				p.setMember(n, s, workspace, someone, role)
			}
		}
		select {
		case <-over:
			return
		case <-time.After(time.Duration(random.IntN(int(30 * time.Millisecond)))): // clients think
		}
	}
}

func (p *population) look(seen map[string]int64, r request) {
	if r.status == http.StatusOK {
		seen[r.workspace] = max(seen[r.workspace], r.version())
	}
}

// signInAgain begins another session of a user. An aged one is as if its seven days were over in a moment: its row is changed
// before anybody has looked at it, as the clocks of the machine can't be.
func (p *population) signInAgain(n *node, user *session, aged bool) {
	fresh, err := p.signIn(n, user.email)
	if err != nil {
		return // recorded; a node without Postgres lets nobody in
	}
	if aged {
		var end time.Time
		err := p.db.Pool.QueryRow(p.t.Context(), `UPDATE sessions SET expires_at = now() + interval '1 second' WHERE id = $1 RETURNING expires_at`,
			fresh.id).Scan(&end)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.aged[fresh.id] = end.Sub(p.begun)
		p.mu.Unlock()
	}
	p.join(fresh)
}

// quiesced checks, when nothing is written any more, that every node serves what the database holds, and that the buckets hold
// of each key nothing, a tombstone, or what the nodes serve.
func (p *population) quiesced() {
	p.t.Helper()
	owner, err := p.signIn(p.nodes[0], p.users[0].email)
	require.NoError(p.t, err)
	for _, w := range p.workspaces {
		version := p.version(w)
		bodies := map[string]bool{}
		for _, n := range p.nodes {
			var r request
			p.soon(func() bool {
				r = p.getData(n, owner, w)
				return r.version() == version
			}, "node %d does not serve version %d", n.index, version)
			bodies[string(r.body)] = true
		}
		require.Len(p.t, bodies, 1, "the nodes serve different documents of one version")
		for body := range bodies {
			p.holdsAtMost(bus.WorkspaceData, w, nearcache.Entry{Version: version, Data: []byte(body)})
		}
	}
	for _, s := range p.sessions {
		var over, replaced bool
		roles := map[string]string{}
		err := p.db.Pool.QueryRow(p.t.Context(), `
			SELECT s.revoked_at IS NOT NULL OR s.expires_at < now(), s.token_hash <> $2,
			       (SELECT json_object_agg(workspace_id, role) FROM workspace_members m WHERE m.user_id = s.user_id)
			FROM sessions s WHERE id = $1`, s.id, tokenHash(s.cookie())).Scan(&over, &replaced, &roles)
		require.NoError(p.t, err)
		if replaced {
			continue // the answer with the new token was lost: the old one ends at its own time
		}
		for _, n := range p.nodes {
			p.soon(func() bool {
				r := p.getSession(n, s)
				return over && r.status == http.StatusUnauthorized || !over && maps.Equal(rolesIn(r), roles)
			}, "node %d does not know session %s (over: %v) with %v", n.index, s.id, over, roles)
		}
		if _, aged := p.aged[s.id]; over && !aged {
			p.holdsAtMost(bus.Sessions, cacheKey(s.cookie()), nearcache.Entry{Tombstone: true})
		}
	}
}

// soon waits for what comes true by itself, before entries expire after 30 seconds.
func (c *cluster) soon(condition func() bool, message string, args ...any) {
	c.t.Helper()
	require.Eventually(c.t, condition, 20*time.Second, 10*time.Millisecond, append([]any{message}, args...)...)
}

// holdsAtMost checks that a bucket holds of a key nothing, a tombstone, or that entry.
func (c *cluster) holdsAtMost(bucket, key string, want nearcache.Entry) {
	c.t.Helper()
	kv, err := c.provision.KeyValue(c.t.Context(), bucket)
	require.NoError(c.t, err)
	c.soon(func() bool {
		stored, err := kv.Get(c.t.Context(), key)
		if err != nil {
			return errors.Is(err, jetstream.ErrKeyNotFound)
		}
		got, err := nearcache.DecodeEntry(stored.Value())
		return err == nil && (got.Tombstone || !want.Tombstone && got.Version == want.Version && bytes.Equal(got.Data, want.Data))
	}, "the bucket %s does not get right: want nothing, a tombstone, or %d %s", bucket, want.Version, want.Data)
}

func tokenHash(token string) []byte {
	hash := sha256.Sum256([]byte(token))
	return hash[:]
}

// cacheKey is the key of a session in its bucket.
func cacheKey(token string) string { return base64.RawURLEncoding.EncodeToString(tokenHash(token)) }
