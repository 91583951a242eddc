package main

import (
	"bufio"
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNumbersHaveThreeDigits(t *testing.T) {
	t.Parallel()
	for value, want := range map[float64]string{
		0: "0", 0.0701234: "0.0701", 0.5: "0.5", 1: "1", 2.004: "2", 9.999: "10", 12.34: "12.3", 177.2: "177", 23_449: "23400", 1_000_000: "1000000",
	} {
		require.Equal(t, want, number(value))
	}
}

func TestQuantiles(t *testing.T) {
	t.Parallel()
	values := []float64{5, 1, 4, 2, 3}
	require.InDelta(t, 3.0, median(values), 0)
	require.InDelta(t, 1.0, quantile(values, 0), 0)
	require.InDelta(t, 4.96, quantile(values, 0.99), 1e-9)
	require.InDelta(t, 2.5, median([]float64{2, 3}), 0)
	require.Equal(t, []float64{5, 1, 4, 2, 3}, values, "the caller's order is kept")
}

func TestRatiosSayHowManyTimesBetterOursIs(t *testing.T) {
	t.Parallel()
	var r report
	fast := line{Case: "fast", Ours: "we", Baseline: "they", Unit: perSecond, Target: target{Ratio: 10}}
	soon := line{Case: "soon", Ours: "we", Baseline: "they", Unit: milliseconds, Target: target{AtMost: 5}}
	alone := line{Case: "alone", Ours: "we", Baseline: "they", Unit: perSecond}
	bare := line{Case: "bare", Ours: "we", Unit: microseconds, Target: target{AtMost: 1}}
	for _, factor := range []float64{8, 11, 12} {
		r.add([]sample{
			{line: fast, ours: 100 * factor, baseline: 100},
			{line: soon, ours: 6, baseline: 6 * factor},
			{line: alone, ours: 1000, absent: "not installed"},
			{line: bare, ours: 0.5},
		})
	}
	var text strings.Builder
	require.NoError(t, r.print(&text))
	_, table, found := strings.Cut(text.String(), "\n\n")
	require.True(t, found)
	require.Equal(t, strings.TrimLeft(`
| case  | ours      | baseline            | ratio      | target        |
|---|---|---|---|---|
| fast  | we 1100/s | they 100/s          | 11× (8–12) | ≥ 10× met     |
| soon  | we 6 ms   | they 66 ms          | 11× (8–12) | ≤ 5 ms MISSED |
| alone | we 1000/s | they: not installed | –          | –             |
| bare  | we 0.5 µs | –                   | –          | ≤ 1 µs met    |
`, "\n"), table)
}

func TestReadAnswer(t *testing.T) {
	t.Parallel()
	const next = "HTTP/1.1 204 No Content\r\n\r\n"
	for name, test := range map[string]struct {
		wire   string
		status int
		etag   string
		wrong  bool
	}{
		"length":         {wire: "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello" + next, status: 200},
		"chunked":        {wire: "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n" + next, status: 404},
		"not modified":   {wire: "HTTP/1.1 304 Not Modified\r\nETag: \"7\"\r\nContent-Length: 5\r\n\r\n" + next, status: 304, etag: `"7"`},
		"without length": {wire: "HTTP/1.1 200 OK\r\n\r\nhello", wrong: true},
		"cut":            {wire: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", wrong: true},
		"no HTTP":        {wire: "SSH-2.0-OpenSSH_9.9\r\n", wrong: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reader := bufio.NewReader(strings.NewReader(test.wire))
			status, etag, err := readAnswer(reader)
			if test.wrong {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.status, status)
			require.Equal(t, test.etag, etag)
			status, _, err = readAnswer(reader)
			require.NoError(t, err, "the next answer begins where this one ends")
			require.Equal(t, 204, status)
		})
	}
}

func TestWithHeader(t *testing.T) {
	t.Parallel()
	wire := []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.Equal(t, "GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"7\"\r\n\r\n", string(withHeader(wire, "If-None-Match", `"7"`)))
	require.Equal(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", string(wire), "the next request begins as this one did")
}

func TestOpenLoopMakesUpForTheTimeItWasLate(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	err := openLoop(t.Context(), 1000, 100*time.Millisecond, func(context.Context) error {
		calls.Add(1)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, int64(100), calls.Load())
}

func TestAnEventIsCountedOnce(t *testing.T) {
	t.Parallel()
	sent, arrived := newMoments(), newMoments()
	now := time.Now()
	for _, id := range []string{"a", "b"} {
		sent.record(id, now)
		arrived.record(id, now.Add(time.Second))
	}
	took, err := arrived.since(t.Context(), sent)
	require.NoError(t, err)
	require.Equal(t, []time.Duration{time.Second, time.Second}, took)

	arrived.record("a", now)
	_, err = arrived.since(t.Context(), sent)
	require.ErrorContains(t, err, "more than once")
}
