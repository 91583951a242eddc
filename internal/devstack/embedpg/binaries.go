package embedpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// binaries is a folder with the programs of one PostgreSQL version.
type binaries struct {
	dir     string
	version string // "15.18"
	major   int
}

func (b binaries) path(program string) string { return filepath.Join(b.dir, program) }

// finder searches the machine for PostgreSQL. Where it looks is a value, so that tests can empty it.
type finder struct {
	account account
	folders []string // globs, after pg_config and PATH
	fetch   func(ctx context.Context, major int) (string, error)
}

func newFinder(a account, progress func(string)) finder {
	return finder{
		account: a,
		folders: []string{
			"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*",
			"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin", "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
			"/Applications/Postgres.app/Contents/Versions/*/bin",
		},
		fetch: func(ctx context.Context, major int) (string, error) { return download(ctx, a, major, progress) },
	}
}

// find returns binaries of a supported version; of major version want, if that isn't 0.
func (f finder) find(ctx context.Context, binDir string, want int) (binaries, error) {
	suits := func(b binaries) bool { return b.major >= MinVersion && (want == 0 || b.major == want) }
	if binDir != "" {
		b, err := f.inspect(ctx, binDir)
		switch {
		case err != nil:
			return binaries{}, fmt.Errorf("FDC_PG_BIN: %w", err)
		case !suits(b):
			return binaries{}, unsuitable([]binaries{b}, want)
		}
		return b, nil
	}
	seen := f.inspectAll(ctx, f.preferred(ctx))
	usual := f.inspectAll(ctx, f.usual())
	slices.SortStableFunc(usual, func(a, b binaries) int { return b.major - a.major })
	seen = append(seen, usual...)
	if i := slices.IndexFunc(seen, suits); i >= 0 {
		return seen[i], nil
	}
	dir, err := f.fetch(ctx, want)
	if err == nil {
		var b binaries
		if b, err = f.inspect(ctx, dir); err == nil {
			return b, nil
		}
	}
	if ctx.Err() != nil {
		return binaries{}, ctx.Err()
	}
	if len(seen) > 0 {
		return binaries{}, unsuitable(seen, want)
	}
	return binaries{}, fmt.Errorf("no PostgreSQL %d or newer found (searched FDC_PG_BIN, pg_config --bindir, PATH, %s) and downloading it did not work (%s): "+
		"install it (apt install postgresql, brew install postgresql) or set FDC_PG_BIN to the folder that holds initdb and postgres",
		MinVersion, strings.Join(f.folders, ", "), oneLine(err.Error()))
}

// preferred are the folders that the user's own set-up names.
func (f finder) preferred(ctx context.Context) []string {
	var dirs []string
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, program := range []string{"postgres", "initdb"} {
		if path, err := exec.LookPath(program); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	return dirs
}

func (f finder) usual() []string {
	var dirs []string
	for _, glob := range f.folders {
		if matches, err := filepath.Glob(glob); err == nil { // the patterns are well-formed
			dirs = append(dirs, matches...)
		}
	}
	return dirs
}

// inspectAll leaves out the folders that aren't PostgreSQL's.
func (f finder) inspectAll(ctx context.Context, dirs []string) []binaries {
	var all []binaries
	for _, dir := range dirs {
		if b, err := f.inspect(ctx, dir); err == nil {
			all = append(all, b)
		}
	}
	return all
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`)

// inspect checks that a folder has both programs, and that the account may run them. A lone pg_ctl or postgres, as some
// machines have in /usr/local/bin, is not enough.
func (f finder) inspect(ctx context.Context, dir string) (binaries, error) {
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, program)); err != nil {
			return binaries{}, fmt.Errorf("no program %s in %s", program, dir)
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return binaries{}, err
	}
	out, err := f.account.command(ctx, "/", filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return binaries{}, fmt.Errorf("run %s as user %d: %w", filepath.Join(dir, "postgres"), f.account.uid, err)
	}
	match := versionLine.FindStringSubmatch(string(out))
	if match == nil {
		return binaries{}, fmt.Errorf("%s says its version is %q", filepath.Join(dir, "postgres"), oneLine(string(out)))
	}
	major, err := strconv.Atoi(match[2])
	return binaries{dir: dir, version: match[1], major: major}, err
}

func unsuitable(seen []binaries, want int) error {
	found := make([]string, 0, len(seen))
	for _, b := range seen {
		if text := b.version + " in " + b.dir; !slices.Contains(found, text) {
			found = append(found, text)
		}
	}
	if want != 0 {
		return fmt.Errorf("the data was made by PostgreSQL %d, found %s; install PostgreSQL %d, or remove the data to start afresh",
			want, strings.Join(found, ", "), want)
	}
	return fmt.Errorf("PostgreSQL %d or newer is needed, found %s", MinVersion, strings.Join(found, ", "))
}

// download puts PostgreSQL into a cache folder, once, and returns where its programs are. The library can only do so by
// starting a server too, which fails for root, so what counts is whether the programs are there afterwards.
func download(ctx context.Context, a account, major int, progress func(string)) (string, error) {
	versions := map[int]embeddedpostgres.PostgresVersion{
		0: embeddedpostgres.V17, 15: embeddedpostgres.V15, 16: embeddedpostgres.V16, 17: embeddedpostgres.V17, 18: embeddedpostgres.V18,
	}
	version, ok := versions[major]
	if !ok {
		return "", fmt.Errorf("PostgreSQL %d is not among the downloads", major)
	}
	cache := "/var/cache" // root's own cache is closed to the account
	if !a.drop {
		var err error
		if cache, err = os.UserCacheDir(); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(cache, "fdc", "postgresql-"+string(version))
	bin := filepath.Join(dir, "bin")
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err == nil {
		return bin, nil
	}
	progress(fmt.Sprintf("no PostgreSQL found; downloading version %s into %s", version, dir))
	port, err := freePort(ctx)
	if err != nil {
		return "", err
	}
	config := embeddedpostgres.DefaultConfig().Version(version).Port(uint32(port)).Logger(io.Discard). //nolint:gosec // a port
														CachePath(filepath.Join(dir, "archive")).BinariesPath(dir).RuntimePath(filepath.Join(dir, "trial"))
	server := embeddedpostgres.NewDatabase(config)
	tried := make(chan error, 1)
	go func() {
		err := server.Start() // takes no context
		if err == nil {
			err = server.Stop()
		}
		tried <- errors.Join(err, os.RemoveAll(filepath.Join(dir, "trial")))
	}()
	select {
	case err = <-tried:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if _, missing := os.Stat(filepath.Join(bin, "initdb")); missing != nil {
		return "", errors.Join(err, missing)
	}
	return bin, nil
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
