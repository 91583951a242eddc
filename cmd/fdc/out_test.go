package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestOut writes with --out to everything that a name can be.
func TestOut(t *testing.T) {
	t.Parallel()
	hello := func(f *os.File) error {
		_, err := f.WriteString("hello")
		return err
	}
	fails := errors.New("the database is gone")
	broken := func(f *os.File) error { return errors.Join(hello(f), fails) }
	for _, keep := range []bool{false, true} {
		dir := t.TempDir()
		at := func(name string) (string, outFile) {
			path := filepath.Join(dir, name)
			return path, outFile{name: path, keep: keep}
		}
		mode := func(path string) os.FileMode {
			info, err := os.Lstat(path)
			require.NoError(t, err)
			return info.Mode().Type()
		}
		read := func(path string) string {
			text, err := os.ReadFile(path) //nolint:gosec // the test's own
			require.NoError(t, err)
			return string(text)
		}

		file, out := at("file")
		require.NoError(t, out.write(hello))
		require.Equal(t, "hello", read(file))
		require.NoError(t, os.WriteFile(file, []byte("before"), 0o600))
		require.ErrorIs(t, out.write(broken), fails)
		require.Equal(t, "before", read(file), "a file is whole")
		_, err := os.Lstat(file + ".part")
		require.Equal(t, keep, err == nil)

		link, out := at("link")
		target := filepath.Join(dir, "target")
		require.NoError(t, os.Symlink(target, link))
		for range 2 { // the target is made, and written again
			require.NoError(t, out.write(hello))
			require.Equal(t, os.ModeSymlink, mode(link), "replaced the link")
			require.Equal(t, "hello", read(target))
		}

		full, out := at("full")
		require.NoError(t, os.Symlink("/dev/full", full))
		require.ErrorContains(t, out.write(hello), "no space left on device")
		require.Equal(t, os.ModeSymlink, mode(full))

		pipe, out := at("pipe")
		require.NoError(t, unix.Mkfifo(pipe, 0o600))
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan string, 1)
		go func() {
			defer cancel()
			f, err := os.Open(pipe) //nolint:gosec // the test's own
			if err != nil {
				got <- err.Error()
				return
			}
			defer f.Close() //nolint:errcheck // it was read
			text, err := io.ReadAll(f)
			got <- string(text) + map[bool]string{true: "", false: " cut"}[err == nil]
		}()
		require.NoError(t, out.write(hello))
		require.Equal(t, os.ModeNamedPipe, mode(pipe), "replaced the pipe")
		<-ctx.Done()
		require.Equal(t, "hello", <-got)
		out.resume = true
		require.ErrorContains(t, out.write(hello), "--resume goes on with a regular file")
	}
}

// Every command with --out says the same of it, and so does the same.
func TestEveryOutIsTheSame(t *testing.T) {
	t.Parallel()
	c := &cli{stdout: io.Discard, stderr: io.Discard}
	n := 0
	walk(c.root(), func(cmd *cobra.Command) {
		if flag := cmd.LocalNonPersistentFlags().Lookup("out"); flag != nil {
			n++
			require.Equal(t, outHelp, flag.Usage, cmd.CommandPath())
		}
	})
	require.GreaterOrEqual(t, n, 2)
}
