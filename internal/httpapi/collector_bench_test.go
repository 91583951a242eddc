package httpapi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/platform/daemon"
)

// processorTime is what the process has used so far.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkCollector is the processor time of a request over 64 connections, those of the clients included: with the collector as it is by
// default, beside a ballast of 64 MiB that is never touched, and tuned as the api tunes it. The three take turns.
func BenchmarkCollector(b *testing.B) {
	registry := prometheus.NewRegistry()
	a := newAPI(Config{
		PublicURL: &url.URL{Scheme: "http", Host: "127.0.0.1"}, Log: zerolog.New(io.Discard), Metrics: registry,
		Limiter: bareLimiter(registry), RateLimitFactor: 1e6,
	})
	server := httptest.NewServer(a.router(routes()))
	defer server.Close()
	const connections, each = 64, 100
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	round := func() time.Duration {
		runtime.GC()
		before := processorTime(b)
		var clients sync.WaitGroup
		for range connections {
			clients.Go(func() {
				for range each {
					answer, err := client.Get(server.URL + "/api/health") //nolint:noctx // a benchmark
					if err != nil {
						b.Error(err)
						return
					}
					_, err = io.Copy(io.Discard, answer.Body)
					if err != nil || answer.StatusCode != http.StatusOK || answer.Body.Close() != nil {
						b.Error(answer.Status, err)
					}
				}
			})
		}
		clients.Wait()
		return processorTime(b) - before
	}
	round() // connects
	var plain, ballast, tuned time.Duration
	for b.Loop() {
		plain += round()
		floor := make([]byte, 64<<20)
		ballast += round()
		runtime.KeepAlive(floor)
		stop := daemon.TuneCollector(64 << 20)
		tuned += round()
		stop()
	}
	requests := float64(b.N * connections * each)
	b.ReportMetric(float64(tuned.Microseconds())/requests, "tuned-us/request")
	b.ReportMetric(float64(ballast.Microseconds())/requests, "ballast-us/request")
	b.ReportMetric(float64(plain.Microseconds())/requests, "default-us/request")
	b.ReportMetric(float64(plain)/float64(tuned), "default/tuned")
	b.ReportMetric(float64(ballast)/float64(tuned), "ballast/tuned")
}
