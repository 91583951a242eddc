package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"fdc/internal/devstack/embednats"
	"fdc/internal/devstack/embedpg"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/migrations"
)

// poolSize is the number of database connections that either side of a comparison gets.
const poolSize = 16

// machine is where the numbers come from.
type machine struct {
	Time     time.Time     `json:"time"`
	CPU      string        `json:"cpu"`
	Cores    int           `json:"cores"`
	Go       string        `json:"go"`
	Postgres string        `json:"postgres"`
	NATS     string        `json:"nats"`
	Redis    string        `json:"redis,omitempty"`
	Fsync    time.Duration `json:"fsyncNanoseconds"` // of 4 KB appended to a file beside the servers' data
}

// servers are the benchmark's own: durable, as in production, and nobody else's. The NATS server is each world's.
type servers struct {
	pg      *embedpg.Server
	redis   *redisServer // durable; nil when the machine has none
	cache   *redisServer // Redis that keeps nothing on the disk; nil like redis
	dir     string
	machine machine
	worlds  int

	countsStatements bool // PostgreSQL has pg_stat_statements
}

func startServers(ctx context.Context, tell func(string, ...any)) (_ *servers, err error) {
	dir, err := os.MkdirTemp("", "fdc-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the servers: %w", err)
	}
	s := &servers{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop(ctx))
		}
	}()
	s.machine = machine{Time: time.Now(), CPU: cpu(), Cores: runtime.NumCPU(), Go: runtime.Version(), NATS: server.VERSION}
	if s.machine.Fsync, err = fsyncTime(dir); err != nil {
		return nil, err
	}
	s.pg, err = embedpg.Start(ctx, embedpg.Config{
		Dir: s.pgDir(), Durable: true, Owner: os.Getpid(), Log: zerolog.Nop(), Progress: func(what string) { tell("%s", what) },
	})
	if err != nil {
		return nil, err
	}
	err = s.asOwner(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT split_part(current_setting('server_version'), ' ', 1)`).Scan(&s.machine.Postgres)
	})
	if err != nil {
		return nil, err
	}
	if err = s.loadStatementCounter(ctx); err != nil {
		return nil, err
	}
	if s.redis, err = startRedis(ctx, dir, "--appendonly", "yes", "--appendfsync", "always"); err != nil {
		return nil, err
	}
	if s.cache, err = startRedis(ctx, dir, "--appendonly", "no"); err != nil {
		return nil, err
	}
	if s.redis != nil {
		s.machine.Redis = s.redis.version
	}
	return s, nil
}

func (s *servers) pgDir() string { return filepath.Join(s.dir, "postgres") }

// stop ends the servers and removes their data.
func (s *servers) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	var errs []error
	for _, redis := range []*redisServer{s.redis, s.cache} {
		if redis != nil {
			errs = append(errs, redis.stop())
		}
	}
	if s.pg != nil {
		errs = append(errs, s.pg.Stop(ctx), embedpg.Remove(ctx, s.pgDir()))
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// loadStatementCounter has PostgreSQL load pg_stat_statements, if it has that. It counts what a world asks it to count.
func (s *servers) loadStatementCounter(ctx context.Context) error {
	err := s.asOwner(ctx, func(conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements')`).
			Scan(&s.countsStatements)
		if err == nil && s.countsStatements {
			_, err = conn.Exec(ctx, `ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'`)
		}
		return err
	})
	if err == nil && s.countsStatements {
		if err = s.pg.Restart(ctx); err == nil {
			err = s.asOwner(ctx, func(conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, `ALTER ROLE `+embedpg.Owner+` SET pg_stat_statements.track = none`)
				return err
			})
		}
	}
	if err != nil {
		return fmt.Errorf("load pg_stat_statements: %w", err)
	}
	return nil
}

func (s *servers) asOwner(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, s.pg.URL(embedpg.Database))
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	return errors.Join(do(conn), conn.Close(ctx))
}

// world is a new database with the project's schema, and a new NATS server with the project's streams. Emptying what was
// used before would leave traces: remembered message ids, dead rows, files about to be deleted.
type world struct {
	nats    *embednats.Server
	servers *servers
	name    string
	db      postgres.Config
	pool    *pgxpool.Pool
	nc      *nats.Conn // of the user api
	js      jetstream.JetStream
	outbox  *outbox.Outbox
	stream  jetstream.Stream // EVENTS
	closers []func()
}

// inWorld gives measure a world of its own and takes it away again.
func (s *servers) inWorld(ctx context.Context, measure func(*world) error) error {
	w, err := s.newWorld(ctx)
	if err != nil {
		return errors.Join(fmt.Errorf("prepare the servers: %w", err), w.close(ctx))
	}
	return errors.Join(measure(w), w.close(ctx))
}

func (s *servers) newWorld(ctx context.Context) (*world, error) {
	s.worlds++
	w := &world{servers: s, name: "bench_" + strconv.Itoa(s.worlds)}
	err := s.asOwner(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "CREATE DATABASE "+w.name)
		return err
	})
	if err != nil {
		return w, err
	}
	w.db = postgres.Config{
		URL: s.pg.URL(w.name), MaxConns: poolSize, ConnectTimeout: 10 * time.Second, QueryTimeout: 5 * time.Minute,
	}
	if _, err := postgres.Migrate(ctx, w.db.URL, migrations.FS); err != nil {
		return w, err
	}
	if w.pool, err = postgres.Open(ctx, w.db, "bench"); err != nil {
		return w, err
	}
	w.closers = append(w.closers, w.pool.Close)
	w.nats, err = embednats.Start(ctx, embednats.Config{
		StoreDir: filepath.Join(s.dir, w.name), Addr: "127.0.0.1:0", Log: zerolog.Nop(),
	})
	if err != nil {
		return w, err
	}
	w.closers = append(w.closers, w.nats.Stop)
	provisioner, err := w.connect("provision")
	if err != nil {
		return w, err
	}
	admin, err := bus.JetStream(provisioner)
	if err != nil {
		return w, err
	}
	if err := bus.Provision(ctx, admin, 1); err != nil {
		return w, err
	}
	if w.nc, err = w.connect("api"); err != nil {
		return w, err
	}
	if w.js, err = bus.JetStream(w.nc); err != nil {
		return w, err
	}
	w.outbox = outbox.New(w.pool, w.nc)
	w.stream, err = w.js.Stream(ctx, bus.Events)
	return w, err
}

// connect opens a connection as a user of nats.conf, with the options that the services use.
func (w *world) connect(user string) (*nats.Conn, error) {
	nc, err := bus.Connect(bus.Config{URL: w.nats.URL(user)}, user, zerolog.Nop())
	if err != nil {
		return nil, err
	}
	w.closers = append(w.closers, nc.Close)
	return nc, nil
}

// settle leaves no work behind that the measurement would pay for.
func (w *world) settle(ctx context.Context) error {
	for _, statement := range []string{"VACUUM ANALYZE", "CHECKPOINT"} {
		if _, err := w.pool.Exec(ctx, statement); err != nil {
			return fmt.Errorf("settle the database: %w", err)
		}
	}
	return nil
}

func (w *world) close(ctx context.Context) error {
	for _, closer := range slices.Backward(w.closers) {
		closer()
	}
	ctx = context.WithoutCancel(ctx)
	err := w.servers.asOwner(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+w.name+" WITH (FORCE)")
		return err
	})
	return errors.Join(err, os.RemoveAll(filepath.Join(w.servers.dir, w.name)))
}

// redisServer is a Redis of the benchmark's own.
type redisServer struct {
	addr    string
	version string
	cmd     *exec.Cmd
	hold    io.Closer // the server ends when this closes, and so it ends with us, however that comes
}

// startRedis returns nil when the machine has no Redis.
func startRedis(ctx context.Context, dir string, durability ...string) (*redisServer, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if path = "/usr/bin/redis-server"; !isFile(path) {
			return nil, nil //nolint:nilnil // documented: absent is no error
		}
	}
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, fmt.Errorf("find a port for Redis: %w", err)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("find a port for Redis: %w", err)
	}
	version, err := exec.CommandContext(ctx, path, "--version").Output() //nolint:gosec // a path of this machine
	if err != nil {
		return nil, fmt.Errorf("ask Redis for its version: %w", err)
	}
	args := []string{"-c", `"$@" & cat >/dev/null; kill $!; wait`, "redis", path, "--bind", host, "--port", port, "--dir", dir, "--save", ""}
	cmd := exec.Command("/bin/sh", append(args, durability...)...) //nolint:gosec,noctx // a path of this machine; stop ends it
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start Redis: %w", err)
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start Redis: %w", err)
	}
	r := &redisServer{addr: addr, version: versionNumber(version), cmd: cmd, hold: hold}
	if err := until(ctx, 10*time.Second, func(ctx context.Context) (bool, error) { return pingRedis(ctx, addr), nil }); err != nil {
		return nil, errors.Join(fmt.Errorf("start Redis: %w", err), r.stop(), fmt.Errorf("its output: %s", output.String()))
	}
	return r, nil
}

func (r *redisServer) stop() error {
	err := r.hold.Close()
	_ = r.cmd.Wait() // says how the shell's child was killed
	return err
}

func pingRedis(ctx context.Context, addr string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // nothing is pending on it
	answer := make([]byte, 5)
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return false
	}
	_, err = io.ReadFull(conn, answer)
	return err == nil && string(answer) == "+PONG"
}

func versionNumber(output []byte) string {
	return string(regexp.MustCompile(`\d+\.\d+\.\d+`).Find(output))
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func freeAddr(ctx context.Context) (string, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// until asks again and again, quickly, until the answer is yes.
func until(ctx context.Context, patience time.Duration, ask func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		if yes, err := ask(ctx); yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
}

// fsyncTime is the median of appending 4 KB and waiting for the disk: what every durable commit pays at least. In memory
// it is next to nothing, and then the numbers are not those of durable servers.
func fsyncTime(dir string) (time.Duration, error) {
	file, err := os.Create(filepath.Join(dir, "fsync")) //nolint:gosec // a directory of our own
	if err != nil {
		return 0, fmt.Errorf("measure fsync: %w", err)
	}
	defer file.Close() //nolint:errcheck // its content is of no use
	page := make([]byte, 4096)
	var times []float64
	for range 100 {
		start := time.Now()
		if _, err := file.Write(page); err != nil {
			return 0, fmt.Errorf("measure fsync: %w", err)
		}
		if err := file.Sync(); err != nil {
			return 0, fmt.Errorf("measure fsync: %w", err)
		}
		times = append(times, float64(time.Since(start)))
	}
	return time.Duration(median(times)), nil
}

// cpu is the processor's name where Linux tells it.
func cpu() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	match := regexp.MustCompile(`model name\s*: (.*)`).FindSubmatch(info)
	if match == nil {
		return runtime.GOARCH
	}
	return string(match[1])
}
