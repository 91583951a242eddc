package devstack

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// A page that has rebound its name to a loopback address is not answered.
func TestLoopbackOnly(t *testing.T) {
	t.Parallel()
	ask := func(listen, flag, host string) int {
		t.Helper()
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", listen)
		require.NoError(t, err)
		require.NoError(t, listener.Close())
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		r.Host = host
		w := httptest.NewRecorder()
		LoopbackOnly(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), listener, flag).ServeHTTP(w, r)
		return w.Code
	}
	for _, host := range []string{"localhost", "localhost:8080", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8080", "127.9.9.9:1", "[::1]", "[::1]:8080", "devbox.test", "Devbox.test:8080"} {
		require.Equal(t, http.StatusOK, ask("127.0.0.1:0", "devbox.test:8080", host), host)
	}
	for _, host := range []string{
		"", ":8080", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example",
		"10.0.0.1:8080", "[::2]:8080", "2130706433", "0x7f.1", "evil.example:127.0.0.1", "localhost:80:80", "0.0.0.0:8080",
	} {
		require.Equal(t, http.StatusMisdirectedRequest, ask("127.0.0.1:0", "devbox.test:8080", host), host)
		require.Equal(t, http.StatusMisdirectedRequest, ask("127.0.0.1:0", ":8080", host), host)
	}
	require.Equal(t, http.StatusOK, ask("0.0.0.0:0", "0.0.0.0:0", "fdc.example"), "others reach it, by whatever name")
}
