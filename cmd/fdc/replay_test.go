package main

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/daemon"
	"fdc/internal/replay"
)

// The audit log loses rows of this month, and a replay brings back the very same; a second one adds nothing.
func (d *dev) testReplay(t *testing.T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.Postgres)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	month := time.Now().UTC().Format("2006-01") + "-01"
	// What replays leave behind themselves comes later: the facts up to this moment are compared.
	var until time.Time
	sum := func() (sum string) {
		t.Helper()
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) || ' ' || coalesce(md5(string_agg(a::text, E'\n' ORDER BY occurred_at, event_id)), '')
			FROM audit_logs a WHERE occurred_at >= $1::date AND occurred_at < $2`, month, until).Scan(&sum))
		return sum
	}
	lose := func() {
		t.Helper()
		_, err := conn.Exec(t.Context(), `DELETE FROM audit_logs WHERE occurred_at >= $1::date AND occurred_at < $2`, month, until)
		require.NoError(t, err)
		require.Equal(t, "0 ", sum())
	}
	// The demo's first sync is over, and all facts have left the outbox and are rows.
	require.Eventually(t, func() bool {
		status := d.status(t)
		if status.Outbox.Pending > 0 || status.SyncJobs.Pending+status.SyncJobs.Processing > 0 || status.SyncJobs.Completed == 0 {
			return false
		}
		for _, c := range status.Consumers {
			if c.Pending+uint64(c.AckPending) > 0 { //nolint:gosec // a count
				return false
			}
		}
		return true
	}, patience, 100*time.Millisecond)
	until = time.Now()
	last := strconv.FormatUint(stream(t, d.status(t), "EVENTS").LastSeq, 10)
	before := sum()
	var replays int // that others have left
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM audit_logs WHERE action = 'ops.replayed' AND target_id = 'audit-archiver'`).Scan(&replays))
	to := []string{"replay", "--to", "audit-archiver"}
	with := func(args ...string) []string { return append(append([]string{}, to...), args...) }

	var plan replay.Plan
	d.json(t, &plan, with("--to-seq", last)...)
	require.Equal(t, last, strconv.FormatInt(plan.Count, 10))
	require.EqualValues(t, 1, plan.FirstSequence)
	require.Positive(t, plan.ByType["task.created"])
	_, hint := d.run(t, daemon.ExitOK, with("--to-seq", last)...)
	require.Contains(t, hint, "--yes")
	var shadow replay.ShadowReport
	d.json(t, &shadow, with("--to-seq", last, "--shadow")...)
	require.Equal(t, replay.ShadowReport{Consumer: "audit-archiver", Count: plan.Count, Same: plan.Count, Examples: []replay.Example{}}, shadow)

	lose()
	d.json(t, &shadow, with("--to-seq", last, "--shadow")...)
	require.Equal(t, plan.Count, shadow.WouldChange)
	require.Equal(t, "0 ", sum(), "a shadow changes nothing")
	for range 2 {
		out, _ := d.run(t, daemon.ExitOK, with("--yes")...)
		require.Contains(t, out, "none became a dead letter")
		require.Equal(t, before, sum())
	}
	d.audited(t, "ops.replayed", "audit-archiver", replays+2)

	// The command is killed in the middle; somebody else goes on.
	lose()
	killed := command(t, with("--to-seq", last, "--rate", "80", "--yes", "--data", d.Data)...)
	require.NoError(t, killed.Start())
	require.Eventually(t, func() bool { return sum() != "0 " }, patience, 20*time.Millisecond)
	require.NoError(t, killed.Process.Kill())
	_ = killed.Wait() // it was killed
	_, problem := d.run(t, daemon.ExitFailed, with("--yes")...)
	require.Contains(t, problem, "--resume")
	require.NotEqual(t, before, sum(), "it is not over yet")
	out, _ := d.run(t, daemon.ExitOK, with("--resume")...)
	require.Contains(t, out, last+" events")
	require.Equal(t, before, sum())
	d.audited(t, "ops.replayed", "audit-archiver", replays+3)

	// Ctrl-C pauses; given up, it is over.
	paused := command(t, with("--to-seq", last, "--rate", "20", "--yes", "--data", d.Data)...)
	require.NoError(t, paused.Start())
	require.Eventually(t, func() bool {
		return command(t, with("--abandon", "--data", d.Data)...).Run() == nil // a plan: it has begun
	}, patience, 20*time.Millisecond)
	require.NoError(t, paused.Process.Signal(os.Interrupt))
	require.Error(t, paused.Wait())
	require.Equal(t, daemon.ExitFailed, paused.ProcessState.ExitCode())
	_, problem = d.run(t, daemon.ExitFailed, with("--yes")...)
	require.Contains(t, problem, "paused")
	d.run(t, daemon.ExitOK, with("--abandon", "--yes")...)
	d.run(t, daemon.ExitFailed, with("--resume")...)

	// A file, for what the stream no longer holds.
	file := filepath.Join(t.TempDir(), "events.ndjson")
	d.run(t, daemon.ExitOK, "events", "export", "--to-seq", last, "--out", file)
	lose()
	d.run(t, daemon.ExitOK, with("--file", file, "--yes")...)
	require.Equal(t, before, sum())
	broken := filepath.Join(t.TempDir(), "broken.ndjson")
	text, err := os.ReadFile(file) //nolint:gosec // the test's own
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(broken, append(text, "{}\n"...), 0o600)) //nolint:gosec // the test's own
	lastLine, err := strconv.Atoi(last)
	require.NoError(t, err)
	_, problem = d.run(t, daemon.ExitFailed, with("--file", broken, "--yes")...)
	require.Contains(t, problem, "line "+strconv.Itoa(lastLine+1))
	require.Zero(t, stream(t, d.status(t), "REPLAY").Messages)
	_, problem = d.run(t, daemon.ExitFailed, "events", "import", file, "--yes")
	require.Contains(t, problem, "not in the file")

	t.Run("others", func(t *testing.T) { //nolint:paralleltest // the stack is shared
		for _, consumer := range []string{"syncer", "cache-invalidator"} {
			t.Run(consumer, func(t *testing.T) {
				t.Parallel()
				var shadow replay.ShadowReport
				d.json(t, &shadow, "replay", "--to", consumer, "--shadow")
				require.Equal(t, shadow.Count, shadow.Same+shadow.WouldChange)
				d.run(t, daemon.ExitOK, "replay", "--to", consumer, "--yes")
			})
		}
	})
	_, problem = d.run(t, daemon.ExitFailed, with("--user", events.NewID(), "--yes")...)
	require.Contains(t, problem, "Nothing is selected")
	d.run(t, daemon.ExitFailed, "replay", "--to", "syncer", "--type", "task.created")
	d.run(t, daemon.ExitFailed, with("--file", "nowhere")...)
	_, problem = d.run(t, daemon.ExitUsage, "replay", "--to", "nobody")
	require.Contains(t, problem, consumerNames())
	for _, wrong := range [][]string{
		{"replay"},
		with("x"),
		with("--rate", "0"),
		with("--rate", "-1", "--yes"),
		with("--resume", "--abandon"),
		with("--resume", "--type", "task.*"),
		with("--shadow", "--rate", "3"),
		with("--file", ""),
		with("--from-seq", "2", "--to-seq", "1"),
		{"events", "import"},
	} {
		d.run(t, daemon.ExitUsage, wrong...)
	}
}
