package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime/metrics"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// relayCommand runs nothing but a relay, so that the process's memory is the relay's.
const relayCommand = "relay"

type relayRequest struct {
	Postgres string `json:"postgres"`
	NATS     string `json:"nats"`
}

// relayMemory is the most that the process used at any time, in bytes.
type relayMemory struct {
	Heap     float64 `json:"heap"`     // live and not yet collected objects
	Resident float64 `json:"resident"` // of the whole process; 0 where the system doesn't tell
}

// outboxMemory drains a short and a ten times longer backlog: memory that is flat in the backlog gives a ratio of about 1.
func outboxMemory(ctx context.Context, b *bench) ([]sample, error) {
	const short, long = 100_000, 1_000_000
	small, err := b.drainMemory(ctx, short)
	if err != nil {
		return nil, err
	}
	b.tell("%d rows drained", short)
	large, err := b.drainMemory(ctx, long)
	if err != nil {
		return nil, err
	}
	about := func(what string) line {
		return line{
			Case: fmt.Sprintf("outbox: the relay's %s, backlog of %d against %d", what, long, short),
			Ours: "long", Baseline: "short", Unit: megabytes, Target: target{Ratio: 0.8},
		}
	}
	samples := []sample{{line: about("heap peak"), ours: large.Heap / 1e6, baseline: small.Heap / 1e6}}
	if large.Resident > 0 {
		samples = append(samples, sample{line: about("resident peak"), ours: large.Resident / 1e6, baseline: small.Resident / 1e6})
	}
	return samples, nil
}

func (b *bench) drainMemory(ctx context.Context, n int) (used relayMemory, err error) {
	const chunk = 100_000
	err = b.inWorld(ctx, func(w *world) error {
		for filled := 0; filled < n; filled += chunk {
			if err := w.fill(ctx, history(min(chunk, n-filled))); err != nil {
				return err
			}
		}
		if err := w.settle(ctx); err != nil {
			return err
		}
		relay, err := startChild(ctx, relayCommand, relayRequest{Postgres: w.db.URL, NATS: w.nats.URL("api")})
		if err != nil {
			return err
		}
		err = w.stored(ctx, n)
		if err == nil {
			err = w.emptied(ctx)
		}
		return errors.Join(err, relay.end(&used))
	})
	return used, err
}

// runRelay relays until its input ends, and prints what memory it took.
func runRelay(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	var request relayRequest
	decoder := json.NewDecoder(stdin)
	if err := decoder.Decode(&request); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	ctx, cancel := untilEOF(ctx, stdin)
	defer cancel()
	nc, err := bus.Connect(bus.Config{URL: request.NATS}, "api", zerolog.Nop())
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := bus.JetStream(nc)
	if err != nil {
		return err
	}
	db := postgres.Config{URL: request.Postgres, MaxConns: 2, ConnectTimeout: 10 * time.Second, QueryTimeout: time.Minute}
	stop := background(ctx, outbox.NewRelay(db, js, zerolog.Nop(), prometheus.NewRegistry()).Run)
	used := relayMemory{Heap: peakHeap(ctx)}
	if err := stop(); err != nil {
		return err
	}
	used.Resident = peakResident()
	return json.NewEncoder(stdout).Encode(used)
}

// peakHeap watches the heap until ctx ends.
func peakHeap(ctx context.Context) float64 {
	reading := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	var peak uint64
	for {
		metrics.Read(reading)
		peak = max(peak, reading[0].Value.Uint64())
		select {
		case <-ctx.Done():
			return float64(peak)
		case <-again.C:
		}
	}
}

// peakResident is 0 where there is no /proc.
func peakResident() float64 { return processMemory("VmHWM") }

// processMemory is a field of what Linux tells about the process.
func processMemory(field string) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	match := regexp.MustCompile(field + `:\s*(\d+) kB`).FindSubmatch(status)
	if match == nil {
		return 0
	}
	kilobytes, err := strconv.ParseFloat(string(match[1]), 64)
	if err != nil {
		return 0
	}
	return kilobytes * 1024
}
