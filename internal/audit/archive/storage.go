package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	_ "gocloud.dev/blob/gcsblob" // gs://
	_ "gocloud.dev/blob/s3blob"  // s3://
	"gocloud.dev/gcerrors"

	"fdc/internal/platform/fault"
)

// Storage keeps the archive. It is safe for concurrent use.
type Storage interface {
	// Put stores what it reads, all of it or, when that fails, nothing new. It replaces what is there.
	Put(ctx context.Context, key string, r io.Reader) error
	// Open reads an object; errNoObject when there is none.
	Open(ctx context.Context, key string) (io.ReadCloser, error)
	// Keys lists all objects, in order.
	Keys(ctx context.Context) ([]string, error)
	Close() error
}

// errNoObject says that there is no such object.
var errNoObject = errors.New("there is no such object in the archive")

// Location says where the archive is.
type Location struct {
	URL string `env:"ARCHIVE_URL"` // empty: the folder archive in the working directory
}

// Validate names what is malformed.
func (l Location) Validate() error {
	if l.URL == "" {
		return nil
	}
	if err := checkURL(l.URL); err != nil {
		return fmt.Errorf("ARCHIVE_URL: %w", err)
	}
	return nil
}

// Open opens the archive. For an archive in NATS, js is the connection of the user audit-archiver.
func (l Location) Open(ctx context.Context, js jetstream.JetStream) (Storage, error) {
	if l.URL != "" {
		return OpenStorage(ctx, l.URL, js)
	}
	dir, err := filepath.Abs("archive")
	if err != nil {
		return nil, fmt.Errorf("ARCHIVE_URL: %w", err)
	}
	return OpenDir(dir)
}

// checkURL reports what is wrong with an ARCHIVE_URL.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("not a URL")
	}
	switch {
	case u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path):
	case slices.Contains([]string{"s3", "gs", "nats"}, u.Scheme) && u.Host != "":
	default:
		return errors.New("want file:///FOLDER, s3://BUCKET, gs://BUCKET or nats://BUCKET")
	}
	return nil
}

// ObjectStore returns the bucket of an archive in NATS, empty for an archive elsewhere.
func (l Location) ObjectStore() string {
	bucket, _, _ := strings.Cut(strings.TrimPrefix(l.URL, "nats://"), "?")
	if !strings.HasPrefix(l.URL, "nats://") {
		return ""
	}
	return strings.TrimSuffix(bucket, "/")
}

// OpenStorage opens the place that an ARCHIVE_URL names: file:///FOLDER (made when it isn't there), s3://BUCKET and gs://BUCKET with the
// parameters and credentials of https://gocloud.dev/howto/blob/, or nats://BUCKET, a JetStream object store, for which js is needed.
func OpenStorage(ctx context.Context, archiveURL string, js jetstream.JetStream) (Storage, error) {
	if err := checkURL(archiveURL); err != nil {
		return nil, fmt.Errorf("ARCHIVE_URL: %w", err)
	}
	if bucket := (Location{archiveURL}).ObjectStore(); bucket != "" {
		store, err := js.ObjectStore(ctx, bucket)
		if err != nil {
			return nil, unavailable(fmt.Errorf("open object store %s: %w", bucket, err))
		}
		return &objectStorage{store}, nil
	}
	if dir, ok := strings.CutPrefix(archiveURL, "file://"); ok {
		return OpenDir(dir)
	}
	bucket, err := blob.OpenBucket(ctx, archiveURL)
	if err != nil {
		return nil, unavailable(fmt.Errorf("open %s: %w", archiveURL, err))
	}
	return &blobStorage{bucket}, nil
}

// OpenDir opens an archive that is a folder, and makes it when it isn't there.
func OpenDir(dir string) (Storage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unavailable(err)
	}
	// Without metadata files: a month is the files that its manifest names, to be copied by any means. And the temporary files beside
	// the others: a rename must not cross devices.
	bucket, err := fileblob.OpenBucket(dir, &fileblob.Options{Metadata: fileblob.MetadataDontWrite, NoTempDir: true})
	if err != nil {
		return nil, unavailable(fmt.Errorf("open %s: %w", dir, err))
	}
	return &blobStorage{bucket}, nil
}

// unavailable marks trouble with the storage, which is nobody's fault and may pass.
func unavailable(err error) error {
	return fault.Wrap(err, fault.Unavailable, "archive-unavailable", "The audit archive (ARCHIVE_URL) can't be used right now.")
}

type blobStorage struct{ *blob.Bucket }

func (s *blobStorage) Put(ctx context.Context, key string, r io.Reader) error {
	writeCtx, cancel := context.WithCancel(ctx) // cancelled before Close, it leaves nothing
	defer cancel()
	w, err := s.NewWriter(writeCtx, key, &blob.WriterOptions{DisableContentTypeDetection: true, ContentType: "application/octet-stream"})
	if err != nil {
		return unavailable(fmt.Errorf("write %s: %w", key, err))
	}
	if _, err := io.Copy(w, r); err != nil {
		cancel()
		_ = w.Close() // it says that it was cancelled
		return unavailable(fmt.Errorf("write %s: %w", key, err))
	}
	if err := w.Close(); err != nil {
		return unavailable(fmt.Errorf("write %s: %w", key, err))
	}
	return nil
}

func (s *blobStorage) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	r, err := s.NewReader(ctx, key, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, fmt.Errorf("%s: %w", key, errNoObject)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("read %s: %w", key, err))
	}
	return r, nil
}

func (s *blobStorage) Keys(ctx context.Context) ([]string, error) {
	var keys []string
	for list := s.List(nil); ; {
		object, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return keys, nil
		}
		if err != nil {
			return nil, unavailable(fmt.Errorf("list the archive: %w", err))
		}
		keys = append(keys, object.Key)
	}
}

type objectStorage struct{ jetstream.ObjectStore }

func (s *objectStorage) Put(ctx context.Context, key string, r io.Reader) error {
	if _, err := s.ObjectStore.Put(ctx, jetstream.ObjectMeta{Name: key}, r); err != nil {
		return unavailable(fmt.Errorf("write %s: %w", key, err))
	}
	return nil
}

func (s *objectStorage) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	r, err := s.Get(ctx, key)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, fmt.Errorf("%s: %w", key, errNoObject)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("read %s: %w", key, err))
	}
	return r, nil
}

func (s *objectStorage) Keys(ctx context.Context) ([]string, error) {
	list, err := s.List(ctx)
	if errors.Is(err, jetstream.ErrNoObjectsFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("list the archive: %w", err))
	}
	keys := make([]string, len(list))
	for i, object := range list {
		keys[i] = object.Name
	}
	slices.Sort(keys)
	return keys, nil
}

func (s *objectStorage) Close() error { return nil }

// readObject reads a small object.
func readObject(ctx context.Context, s Storage, key string) ([]byte, error) {
	r, err := s.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // it was read
	const most = 64 << 10
	body, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, unavailable(fmt.Errorf("read %s: %w", key, err))
	}
	if len(body) > most {
		return nil, fmt.Errorf("%s is too large to be one of the archive's", key)
	}
	return body, nil
}

// isUnavailable reports trouble with the storage.
func isUnavailable(err error) bool { return fault.KindOf(err) == fault.Unavailable }
