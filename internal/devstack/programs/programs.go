// Package programs builds the project's commands for tests, once per `go test` run: the first test process that needs them
// builds, the others wait for it. The folder is removed after the run has ended, however it ends.
package programs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fdc/internal/devstack/guard"
	"fdc/internal/devstack/testenv"
)

// patience bounds a build with an empty cache on a busy machine.
const patience = 15 * time.Minute

// Dir returns the folder with the commands of fdc/cmd. They are not built with -race, whatever the test is built with.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir, err := built()
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

var built = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("fdc-programs-%d-%d", os.Getuid(), testenv.Run()))
	return build(ctx, dir, testenv.Run(), "fdc/cmd/...")
})

// build has packages built into dir until owner has ended. Each caller runs `go build`, one after the other: it links only
// what is not there yet or outdated, so a folder that an earlier run has left is no danger.
func build(ctx context.Context, dir string, owner int, packages ...string) (bin string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("build %v: %w", packages, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // our own folder
	if err != nil {
		return "", fmt.Errorf("build %v: %w", packages, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("build %v: lock: %w", packages, err)
	}
	bin = filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o700); err == nil { // the first one
		cleaner, err := guard.Start(dir, owner, `rm -rf "$dir"`)
		if err == nil {
			err = cleaner.Process.Release()
		}
		if err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	} else if !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("build %v: %w", packages, err)
	}
	args := append([]string{"build", "-ldflags=-s -w", "-o", bin + "/"}, packages...)
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput() //nolint:gosec // packages of our own
	if err != nil {
		return "", fmt.Errorf("build %v: %w: %s", packages, err, out)
	}
	return bin, nil
}
