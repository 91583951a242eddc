package embedpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile keeps a cluster for one process. The kernel lets go of it when the process ends, however that happens.
type lockFile struct {
	dir  string
	file *os.File
}

// acquire takes the lock of a directory. When another process has it, it waits if told to, else fails.
func acquire(ctx context.Context, dir string, wait bool) (*lockFile, error) {
	dir, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		lock, err := tryAcquire(dir)
		if lock != nil || err != nil && (!wait || !errors.Is(err, errHeld)) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-retry.C:
		}
	}
}

var errHeld = errors.New("already in use")

// tryAcquire returns no lock and no error when the file was removed by its last holder meanwhile.
func tryAcquire(dir string) (*lockFile, error) {
	path := dir + ".lock"
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // beside the directory we were given
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder, readErr := readFile(path)
		return nil, errors.Join(fmt.Errorf("%s is %w by process %s", dir, errHeld, strings.TrimSpace(holder)), readErr, file.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
	}
	mine, statErr := file.Stat()
	current, err := os.Stat(path)
	if statErr != nil || err != nil || !os.SameFile(mine, current) {
		return nil, errors.Join(statErr, file.Close())
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), file.Close())
	}
	return &lockFile{dir: dir, file: file}, nil
}

// release unlocks by itself: closing is not enough while a child that is just being forked has the file, too.
func (l *lockFile) release() error {
	return errors.Join(unix.Flock(int(l.file.Fd()), unix.LOCK_UN), l.file.Close())
}

// remove deletes the file while it is still held, so that nobody can have a lock on a file that is gone unnoticed.
func (l *lockFile) remove() error { return errors.Join(os.Remove(l.file.Name()), l.release()) }
