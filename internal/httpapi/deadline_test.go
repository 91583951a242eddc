package httpapi

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWithDeadlineEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(parent, own context.CancelFunc)
		want error
	}{
		"in time":     {func(_, _ context.CancelFunc) { <-time.After(2 * time.Second) }, context.DeadlineExceeded},
		"with parent": {func(parent, _ context.CancelFunc) { parent() }, context.Canceled},
		"by itself":   {func(_, own context.CancelFunc) { own() }, context.Canceled},
	} {
		for _, waited := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					parent, cancelParent := context.WithCancel(t.Context())
					ctx, cancel := withDeadline(parent, time.Now().Add(time.Second))
					defer cancel()
					if waited {
						require.NoError(t, ctx.Err())
					}
					c.end(cancelParent, cancel)
					require.ErrorIs(t, ctx.Err(), c.want)
					<-ctx.Done()
				})
			})
		}
	}
}

func TestWithDeadlineIsTheEarlierOne(t *testing.T) {
	t.Parallel()
	soon, late := time.Now().Add(time.Minute), time.Now().Add(time.Hour)
	for _, times := range [][2]time.Time{{soon, late}, {late, soon}} {
		parent, cancelParent := context.WithDeadline(t.Context(), times[0])
		ctx, cancel := withDeadline(parent, times[1])
		got, ok := ctx.Deadline()
		require.True(t, ok)
		require.Equal(t, soon, got)
		cancel()
		cancelParent()
	}
}

func TestWithDeadlineHasChildren(t *testing.T) {
	t.Parallel()
	type key struct{}
	parent := context.WithValue(t.Context(), key{}, "value")
	ctx, cancel := withDeadline(parent, time.Now().Add(time.Hour))
	require.Equal(t, "value", ctx.Value(key{}))
	child, cancelChild := context.WithTimeout(ctx, time.Hour)
	defer cancelChild()
	require.Equal(t, "value", child.Value(key{}))
	cancel()
	<-child.Done()
	require.ErrorIs(t, child.Err(), context.Canceled)
}

func TestWithDeadlineIsCheapUnlessWaitedFor(t *testing.T) { //nolint:paralleltest // counts allocations
	parent, until := t.Context(), time.Now().Add(time.Hour)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		ctx, cancel := withDeadline(parent, until)
		_ = ctx.Value(parent)
		cancel()
	}), 2.0)
}
