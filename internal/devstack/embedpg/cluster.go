package embedpg

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/rs/zerolog"
)

// cluster is a directory ready to be served:
//
//	DIR/password      of the owner role
//	DIR/postgres.log  of the last start, .old of the one before
//	DIR/location      where the data is, if not here
//	HOME/data         the data, with HOME = DIR or what DIR/location says
//	DIR.lock          held by the process that has the cluster
type cluster struct {
	dir, home      string
	password       string
	account        account
	bin            binaries
	durable        bool
	maxConnections int
	owner          int
	log            zerolog.Logger
	progress       func(string)
}

// prepare finds or makes the cluster of a directory. The caller holds its lock.
func prepare(ctx context.Context, cfg Config) (*cluster, error) {
	c := &cluster{durable: cfg.Durable, maxConnections: cfg.MaxConnections, owner: cfg.Owner, log: cfg.Log, progress: cfg.Progress}
	if c.maxConnections == 0 {
		c.maxConnections = defaultMaxConnections
	}
	if c.progress == nil {
		c.progress = func(string) {}
	}
	var err error
	if c.dir, err = resolve(cfg.Dir); err != nil {
		return nil, err
	}
	var placed bool
	if c.home, placed, err = readPointer(c.dir); err != nil {
		return nil, err
	}
	if c.account, err = accountFor(dataDir(c.home)); err != nil {
		return nil, err
	}
	made, err := madeBy(dataDir(c.home))
	if err != nil {
		return nil, err
	}
	if c.bin, err = newFinder(c.account, c.progress).find(ctx, cfg.BinDir, made); err != nil {
		return nil, err
	}
	if made != 0 {
		return c, c.readPassword()
	}
	if !placed && !c.reaches(ctx, c.dir) {
		if err := c.placeElsewhere(ctx); err != nil {
			return nil, err
		}
	}
	return c, c.create(ctx)
}

// resolve makes the directory and gives the one name that all its users agree on.
func resolve(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("no directory given")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the server's user must pass through; data is 0700
		return "", err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

// readPointer says where the data of a directory is or would be, and whether a pointer says so.
func readPointer(dir string) (home string, placed bool, err error) {
	text, err := readFile(filepath.Join(dir, "location"))
	if errors.Is(err, os.ErrNotExist) {
		return dir, false, nil
	}
	home = strings.TrimSpace(text)
	if err == nil && !filepath.IsAbs(home) {
		err = fmt.Errorf("%s holds %q, not an absolute path", filepath.Join(dir, "location"), home)
	}
	return home, true, err
}

// madeBy is the major version that made the data, 0 when there is none.
func madeBy(data string) (int, error) {
	text, err := readFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("version of the data in %s: %w", data, err)
	}
	return major, nil
}

// reaches asks the kernel whether the server's user can get to a directory, by going there as that user.
func (c *cluster) reaches(ctx context.Context, dir string) bool {
	return c.account.command(ctx, dir, c.bin.path("postgres"), "--version").Run() == nil
}

// placeElsewhere puts the data where the server's user can reach it and leaves the pointer. What is already there was
// left by a directory of the same name that has been deleted since.
func (c *cluster) placeElsewhere(ctx context.Context) error {
	sum := sha256.Sum256([]byte(c.dir))
	home := fmt.Sprintf("/var/tmp/fdc-%d-%x", os.Geteuid(), sum[:8])
	if err := stopLeftOver(ctx, home, c.progress); err != nil {
		return err
	}
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	if err := c.makeHome(home); err != nil {
		return err
	}
	c.home = home
	return writeFile(filepath.Join(c.dir, "location"), home+"\n")
}

func (c *cluster) makeHome(home string) error {
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	return c.account.own(home)
}

// create makes an empty cluster.
func (c *cluster) create(ctx context.Context) error {
	if err := os.RemoveAll(dataDir(c.home)); err != nil { // holds no cluster, or a damaged one without its version file
		return err
	}
	c.progress("making a PostgreSQL " + c.bin.version + " cluster in " + c.home)
	if _, err := os.Stat(c.home); errors.Is(err, os.ErrNotExist) { // the pointer outlived what it points to
		if err := c.makeHome(c.home); err != nil {
			return err
		}
	}
	c.password = rand.Text()
	if err := writeFile(filepath.Join(c.dir, "password"), c.password+"\n"); err != nil {
		return err
	}
	fresh := filepath.Join(c.home, "data.new")
	handOver := filepath.Join(c.home, "password.new") // the server's user may not read ours
	defer os.Remove(handOver)                         //nolint:errcheck // gone unless something failed
	if err := errors.Join(os.RemoveAll(fresh), os.RemoveAll(handOver)); err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir(fresh, 0o700), writeFile(handOver, c.password+"\n")); err != nil {
		return err
	}
	if err := errors.Join(c.account.own(fresh), c.account.own(handOver)); err != nil {
		return err
	}
	locale := "C"
	if runtime.GOOS == "linux" {
		locale = "C.UTF-8" // same order of text, and lower() knows more than ASCII
	}
	args := []string{
		"--pgdata=" + fresh, "--username=" + Owner, "--pwfile=" + handOver, "--auth=scram-sha-256",
		"--encoding=UTF8", "--locale=" + locale, "--no-instructions",
	}
	if !c.durable {
		args = append(args, "--no-sync")
	}
	if out, err := c.account.command(ctx, "/", c.bin.path("initdb"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("make a cluster in %s: initdb: %w: %s", c.home, err, oneLine(string(out)))
	}
	return os.Rename(fresh, dataDir(c.home))
}

func (c *cluster) readPassword() error {
	text, err := readFile(filepath.Join(c.dir, "password"))
	if err != nil {
		return fmt.Errorf("the owner's password of the data in %s is lost (%w); remove the data to start afresh", c.home, err)
	}
	c.password = strings.TrimSpace(text)
	return nil
}

func readFile(path string) (string, error) {
	text, err := os.ReadFile(path) //nolint:gosec // below the directory we were given
	return string(text), err
}

func writeFile(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }
