package gsync

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/ratelimit"
)

// limited is one more node, which keeps to Google's quotas by a clock of the test's.
func (w *world) limited(s *embednats.Server, clock *atomic.Int64) *Service {
	w.t.Helper()
	l := ratelimit.New(ratelimit.Config{
		NC: natstest.Connect(w.t, s, bus.Syncer), Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
		Now: func() time.Time { return time.Unix(clock.Load(), 0) },
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		require.NoError(w.t, <-done)
	})
	node := w.newService(nil)
	node.limiter = l
	return node
}

// All nodes together keep to the quotas; who has used up theirs waits without failing, and without keeping others.
func TestQuotasAreShared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, other := w.connected(alice), w.connected(bob)
	nats := natstest.Provisioned(t, natstest.WithTCP())
	var clock atomic.Int64
	clock.Store(time.Date(2026, 3, 1, 12, 0, 20, 0, time.UTC).Unix())
	here, there := w.limited(nats, &clock), w.limited(nats, &clock)
	for range userQuota.Limit {
		require.True(t, here.limiter.Allow(t.Context(), userQuota, p.id).Allowed)
	}
	w.eventually("the other node hears of it", func() bool {
		return !there.limiter.Allow(t.Context(), userQuota, p.id).Allowed
	})

	before := len(w.requests())
	queued, _, err := w.Request(t.Context(), testMeta, p.id, Ask{})
	require.NoError(t, err)
	taken, err := there.claim(t.Context(), 1, time.Minute, "")
	require.NoError(t, err)
	there.runClaimed(t.Context(), taken[0], RunnerConfig{}.withDefaults())
	job, err := w.Job(t.Context(), p.id, queued.ID)
	require.NoError(t, err)
	require.Equal(t, StatusPending, job.Status)
	require.Zero(t, job.Attempt, "waiting is no failure")
	require.Nil(t, job.Error)
	require.Len(t, w.requests(), before, "Google was not asked")
	again, err := there.claim(t.Context(), 1, time.Minute, "")
	require.NoError(t, err)
	require.Empty(t, again, "not before its turn")

	done, err := there.RunNow(t.Context(), testMeta, other.id, Ask{Type: events.SyncTasks})
	require.NoError(t, err)
	require.Equal(t, StatusCompleted, done.Status, "another user's turn is another's")

	clock.Add(120)
	p.exec(`UPDATE sync_jobs SET run_after = now()`)
	w.run(there, RunnerConfig{})
	require.Equal(t, StatusCompleted, p.ended(queued.ID).Status)
}

// A call waits for a turn that comes soon, and no longer than its job lives.
func TestACallWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	var clock atomic.Int64
	clock.Store(time.Date(2026, 3, 1, 12, 0, 59, 0, time.UTC).Unix())
	node := w.limited(natstest.Provisioned(t, natstest.WithTCP()), &clock)
	for range userQuota.Limit {
		node.limiter.Allow(t.Context(), userQuota, p.id)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	waiting := make(chan error, 1)
	go func() { waiting <- node.turn(ctx, p.id) }()
	cancel(errCancelled)
	require.ErrorIs(t, <-waiting, errCancelled, "neither a turn nor a refusal: it waited")
}
