package replay_test

import (
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"fdc/internal/devstack/natstest"
	"fdc/internal/platform/bus"
	"fdc/internal/replay"
)

// benchEvents is how many events a benchmark reads: FDC_REPLAY_BENCH_EVENTS, or few.
func benchEvents(b *testing.B) int {
	b.Helper()
	text := os.Getenv("FDC_REPLAY_BENCH_EVENTS")
	if text == "" {
		return 10_000
	}
	n, err := strconv.Atoi(text)
	require.NoError(b, err)
	return n
}

// BenchmarkExport writes events as NDJSON, beside JetStream's own ordered consumer that only counts the same messages; both over
// loopback TCP from the server in this process.
func BenchmarkExport(b *testing.B) {
	n := benchEvents(b)
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
	b.ReportMetric(float64(n*b.N)/ours.Seconds(), "events/s")
	b.ReportMetric(float64(n*b.N)/plain.Seconds(), "plain/s")
	b.ReportMetric(plain.Seconds()/ours.Seconds(), "ratio")
	b.ReportMetric(plainCPU.Seconds()/oursCPU.Seconds(), "cpu-ratio")
	b.ReportMetric(oursCPU.Seconds()*1e6/float64(n*b.N), "cpu-µs/event")
}

// spent is the processor time of this process, servers included: on a machine that others use too it tells more than the clock.
func spent(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
