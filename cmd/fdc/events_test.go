package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/daemon"
)

// eventLine is a line of fdc events.
type eventLine struct {
	Sequence uint64
	Subject  string
	Time     string
	Event    events.Event
}

func parseEvents(t *testing.T, out string) []eventLine {
	t.Helper()
	var list []eventLine
	for line := range strings.Lines(out) {
		var one eventLine
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.DisallowUnknownFields()
		require.NoError(t, decoder.Decode(&one), "%s", line)
		list = append(list, one)
	}
	return list
}

func (d *dev) testEvents(t *testing.T) {
	t.Helper()
	d.seeded(t)
	out, said := d.run(t, daemon.ExitOK, "events", "export", "--to-seq", "200")
	all := parseEvents(t, out)
	require.Len(t, all, 200)
	require.Contains(t, said, "200 events exported, sequences 1 to 200")
	one, _ := d.run(t, daemon.ExitOK, "events", "get", "200")
	require.Equal(t, all[199], parseEvents(t, one)[0])
	out, _ = d.run(t, daemon.ExitOK, "events", "export", "--to-seq", "200", "--type", "task.*", "--type", "sync.requested")
	for _, e := range parseEvents(t, out) {
		require.Regexp(t, `^evt\.(task|sync\.requested)\.`, e.Subject)
	}
	_, problem := d.run(t, daemon.ExitFailed, "events", "get", "99999999")
	require.Contains(t, problem, "There is no event 99999999 yet")

	// A file is whole; one that was cut off is gone on with.
	file := filepath.Join(t.TempDir(), "events.ndjson")
	d.run(t, daemon.ExitOK, "events", "export", "--to-seq", "200", "--out", file)
	whole, err := os.ReadFile(file) //nolint:gosec // the test's own
	require.NoError(t, err)
	require.Len(t, parseEvents(t, string(whole)), 200)
	require.NoError(t, os.Remove(file))
	for _, cut := range []int{0, 10, len(whole) / 2, len(whole)} {
		require.NoError(t, os.WriteFile(file+".part", whole[:cut], 0o600)) //nolint:gosec // the test's own
		d.run(t, daemon.ExitOK, "events", "export", "--to-seq", "200", "--out", file, "--resume")
		again, err := os.ReadFile(file) //nolint:gosec // the test's own
		require.NoError(t, err)
		require.True(t, bytes.Equal(whole, again), "cut at %d", cut)
		require.NoFileExists(t, file+".part")
	}

	tail := command(t, "events", "tail", "--from-seq", "199", "--data", d.Data)
	stdout, err := tail.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, tail.Start())
	heard := bufio.NewScanner(stdout)
	heard.Buffer(nil, 1<<20)
	require.True(t, heard.Scan())
	require.Equal(t, all[198], parseEvents(t, heard.Text())[0])
	d.signIn(t, "alice@example.com")
	last := uint64(198)
	for created := false; !created && heard.Scan(); last++ {
		e := parseEvents(t, heard.Text())[0]
		require.Equal(t, last+2, e.Sequence)
		created = e.Event.Action() == "session.created" && e.Sequence > 200
	}
	require.NoError(t, tail.Process.Signal(os.Interrupt))
	for heard.Scan() { // until it has ended
	}
	require.NoError(t, tail.Wait(), "Ctrl-C is a good end")

	for _, wrong := range [][]string{
		{"tail", "x"},
		{"tail", "--since", "soon"},
		{"tail", "--user", "alice@example.com"},
		{"get"},
		{"get", "0"},
		{"get", "-1"},
		{"export", "--type", ""},
		{"export", "--type", "task"},
		{"export", "--since", ""},
		{"export", "--from-seq", "9", "--to-seq", "4"},
		{"export", "--since", "1h", "--until", "2h"},
		{"export", "--resume"},
		{"export", "--out", ""},
		{"export", "--workspace", "Demo"},
		{"export", "--type", "session.*", "--workspace", events.NewID()},
	} {
		d.run(t, daemon.ExitUsage, append([]string{"events"}, wrong...)...)
	}
	_, problem = d.run(t, daemon.ExitUsage, "events", "export", "--from-seq", strconv.Itoa(-1), "--type", "x")
	require.Contains(t, problem, "--from-seq")
	require.Contains(t, problem, "--type")
}
