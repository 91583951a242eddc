package embedpg

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// repository serves an archive for every version and platform, as a Maven repository does.
func repository(t *testing.T, archive string) string {
	t.Helper()
	var jar bytes.Buffer
	w := zip.NewWriter(&jar)
	file, err := w.Create("postgres.txz")
	require.NoError(t, err)
	content, err := os.ReadFile(filepath.Join("testdata", archive)) //nolint:gosec // a test's own
	require.NoError(t, err)
	_, err = file.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "-17.5.0.jar"):
			_, _ = w.Write(jar.Bytes()) // the client may have gone
		case strings.HasSuffix(r.URL.Path, "-17.5.0.jar.sha256"):
			_, _ = fmt.Fprintf(w, "%x", sha256.Sum256(jar.Bytes()))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestDownload(t *testing.T) {
	t.Parallel()
	var told []string
	d := download{
		repository: repository(t, "whole.txz"), cache: cache{dir: filepath.Join(openDir(t), "cache")},
		progress: func(what string) { told = append(told, anyTime.ReplaceAllString(what, "TIME")) },
	}
	require.Empty(t, d.source().cached(0))
	bin, err := d.fetch(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(d.cache.dir, "download-17.5.0", "bin"), bin)
	require.Equal(t, bin, d.source().cached(17))
	require.Equal(t, []string{"downloading PostgreSQL 17.5.0 into " + d.cache.dir, "downloaded PostgreSQL 17.5.0 (TIME)"}, told)
	a, err := accountFor(filepath.Join(d.cache.dir, "no data yet"))
	require.NoError(t, err)
	b, err := finder{account: a}.inspect(t.Context(), bin)
	require.NoError(t, err)
	require.Equal(t, "17.5", b.version)

	d.repository = "http://127.0.0.1:0" // it is there already
	again, err := d.fetch(t.Context(), 17)
	require.NoError(t, err)
	require.Equal(t, bin, again)
}

func TestDownloadFails(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, repository string
		major            int
		err              string
	}{
		{name: "no network", repository: "http://127.0.0.1:0", err: "unable to connect"},
		{name: "no such version there", repository: repository(t, "whole.txz"), major: 16, err: "no version found matching 16"},
		{name: "no such version at all", major: 14, err: "it has no PostgreSQL 14"},
		{name: "cut off", repository: repository(t, "cut.txz"), err: "unable to extract"}, // after initdb
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := download{repository: tc.repository, cache: cache{dir: filepath.Join(openDir(t), "cache")}, progress: func(string) {}}
			_, err := d.fetch(t.Context(), tc.major)
			require.ErrorContains(t, err, tc.err)
			require.Empty(t, d.source().cached(tc.major))
			entries, err := filepath.Glob(filepath.Join(d.cache.dir, "*"))
			require.NoError(t, err)
			require.Empty(t, entries)
		})
	}
}
