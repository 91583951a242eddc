package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"fdc/internal/platform/fault"
)

// Storage keeps the archive. It is safe for concurrent use.
type Storage interface {
	// Put stores what it reads, all of it or, when that fails, nothing new. It replaces an object of that key.
	Put(ctx context.Context, key string, r io.Reader) error
	// Open reads an object; errNoObject when there is none.
	Open(ctx context.Context, key string) (io.ReadCloser, error)
	// Keys lists all objects, in order.
	Keys(ctx context.Context) ([]string, error)
	Close() error
}

// errNoObject says that there is no such object.
var errNoObject = errors.New("there is no such object in the archive")

// Location says where the archive is. It has no default: two archivers with a folder each would split the chain of manifests.
type Location struct {
	URL string `env:"ARCHIVE_URL,required,notEmpty"`
}

// Validate names what is malformed.
func (l Location) Validate() error {
	if l.URL == "" {
		return nil // said already: required
	}
	_, err := parseURL(l.URL)
	return err
}

// Open opens the archive. For an archive in NATS, js is the connection of the user audit-archiver.
func (l Location) Open(ctx context.Context, js jetstream.JetStream) (Storage, error) {
	return OpenStorage(ctx, l.URL, js)
}

// ObjectStore returns the bucket of an archive in NATS, empty for an archive elsewhere.
func (l Location) ObjectStore() string {
	if u, err := parseURL(l.URL); err == nil && u.scheme == "nats" {
		return u.name
	}
	return ""
}

// target is an ARCHIVE_URL that was checked.
type target struct {
	scheme string
	name   string // of the bucket; the path of a folder
	params map[string]string
}

// parameters are those of an ARCHIVE_URL, by its scheme. The names are those of gocloud.dev, which read the URL in earlier versions.
var parameters = map[string][]string{
	"file": nil,
	"s3":   {"region", "endpoint", "use_path_style", "s3ForcePathStyle", "disable_https", "anonymous", "profile", "ssetype", "kmskeyid"},
	"gs":   {"endpoint", "disable_https", "anonymous", "profile"},
	"nats": nil,
}

// switches are the parameters that are true or false.
var switches = []string{"use_path_style", "s3ForcePathStyle", "disable_https", "anonymous"}

func parseURL(text string) (*target, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("ARCHIVE_URL: not a URL")
	}
	allowed, known := parameters[u.Scheme]
	t := &target{scheme: u.Scheme, name: u.Host, params: map[string]string{}}
	if u.Scheme == "file" {
		t.name = u.Path
		known = u.Host == "" && filepath.IsAbs(u.Path)
	} else if strings.Trim(u.Path, "/") != "" {
		known = false
	}
	if !known || t.name == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("ARCHIVE_URL: want file:///FOLDER, s3://BUCKET, gs://BUCKET or nats://BUCKET")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("ARCHIVE_URL: the parameters are malformed")
	}
	for name, values := range query {
		switch {
		case len(allowed) == 0:
			return nil, fmt.Errorf("ARCHIVE_URL: %s:// takes no parameters", u.Scheme)
		case !slices.Contains(allowed, name):
			return nil, fmt.Errorf("ARCHIVE_URL: unknown parameter %.40q; %s:// takes %s", name, u.Scheme, strings.Join(allowed, ", "))
		case len(values) != 1:
			return nil, fmt.Errorf("ARCHIVE_URL: give the parameter %s once", name)
		}
		if _, err := strconv.ParseBool(values[0]); err != nil && slices.Contains(switches, name) {
			return nil, fmt.Errorf("ARCHIVE_URL: the parameter %s is neither true nor false", name)
		}
		t.params[name] = values[0]
	}
	if u.Scheme == "s3" || u.Scheme == "gs" {
		_, _, err = t.client() // an endpoint, for instance
	}
	return t, err
}

// on reports whether a switch is set to true.
func (t *target) on(name string) bool {
	value, _ := strconv.ParseBool(t.params[name]) // was checked
	return value
}

// OpenStorage opens the place that an ARCHIVE_URL names: file:///FOLDER (made when it isn't there), s3://BUCKET, gs://BUCKET, or
// nats://BUCKET, a JetStream object store, for which js is needed. Access to a bucket is first tried by the first call.
func OpenStorage(ctx context.Context, archiveURL string, js jetstream.JetStream) (Storage, error) {
	t, err := parseURL(archiveURL)
	if err != nil {
		return nil, err
	}
	switch t.scheme {
	case "file":
		return OpenDir(t.name)
	case "nats":
		store, err := js.ObjectStore(ctx, t.name)
		if err != nil {
			return nil, unavailable(fmt.Errorf("open object store %s: %w", t.name, err))
		}
		return &objectStorage{store}, nil
	default:
		return openBucket(t)
	}
}

// unavailable marks trouble with the storage, which is nobody's fault and may pass.
func unavailable(err error) error {
	return fault.Wrap(err, fault.Unavailable, "archive-unavailable", "The audit archive (ARCHIVE_URL) can't be used right now.")
}

// isUnavailable reports trouble with the storage.
func isUnavailable(err error) bool { return fault.KindOf(err) == fault.Unavailable }

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
