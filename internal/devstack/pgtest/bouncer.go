package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// bouncerVariable runs the tests that need PgBouncer, which `go test ./...` must do without.
const bouncerVariable = "FDC_TEST_PGBOUNCER"

// Bouncer puts a PgBouncer in transaction mode in front of a database and returns the way through it. It opens at most
// servers connections to the database, so that clients share them. The test is skipped unless FDC_TEST_PGBOUNCER=1.
func Bouncer(tb testing.TB, database string, servers int) string {
	tb.Helper()
	if os.Getenv(bouncerVariable) != "1" {
		tb.Skipf("%s=1 runs this test; it needs PgBouncer (on Debian: apt-get install pgbouncer)", bouncerVariable)
	}
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			tb.Fatalf("there is no PgBouncer (on Debian: apt-get install pgbouncer): %v", err)
		}
	}
	target, err := pgconn.ParseConfig(database)
	if err != nil {
		tb.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	host, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		tb.Fatal(err)
	}
	settings := filepath.Join(tb.TempDir(), "pgbouncer.ini")
	err = os.WriteFile(settings, fmt.Appendf(nil, `
[databases]
* = host=%s port=%d user=%s password='%s'
[pgbouncer]
listen_addr = %s
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = %d
max_client_conn = 200
query_wait_timeout = 5
`, target.Host, target.Port, target.User, target.Password, host, port, servers), 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	start(tb, program, settings)

	address, err := url.Parse(database)
	if err != nil {
		tb.Fatal(err)
	}
	address.Host = net.JoinHostPort(host, port)
	await(tb, address.String())
	return address.String()
}

// start runs PgBouncer until the end of the test or of this process, whichever comes first: the shell in between ends it
// when the pipe that it reads from does.
func start(tb testing.TB, program, settings string) {
	tb.Helper()
	args := []string{"-c", `"$@" & cat; kill -KILL $!`, "sh", program}
	if os.Getuid() == 0 {
		args = append(args, "-u", "nobody") // it refuses to run as root
	}
	var output bytes.Buffer
	cmd := exec.Command("/bin/sh", append(args, settings)...) //nolint:gosec,noctx // found above; it ends with the pipe
	cmd.Stdout, cmd.Stderr = &output, &output
	pipe, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := pipe.Close(); err != nil {
			tb.Error(err)
		}
		_ = cmd.Wait() // it was killed
		if tb.Failed() {
			tb.Logf("pgbouncer: %s", output.Bytes())
		}
	})
}

// await waits until the way through is open.
func await(tb testing.TB, address string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		conn, err := pgx.Connect(ctx, address)
		if err == nil {
			if err = conn.Ping(ctx); err == nil {
				err = conn.Close(ctx)
			}
		}
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("PgBouncer does not answer: %v", err)
		case <-again.C:
		}
	}
}
