package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"fdc/internal/platform/bus"
	"fdc/internal/service"
)

// printed is what a terminal has been sent so far.
type printed struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// On a terminal of 80 × 24 the status is a screen of its own, drawn anew each second, no line too long and none too many; Ctrl-C gives the
// terminal back as it was.
func (d *dev) testWatch(t *testing.T) {
	t.Helper()
	cmd := command(t, "status", "--watch", "--data", d.Data)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	require.NoError(t, err)
	defer terminal.Close() //nolint:errcheck // the other end is gone by then
	var out printed
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(&out, terminal) // it ends with an error on Linux, when the other end is closed
	}()
	require.Eventually(t, func() bool { return strings.Count(out.String(), toTop) >= 3 }, patience, 20*time.Millisecond)
	_, err = terminal.Write([]byte{3}) // Ctrl-C, as the keyboard sends it
	require.NoError(t, err)
	require.NoError(t, cmd.Wait(), "%s", out.String())
	<-ended

	all := out.String()
	require.True(t, strings.HasPrefix(all, enterScreen), "%q", all)
	require.True(t, strings.HasSuffix(all, leaveScreen), "%q", all)
	for _, frame := range strings.Split(all, toTop)[1:] {
		frame, _, _ = strings.Cut(frame, clearRest)
		lines := strings.Split(frame, "\r\n")
		require.LessOrEqual(t, len(lines), 24)
		for _, line := range lines {
			require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, clearLine)), 80, "%q", line)
		}
		require.Contains(t, frame, "audit-archiver")
		require.Contains(t, frame, "OUTBOX")
		require.NotContains(t, frame, "more lines", "80 × 24 hold all of it")
	}

	// Elsewhere it is lines: text, or JSON with the rates.
	cmd = command(t, "status", "--watch", "--json", "--data", d.Data)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stdout)
	var last time.Time
	for range 2 {
		require.True(t, lines.Scan())
		var w watched
		require.NoError(t, json.Unmarshal(lines.Bytes(), &w))
		require.True(t, w.Time.After(last))
		last = w.Time
		require.Contains(t, w.Rates, bus.Events)
		require.NotEmpty(t, w.Consumers)
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait())

	cmd = command(t, "status", "--watch", "--data", d.Data)
	stdout, err = cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines = bufio.NewScanner(stdout)
	for looks := 0; looks < 2; {
		require.True(t, lines.Scan())
		require.NotContains(t, lines.Text(), "\x1b")
		if lines.Text() == "STREAMS" {
			looks++
		}
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait())
}

func TestRates(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	status := func(last uint64) service.Status {
		return service.Status{Streams: []service.StreamStatus{{Name: bus.Events, LastSeq: last}}}
	}
	first := look(at, status(100), nil)
	require.Zero(t, first.Rates[bus.Events])
	second := look(at.Add(2*time.Second), status(150), &first)
	require.InDelta(t, 25, second.Rates[bus.Events], 0.001)
	require.Zero(t, look(at.Add(3*time.Second), status(10), &second).Rates[bus.Events], "made anew")
}

// A small terminal gets what fits, and is told that there is more; a problem comes first, over what was last known.
func TestFrames(t *testing.T) {
	t.Parallel()
	c := &cli{stdout: io.Discard}
	w := look(time.Now(), service.Status{Streams: make([]service.StreamStatus, 40)}, nil)
	for _, size := range [][2]int{{80, 24}, {40, 10}, {10, 3}, {1, 1}} {
		frame := c.frame(size[0], size[1], &w, errors.New("NATS\tdoes not\nanswer, 日本語"))
		lines := strings.Split(strings.TrimSuffix(strings.TrimPrefix(frame, toTop), clearRest), "\r\n")
		require.Len(t, lines, size[1])
		for _, line := range lines {
			require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, clearLine)), size[0], "%q", line)
		}
	}
	require.Contains(t, c.frame(80, 24, &w, errors.New("NATS\tdoes not\nanswer")), "NO NEWER STATUS: NATS does not answer")
	require.Contains(t, c.frame(80, 24, &w, nil), "more lines")
}
