package testenv

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSharedIsMadeOnceAndReleasedLast(t *testing.T) {
	t.Parallel()
	var steps []string
	pkg := &packageTB{}
	shared := Shared[*int]{Make: func(testing.TB) *int {
		pkg.Cleanup(func() { steps = append(steps, "second") })
		pkg.Cleanup(func() { steps = append(steps, "first") })
		return new(int)
	}}
	require.Same(t, shared.Get(t), shared.Get(t))
	require.Empty(t, steps)
	pkg.end(0)
	require.Equal(t, []string{"first", "second"}, steps)
}

func TestSharedThatFailsAtTheEndFailsTheRun(t *testing.T) {
	t.Parallel()
	pkg := &packageTB{}
	pkg.Cleanup(func() { pkg.Errorf("not released") })
	require.Panics(t, func() { pkg.end(0) })

	pkg = &packageTB{}
	failed := false
	pkg.Cleanup(func() { failed = pkg.Failed() })
	pkg.end(1)
	require.True(t, failed, "what a failed run shared may be kept")
}
