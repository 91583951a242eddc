package embedpg

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// fake makes a folder with programs that say they are of a version.
func fake(t *testing.T, dir, version string, programs ...string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	for _, program := range programs {
		script := "#!/bin/sh\necho '" + program + " (PostgreSQL) " + version + "'\n"
		writeProgram(t, filepath.Join(dir, program), script)
	}
}

// writeProgram writes a script to run. No child of another test inherits it open for writing, or it could not be run.
func writeProgram(t *testing.T, path, script string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	require.NoError(t, os.WriteFile(path, []byte(script), 0o700)) //nolint:gosec // it is run
}

var anyTime = regexp.MustCompile(`\d+\.\d s`)

// failing is a source that fetches nothing.
func failing(name string) source {
	return source{
		name:   name,
		cached: func(int) string { return "" },
		fetch:  func(context.Context, int) (string, error) { return "", errors.New("no network\nat all") },
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
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
			t.Parallel()
			root := t.TempDir()
			fake(t, filepath.Join(root, "usr/9.6/bin"), "9.6.24", "initdb", "postgres")
			fake(t, filepath.Join(root, "usr/16/bin"), "16.2", "initdb", "postgres")
			fake(t, filepath.Join(root, "usr/17/bin"), "17.1", "initdb", "postgres")
			fake(t, filepath.Join(root, "own"), "18beta1", "initdb", "postgres")
			fake(t, filepath.Join(root, "old"), "14.9 (Debian)", "initdb", "postgres")
			fake(t, filepath.Join(root, "lone"), "17.9", "pg_ctl", "postgres")
			f := finder{
				path:     "relative" + string(filepath.ListSeparator) + filepath.Join(root, tc.path),
				folders:  []string{filepath.Join(root, "usr/*/bin")},
				sources:  []source{failing("nothing")},
				progress: func(string) {},
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

func TestFindNothing(t *testing.T) {
	t.Parallel()
	fetched, broken := filepath.Join(t.TempDir(), "bin"), filepath.Join(t.TempDir(), "bin")
	fake(t, fetched, "17.5", "initdb", "postgres")
	fake(t, broken, "17.5", "initdb")
	var told []string
	f := finder{
		path: t.TempDir(), folders: []string{"/nowhere/*/bin"}, hint: "apt-get install -y postgresql",
		progress: func(what string) { told = append(told, anyTime.ReplaceAllString(what, "TIME")) },
	}
	find := func(sources ...source) (binaries, error) {
		f.sources, told = sources, nil
		return f.find(t.Context(), "", 0)
	}
	gives := func(name, dir string) source {
		s := failing(name)
		s.fetch = func(context.Context, int) (string, error) { return dir, nil }
		return s
	}
	nothing := "no PostgreSQL 15 or newer is installed (searched for TIME); to install it instead: apt-get install -y postgresql"
	want := binaries{dir: fetched, version: "17.5", major: 17}

	_, err := find(failing("first"), failing("second"))
	require.EqualError(t, err, "no PostgreSQL 15 or newer found (searched FDC_PG_BIN, pg_config --bindir, PATH, /nowhere/*/bin) and fetching it did not "+
		"work (first: no network at all; second: no network at all): "+
		"install it (apt install postgresql, brew install postgresql) or set FDC_PG_BIN to the folder that holds initdb and postgres")
	require.Equal(t, []string{nothing, "first: no network at all (gave up after TIME)", "second: no network at all (gave up after TIME)"}, told)

	b, err := find(gives("first", fetched), failing("second"))
	require.NoError(t, err)
	require.Equal(t, want, b)
	require.Equal(t, []string{nothing}, told)

	b, err = find(gives("first", broken), gives("second", fetched))
	require.NoError(t, err)
	require.Equal(t, want, b)
	require.Len(t, told, 2)
	require.Contains(t, told[1], "first: no program postgres in "+broken+"; remove "+filepath.Dir(broken)+" to fetch it anew (gave up after ")

	cached := failing("second")
	cached.cached = func(int) string { return fetched }
	b, err = find(failing("first"), cached)
	require.NoError(t, err)
	require.Equal(t, want, b)
	require.Empty(t, told, "nothing is fetched")
}

func TestFindWhatMadeTheData(t *testing.T) {
	t.Parallel()
	fetched := filepath.Join(t.TempDir(), "bin")
	fake(t, fetched, "16.5", "initdb", "postgres")
	var told []string
	f := finder{path: t.TempDir(), hint: "apt-get install -y postgresql", progress: func(what string) { told = append(told, what) }}
	asked := 0
	s := failing("only")
	s.fetch = func(_ context.Context, major int) (string, error) { asked = major; return fetched, nil }
	f.sources = []source{s}
	b, err := f.find(t.Context(), "", 16)
	require.NoError(t, err)
	require.Equal(t, 16, b.major)
	require.Equal(t, 16, asked)
	require.Len(t, told, 1)
	require.Contains(t, told[0], "PostgreSQL 16, which made the data, is not installed")
	require.NotContains(t, told[0], "apt-get", "which may have another version")
}

func TestFindGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	first, second := failing("first"), failing("second")
	first.fetch = func(ctx context.Context, _ int) (string, error) { cancel(); return "", ctx.Err() }
	second.fetch = func(context.Context, int) (string, error) { t.Error("tried although nobody waits"); return "", nil }
	f := finder{path: t.TempDir(), sources: []source{first, second}, progress: func(string) {}}
	_, err := f.find(ctx, "", 0)
	require.ErrorIs(t, err, context.Canceled)
}
