package replay_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/replay"
)

// line is what an export writes of an event.
func line(tb testing.TB, sequence uint64, ev events.Event) string {
	tb.Helper()
	body, err := events.Encode(ev)
	require.NoError(tb, err)
	return written(tb, replay.Stored{Sequence: sequence, Subject: ev.NATSSubject(), Time: noon, Body: body})
}

func written(tb testing.TB, stored ...replay.Stored) string {
	tb.Helper()
	var b bytes.Buffer
	lines := replay.NewLineWriter(&b)
	for _, s := range stored {
		require.NoError(tb, lines.Write(s))
	}
	require.NoError(tb, lines.Flush())
	return b.String()
}

func TestAFileIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	first, second := task(alice), denied()
	file := line(t, 7, first) + strings.TrimSuffix(line(t, 9, second), "\n") // an editor took the end of the last line
	var got []replay.Line
	require.NoError(t, replay.ReadLines(strings.NewReader(file), func(l replay.Line) error {
		l.Body = bytes.Clone(l.Body)
		got = append(got, l)
		return nil
	}))
	require.Len(t, got, 2)
	for i, want := range []events.Event{first, second} {
		body, err := events.Encode(want)
		require.NoError(t, err)
		require.Equal(t, replay.Line{Number: i + 1, Sequence: []uint64{7, 9}[i], Subject: want.NATSSubject(), Time: noon, Event: want, Body: body}, got[i])
	}
}

func TestALineThatIsNoneIsNamed(t *testing.T) {
	t.Parallel()
	good := line(t, 1, task(alice))
	for name, c := range map[string]struct{ line, want string }{
		"empty":               {"\n", "empty"},
		"no JSON":             {"{\"sequence\":\n", "want a line of fdc events export"},
		"cut off":             {good[:len(good)/2], "want a line"},
		"two in a line":       {strings.TrimSuffix(good, "\n") + good, "one JSON object a line"},
		"another field":       {strings.Replace(good, `{"sequence"`, `{"offset":3,"sequence"`, 1), "offset"},
		"negative sequence":   {strings.Replace(good, `"sequence":1`, `"sequence":-1`, 1), "sequence"},
		"no event":            {`{"sequence":1,"subject":"evt.task.created.v1.x"}` + "\n", "event: missing"},
		"an event of nothing": {`{"sequence":1,"subject":"x","event":{}}` + "\n", "event"},
		"another subject":     {strings.Replace(good, "evt.task.created", "evt.task.deleted", 1), "subject: want evt.task.created"},
		"unknown type":        {strings.ReplaceAll(good, "task.created", "task.frobnicated"), "unknown event type"},
		"unreadable":          {written(t, replay.Stored{Sequence: 4, Subject: "evt.x", Time: noon, Body: []byte("{")}), "take the line out"},
		"too long":            {strings.Repeat("x", 3<<20) + "\n", "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := replay.ReadLines(strings.NewReader(good+c.line), func(replay.Line) error { return nil })
			require.ErrorContains(t, err, "line 2: ")
			require.ErrorContains(t, err, c.want)
		})
	}
}

// Whatever bytes the stream holds, an export has a line of JSON for each, and gives valid ones through unchanged.
func TestAnyBodyIsALine(t *testing.T) {
	t.Parallel()
	for _, body := range []string{`{"a":1}`, "{\"a\":\n 1}", "\xff\x00", "", `"text"`, "null", "{"} {
		out := written(t, replay.Stored{Sequence: 1, Subject: "evt.\"x\"\xfe", Time: noon, Body: []byte(body)})
		require.Equal(t, 1, strings.Count(out, "\n"))
		var got struct {
			Event json.RawMessage
			Body  []byte
		}
		require.NoError(t, json.Unmarshal([]byte(out), &got), "%s", out)
		if json.Valid([]byte(body)) {
			require.JSONEq(t, body, string(got.Event))
		} else {
			require.Equal(t, body, string(got.Body))
		}
	}
}

func TestAnInterruptedFileIsCutBehindItsLastLine(t *testing.T) {
	t.Parallel()
	whole := line(t, 3, task(alice)) + line(t, 8, task(bob))
	for name, c := range map[string]struct {
		content, kept string
		last          uint64
	}{
		"empty":                      {"", "", 0},
		"whole":                      {whole, whole, 8},
		"a line is cut":              {whole + line(t, 9, task(bob))[:50], whole, 8},
		"the first line is cut":      {whole[:40], "", 0},
		"larger than what is looked": {strings.Repeat(whole, 10_000) + "{", strings.Repeat(whole, 10_000), 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			name := filepath.Join(t.TempDir(), "x.part")
			require.NoError(t, os.WriteFile(name, []byte(c.content), 0o600))
			f, err := os.OpenFile(name, os.O_RDWR, 0) //nolint:gosec // the test's own
			require.NoError(t, err)
			last, err := replay.Truncate(f)
			require.NoError(t, err)
			require.Equal(t, c.last, last)
			require.NoError(t, f.Close())
			kept, err := os.ReadFile(name) //nolint:gosec // the test's own
			require.NoError(t, err)
			require.True(t, c.kept == string(kept), "%d bytes instead of %d", len(kept), len(c.kept))
		})
	}
}

// What the decoder takes, the encoder gives back, and reading that again changes nothing.
func FuzzReadLines(f *testing.F) {
	f.Add(line(f, 1, task(alice)) + line(f, 1<<62, denied()))
	f.Add(written(f, replay.Stored{Sequence: 1, Subject: "evt.x", Time: time.Time{}, Body: []byte("\xff")}))
	f.Add("{}\n\n{\"event\":null}\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		read := func(text string) (again string, n int) {
			var b bytes.Buffer
			lines := replay.NewLineWriter(&b)
			_ = replay.ReadLines(strings.NewReader(text), func(l replay.Line) error {
				n++
				require.Equal(t, n, l.Number)
				require.Equal(t, l.Event.NATSSubject(), l.Subject)
				return lines.Write(replay.Stored{Sequence: l.Sequence, Subject: l.Subject, Time: l.Time, Body: l.Body})
			})
			require.NoError(t, lines.Flush())
			return b.String(), n
		}
		once, n := read(text)
		twice, m := read(once)
		require.Equal(t, n, m)
		require.Equal(t, once, twice)
	})
}
