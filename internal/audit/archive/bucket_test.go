package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/platform/fault"
)

// requests are those that a fake server has answered.
type requests struct {
	mu   sync.Mutex
	list []*http.Request
}

func (r *requests) add(request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, request.Clone(request.Context()))
}

// of are the requests with a method, and a parameter in their query.
func (r *requests) of(method, parameter string) (found []*http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, request := range r.list {
		if request.Method == method && request.URL.Query().Has(parameter) {
			found = append(found, request)
		}
	}
	return found
}

// An object of several parts is whole when it arrives; one that breaks off on the way leaves no object and no parts.
func TestBucketMultipart(t *testing.T) {
	t.Parallel()
	text := bytes.Repeat([]byte("a prime number of bytes"), partSize/23+1)
	for _, scheme := range []string{"s3", "gs"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			var seen requests
			var refuse func(*http.Request) int // a status; 0: it is served
			endpoint := fakeS3(t, func(w http.ResponseWriter, r *http.Request) bool {
				seen.add(r)
				if refuse != nil {
					if status := refuse(r); status != 0 {
						_, _ = io.Copy(io.Discard, r.Body)
						w.WriteHeader(status)
						return true
					}
				}
				return false
			})
			s, err := OpenStorage(t.Context(), scheme+"://audit?anonymous=true&endpoint="+endpoint, nil)
			require.NoError(t, err)
			bucket, ok := s.(*bucketStorage)
			require.True(t, ok)
			keys := func() []string {
				t.Helper()
				keys, err := s.Keys(t.Context())
				require.NoError(t, err)
				uploads, err := bucket.ListMultipartUploads(t.Context(), "audit", "", "", "", "", 10)
				require.NoError(t, err)
				require.Empty(t, uploads.Uploads)
				return keys
			}
			body := func(n int) io.Reader { return bytes.NewReader(text[:n]) }
			for _, size := range []int{partSize - 1, partSize, len(text)} {
				require.NoError(t, s.Put(t.Context(), "a", body(size)))
				r, err := s.Open(t.Context(), "a")
				require.NoError(t, err)
				got, err := io.ReadAll(r)
				require.NoError(t, err)
				require.NoError(t, r.Close())
				require.True(t, bytes.Equal(text[:size], got), size)
			}
			require.Len(t, seen.of(http.MethodPut, "uploadId"), 1+2)
			for _, request := range seen.of(http.MethodPut, "uploadId") {
				for name := range request.Header { // some services refuse them
					require.NotContains(t, strings.ToLower(name), "checksum")
					require.NotContains(t, strings.ToLower(name), "trailer")
				}
			}
			require.Equal(t, []string{"a"}, keys())

			require.Error(t, s.Put(t.Context(), "b", io.MultiReader(body(len(text)), failing{})))
			require.Equal(t, []string{"a"}, keys())
			require.Len(t, seen.of(http.MethodDelete, "uploadId"), 1)

			refuse = func(r *http.Request) int { // for good
				if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") {
					return http.StatusForbidden
				}
				return 0
			}
			err = s.Put(t.Context(), "b", body(partSize+5))
			require.Equal(t, fault.Unavailable, fault.KindOf(err), "%v", err)
			require.Equal(t, []string{"a"}, keys())

			failures := 2
			refuse = func(r *http.Request) int { // for a while
				if r.Method == http.MethodPut && r.URL.Query().Get("partNumber") == "2" && failures > 0 {
					failures--
					return http.StatusServiceUnavailable
				}
				return 0
			}
			require.NoError(t, s.Put(t.Context(), "b", body(partSize+5)))
			require.Zero(t, failures)
			require.Equal(t, []string{"a", "b"}, keys())
			require.NoError(t, s.Close())
		})
	}
}

// Credentials come from the environment, for both kinds of service; without any, the error says what to set.
func TestBucketCredentials(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", t.TempDir())
	for _, url := range []string{"s3://audit?region=eu-central-1&ssetype=AES256&endpoint=", "gs://audit?endpoint="} {
		t.Setenv("AWS_ACCESS_KEY_ID", "THEKEY")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "its secret")
		var seen requests
		endpoint := fakeS3(t, func(_ http.ResponseWriter, r *http.Request) bool { seen.add(r); return false })
		s, err := OpenStorage(t.Context(), url+endpoint, nil)
		require.NoError(t, err)
		require.NoError(t, s.Put(t.Context(), "a", strings.NewReader("text")))
		require.Len(t, seen.list, 1, "no other request")
		header := seen.list[0].Header
		require.Contains(t, header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=THEKEY/")
		sum := sha256.Sum256([]byte("text"))
		require.Equal(t, hex.EncodeToString(sum[:]), header.Get("X-Amz-Content-Sha256"), "the signature covers the body")
		if strings.HasPrefix(url, "s3://") {
			require.Contains(t, header.Get("Authorization"), "/eu-central-1/s3/aws4_request")
			require.Equal(t, "AES256", header.Get("X-Amz-Server-Side-Encryption"))
		}
		require.NoError(t, s.Close())
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	s, err := OpenStorage(t.Context(), "gs://audit?endpoint="+fakeS3(t, nil), nil)
	require.NoError(t, err)
	_, err = s.Keys(t.Context())
	require.Equal(t, fault.Unavailable, fault.KindOf(err))
	require.ErrorContains(t, err, "AWS_ACCESS_KEY_ID")
	require.NoError(t, s.Close())
}

// A folder takes no key that leads out of it, and shows no file that is not whole.
func TestFolderKeys(t *testing.T) {
	t.Parallel()
	s, err := OpenDir(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	for _, key := range []string{"", ".", "..", "../a", "/a", "a/../b", "a//b", "a" + unfinished} {
		require.Error(t, s.Put(t.Context(), key, strings.NewReader("x")), key)
	}
	_, err = s.Open(t.Context(), "../../etc/passwd")
	require.Error(t, err)
	folder, ok := s.(*folderStorage)
	require.True(t, ok)
	require.NoError(t, folder.root.WriteFile("a.TEXT"+unfinished, []byte("x"), 0o600)) // as a crash leaves it
	for _, key := range []string{"a/b", "a-b", "a0"} {
		require.NoError(t, s.Put(t.Context(), key, bytes.NewReader(nil)))
	}
	keys, err := s.Keys(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a-b", "a/b", "a0"}, keys)
}
