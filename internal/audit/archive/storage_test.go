package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
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
			backend := s3mem.New()
			require.NoError(t, backend.CreateBucket("audit"))
			server := httptest.NewServer(gofakes3.New(backend).Server())
			t.Cleanup(server.Close)
			s, err := OpenStorage(t.Context(), "s3://audit?region=us-east-1&use_path_style=true&anonymous=true&endpoint="+server.URL, nil)
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
	for _, wrong := range []string{"archive", "file://archive", "file:archive", "s3://", "http://x", "nats://", "\x00"} {
		require.Error(t, Location{wrong}.Validate(), wrong)
		_, err := OpenStorage(t.Context(), wrong, nil)
		require.Error(t, err, wrong)
	}
}
