package embedpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// binaries is a folder with the programs of one PostgreSQL version.
type binaries struct {
	dir     string
	version string // "15.18"
	major   int
}

func (b binaries) path(program string) string { return filepath.Join(b.dir, program) }

// finder searches the machine for PostgreSQL, then fetches it. Where it looks is a value, so that tests can empty it.
type finder struct {
	account  account
	path     string   // folders, as in the variable PATH
	folders  []string // globs, after pg_config and path
	sources  []source // tried in turn when nothing is installed
	hint     string   // a command that installs PostgreSQL, "" when none is sure to work
	progress func(string)
}

// source is a way to get PostgreSQL onto a machine without it. Major version 0 stands for the source's default.
type source struct {
	name   string
	cached func(major int) string // the folder of the programs, "" when they were not fetched yet
	fetch  func(ctx context.Context, major int) (string, error)
}

func newFinder(a account, progress func(string)) finder {
	f := finder{
		account: a,
		path:    os.Getenv("PATH"),
		folders: []string{
			"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*",
			"/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin", "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
			"/Applications/Postgres.app/Contents/Versions/*/bin",
		},
		progress: progress,
	}
	c := newCache(a)
	f.sources = []source{
		npm{program: f.look("npm"), platform: npmPlatform(), packages: npmPackages, cache: c, progress: progress}.source(),
		download{cache: c, progress: progress}.source(),
	}
	if os.Geteuid() == 0 && f.look("apt-get") != "" {
		f.hint = "apt-get update && apt-get install -y postgresql"
	}
	return f
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
	began := time.Now()
	seen := f.inspectAll(ctx, f.preferred(ctx))
	if i := slices.IndexFunc(seen, suits); i >= 0 {
		return seen[i], nil
	}
	usual := f.inspectAll(ctx, f.usual())
	slices.SortStableFunc(usual, func(a, b binaries) int { return b.major - a.major })
	if i := slices.IndexFunc(usual, suits); i >= 0 {
		return usual[i], nil
	}
	seen = append(seen, usual...)
	for _, s := range f.sources {
		if dir := s.cached(want); dir != "" {
			if b, err := f.inspect(ctx, dir); err == nil {
				return b, nil
			}
		}
	}
	f.progress(f.missing(want, time.Since(began)))
	b, err := f.fetch(ctx, want)
	switch {
	case err == nil:
		return b, nil
	case ctx.Err() != nil:
		return binaries{}, ctx.Err()
	case len(seen) > 0:
		return binaries{}, unsuitable(seen, want)
	}
	return binaries{}, fmt.Errorf("no PostgreSQL %d or newer found (searched FDC_PG_BIN, pg_config --bindir, PATH, %s) and fetching it did not work (%w): "+
		"install it (apt install postgresql, brew install postgresql) or set FDC_PG_BIN to the folder that holds initdb and postgres",
		MinVersion, strings.Join(f.folders, ", "), err)
}

// missing says that the search found nothing.
func (f finder) missing(want int, took time.Duration) string {
	if want != 0 {
		return fmt.Sprintf("PostgreSQL %d, which made the data, is not installed (searched for %s)", want, seconds(took))
	}
	text := fmt.Sprintf("no PostgreSQL %d or newer is installed (searched for %s)", MinVersion, seconds(took))
	if f.hint != "" {
		text += "; to install it instead: " + f.hint
	}
	return text
}

// fetch tries the sources in turn.
func (f finder) fetch(ctx context.Context, want int) (binaries, error) {
	var failures []string
	for _, s := range f.sources {
		began := time.Now()
		dir, err := s.fetch(ctx, want)
		if err == nil {
			var b binaries
			if b, err = f.inspect(ctx, dir); err == nil {
				return b, nil
			}
			err = fmt.Errorf("%w; remove %s to fetch it anew", err, filepath.Dir(dir))
		}
		if ctx.Err() != nil {
			return binaries{}, ctx.Err()
		}
		failure := s.name + ": " + oneLine(err.Error())
		f.progress(fmt.Sprintf("%s (gave up after %s)", failure, seconds(time.Since(began))))
		failures = append(failures, failure)
	}
	return binaries{}, errors.New(strings.Join(failures, "; "))
}

// look returns the path of a program, "" when it is not in PATH.
func (f finder) look(program string) string {
	for _, dir := range filepath.SplitList(f.path) {
		if !filepath.IsAbs(dir) {
			continue // like exec.LookPath, runs nothing from the current directory
		}
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path
		}
	}
	return ""
}

// preferred are the folders that the user's own set-up names.
func (f finder) preferred(ctx context.Context) []string {
	var dirs []string
	if program := f.look("pg_config"); program != "" {
		if out, err := exec.CommandContext(ctx, program, "--bindir").Output(); err == nil { //nolint:gosec // the user's own
			dirs = append(dirs, strings.TrimSpace(string(out)))
		}
	}
	for _, program := range []string{"postgres", "initdb"} {
		if path := f.look(program); path != "" {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	return slices.Compact(dirs)
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
		said := ""
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			said = oneLine(": " + string(exit.Stderr))
		}
		return binaries{}, fmt.Errorf("run %s as user %d: %w%s", filepath.Join(dir, "postgres"), f.account.id(), err, said)
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

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// seconds is a time for people.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
