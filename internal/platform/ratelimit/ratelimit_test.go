package ratelimit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/ratelimit"
)

// patience bounds what takes milliseconds on a machine that has nothing else to do.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	testenv.Parallel(6) // they wait for servers that don't answer
	m.Run()
}

// clock is a hand that tests move. It begins at a minute's start.
type clock struct{ ms atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.ms.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMilli())
	return c
}

func (c *clock) now() time.Time            { return time.UnixMilli(c.ms.Load()) }
func (c *clock) advance(d time.Duration)   { c.ms.Add(d.Milliseconds()) }
func (c *clock) wait(d ratelimit.Decision) { c.advance(d.Reset) }

// node is a limiter as the user api, running.
type node struct {
	*ratelimit.Limiter
	metrics *prometheus.Registry
}

func newNode(tb testing.TB, s *embednats.Server, now func() time.Time) *node {
	tb.Helper()
	metrics := prometheus.NewRegistry()
	nc := natstest.Connect(tb, s, "api", nats.ReconnectBufSize(-1))
	n := &node{ratelimit.New(ratelimit.Config{NC: nc, Log: zerolog.Nop(), Metrics: metrics, Now: now, Follow: true}), metrics}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	tb.Cleanup(func() {
		stop()
		require.NoError(tb, <-ended)
	})
	return n
}

// spend asks n times and returns how many were allowed.
func (n *node) spend(p *ratelimit.Policy, subject string, times int) (allowed int) {
	for range times {
		if n.Allow(context.Background(), p, subject).Allowed {
			allowed++
		}
	}
	return allowed
}

func (n *node) errors(tb testing.TB) float64 {
	tb.Helper()
	families, err := n.metrics.Gather()
	require.NoError(tb, err)
	for _, f := range families {
		if f.GetName() == "ratelimit_nats_errors_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	tb.Fatal("no such metric")
	return 0
}

// counted is how many charges a stream has taken.
func counted(tb testing.TB, s *embednats.Server, name string) uint64 {
	tb.Helper()
	js, err := bus.JetStream(natstest.Connect(tb, s, "ops"))
	require.NoError(tb, err)
	stream, err := js.Stream(tb.Context(), name)
	require.NoError(tb, err)
	return stream.CachedInfo().State.LastSeq
}

// burst lets 32 clients ask both nodes as fast as they can, and returns how many requests were allowed.
func burst(nodes []*node, p *ratelimit.Policy, subject string) int64 {
	var allowed atomic.Int64
	var clients sync.WaitGroup
	for i := range 32 {
		clients.Go(func() { allowed.Add(int64(nodes[i%len(nodes)].spend(p, subject, 25))) })
	}
	clients.Wait()
	return allowed.Load()
}

// A small limit is exact, on all nodes together, at any moment of any minute.
func TestSmallLimitsAreExact(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	for _, limit := range []int64{1, 5, 10, 19} {
		c := newClock()
		nodes := []*node{newNode(t, s, c.now), newNode(t, s, c.now)}
		p := &ratelimit.Policy{Key: fmt.Sprint("google/sync", limit), Limit: limit}
		c.advance(59 * time.Second)
		require.Equal(t, limit, burst(nodes, p, "alice"))
		for _, pass := range []time.Duration{2 * time.Second, 30 * time.Second, 27 * time.Second} {
			c.advance(pass) // over the minute's edge, up to a second before the budget comes back
			require.Zero(t, burst(append(nodes, newNode(t, s, c.now)), p, "alice"), "limit %d", limit)
		}
		c.advance(time.Second + 100*time.Millisecond) // the burst's requests are a millisecond apart
		require.Equal(t, limit, burst(nodes, p, "alice"), "all of it comes back after sixty seconds")
	}
}

// A request admitted early frees its place sixty seconds later, not at once with the others.
func TestAnExactLimitIsOfTheLastSixtySeconds(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	c := newClock()
	nodes := []*node{newNode(t, s, c.now), newNode(t, s, c.now)}
	p := &ratelimit.Policy{Key: "google/sync", Limit: 5}
	c.advance(55 * time.Second)
	for i := range 5 {
		d := nodes[i%2].Allow(t.Context(), p, "alice")
		require.True(t, d.Allowed)
		require.EqualValues(t, 4-i, d.Remaining)
		c.advance(2 * time.Second)
	}
	d := nodes[1].Allow(t.Context(), p, "alice")
	require.Equal(t, ratelimit.Decision{Limit: 5, Reset: 50 * time.Second}, d)
	c.advance(d.Reset - time.Millisecond)
	require.Zero(t, nodes[0].spend(p, "alice", 3))
	c.advance(time.Millisecond)
	require.Equal(t, 1, nodes[0].spend(p, "alice", 3))
	require.Zero(t, nodes[1].spend(p, "alice", 3))
}

// However hard several nodes are asked at once, they admit the limit and a twentieth more at most.
func TestABurstOverNodesAdmitsATwentiethMore(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	c := newClock()
	nodes := []*node{newNode(t, s, c.now), newNode(t, s, c.now)}
	for _, limit := range []int64{20, 30, 60, 120, 300} {
		p := &ratelimit.Policy{Key: fmt.Sprint("default", limit), Limit: limit}
		for round, clean := 0, 0; clean < 3; round++ {
			require.Less(t, round, 100, "NATS never answers in time")
			subject := fmt.Sprint("alice", round)
			missed := nodes[0].errors(t) + nodes[1].errors(t)
			alone := nodes[0].spend(p, subject, round%2) // before the other is asked, in every second round
			allowed := burst(nodes, p, subject) + int64(alone)
			if nodes[0].errors(t)+nodes[1].errors(t) > missed {
				continue // the machine stalled, and each node limited by its own count
			}
			clean++
			require.LessOrEqual(t, allowed, limit+limit/20, "limit %d", limit)
			require.GreaterOrEqual(t, allowed, limit, "limit %d", limit)
		}
	}
}

// What a client is told is left doesn't rise before the time has passed that it was told with it, whichever node answers.
func TestRemainingNeverRises(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	for _, limit := range []int64{10, 60, 120, 300} {
		c := newClock()
		nodes := []*node{newNode(t, s, c.now), newNode(t, s, c.now), newNode(t, s, c.now)}
		p := &ratelimit.Policy{Key: fmt.Sprint("tasks", limit), Limit: limit}
		rng := rand.New(rand.NewPCG(1, uint64(limit))) //nolint:gosec // small
		var told []ratelimit.Decision
		var until []time.Time
		ask := func(n *node) {
			d := n.Allow(t.Context(), p, "alice")
			for i, old := range told {
				if c.now().Before(until[i]) {
					require.LessOrEqual(t, d.Remaining, old.Remaining, "limit %d, request %d", limit, len(told))
				}
			}
			told, until = append(told, d), append(until, c.now().Add(d.Reset))
		}
		// What a node counts alone, and that it isn't alone any more, is known a moment later.
		for _, i := range []int{0, 1, 0} {
			if len(told) > 0 {
				require.Eventually(t, func() bool {
					return nodes[i].Peek(t.Context(), p, "alice").Remaining < told[len(told)-1].Remaining
				}, patience, time.Millisecond)
			}
			ask(nodes[i])
			ask(nodes[i])
		}
		for range 400 {
			ask(nodes[rng.IntN(3)])
			if rng.IntN(3) == 0 {
				c.advance(time.Duration(rng.Int64N(3000)) * time.Millisecond)
			}
		}
	}
}

func TestExactKeysHaveOneBudgetOverAllNodes(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	c := newClock()
	nodes := []*node{newNode(t, s, c.now), newNode(t, s, c.now), newNode(t, s, c.now)}
	p := &ratelimit.Policy{Key: "auth/login", Limit: 10}
	var allowed atomic.Int64
	var clients sync.WaitGroup
	for i := range 60 {
		clients.Go(func() {
			if nodes[i%3].Allow(t.Context(), p, "1.2.3.4").Allowed {
				allowed.Add(1)
			}
		})
	}
	clients.Wait()
	require.Equal(t, int64(10), allowed.Load())
	for _, n := range nodes {
		require.Equal(t, 1, n.spend(p, "5.6.7.8", 1), "another's budget")
		require.Zero(t, n.errors(t))
	}
	// Every node knows by now that it is used up, and asks no more.
	for _, n := range nodes {
		require.False(t, n.Allow(t.Context(), p, "1.2.3.4").Allowed)
	}
	before := counted(t, s, bus.RateLimitLogs)
	for _, n := range nodes {
		require.Zero(t, n.spend(p, "1.2.3.4", 100))
	}
	require.Equal(t, before, counted(t, s, bus.RateLimitLogs), "refusals from memory send nothing")
	require.Positive(t, testutil.CollectAndCount(nodes[0].metrics, "ratelimit_refused_total"))

	// A node that was never asked reads what the others have counted.
	require.Zero(t, newNode(t, s, c.now).spend(p, "1.2.3.4", 20))
}

// A key that isn't exact shares its budget too, a moment later.
func TestOneBudgetOverAllNodes(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	c := newClock()
	a, b := newNode(t, s, c.now), newNode(t, s, c.now)
	p := &ratelimit.Policy{Key: "default", Limit: 60}
	require.Equal(t, 40, a.spend(p, "alice", 40))
	require.Eventually(t, func() bool {
		return b.Peek(t.Context(), p, "alice").Remaining < 20
	}, patience, time.Millisecond, "b never hears of a's")
	b.spend(p, "alice", 60)
	require.Eventually(t, func() bool { return !a.Allow(t.Context(), p, "alice").Allowed }, patience, time.Millisecond)
	require.Zero(t, a.spend(p, "alice", 100)+b.spend(p, "alice", 100))
	require.Equal(t, 60, a.spend(p, "bob", 100), "nobody else is concerned")

	// At the minute's edge nothing is forgotten at once, and who waits as told is let in.
	c.advance(time.Minute)
	require.LessOrEqual(t, a.spend(p, "alice", 100), 1)
	d := a.Allow(t.Context(), p, "alice")
	require.False(t, d.Allowed)
	c.wait(d)
	require.True(t, a.Allow(t.Context(), p, "alice").Allowed)
}

// Without NATS each node goes by its own count: strictly, and without waiting.
func TestWithoutNATS(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t, natstest.WithTCP())
	c := newClock()
	n := newNode(t, s, c.now)
	exact, other := &ratelimit.Policy{Key: "auth/login", Limit: 10}, &ratelimit.Policy{Key: "default", Limit: 60}
	require.Equal(t, 4, n.spend(exact, "x", 4))
	require.Equal(t, 20, n.spend(other, "x", 20))
	s.Stop()
	begun := time.Now()
	require.Equal(t, 6, n.spend(exact, "x", 30), "what was counted before counts still")
	require.Equal(t, 40, n.spend(other, "x", 200))
	require.Equal(t, 10, n.spend(exact, "y", 30))
	require.Less(t, time.Since(begun), 5*time.Second)
	require.Eventually(t, func() bool { return n.errors(t) > 0 }, patience, time.Millisecond, "not told to the metrics")
	c.advance(time.Minute)
	require.LessOrEqual(t, n.spend(exact, "x", 30), 1, "no double at the edge either")

	// It comes back, without its streams, and with them.
	require.NoError(t, s.Restart(t.Context()))
	js, err := bus.JetStream(natstest.Connect(t, s, "provision"))
	require.NoError(t, err)
	require.NoError(t, bus.Provision(t.Context(), js, 1))
	require.Eventually(t, func() bool {
		n.Allow(t.Context(), exact, fmt.Sprint(time.Now().UnixNano()))
		return counted(t, s, bus.RateLimitLogs) > 0
	}, patience, 10*time.Millisecond, "it counts alone for ever")
}

// A server that takes the message and doesn't answer costs an exact key 250 ms, once a second.
func TestASlowServer(t *testing.T) {
	t.Parallel()
	s := natstest.New(t) // no stream: a subscriber that is silent instead
	nc := natstest.Connect(t, s, "provision")
	for _, subject := range []string{"RL.>", "RLX.>"} {
		_, err := nc.Subscribe(subject, func(*nats.Msg) {})
		require.NoError(t, err)
	}
	_, err := nc.Subscribe("$JS.API.DIRECT.GET.>", func(m *nats.Msg) {
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": []string{"404"}}}) // the client waits otherwise, too
	})
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	n := newNode(t, s, newClock().now)
	p := &ratelimit.Policy{Key: "auth/login", Limit: 10}
	begun := time.Now()
	require.Equal(t, 10, n.spend(p, "x", 50))
	seconds := time.Since(begun).Seconds()
	require.GreaterOrEqual(t, n.errors(t), 1.0)
	require.LessOrEqual(t, n.errors(t), 3+seconds, "more than one a second waited in vain") // two of them are the background's
}

func BenchmarkAllow(b *testing.B) {
	s := natstest.Provisioned(b, natstest.WithTCP())
	n := newNode(b, s, time.Now)
	b.Run("memory", func(b *testing.B) {
		p := &ratelimit.Policy{Key: "default", Limit: 1 << 40}
		b.ReportAllocs()
		for b.Loop() {
			n.Allow(b.Context(), p, "user:01999999-0000-7000-8000-000000000001")
		}
	})
	b.Run("blocked", func(b *testing.B) {
		p := &ratelimit.Policy{Key: "blocked", Limit: 1}
		b.ReportAllocs()
		for b.Loop() {
			n.Allow(b.Context(), p, "user:01999999-0000-7000-8000-000000000001")
		}
	})
	b.Run("exact", func(b *testing.B) {
		p := &ratelimit.Policy{Key: "auth/login", Limit: 10}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			n.Allow(b.Context(), p, strconv.Itoa(i))
		}
	})
}
