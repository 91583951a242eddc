package embedpg

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// fake makes a folder with programs that say they are of a version.
func fake(t *testing.T, dir, version string, programs ...string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	for _, program := range programs {
		script := "#!/bin/sh\necho '" + program + " (PostgreSQL) " + version + "'\n"
		require.NoError(t, os.WriteFile(filepath.Join(dir, program), []byte(script), 0o700)) //nolint:gosec // it is run
	}
}

func TestFind(t *testing.T) { //nolint:paralleltest // sets PATH
	offline := errors.New("no network\nat all")
	for _, tc := range []struct {
		name   string
		path   string // folder in PATH
		binDir string
		want   int // major version of the data
		found  string
		err    string
	}{
		{name: "newest of the usual folders", found: "usr/17/bin"},
		{name: "what made the data", want: 16, found: "usr/16/bin"},
		{name: "nothing made the data", want: 14, err: "the data was made by PostgreSQL 14, found 17.1 in "},
		{name: "PATH before the usual folders", path: "own", found: "own"},
		{name: "a lone program in PATH", path: "lone", found: "usr/17/bin"},
		{name: "too old in PATH", path: "old", found: "usr/17/bin"},
		{name: "as told", binDir: "usr/16/bin", path: "own", found: "usr/16/bin"},
		{name: "told nonsense", binDir: "lone", err: "FDC_PG_BIN: no program initdb in "},
		{name: "told the wrong folder", binDir: "nowhere", err: "FDC_PG_BIN: no program initdb in "},
		{name: "told an old one", binDir: "old", err: "PostgreSQL 15 or newer is needed, found 14.9 in "},
		{name: "told another than made the data", binDir: "own", want: 16, err: "made by PostgreSQL 16, found 18beta1 in "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			fake(t, filepath.Join(root, "usr/9.6/bin"), "9.6.24", "initdb", "postgres")
			fake(t, filepath.Join(root, "usr/16/bin"), "16.2", "initdb", "postgres")
			fake(t, filepath.Join(root, "usr/17/bin"), "17.1", "initdb", "postgres")
			fake(t, filepath.Join(root, "own"), "18beta1", "initdb", "postgres")
			fake(t, filepath.Join(root, "old"), "14.9 (Debian)", "initdb", "postgres")
			fake(t, filepath.Join(root, "lone"), "17.9", "pg_ctl", "postgres")
			t.Setenv("PATH", filepath.Join(root, tc.path))
			f := finder{
				folders: []string{filepath.Join(root, "usr/*/bin")},
				fetch:   func(context.Context, int) (string, error) { return "", offline },
			}
			if tc.binDir != "" {
				tc.binDir = filepath.Join(root, tc.binDir)
			}
			b, err := f.find(t.Context(), tc.binDir, tc.want)
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				require.NotContains(t, err.Error(), "\n")
				return
			}
			require.NoError(t, err)
			require.Equal(t, filepath.Join(root, tc.found), b.dir)
		})
	}
}

func TestFindNothing(t *testing.T) { //nolint:paralleltest // sets PATH
	t.Setenv("PATH", t.TempDir())
	fetched := filepath.Join(t.TempDir(), "fetched")
	f := finder{folders: []string{"/nowhere/*/bin"}}

	f.fetch = func(context.Context, int) (string, error) { return "", errors.New("no network\nat all") }
	_, err := f.find(t.Context(), "", 0)
	require.EqualError(t, err, "no PostgreSQL 15 or newer found (searched FDC_PG_BIN, pg_config --bindir, PATH, /nowhere/*/bin) and downloading it did not "+
		"work (no network at all): install it (apt install postgresql, brew install postgresql) or set FDC_PG_BIN to the folder that holds initdb and postgres")

	f.fetch = func(context.Context, int) (string, error) {
		fake(t, fetched, "17.5", "initdb", "postgres")
		return fetched, nil
	}
	b, err := f.find(t.Context(), "", 0)
	require.NoError(t, err)
	require.Equal(t, binaries{dir: fetched, version: "17.5", major: 17}, b)

	ctx, cancel := context.WithCancel(t.Context())
	f.fetch = func(ctx context.Context, _ int) (string, error) { cancel(); return "", ctx.Err() }
	_, err = f.find(ctx, "", 0)
	require.ErrorIs(t, err, context.Canceled)
}
