package embedpg

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"path/filepath"

	"fdc/internal/devstack/guard"
)

// Shared is a running cluster that several processes use and none of them ends.
type Shared struct {
	cluster *cluster
	port    int
}

// Join runs the cluster of cfg.Dir for all processes that join it until cfg.Owner has ended: the first starts it, the
// others find it.
func Join(ctx context.Context, cfg Config) (*Shared, error) {
	if cfg.Owner == 0 {
		return nil, errors.New("join PostgreSQL: nobody would end it")
	}
	lock, err := acquire(ctx, cfg.Dir, true)
	if err != nil {
		return nil, fmt.Errorf("join PostgreSQL: %w", err)
	}
	cfg.Dir = lock.dir
	s, err := join(ctx, cfg)
	if err = errors.Join(err, lock.release()); err != nil {
		return nil, fmt.Errorf("join PostgreSQL: %w", err)
	}
	return s, nil
}

func join(ctx context.Context, cfg Config) (*Shared, error) {
	home, _, err := readPointer(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if file := readPidFile(home); file.ready && file.live(ctx, home) {
		c := &cluster{dir: cfg.Dir, home: home}
		return &Shared{cluster: c, port: file.port}, c.readPassword()
	}
	cleaner, err := guard.Start(cfg.Dir, cfg.Owner, guardScript) // first, so that nothing is left of a start that is cut short
	if err != nil {
		return nil, err
	}
	if err := cleaner.Process.Release(); err != nil {
		return nil, err
	}
	c, err := prepare(ctx, cfg)
	if err != nil {
		return nil, err
	}
	_, port, err := c.start(ctx, 0, true)
	return &Shared{cluster: c, port: port}, err
}

// URL is the owner's postgres:// address of a database.
func (s *Shared) URL(database string) string { return s.cluster.url(s.port, database) }

// Keep makes the guard wait five more minutes after the owner's end, for a look at what a failed test has left.
// Removing the file it returns ends that.
func (s *Shared) Keep() (file string, err error) {
	file = filepath.Join(s.cluster.dir, "keep")
	return file, writeFile(file, "")
}

//go:embed guard.sh
var guardScript string
