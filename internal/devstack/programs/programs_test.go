package programs

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const small = "fdc/examples/listen"

// All that build at the same time get the same program, or the same error, and nothing is left after the owner's end.
func TestBuild(t *testing.T) {
	t.Parallel()
	owner := exec.CommandContext(t.Context(), "cat")
	pipe, err := owner.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	dir := filepath.Join(t.TempDir(), "programs")

	type result struct {
		bin string
		err error
	}
	side := func(pkg string) []result {
		results := make(chan result)
		for range 3 {
			go func() {
				bin, err := build(t.Context(), dir, owner.Process.Pid, pkg)
				results <- result{bin, err}
			}()
		}
		return []result{<-results, <-results, <-results}
	}
	var first os.FileInfo
	for _, r := range append(side(small), side(small)...) {
		require.NoError(t, r.err)
		info, err := os.Stat(filepath.Join(r.bin, "listen"))
		require.NoError(t, err)
		if first == nil {
			first = info
		}
		require.True(t, os.SameFile(first, info))
		require.Equal(t, first.ModTime(), info.ModTime(), "it was linked again")
	}
	for _, r := range side("fdc/nowhere") {
		require.ErrorContains(t, r.err, "fdc/nowhere")
	}

	require.NoError(t, pipe.Close())
	require.NoError(t, owner.Wait())
	require.Eventually(t, func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	}, time.Minute, 20*time.Millisecond, "the folder is left")
}
