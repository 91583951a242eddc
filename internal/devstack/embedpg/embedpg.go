package embedpg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"fdc/internal/devstack/guard"
)

const (
	// Owner is the role that owns the cluster, a superuser.
	Owner = "fdc"
	// Database exists from the first start on.
	Database = "fdc"
	// MinVersion is the oldest supported major version of PostgreSQL.
	MinVersion = 15

	defaultMaxConnections = 200
	startPatience         = 2 * time.Minute  // crash recovery included
	clashPatience         = 15 * time.Second // for a port or a shared memory block that is still held
)

// Config says which cluster to run and how.
type Config struct {
	Dir            string // the cluster's directory, made when missing; the file Dir.lock beside it keeps others out
	BinDir         string // folder of initdb and postgres (FDC_PG_BIN); "" searches the machine, then fetches them
	Durable        bool   // wait for the disk, so that data outlives a crash of the machine, not only of the server
	MaxConnections int    // 0 means 200
	Owner          int    // id of the process with whose end, however it comes, the cluster is removed; 0 keeps it
	Log            zerolog.Logger
	Progress       func(string) // told what takes long; may be nil
}

// Server is a running cluster. Its methods may be called from several goroutines.
type Server struct {
	cluster *cluster
	port    int // fixed by the first start, so that URLs stay valid

	mu    sync.Mutex
	lock  *lockFile // nil when stopped
	guard *exec.Cmd // nil when stopped, or without an owner
	proc  *process  // nil when stopped or crashed
}

// Start runs the cluster in cfg.Dir, making it first if there is none, and returns when it takes connections.
// The context bounds only the start.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{}
	var err error
	if s.lock, err = acquire(ctx, cfg.Dir, false); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if s.cluster, err = prepare(ctx, cfg); err == nil {
		err = s.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), s.stop(ctx))
	}
	return s, nil
}

// URL is the owner's postgres:// address of a database. It stays the same over Restart.
func (s *Server) URL(database string) string { return s.cluster.url(s.port, database) }

// Stop ends the server: running statements are cancelled, sessions closed, data written. When the context ends first,
// the server is made to go at once, which costs the next start a recovery but no data. No process is left.
// Stopping a stopped server does nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop(ctx)
}

// Crash kills the server and all its sessions with no chance to tidy up, as a test of what survives. Restart brings it
// back.
func (s *Server) Crash() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return errors.New("crash PostgreSQL: it is not running")
	}
	proc := s.proc
	s.proc = nil
	return proc.kill()
}

// Restart stops the server if it runs and starts it again on the same port.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stop(ctx); err != nil {
		return err
	}
	var err error
	if s.lock, err = acquire(ctx, s.cluster.dir, false); err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	if err := s.start(ctx); err != nil {
		return errors.Join(fmt.Errorf("restart PostgreSQL: %w", err), s.stop(ctx))
	}
	return nil
}

// start wants the lock held.
func (s *Server) start(ctx context.Context) (err error) {
	if s.cluster.owner != 0 {
		if s.guard, err = guard.Start(s.cluster.dir, s.cluster.owner, guardScript); err != nil {
			return err
		}
	}
	proc, port, err := s.cluster.start(ctx, s.port, false)
	if err != nil {
		return err // and keep the port for another try
	}
	s.proc, s.port = proc, port
	return nil
}

func (s *Server) stop(ctx context.Context) error {
	var errs []error
	if s.proc != nil {
		errs = append(errs, s.proc.stop(ctx))
		s.proc = nil
	}
	if s.guard != nil {
		_ = syscall.Kill(-s.guard.Process.Pid, syscall.SIGKILL) // with the sleep it waits for; it may have ended
		_ = s.guard.Wait()                                      // says that it was killed
		s.guard = nil
	}
	if s.lock != nil {
		errs = append(errs, s.lock.release())
		s.lock = nil
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	return nil
}

// Remove deletes the cluster of a directory, wherever its data is, and the directory. It refuses while a process has it.
func Remove(ctx context.Context, dir string) error {
	lock, err := acquire(ctx, dir, false)
	if err != nil {
		return fmt.Errorf("remove PostgreSQL cluster: %w", err)
	}
	home, _, err := readPointer(lock.dir)
	if err == nil {
		err = stopLeftOver(ctx, home, func(string) {})
	}
	if err == nil {
		err = errors.Join(removeSharedMemory(home), os.RemoveAll(home), os.RemoveAll(lock.dir))
	}
	if err = errors.Join(err, lock.remove()); err != nil {
		return fmt.Errorf("remove PostgreSQL cluster %s: %w", dir, err)
	}
	return nil
}

// start launches the server and waits until it answers. Port 0 picks a free one, and another one if that is gone by the
// time the server wants it; a given port is waited for.
func (c *cluster) start(ctx context.Context, port int, detached bool) (*process, int, error) {
	if err := stopLeftOver(ctx, c.home, c.progress); err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	clash := time.After(clashPatience)
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	var clashed error
	for {
		chosen := port
		if chosen == 0 {
			var err error
			if chosen, err = freePort(ctx); err != nil {
				return nil, 0, err
			}
		}
		proc, err := c.launch(ctx, chosen, detached)
		if err == nil {
			if err = c.ensureDatabase(ctx, chosen); err == nil {
				return proc, chosen, nil
			}
			return nil, 0, errors.Join(err, proc.stop(ctx))
		}
		if !errors.Is(err, errClash) {
			if clashed != nil && ctx.Err() != nil {
				err = clashed // says more than that the time was up
			}
			return nil, 0, err
		}
		if clashed == nil && port != 0 {
			c.progress(fmt.Sprintf("waiting for port %d, which another process has", port))
		}
		clashed = err
		select {
		case <-retry.C:
		case <-clash:
			return nil, 0, err
		case <-ctx.Done():
			return nil, 0, err
		}
	}
}

func (c *cluster) url(port int, database string) string {
	return (&url.URL{
		Scheme: "postgres", User: url.UserPassword(Owner, c.password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/" + database, RawQuery: "sslmode=disable",
	}).String()
}

// ensureDatabase makes the database if it is missing, which also proves that the server lets the owner in.
func (c *cluster) ensureDatabase(ctx context.Context, port int) error {
	const undefinedDatabase, duplicateDatabase = "3D000", "42P04"
	conn, err := pgx.Connect(ctx, c.url(port, Database))
	if err == nil {
		return conn.Close(ctx)
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != undefinedDatabase {
		return fmt.Errorf("connect to PostgreSQL in %s as its owner: %w", c.home, err)
	}
	conn, err = pgx.Connect(ctx, c.url(port, "postgres"))
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL in %s as its owner: %w", c.home, err)
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+Database)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == duplicateDatabase {
		err = nil
	}
	return errors.Join(err, conn.Close(ctx))
}

func freePort(ctx context.Context) (int, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := ln.Addr().(*net.TCPAddr).Port // a TCP listener has a TCP address
	return port, ln.Close()
}

func dataDir(home string) string { return filepath.Join(home, "data") }
