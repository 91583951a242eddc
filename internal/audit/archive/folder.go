package archive

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// folderStorage is an archive in a folder. The files are named by their keys, without any others beside them, so that a month can be
// copied by any means. No key leads out of the folder.
type folderStorage struct{ root *os.Root }

// unfinished ends the name of a file that is being written. One that a crash has left is no object.
const unfinished = ".tmp"

// OpenDir opens an archive that is a folder, and makes it when it isn't there.
func OpenDir(dir string) (Storage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unavailable(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, unavailable(err)
	}
	return &folderStorage{root}, nil
}

// Put writes a file beside the one of the key and renames it when all of it is on the disk.
func (s *folderStorage) Put(ctx context.Context, key string, r io.Reader) error {
	if !fs.ValidPath(key) || strings.HasSuffix(key, unfinished) {
		return fmt.Errorf("write %.80q: not a key of the archive", key)
	}
	temporary := key + "." + rand.Text() + unfinished
	err := s.root.MkdirAll(path.Dir(key), 0o700)
	if err == nil {
		err = s.write(ctx, temporary, r)
	}
	if err == nil {
		err = s.root.Rename(temporary, key)
	}
	if err != nil {
		_ = s.root.Remove(temporary) // what remains is no object
		return unavailable(fmt.Errorf("write %s: %w", key, err))
	}
	// The names are on the disk, too, before the table is dropped.
	for dir := path.Dir(key); ; dir = path.Dir(dir) {
		if err := s.syncDir(dir); err != nil {
			return unavailable(fmt.Errorf("write %s: %w", key, err))
		}
		if dir == "." {
			return nil
		}
	}
}

func (s *folderStorage) write(ctx context.Context, name string, r io.Reader) error {
	file, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, &interruptible{ctx, r})
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func (s *folderStorage) syncDir(name string) error {
	dir, err := s.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (s *folderStorage) Open(_ context.Context, key string) (io.ReadCloser, error) {
	file, err := s.root.Open(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", key, errNoObject)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("read %s: %w", key, err))
	}
	return file, nil
}

func (s *folderStorage) Keys(ctx context.Context) ([]string, error) {
	var keys []string
	err := fs.WalkDir(s.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && !strings.HasSuffix(name, unfinished) {
			keys = append(keys, name)
		}
		return errors.Join(err, ctx.Err())
	})
	if err != nil {
		return nil, unavailable(fmt.Errorf("list the archive: %w", err))
	}
	slices.Sort(keys) // WalkDir has "a/b" before "a-b"
	return keys, nil
}

func (s *folderStorage) Close() error { return s.root.Close() }

// interruptible reads until its context ends.
type interruptible struct {
	ctx context.Context //nolint:containedctx // of the one Put that reads it
	r   io.Reader
}

func (i *interruptible) Read(b []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(b)
}
