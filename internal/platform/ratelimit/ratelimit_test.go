package ratelimit_test

import (
	"context"
	"fmt"
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
	n := &node{ratelimit.New(ratelimit.Config{NC: nc, Log: zerolog.Nop(), Metrics: metrics, Now: now}), metrics}
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

// counted is how many increments the stream has taken.
func counted(tb testing.TB, s *embednats.Server) uint64 {
	tb.Helper()
	js, err := bus.JetStream(natstest.Connect(tb, s, "ops"))
	require.NoError(tb, err)
	stream, err := js.Stream(tb.Context(), bus.RateLimits)
	require.NoError(tb, err)
	return stream.CachedInfo().State.LastSeq
}

func TestExactKeysHaveOneBudgetOverAllNodes(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	c := newClock()
	nodes := []*node{newNode(t, s, c.now), newNode(t, s, c.now), newNode(t, s, c.now)}
	p := &ratelimit.Policy{Key: "auth/login", Limit: 10, Exact: true}
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
	before := counted(t, s)
	for _, n := range nodes {
		require.Zero(t, n.spend(p, "1.2.3.4", 100))
	}
	require.Equal(t, before, counted(t, s), "refusals from memory send nothing")
	require.Positive(t, testutil.CollectAndCount(nodes[0].metrics, "ratelimit_refused_total"))

	// In the next minute a node that was never asked reads what the others have counted.
	fresh := newNode(t, s, c.now)
	c.advance(90 * time.Second)
	require.Equal(t, 5, fresh.spend(p, "1.2.3.4", 20), "half of the last minute's still weighs")
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
		d := b.Allow(t.Context(), p, "alice")
		return !d.Allowed || d.Remaining < 20
	}, patience, 20*time.Millisecond, "b never hears of a's")
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
	exact, other := &ratelimit.Policy{Key: "auth/login", Limit: 10, Exact: true}, &ratelimit.Policy{Key: "default", Limit: 60}
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
		return counted(t, s) > 0
	}, patience, 10*time.Millisecond, "it counts alone for ever")
}

// A server that takes the message and doesn't answer costs an exact key 250 ms, once a second.
func TestASlowServer(t *testing.T) {
	t.Parallel()
	s := natstest.New(t) // no stream: a subscriber that is silent instead
	nc := natstest.Connect(t, s, "provision")
	_, err := nc.Subscribe("RL.>", func(*nats.Msg) {})
	require.NoError(t, err)
	_, err = nc.Subscribe("$JS.API.DIRECT.GET.>", func(m *nats.Msg) {
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": []string{"404"}}}) // the client waits otherwise, too
	})
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	n := newNode(t, s, newClock().now)
	p := &ratelimit.Policy{Key: "auth/login", Limit: 10, Exact: true}
	begun := time.Now()
	require.Equal(t, 10, n.spend(p, "x", 50))
	seconds := time.Since(begun).Seconds()
	require.GreaterOrEqual(t, n.errors(t), 1.0)
	require.LessOrEqual(t, n.errors(t), 3+seconds, "more than one a second waited in vain") // two of them are the background's
}

// What two nodes under assault at once admit beyond the limit: a round trip's worth of requests.
func TestOverAdmission(t *testing.T) {
	t.Parallel()
	s := natstest.Provisioned(t)
	c := newClock()
	nodes := []*node{newNode(t, s, c.now), newNode(t, s, c.now)}
	p := &ratelimit.Policy{Key: "default", Limit: 60}

	// At 100 requests a second, fifty on each node, the two share one budget all but exactly, unless the machine stalls: then another
	// subject shows it.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	paced := 120
	for attempt := 0; paced > 60+25 && attempt < 10; attempt++ {
		paced = 0
		for i := range 120 {
			<-tick.C
			paced += nodes[i%2].spend(p, fmt.Sprint("paced", attempt), 1)
		}
		t.Logf("paced: %d admitted of a limit of 60", paced)
		require.GreaterOrEqual(t, paced, 60)
	}
	require.LessOrEqual(t, paced, 60+25)

	// As fast as they can, both nodes: never more than each one's own limit, whatever happens.
	var burst atomic.Int64
	var clients sync.WaitGroup
	for i := range 32 {
		clients.Go(func() { burst.Add(int64(nodes[i%2].spend(p, "burst", 50))) })
	}
	clients.Wait()
	t.Logf("burst: %d admitted of a limit of 60", burst.Load())
	require.GreaterOrEqual(t, burst.Load(), int64(60))
	require.LessOrEqual(t, burst.Load(), int64(120))
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
		p := &ratelimit.Policy{Key: "auth/login", Limit: 1 << 40, Exact: true}
		b.ReportAllocs()
		for b.Loop() {
			n.Allow(b.Context(), p, "address:192.0.2.1")
		}
	})
}
