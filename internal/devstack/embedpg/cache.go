package embedpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// cache keeps the versions of PostgreSQL that were fetched, one folder each, for all processes of a user.
type cache struct {
	dir string // "" when the user has none
}

// unfinished begins the names of folders that are being filled.
const unfinished = "unfinished-"

func newCache(a account) cache {
	const name = "fdc-postgresql"
	if a.drop {
		return cache{dir: filepath.Join("/var/cache", name)} // root's own cache is closed to the account
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return cache{} // install says so, once it matters
	}
	return cache{dir: filepath.Join(dir, name)}
}

// bin is the folder of a version's programs, "" when the version is not there.
func (c cache) bin(version string) string {
	bin := filepath.Join(c.dir, version, "bin")
	if _, err := os.Stat(filepath.Join(bin, "initdb")); c.dir == "" || err != nil {
		return ""
	}
	return bin
}

// install returns the folder of a version's programs. If the version is not there, fill writes it into the folder tree
// of the directory it is given, which is renamed when it is complete. Other processes wait meanwhile.
func (c cache) install(ctx context.Context, version string, fill func(ctx context.Context, dir string) error) (bin string, err error) {
	if c.dir == "" {
		return "", errors.New("no cache folder: set HOME or XDG_CACHE_HOME")
	}
	lock, err := acquire(ctx, c.dir, true)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	if bin := c.bin(version); bin != "" {
		return bin, nil
	}
	if err := errors.Join(os.Chmod(c.dir, 0o755), c.clear()); err != nil { //nolint:gosec // the server's user must pass through
		return "", err
	}
	staging, err := os.MkdirTemp(c.dir, unfinished)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staging)) }()
	if err := fill(ctx, staging); err != nil {
		return "", err
	}
	tree, final := filepath.Join(staging, "tree"), filepath.Join(c.dir, version)
	if err := setModes(tree); err != nil {
		return "", err
	}
	if err := errors.Join(os.RemoveAll(final), os.Rename(tree, final)); err != nil { // what is there has no initdb
		return "", err
	}
	if bin = c.bin(version); bin == "" {
		return "", fmt.Errorf("no program initdb in %s", filepath.Join(final, "bin"))
	}
	return bin, nil
}

// clear removes what killed processes have left. The caller holds the lock, so nobody is filling a folder.
func (c cache) clear() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), unfinished) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(c.dir, entry.Name())))
		}
	}
	return err
}

// setModes lets every user read the files of a folder and run the programs, whatever the umask was.
func setModes(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if info.IsDir() || info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return root.Chmod(name, mode)
	})
	return errors.Join(err, root.Close())
}
