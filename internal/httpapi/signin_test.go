package httpapi

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLocalPath(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/": "/", "/tasks": "/tasks", "/p?a=b&c=%2F#top": "/p?a=b&c=%2F#top", "/日": "/%E6%97%A5", "/a b": "/a%20b",
		"/p?next=//x": "/p?next=//x", "/a//b": "/a//b",
	} {
		got, err := localPath(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got)
	}
	for _, in := range []string{
		"", "p", "//evil.example", "///evil.example", "https://evil.example", "javascript:alert(1)", `/\evil.example`, `\/evil.example`,
		"/\t/evil.example", "/\nSet-Cookie: a=b", "/a\r\n", "/\x00", "/\x7f", "/\xff", `/a\b`, " /a", "/%zz", "/" + strings.Repeat("a", maxRedirect),
	} {
		_, err := localPath(in)
		require.Error(t, err, "%q", in)
	}
}

// FuzzLocalPath resolves what passes against our own address, as a browser would: it must stay there.
func FuzzLocalPath(f *testing.F) {
	for _, seed := range []string{"/", "//evil", "/\\evil", "/a?b#c", "/.//evil", "/@evil", "/:80", "/日本"} {
		f.Add(seed)
	}
	home, err := url.Parse("https://fdc.example/api/auth/callback")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, s string) {
		got, err := localPath(s)
		if err != nil {
			return
		}
		for _, path := range []string{got.(string), withError(got.(string), "access_denied")} {
			ref, err := home.Parse(path)
			require.NoError(t, err)
			require.Equal(t, "https://fdc.example", ref.Scheme+"://"+ref.Host)
			require.Nil(t, ref.User)
			require.NotContains(t, path, `\`)
			require.False(t, strings.HasPrefix(path, "//"), path)
			for i := range len(path) {
				require.True(t, ' ' < path[i] && path[i] < 0x7f, "byte %d of %q", i, path)
			}
		}
	})
}

func TestWithError(t *testing.T) {
	t.Parallel()
	require.Equal(t, "/p?a=1&error=access_denied#top", withError("/p?a=1#top", "access_denied"))
	require.Equal(t, "/?error=server_error", withError("/", "<script>"))
	require.Equal(t, "/?error=server_error", withError("/", strings.Repeat("a", 100)))
}
