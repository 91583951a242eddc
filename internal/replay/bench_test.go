package replay_test

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/worker"
	"fdc/internal/replay"
)

// BenchmarkExport writes events as NDJSON, beside JetStream's own ordered consumer that only counts the same messages; both over
// loopback TCP from the server in this process.
func BenchmarkExport(b *testing.B) {
	n := testenv.Size(b, "FDC_REPLAY_BENCH_EVENTS", 10_000)
	r := newRig(b, natstest.WithTCP())
	r.fill(b, n)
	var ours, plain, oursCPU, plainCPU time.Duration
	for b.Loop() {
		start, cpu := time.Now(), spent(b)
		lines := replay.NewLineWriter(io.Discard)
		require.NoError(b, (&replay.Reader{NC: r.nc, JS: r.js}).Run(b.Context(), lines.Write))
		require.NoError(b, lines.Flush())
		ours, oursCPU = ours+time.Since(start), oursCPU+spent(b)-cpu
		require.EqualValues(b, n, lines.Lines)

		start, cpu = time.Now(), spent(b)
		consumer, err := r.js.OrderedConsumer(b.Context(), bus.Events, jetstream.OrderedConsumerConfig{})
		require.NoError(b, err)
		all := make(chan struct{})
		count := 0
		consuming, err := consumer.Consume(func(jetstream.Msg) {
			if count++; count == n {
				close(all)
			}
		})
		require.NoError(b, err)
		<-all
		plain, plainCPU = plain+time.Since(start), plainCPU+spent(b)-cpu
		consuming.Stop()
	}
	report(b, n, spending{ours, oursCPU}, spending{plain, plainCPU})
	b.ReportMetric(oursCPU.Seconds()*1e6/float64(n*b.N), "cpu-µs/event")
}

// spending is what reading the events took by the clock, and of the processor.
type spending struct{ clock, cpu time.Duration }

func report(b *testing.B, n int, ours, plain spending) {
	b.Helper()
	b.ReportMetric(float64(n*b.N)/ours.clock.Seconds(), "events/s")
	b.ReportMetric(float64(n*b.N)/plain.clock.Seconds(), "plain/s")
	b.ReportMetric(plain.clock.Seconds()/ours.clock.Seconds(), "ratio")
	b.ReportMetric(plain.cpu.Seconds()/ours.cpu.Seconds(), "cpu-ratio")
}

// spent is the processor time of this process, servers included: on a machine that others use too it tells more than the clock.
func spent(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReplay has a worker whose handler does nothing drain a replay, beside a plain pull consumer that acknowledges the same
// messages one by one; both over loopback TCP from the server in this process. The worker decodes and checks each event.
func BenchmarkReplay(b *testing.B) {
	n := testenv.Size(b, "FDC_REPLAY_BENCH_EVENTS", 10_000)
	r := newRig(b, natstest.WithTCP())
	r.fill(b, n)
	c, _ := bus.ConsumerNamed(bus.AuditArchiver)
	js, err := bus.JetStream(natstest.Connect(b, r.server, bus.AuditArchiver))
	require.NoError(b, err)
	var handled atomic.Int64
	all := make(chan struct{}, 1)
	w := worker.New(js, worker.Config{
		Consumer: c, BatchSize: 5000, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
		HandleBatch: func(_ context.Context, batch []*worker.Delivery) error {
			if handled.Add(int64(len(batch))) == int64(n) {
				all <- struct{}{}
			}
			return nil
		},
	})
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = w.Run(ctx) // it ends with ctx
	}()
	defer func() { stop(); <-ended }()
	<-all // live
	var ours, plain, oursCPU, plainCPU time.Duration
	for b.Loop() {
		handled.Store(0)
		// The worker looks for replays once a second; from its first event on the clock runs.
		_, err := r.js.CreateConsumer(b.Context(), bus.Events, c.ReplayConfig(bus.ReplayOrder{
			ID: events.NewID(), Until: uint64(n), StartedAt: time.Now(), //nolint:gosec // a count
		}, 1, c.Filters, 1))
		require.NoError(b, err)
		require.Eventually(b, func() bool { return handled.Load() > 0 }, patience, time.Millisecond)
		start, cpu, done := time.Now(), spent(b), handled.Load()
		<-all
		part := float64(n) / float64(max(int64(n)-done, 1)) // as if from the first event on
		ours += time.Duration(float64(time.Since(start)) * part)
		oursCPU += time.Duration(float64(spent(b)-cpu) * part)
		require.NoError(b, r.replays().Remove(b.Context(), c.Name))

		bare, err := r.js.CreateConsumer(b.Context(), bus.Events, jetstream.ConsumerConfig{
			AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: c.MaxAckPending,
		})
		require.NoError(b, err)
		start, cpu = time.Now(), spent(b)
		count, over := 0, make(chan struct{})
		consuming, err := bare.Consume(func(msg jetstream.Msg) {
			_ = msg.Ack() // the count tells
			if count++; count == n {
				close(over)
			}
		})
		require.NoError(b, err)
		<-over
		plain, plainCPU = plain+time.Since(start), plainCPU+spent(b)-cpu
		consuming.Stop()
	}
	report(b, n, spending{ours, oursCPU}, spending{plain, plainCPU})
}
