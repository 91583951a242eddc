package embedpg

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// entry is one of an archive; a regular file unless kind says otherwise.
type entry struct {
	name, body string
	mode       int64
	kind       byte
	link       string
}

// tarball holds the entries.
func tarball(tb testing.TB, entries ...entry) []byte {
	tb.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Mode: e.mode, Typeflag: e.kind, Linkname: e.link, Size: int64(len(e.body))}
		if e.kind == 0 {
			header.Typeflag = tar.TypeReg
		}
		require.NoError(tb, w.WriteHeader(header))
		_, err := w.Write([]byte(e.body))
		require.NoError(tb, err)
	}
	require.NoError(tb, w.Close())
	return buffer.Bytes()
}

func gzipped(tb testing.TB, plain []byte) []byte {
	tb.Helper()
	var buffer bytes.Buffer
	w := gzip.NewWriter(&buffer)
	_, err := w.Write(plain)
	require.NoError(tb, err)
	require.NoError(tb, w.Close())
	return buffer.Bytes()
}

// links is the list of symbolic links with one of them.
func links(target, source string) entry {
	return entry{name: "package/native/pg-symlinks.json", body: `[{"source":"` + source + `","target":"` + target + `"}]`}
}

// program says that it is of a version of PostgreSQL.
func program(name string) entry {
	return entry{name: "package/native/bin/" + name, mode: 0o755, body: "#!/bin/sh\necho '" + name + " (PostgreSQL) 17.10'\n"}
}

// whole is what a package holds, in small.
func whole() []entry {
	return []entry{
		{name: "package/package.json", body: "{}"},
		program("initdb"), program("postgres"),
		{name: "package/native/lib/", kind: tar.TypeDir, mode: 0o700},
		{name: "package/native/lib/libpq.so.5.17", mode: 0o600, body: "library"},
		links("native/lib/libpq.so.5", "native/lib/libpq.so.5.17"),
	}
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tree")
	require.NoError(t, unpack(gzipped(t, tarball(t, whole()...)), dir))
	to, err := os.Readlink(filepath.Join(dir, "lib/libpq.so.5"))
	require.NoError(t, err)
	require.Equal(t, "libpq.so.5.17", to, "relative, for the folder is renamed")
	text, err := readFile(filepath.Join(dir, "lib/libpq.so.5"))
	require.NoError(t, err)
	require.Equal(t, "library", text)
	require.NoFileExists(t, filepath.Join(dir, "package.json"))
	for name, executable := range map[string]bool{"bin/initdb": true, "bin/postgres": true, "lib/libpq.so.5.17": false} {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, executable, info.Mode()&0o100 != 0, name)
	}
	require.ErrorIs(t, unpack(gzipped(t, tarball(t, whole()...)), dir), fs.ErrExist, "only a new folder")
}

func TestUnpackLinkUpAndDown(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tree")
	require.NoError(t, unpack(gzipped(t, tarball(t, program("postgres"), links("native/share/deep/pg", "native/bin/postgres"))), dir))
	text, err := readFile(filepath.Join(dir, "share/deep/pg"))
	require.NoError(t, err)
	require.Equal(t, program("postgres").body, text)
}

func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	full := gzipped(t, tarball(t, append(whole(), entry{name: "package/native/share/noise", body: strings.Repeat("noise", 10_000)})...))
	for _, tc := range []struct {
		name    string
		archive []byte
		entries []entry
		err     string
	}{
		{name: "no archive", archive: []byte("<html>a proxy says no</html>"), err: "gzip: invalid header"},
		{name: "nothing", archive: []byte{}, err: "EOF"},
		{name: "cut off", archive: full[:len(full)-len(full)/3], err: "unexpected EOF"},
		{name: "no tar", archive: gzipped(t, []byte(strings.Repeat("x", 2000))), err: "archive/tar: invalid tar header"},
		{name: "path upwards", entries: []entry{{name: "package/native/../../../secret", body: "changed"}}, err: "leads out of the package"},
		{name: "path upwards, unused", entries: []entry{{name: "../secret", body: "changed"}}, err: "leads out of the package"},
		{name: "absolute path", entries: []entry{{name: "/etc/passwd", body: "changed"}}, err: "leads out of the package"},
		{name: "absolute path inside", entries: []entry{{name: "package/native//etc/passwd", body: "changed"}}, err: "leads out of the package"},
		{name: "folder upwards", entries: []entry{{name: "package/native/../../up/", kind: tar.TypeDir}}, err: "leads out of the package"},
		{name: "symbolic link", entries: []entry{{name: "package/native/bin", kind: tar.TypeSymlink, link: "/tmp"}}, err: "neither a file nor a folder"},
		{name: "hard link", entries: []entry{{name: "package/native/a", kind: tar.TypeLink, link: "/etc/passwd"}}, err: "neither a file nor a folder"},
		{name: "device", entries: []entry{{name: "package/native/a", kind: tar.TypeChar}}, err: "neither a file nor a folder"},
		{name: "pipe", entries: []entry{{name: "package/native/a", kind: tar.TypeFifo}}, err: "neither a file nor a folder"},
		{name: "a file twice", entries: []entry{program("postgres"), program("postgres")}, err: "exists"},
		{name: "a file as folder", entries: []entry{program("x"), program("x/y")}, err: "file exists"},
		{name: "no list of links", entries: []entry{program("postgres")}, err: "list of symbolic links: "},
		{name: "broken list of links", entries: []entry{{name: "package/native/pg-symlinks.json", body: "[{"}}, err: "list of symbolic links: "},
		{name: "link to outside", entries: []entry{links("native/a", "native/../../../secret")}, err: "leads out of the package"},
		{name: "link to an absolute path", entries: []entry{links("native/a", "/etc/passwd")}, err: "leads out of the package"},
		{name: "link outside", entries: []entry{program("x"), links("native/../../a", "native/bin/x")}, err: "leads out of the package"},
		{name: "link at an absolute path", entries: []entry{program("x"), links("/tmp/a", "native/bin/x")}, err: "leads out of the package"},
		{name: "link beside", entries: []entry{program("x"), links("dist/a", "native/bin/x")}, err: "leads out of the package"},
		{name: "link to nothing", entries: []entry{links("native/a", "native/b")}, err: "no file of the package"},
		{name: "link to a folder", entries: []entry{program("x"), links("native/a", "native/bin")}, err: "no file of the package"},
		{name: "link over a file", entries: []entry{program("x"), program("y"), links("native/bin/y", "native/bin/x")}, err: "exists"},
		{name: "link to a link", entries: []entry{program("x"), {name: "package/native/pg-symlinks.json", body: `[
			{"source":"native/bin/x","target":"native/a"},{"source":"native/a","target":"native/b"}]`}}, err: "no file of the package"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			outside := t.TempDir()
			require.NoError(t, writeFile(filepath.Join(outside, "secret"), "as it was"))
			archive := tc.archive
			if archive == nil {
				archive = gzipped(t, tarball(t, tc.entries...))
			}
			require.ErrorContains(t, unpack(archive, filepath.Join(outside, "tree")), tc.err)
			requireUntouched(t, outside)
		})
	}
}

// requireUntouched checks that a directory holds what it did, beside the folder tree.
func requireUntouched(tb testing.TB, outside string) {
	tb.Helper()
	text, err := readFile(filepath.Join(outside, "secret"))
	require.NoError(tb, err)
	require.Equal(tb, "as it was", text)
	entries, err := os.ReadDir(outside)
	require.NoError(tb, err)
	for _, e := range entries {
		require.Contains(tb, []string{"secret", "tree"}, e.Name())
	}
}

func TestUnpackIsBounded(t *testing.T) {
	t.Parallel()
	archive := tarball(t, whole()...)
	for name, most := range map[string]limits{"bytes": {bytes: 50, entries: 100}, "entries": {bytes: 1 << 20, entries: 3}} {
		root, err := os.OpenRoot(t.TempDir())
		require.NoError(t, err)
		require.ErrorContains(t, untar(bytes.NewReader(archive), root, most), "more than PostgreSQL can be", name)
		require.NoError(t, root.Close())
	}
	root, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, untar(bytes.NewReader(archive), root, packageLimits))
	require.ErrorContains(t, link(root, limits{}), "more than PostgreSQL can have")
	require.NoError(t, root.Close())

	// A header that states a huge size, of which the file is made with few bytes.
	sparse := &tar.Header{Name: "package/native/a", Typeflag: tar.TypeReg, Size: 1 << 40}
	var buffer bytes.Buffer
	require.NoError(t, tar.NewWriter(&buffer).WriteHeader(sparse))
	require.ErrorContains(t, unpack(gzipped(t, buffer.Bytes()), filepath.Join(t.TempDir(), "tree")), "more than PostgreSQL can be")
}

// FuzzUnpack: whatever the archive holds, nothing is written outside of the folder, no more than the limits, and every
// link leads to a file inside.
func FuzzUnpack(f *testing.F) {
	f.Add(tarball(f, whole()...))
	f.Add(tarball(f, whole()...)[:700])
	f.Add(tarball(f, entry{name: "package/native/../../../secret", body: "changed"}))
	f.Add(tarball(f, program("x"), links("native/a", "native/../../secret")))
	f.Add(tarball(f, program("x"), links("native/../../a", "native/bin/x")))
	f.Add(tarball(f, entry{name: "package/native/bin", kind: tar.TypeSymlink, link: "../.."}, program("secret")))
	f.Add(tarball(f, program("x"), program("x/y"), program("x")))
	most := limits{bytes: 1 << 16, entries: 50}
	f.Fuzz(func(t *testing.T, archive []byte) {
		outside := t.TempDir()
		require.NoError(t, writeFile(filepath.Join(outside, "secret"), "as it was"))
		dir := filepath.Join(outside, "tree")
		require.NoError(t, os.Mkdir(dir, 0o700))
		root, err := os.OpenRoot(dir)
		require.NoError(t, err)
		if err = untar(bytes.NewReader(archive), root, most); err == nil {
			_ = link(root, most) // it may refuse, but not break the rules below
		}
		require.NoError(t, root.Close())
		requireUntouched(t, outside)
		var total int64
		files := 0
		require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			require.NoError(t, err)
			info, err := os.Lstat(path)
			require.NoError(t, err)
			switch {
			case entry.IsDir():
			case entry.Type()&fs.ModeSymlink != 0:
				to, err := filepath.EvalSymlinks(path)
				require.NoError(t, err)
				inside, err := filepath.Rel(dir, to)
				require.NoError(t, err)
				require.True(t, filepath.IsLocal(inside), "%s leads to %s", path, to)
			default:
				require.True(t, info.Mode().IsRegular(), path)
				total += info.Size()
				files++
			}
			return nil
		}))
		require.LessOrEqual(t, total, most.bytes)
		require.LessOrEqual(t, files, most.entries)
	})
}
