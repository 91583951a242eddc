package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
)

// fakeS3 is a server with the bucket audit. Each request passes through intercept, which reports whether it has answered.
func fakeS3(t *testing.T, intercept func(http.ResponseWriter, *http.Request) bool) (endpoint string) {
	t.Helper()
	backend := s3mem.New()
	require.NoError(t, backend.CreateBucket("audit"))
	fake := gofakes3.New(backend).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if intercept == nil || !intercept(w, r) {
			fake.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// Each kind of storage keeps whole objects, and an archive that verifies.
func TestStorages(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) Storage{
		"file": func(t *testing.T) Storage {
			t.Helper()
			s, err := OpenStorage(t.Context(), "file://"+filepath.Join(t.TempDir(), "not", "there yet"), nil)
			require.NoError(t, err)
			return s
		},
		"s3": func(t *testing.T) Storage {
			t.Helper()
			s, err := OpenStorage(t.Context(), "s3://audit?region=us-east-1&use_path_style=true&anonymous=true&endpoint="+fakeS3(t, nil), nil)
			require.NoError(t, err)
			return s
		},
		"gs": func(t *testing.T) Storage {
			t.Helper()
			s, err := OpenStorage(t.Context(), "gs://audit?anonymous=true&endpoint="+fakeS3(t, nil), nil)
			require.NoError(t, err)
			return s
		},
		"nats": func(t *testing.T) Storage {
			t.Helper()
			server := natstest.New(t, natstest.WithTCP())
			provision, err := bus.JetStream(natstest.Connect(t, server, "provision"))
			require.NoError(t, err)
			require.NoError(t, bus.ProvisionObjects(t.Context(), provision, bus.AuditArchive, 1))
			js, err := bus.JetStream(natstest.Connect(t, server, bus.AuditArchiver))
			require.NoError(t, err)
			s, err := OpenStorage(t.Context(), "nats://"+bus.AuditArchive, js)
			require.NoError(t, err)
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			t.Cleanup(func() { require.NoError(t, s.Close()) })
			keys, err := s.Keys(t.Context())
			require.NoError(t, err)
			require.Empty(t, keys)
			_, err = s.Open(t.Context(), "a/b")
			require.ErrorIs(t, err, errNoObject)
			big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			for _, body := range [][]byte{[]byte("first"), big} { // replaced
				require.NoError(t, s.Put(t.Context(), "a/b", bytes.NewReader(body)))
				r, err := s.Open(t.Context(), "a/b")
				require.NoError(t, err)
				got, err := io.ReadAll(r)
				require.NoError(t, err)
				require.NoError(t, r.Close())
				require.Equal(t, body, got)
			}
			torn := io.MultiReader(bytes.NewReader(big), failing{})
			require.Error(t, s.Put(t.Context(), "a/torn", torn))
			require.Error(t, s.Put(t.Context(), "a/b", io.MultiReader(bytes.NewReader(big), failing{})))
			require.NoError(t, s.Put(t.Context(), "0", bytes.NewReader(nil)))
			keys, err = s.Keys(t.Context())
			require.NoError(t, err)
			require.Equal(t, []string{"0", "a/b"}, keys)
			r, err := s.Open(t.Context(), "a/b")
			require.NoError(t, err)
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			require.NoError(t, r.Close())
			require.Equal(t, big, got, "what was there before is there still")
			require.NoError(t, s.Put(t.Context(), "0", bytes.NewReader([]byte("x"))))

			v := newVault(t)
			v.fill("2024-01", 5000)
			before := v.sum()
			v.Archiver = v.archiver(s)
			_, err = v.Archive(t.Context(), "2024-01", nil)
			require.NoError(t, err)
			require.Empty(t, v.verified().Findings)
			_, err = v.Restore(t.Context(), byTest, "2024-01", nil)
			require.NoError(t, err)
			require.Equal(t, before, v.sum())
		})
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the source is gone") }

// Storage that isn't there says so, as trouble that may pass.
func TestStorageAway(t *testing.T) {
	t.Parallel()
	server := natstest.New(t, natstest.WithTCP())
	js, err := bus.JetStream(natstest.Connect(t, server, "provision"))
	require.NoError(t, err)
	_, err = OpenStorage(t.Context(), "nats://nothing", js)
	require.Equal(t, fault.Unavailable, fault.KindOf(err), "%v", err)
	require.ErrorIs(t, err, jetstream.ErrBucketNotFound)
	_, err = OpenStorage(t.Context(), "file:///proc/nothing", nil)
	require.Equal(t, fault.Unavailable, fault.KindOf(err), "%v", err)
	s, err := OpenStorage(t.Context(), "s3://audit?region=us-east-1&use_path_style=true&anonymous=true&endpoint=http://127.0.0.1:1", nil)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = s.Keys(ctx)
	require.Equal(t, fault.Unavailable, fault.KindOf(err), "%v", err)
	require.NoError(t, s.Close())
}

// An ARCHIVE_URL that can't be meant is refused, with what would be right.
func TestArchiveURLs(t *testing.T) {
	t.Parallel()
	for wrong, want := range map[string]string{
		"archive": "want file:///FOLDER", "file://archive": "want file:///FOLDER", "file:archive": "want file:///FOLDER", "s3://": "s3://BUCKET",
		"http://x": "gs://BUCKET", "nats://": "nats://BUCKET", "\x00": "not a URL", "s3://bucket/folder": "s3://BUCKET", "s3://a:b@bucket": "s3://BUCKET",
		"file:///folder?create_dir=true":                "file:// takes no parameters",
		"nats://bucket?x=y":                             "nats:// takes no parameters",
		"s3://bucket?accelerate=true":                   `unknown parameter "accelerate"; s3:// takes region, endpoint, use_path_style`,
		"gs://bucket?region=x":                          `unknown parameter "region"; gs:// takes endpoint, disable_https, anonymous`,
		"s3://bucket?region=a&region=b":                 "give the parameter region once",
		"s3://bucket?anonymous=perhaps":                 "anonymous is neither true nor false",
		"s3://bucket?endpoint=ftp://x":                  "endpoint is not https://HOST",
		"gs://bucket?endpoint=http://x/storage":         "endpoint is not https://HOST",
		"s3://bucket?ssetype=mine":                      "ssetype=AES256",
		"s3://bucket?kmskeyid=mine":                     "ssetype=aws:kms with kmskeyid",
		"s3://bucket?region=%zz":                        "malformed",
		"s3://bucket?endpoint=https://user:secret@host": "endpoint is not https://HOST",
	} {
		err := Location{wrong}.Validate()
		require.ErrorContains(t, err, want, wrong)
		require.NotContains(t, err.Error(), "secret")
		_, err = OpenStorage(t.Context(), wrong, nil)
		require.ErrorContains(t, err, want, wrong)
	}
	_, err := OpenStorage(t.Context(), "", nil)
	require.Error(t, err)
	for _, right := range []string{
		"", "file:///folder", "nats://bucket", "nats://bucket/", "gs://bucket", "gs://bucket?endpoint=host&disable_https=true", "s3://bucket",
		"s3://bucket?region=eu-central-1&endpoint=https://host:9000&s3ForcePathStyle=true&ssetype=aws:kms&kmskeyid=mine&profile=fdc",
	} {
		require.NoError(t, Location{right}.Validate(), right)
	}
	require.Equal(t, "bucket", Location{"nats://bucket/"}.ObjectStore())
	require.Empty(t, Location{"s3://bucket"}.ObjectStore())
	require.Empty(t, Location{}.ObjectStore())
}
