package embednats_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/embednats"
)

var users = []string{"provision", "api", "syncer", "cache-invalidator", "audit-archiver", "ops", "sys"}

func start(t *testing.T, cfg embednats.Config) *embednats.Server {
	t.Helper()
	if cfg.StoreDir == "" {
		cfg.StoreDir = t.TempDir()
	}
	cfg.Log = zerolog.New(zerolog.NewTestWriter(t))
	s, err := embednats.Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	return s
}

// connect returns a connection and a channel that gets a value at each reconnect.
func connect(t *testing.T, s *embednats.Server, user string) (*nats.Conn, <-chan struct{}) {
	t.Helper()
	reconnected := make(chan struct{}, 8)
	conn, err := s.Connect(user, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { reconnected <- struct{}{} }))
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	return conn, reconnected
}

func receive(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came in 20 s")
	}
}

func TestEveryUserConnects(t *testing.T) {
	t.Parallel()
	for name, addr := range map[string]string{"in process": "", "TCP": "127.0.0.1:0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, embednats.Config{Addr: addr, Passwords: map[string]string{"ops": `o"p\s` + "\t12"}})
			require.Equal(t, `o"p\s`+"\t12", s.Password("ops"))
			for _, user := range users {
				require.NotEmpty(t, s.Password(user))
				conn, _ := connect(t, s, user)
				require.NoError(t, conn.Flush())
			}
			_, err := s.Connect("nobody")
			require.ErrorContains(t, err, `no user "nobody"`)
			require.Equal(t, addr == "", s.URL("ops") == "")
			if addr != "" {
				_, err := nats.Connect(s.URL("nobody"))
				require.ErrorIs(t, err, nats.ErrAuthorization)
				direct, err := nats.Connect(s.URL("ops"))
				require.NoError(t, err)
				direct.Close()
			}
			require.Empty(t, s.MonitorURL())
		})
	}
}

func TestRestartKeepsPortAndStore(t *testing.T) {
	t.Parallel()
	for name, addr := range map[string]string{"in process": "", "TCP": "127.0.0.1:0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, embednats.Config{Addr: addr})
			conn, reconnected := connect(t, s, "provision")
			js, err := jetstream.New(conn)
			require.NoError(t, err)
			_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KEEP", Subjects: []string{"keep.>"}})
			require.NoError(t, err)
			_, err = js.Publish(t.Context(), "keep.one", []byte("1"))
			require.NoError(t, err)
			before := s.URL("ops")

			require.NoError(t, s.Restart(t.Context()))
			receive(t, reconnected)
			s.Stop()
			_, err = s.Connect("provision")
			require.ErrorIs(t, err, nats.ErrNoServers)
			require.NoError(t, s.Restart(t.Context()))
			receive(t, reconnected)

			require.Equal(t, before, s.URL("ops"))
			stream, err := js.Stream(t.Context(), "KEEP")
			require.NoError(t, err)
			message, err := stream.GetLastMsgForSubject(t.Context(), "keep.one")
			require.NoError(t, err)
			require.Equal(t, "1", string(message.Data))
		})
	}
}

func TestAnotherServerFindsTheStore(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a new folder", `wörk "quoted" \`)
	for _, want := range []uint64{1, 2} {
		s := start(t, embednats.Config{StoreDir: dir})
		conn, _ := connect(t, s, "provision")
		js, err := jetstream.New(conn)
		require.NoError(t, err)
		_, err = js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "KEEP", Subjects: []string{"keep.>"}})
		require.NoError(t, err)
		ack, err := js.Publish(t.Context(), "keep.one", nil)
		require.NoError(t, err)
		require.Equal(t, want, ack.Sequence)
		s.Stop()
	}
}

func TestTakenPort(t *testing.T) {
	t.Parallel()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close() //nolint:errcheck // nothing was written to it
	_, err = embednats.Start(t.Context(), embednats.Config{StoreDir: t.TempDir(), Addr: ln.Addr().String(), Log: zerolog.Nop()})
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.ErrorContains(t, err, ln.Addr().String())
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, tc := range map[string]struct {
		cfg  embednats.Config
		want string
	}{
		"store is a file": {embednats.Config{StoreDir: file}, file},
		"no store":        {embednats.Config{}, "no store directory"},
		"no port":         {embednats.Config{StoreDir: t.TempDir(), Addr: "127.0.0.1"}, "127.0.0.1"},
		"port too large":  {embednats.Config{StoreDir: t.TempDir(), Addr: "127.0.0.1:70000"}, "70000"},
		"unknown user":    {embednats.Config{StoreDir: t.TempDir(), Passwords: map[string]string{"eve": "x"}}, `"eve"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := embednats.Start(t.Context(), tc.cfg)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestMonitor(t *testing.T) {
	t.Parallel()
	s := start(t, embednats.Config{Addr: "127.0.0.1:0", Monitor: true})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.MonitorURL()+"/healthz", nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode)
}
