package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/daemon"
	"fdc/internal/service"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	ready := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !ready {
			http.Error(w, "waiting for NATS", http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	ask := func(url ...string) error {
		return execute(t.Context(), map[string]string{"HTTP_PROXY": "http://nowhere"}, append([]string{"health"}, url...), io.Discard, io.Discard)
	}
	require.NoError(t, ask(server.URL+"/readyz"))
	ready = false
	require.ErrorContains(t, ask(server.URL+"/readyz"), "503 Service Unavailable: waiting for NATS")
	nobody := fmt.Sprintf("http://127.0.0.1:%d", testenv.FreePort(t)) // a closed server's port may be another's by now
	require.ErrorContains(t, ask(nobody), "refused")
	for _, wrong := range [][]string{{}, {"nonsense"}, {"a", "b"}, {":"}} {
		require.ErrorAs(t, ask(wrong...), new(*daemon.UsageError), "%v", wrong)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, execute(t.Context(), nil, []string{"version", "--json"}, &out, io.Discard))
	var build service.Build
	require.NoError(t, json.Unmarshal(out.Bytes(), &build))
	require.Equal(t, service.Version, build.Version)
	require.NotEmpty(t, build.Go)
	out.Reset()
	require.NoError(t, execute(t.Context(), nil, []string{"version"}, &out, io.Discard))
	require.Regexp(t, `^fdc \S+\ncommit \S+\ndate \S+\ngo`, out.String())
}

// The demo's people are the emulator's: nobody's Google is asked for them.
func TestTheDemosSeedWantsTheEmulator(t *testing.T) {
	t.Parallel()
	environ := map[string]string{
		"DATABASE_URL": "postgres://127.0.0.1/fdc", "GOOGLE_CLIENT_ID": "x", "GOOGLE_CLIENT_SECRET": "x",
		"MASTER_ENCRYPTION_KEYS": "v1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
	}
	err := execute(t.Context(), environ, []string{"demo-seed"}, io.Discard, io.Discard)
	require.ErrorAs(t, err, new(*daemon.UsageError))
	require.ErrorContains(t, err, "GOOGLE_ENDPOINT")
}
