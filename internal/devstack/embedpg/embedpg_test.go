package embedpg_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/embedpg"
	"fdc/internal/devstack/testenv"
)

// The tests wait for servers and the disk more than they work.
func TestMain(m *testing.M) {
	testenv.Parallel(4)
	m.Run()
}

const patience = time.Minute // for what takes a moment on a quiet machine

func config(t *testing.T, dir string) embedpg.Config {
	t.Helper()
	return embedpg.Config{Dir: dir, BinDir: os.Getenv("FDC_PG_BIN"), Log: zerolog.New(zerolog.NewTestWriter(t))}
}

// reachable is a place for a cluster that the server's user can get to, too: in memory where there is some, because
// making a cluster on a busy disk takes its time.
func reachable(t *testing.T) string {
	t.Helper()
	room := "/dev/shm"
	if _, err := os.Stat(room); err != nil {
		room = os.TempDir()
	}
	dir, err := os.MkdirTemp(room, "fdc-embedpg-") //nolint:usetesting // that one is closed to other users
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755)) //nolint:gosec // on purpose
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, "wörk with spaces")
}

func start(t *testing.T, cfg embedpg.Config) *embedpg.Server {
	t.Helper()
	s, err := embedpg.Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.Stop(context.Background()))
		require.NoError(t, embedpg.Remove(context.Background(), cfg.Dir))
	})
	return s
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the server may be gone by then
	return conn
}

func query[T any](t *testing.T, url, sql string) T {
	t.Helper()
	var value T
	require.NoError(t, connect(t, url).QueryRow(t.Context(), sql).Scan(&value))
	return value
}

func execute(t *testing.T, url string, statements ...string) {
	t.Helper()
	conn := connect(t, url)
	for _, sql := range statements {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
}

// processes are the server's, backends and all.
func processes(t *testing.T, url string) []int32 {
	t.Helper()
	conn := connect(t, url)
	rows, err := conn.Query(t.Context(), "SELECT pid FROM pg_stat_activity")
	require.NoError(t, err)
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	require.NoError(t, err)
	require.Greater(t, len(pids), 3)
	return append(pids, query[int32](t, url, "SELECT (regexp_split_to_array(pg_read_file('postmaster.pid'), '\n'))[1]::int"))
}

// gone tells whether a process has ended; one that nobody has waited for yet counts as ended.
func gone(pid int32) bool {
	if syscall.Kill(int(pid), 0) != nil {
		return true
	}
	out, err := exec.CommandContext(context.Background(), "ps", "-o", "stat=", "-p", strconv.Itoa(int(pid))).Output() //nolint:gosec // a number
	return err != nil || strings.HasPrefix(strings.TrimSpace(string(out)), "Z")
}

func requireGone(t *testing.T, pids []int32, within time.Duration) {
	t.Helper()
	for _, pid := range pids {
		if within == 0 {
			require.True(t, gone(pid), "process %d is left", pid)
			continue
		}
		require.Eventually(t, func() bool { return gone(pid) }, within, 50*time.Millisecond, "process %d is left", pid)
	}
}

func TestDataOutlivesStopCrashAndStart(t *testing.T) {
	t.Parallel()
	cfg := config(t, filepath.Join(reachable(t), "deep"))
	var told []string
	cfg.Progress = func(what string) { told = append(told, what) }
	s := start(t, cfg)
	require.Len(t, told, 1)
	require.Contains(t, told[0], "making a PostgreSQL")
	address := s.URL(embedpg.Database)
	execute(t, address, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (1)")

	_, err := embedpg.Start(t.Context(), cfg)
	require.ErrorContains(t, err, fmt.Sprintf("already in use by process %d", os.Getpid()))
	require.ErrorContains(t, embedpg.Remove(t.Context(), cfg.Dir), "already in use")

	pids := processes(t, address)
	require.NoError(t, s.Crash())
	require.ErrorContains(t, s.Crash(), "not running")
	requireGone(t, pids, patience)
	require.NoError(t, s.Restart(t.Context()))
	require.Equal(t, address, s.URL(embedpg.Database))
	execute(t, address, "INSERT INTO kept VALUES (2)")

	pids = processes(t, address)
	require.NoError(t, s.Stop(t.Context()))
	requireGone(t, pids, 0)
	require.NoError(t, s.Stop(t.Context()), "stopping again")

	again := start(t, cfg)
	require.Len(t, told, 1, "no second cluster")
	require.Equal(t, int64(2), query[int64](t, again.URL(embedpg.Database), "SELECT count(*) FROM kept"))
}

func TestServerIsPrivate(t *testing.T) {
	t.Parallel()
	cfg := config(t, reachable(t))
	cfg.Durable, cfg.MaxConnections = true, 33
	s := start(t, cfg)
	address := s.URL(embedpg.Database)

	stranger, err := url.Parse(address)
	require.NoError(t, err)
	stranger.User = url.UserPassword(embedpg.Owner, "guess")
	_, err = pgx.Connect(t.Context(), stranger.String())
	require.ErrorContains(t, err, "28P01")
	for _, name := range []string{"password", "postgres.log"} {
		info, err := os.Stat(filepath.Join(cfg.Dir, name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), name)
	}
	for setting, want := range map[string]string{
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "on", "synchronous_commit": "on",
		"full_page_writes": "on", "max_connections": "33", "server_encoding": "UTF8", "TimeZone": "UTC", "is_superuser": "on",
	} {
		require.Equal(t, want, query[string](t, address, "SELECT current_setting('"+setting+"')"), setting)
	}
	group, err := syscall.Getpgid(int(processes(t, address)[0]))
	require.NoError(t, err)
	require.NotEqual(t, syscall.Getpgrp(), group, "Ctrl-C must not reach it")
}

// Root can run PostgreSQL only as somebody else, who can't get into a directory closed to all but root.
func TestDirectoryOutOfReach(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "postgres") // below one of mode 0700
	cfg := config(t, dir)
	s := start(t, cfg)
	execute(t, s.URL(embedpg.Database), "CREATE TABLE kept ()")
	home := filepath.Dir(query[string](t, s.URL(embedpg.Database), "SHOW data_directory"))
	pointer, err := os.ReadFile(filepath.Join(dir, "location")) //nolint:gosec // a test's own
	if os.Geteuid() != 0 {
		require.ErrorIs(t, err, os.ErrNotExist)
		require.Equal(t, dir, home)
		return
	}
	require.NoError(t, err)
	require.Equal(t, home+"\n", string(pointer))
	require.Equal(t, "/var/tmp", filepath.Dir(home))
	info, err := os.Stat(home)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	require.NoError(t, s.Restart(t.Context()))
	require.Zero(t, query[int64](t, s.URL(embedpg.Database), "SELECT count(*) FROM kept"), "the same data")

	require.NoError(t, s.Stop(t.Context()))
	require.NoError(t, os.RemoveAll(dir)) // as one does to start afresh
	fresh := start(t, cfg)
	require.False(t, query[bool](t, fresh.URL(embedpg.Database), "SELECT to_regclass('kept') IS NOT NULL"))

	require.NoError(t, fresh.Stop(t.Context()))
	require.NoError(t, embedpg.Remove(t.Context(), dir))
	require.NoDirExists(t, home)
	require.NoDirExists(t, dir)
}

func TestDirectoryInReach(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	require.NoError(t, os.Mkdir(dir, 0o755))                                       //nolint:gosec // on purpose
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "data.new", "base"), 0o700)) // a first start that was cut short
	s := start(t, config(t, dir))
	home := query[string](t, s.URL(embedpg.Database), "SHOW data_directory")
	require.Equal(t, filepath.Join(dir, "data"), home)
	require.NoFileExists(t, filepath.Join(dir, "location"))
	require.NoDirExists(t, filepath.Join(dir, "data.new"))

	require.NoError(t, s.Stop(t.Context()))
	require.NoError(t, os.Remove(filepath.Join(dir, "password")))
	_, err := embedpg.Start(t.Context(), config(t, dir))
	require.ErrorContains(t, err, "password")
	require.NotContains(t, err.Error(), "\n")
}

func TestPortTakenWhileStopped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cfg := config(t, reachable(t))
	var waits []string
	cfg.Progress = func(what string) {
		if strings.HasPrefix(what, "waiting for port") {
			waits = append(waits, what)
			cancel()
		}
	}
	s := start(t, cfg)
	address, err := url.Parse(s.URL(embedpg.Database))
	require.NoError(t, err)
	require.NoError(t, s.Stop(t.Context()))
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address.Host)
	require.NoError(t, err)

	err = s.Restart(ctx)
	require.ErrorContains(t, err, address.Port())
	require.NotContains(t, err.Error(), "\n")
	require.Len(t, waits, 1)
	require.Contains(t, waits[0], address.Port())

	require.NoError(t, ln.Close())
	require.NoError(t, s.Restart(t.Context()))
	require.Equal(t, address.String(), s.URL(embedpg.Database))
}

func TestOtherMajorVersion(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	data := filepath.Join(dir, "data")
	require.NoError(t, os.MkdirAll(data, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("14\n"), 0o600))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(data, 65534, 65534))
	}
	_, err := embedpg.Start(t.Context(), config(t, dir))
	require.ErrorContains(t, err, "made by PostgreSQL 14, found ")
	require.NotContains(t, err.Error(), "\n")
}

func TestStartLeavesNothingWhenCutShort(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cfg := config(t, reachable(t))
	cfg.Progress = func(string) { cancel() } // about to make the cluster
	_, err := embedpg.Start(ctx, cfg)
	require.ErrorIs(t, err, context.Canceled)
	cfg.Progress = nil
	require.Equal(t, int32(1), query[int32](t, start(t, cfg).URL(embedpg.Database), "SELECT 1"))
}

// helper runs one of the tests below as a process of its own, and gives its standard input and the lines it prints.
func helper(t *testing.T, name string, env ...string) (*exec.Cmd, io.WriteCloser, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+name+"$", "-test.v=false") //nolint:gosec // ourselves
	cmd.Env = append(cmd.Environ(), append(env, "FDC_EMBEDPG_HELPER=1")...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // it may have ended, one way or another
	return cmd, in, bufio.NewScanner(out)
}

func line(t *testing.T, lines *bufio.Scanner) string {
	t.Helper()
	require.True(t, lines.Scan(), "the helper says nothing")
	return lines.Text()
}

// TestHelperStart is the body of a helper process: it runs a server until it is killed.
func TestHelperStart(t *testing.T) {
	if os.Getenv("FDC_EMBEDPG_HELPER") == "" {
		return
	}
	cfg := config(t, os.Getenv("FDC_EMBEDPG_DIR"))
	if os.Getenv("FDC_EMBEDPG_OWNED") != "" {
		cfg.Owner = os.Getpid()
	}
	s, err := embedpg.Start(t.Context(), cfg)
	require.NoError(t, err)
	fmt.Println(s.URL(embedpg.Database))
	_, err = io.Copy(io.Discard, os.Stdin)
	require.NoError(t, err)
}

// TestHelperJoin is the body of a helper process: it joins a cluster and ends when its input does.
func TestHelperJoin(t *testing.T) {
	if os.Getenv("FDC_EMBEDPG_HELPER") == "" {
		return
	}
	cfg := config(t, os.Getenv("FDC_EMBEDPG_DIR"))
	owner, err := strconv.Atoi(os.Getenv("FDC_EMBEDPG_OWNER"))
	require.NoError(t, err)
	cfg.Owner = owner
	s, err := embedpg.Join(t.Context(), cfg)
	require.NoError(t, err)
	fmt.Println(s.URL(embedpg.Database))
	_, err = io.Copy(io.Discard, os.Stdin)
	require.NoError(t, err)
}

func TestServerEndsWithItsProcess(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	cmd, _, lines := helper(t, "TestHelperStart", "FDC_EMBEDPG_DIR="+dir)
	address := line(t, lines)
	execute(t, address, "CREATE TABLE kept ()")
	pids := processes(t, address)

	_, err := embedpg.Start(t.Context(), config(t, dir))
	require.ErrorContains(t, err, fmt.Sprintf("already in use by process %d", cmd.Process.Pid))

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	// At once: the next start must cope with a server on its way out, and on a system that doesn't tell it, with one
	// that goes on.
	s := start(t, config(t, dir))
	requireGone(t, pids, patience)
	require.Zero(t, query[int64](t, s.URL(embedpg.Database), "SELECT count(*) FROM kept"))
}

func TestOwnedClusterEndsWithItsOwner(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	cmd, _, lines := helper(t, "TestHelperStart", "FDC_EMBEDPG_DIR="+dir, "FDC_EMBEDPG_OWNED=1")
	address := line(t, lines)
	pids := processes(t, address)
	home := filepath.Dir(query[string](t, address, "SHOW data_directory"))
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	requireGone(t, pids, patience)
	requireRemoved(t, home, dir, dir+".lock")
}

func requireRemoved(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		require.Eventually(t, func() bool {
			_, err := os.Lstat(path)
			return os.IsNotExist(err)
		}, patience, 50*time.Millisecond, path)
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	owner := exec.CommandContext(t.Context(), "cat") // lives until its input ends
	leash, err := owner.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	env := []string{"FDC_EMBEDPG_DIR=" + dir, fmt.Sprintf("FDC_EMBEDPG_OWNER=%d", owner.Process.Pid)}

	first, in, firstLines := helper(t, "TestHelperJoin", env...)
	_, _, secondLines := helper(t, "TestHelperJoin", env...)
	address := line(t, firstLines)
	require.Equal(t, address, line(t, secondLines))
	require.NoError(t, in.Close())
	require.NoError(t, first.Wait(), "a process that leaves")

	cfg := config(t, dir)
	_, err = embedpg.Join(t.Context(), cfg)
	require.ErrorContains(t, err, "nobody would end it")
	cfg.Owner = owner.Process.Pid
	s, err := embedpg.Join(t.Context(), cfg)
	require.NoError(t, err)
	require.Equal(t, address, s.URL(embedpg.Database))
	pids := processes(t, address)
	home := filepath.Dir(query[string](t, address, "SHOW data_directory"))

	kept, err := s.Keep()
	require.NoError(t, err)
	require.NoError(t, leash.Close())
	require.NoError(t, owner.Wait())
	require.Equal(t, int32(1), query[int32](t, address, "SELECT 1"), "kept after the owner")
	require.NoError(t, os.Remove(kept))
	requireGone(t, pids, patience)
	requireRemoved(t, home, dir, dir+".lock")
}

func TestServerThatWasLeft(t *testing.T) {
	t.Parallel()
	cfg := config(t, reachable(t))
	cfg.Owner = os.Getpid()
	cfg.Log = zerolog.Nop()                       // it is to end unasked
	shared, err := embedpg.Join(t.Context(), cfg) // nobody's, as far as Start can tell
	require.NoError(t, err)
	pids := processes(t, shared.URL(embedpg.Database))
	execute(t, shared.URL(embedpg.Database), "CREATE TABLE kept ()")
	var told []string
	cfg.Owner, cfg.Progress = 0, func(what string) { told = append(told, what) }
	s := start(t, cfg)
	requireGone(t, pids, patience)
	require.Len(t, told, 1)
	require.Contains(t, told[0], "was left on")
	require.Zero(t, query[int64](t, s.URL(embedpg.Database), "SELECT count(*) FROM kept"))
}
