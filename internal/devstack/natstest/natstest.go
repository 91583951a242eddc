package natstest

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"fdc/internal/devstack/embednats"
	"fdc/internal/platform/bus"
)

// Option changes the server that New starts.
type Option func(*embednats.Config)

// WithTCP lets the server listen on a free loopback port, so that its URL can be given away and cut.
func WithTCP() Option { return func(c *embednats.Config) { c.Addr = "127.0.0.1:0" } }

// WithSyncAlways keeps the fsync per write of nats.conf, for tests and benchmarks in which its cost matters.
func WithSyncAlways() Option { return func(c *embednats.Config) { c.FastSync = false } }

// New starts a server for this test alone and stops it when the test and its subtests are over. Without WithTCP it
// serves this process only. It does not wait for the disk on each write.
func New(tb testing.TB, opts ...Option) *embednats.Server {
	tb.Helper()
	cfg := embednats.Config{
		StoreDir: tb.TempDir(),
		Name:     "test-" + rand.Text(),
		FastSync: true,
		Log:      zerolog.New(zerolog.NewTestWriter(tb)).Level(zerolog.WarnLevel),
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	s, err := embednats.Start(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Stop)
	return s
}

// Provisioned is New with the project's streams, buckets and consumers.
func Provisioned(tb testing.TB, opts ...Option) *embednats.Server {
	tb.Helper()
	s := New(tb, opts...)
	conn, err := s.Connect("provision", nats.CustomInboxPrefix(bus.InboxPrefix("provision")))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	if err := bus.Provision(tb.Context(), JetStream(tb, conn), 1); err != nil {
		tb.Fatal(err)
	}
	return s
}

// JetStream returns the API for the test's own requests. A slow machine answers them late; only a broken server lets them time out.
func JetStream(tb testing.TB, nc *nats.Conn) jetstream.JetStream {
	tb.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Minute))
	if err != nil {
		tb.Fatal(err)
	}
	return js
}

// Connect opens a connection as a user of nats.conf and closes it when the test is over. It lasts over restarts of the
// server.
func Connect(tb testing.TB, s *embednats.Server, user string, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	conn, err := s.Connect(user, append([]nats.Option{
		nats.CustomInboxPrefix(bus.InboxPrefix(user)), nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(conn.Close)
	return conn
}
