package httpapi

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// However many ask for the deep health within a second, the dependencies are asked once.
func TestDeepHealthIsNoAmplifier(t *testing.T) {
	t.Parallel()
	r := newRecentChecks()
	now := time.Unix(0, 0)
	r.now = func() time.Time { return now }
	runs, bad := 0, errors.New("down")
	checks := func(ctx context.Context) map[string]error {
		_, bounded := ctx.Deadline()
		require.True(t, bounded)
		require.NoError(t, ctx.Err())
		runs++
		return map[string]error{"nats": bad}
	}
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			got, err := r.ask(t.Context(), checks)
			require.NoError(t, err)
			require.Equal(t, map[string]error{"nats": bad}, got)
		})
	}
	callers.Wait()
	require.Equal(t, 1, runs)

	now = now.Add(checkAge - 1)
	_, err := r.ask(t.Context(), checks)
	require.NoError(t, err)
	require.Equal(t, 1, runs)
	now = now.Add(1)
	_, err = r.ask(t.Context(), checks)
	require.NoError(t, err)
	require.Equal(t, 2, runs)
}

// A caller that leaves does not wait for the run of another, and does not end it.
func TestDeepHealthOfACallerWhoLeaves(t *testing.T) {
	t.Parallel()
	r := newRecentChecks()
	r.now = func() time.Time { return time.Unix(0, 0) }
	running, done := make(chan struct{}), make(chan struct{})
	first, leave := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		_, err := r.ask(first, func(ctx context.Context) map[string]error {
			close(running)
			leave()
			<-first.Done()
			return map[string]error{"postgres": ctx.Err()}
		})
		if err != nil {
			t.Error(err)
		}
	}()
	<-running
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	<-done
	r.turn <- struct{}{} // a run is under way
	_, err := r.ask(gone, nil)
	require.ErrorIs(t, err, context.Canceled)
	<-r.turn
	got, err := r.ask(t.Context(), func(context.Context) map[string]error { return map[string]error{"again": nil} })
	require.NoError(t, err)
	require.NoError(t, got["postgres"], "the run went on")
	require.Contains(t, got, "postgres", "and its outcome is served")
}
