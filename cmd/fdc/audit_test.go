package main

import (
	"bytes"
	"encoding/csv"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/internal/audit"
	"fdc/internal/audit/archive"
	"fdc/internal/platform/daemon"
)

// The audit log's way out and back: a month is archived, verified on a copy with the public key alone, changed and found out, proved row
// by row, and restored as it was.
func (d *dev) testAudit(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), d.Postgres)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(t.Context()) }) // the test may have ended it
	_, err = conn.Exec(t.Context(), `
		CREATE TABLE audit_logs_2024_01 (LIKE audit_logs INCLUDING ALL);
		ALTER TABLE audit_logs ATTACH PARTITION audit_logs_2024_01 FOR VALUES FROM ('2024-01-01 00:00:00+00') TO ('2024-02-01 00:00:00+00');
		INSERT INTO audit_logs (event_id, occurred_at, actor_id, action, target_type, target_id, result, changes)
		SELECT gen_random_uuid(), '2024-01-01 00:00:00+00'::timestamptz + n * interval '1 minute', 'system', 'task.created', 'task', n::text, 'ok',
			jsonb_build_object('version', n) FROM generate_series(1, 9000) AS n`)
	require.NoError(t, err)
	sum := func() (sum string) {
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) || ' ' || coalesce(md5(string_agg(a::text, E'\n' ORDER BY occurred_at, event_id)), '')
			FROM audit_logs a WHERE occurred_at < '2024-02-01 00:00:00+00'`).Scan(&sum))
		return sum
	}
	before := sum()
	state := func() string {
		var list struct{ Items []audit.Partition }
		d.json(t, &list, "audit", "partitions")
		require.Equal(t, "2024-01", list.Items[0].Month)
		return list.Items[0].State
	}
	out, hint := d.run(t, daemon.ExitOK, "audit", "archive", "2024-01")
	require.Contains(t, out, "2024-01 (attached")
	require.Contains(t, hint, "--yes")
	require.Equal(t, audit.StateAttached, state())
	d.run(t, daemon.ExitOK, "audit", "archive", "2024-01", "--yes")
	require.Equal(t, audit.StateArchived, state())
	require.Equal(t, "0 ", sum())
	d.audited(t, "audit.partition_archived", "2024-01", 1)
	table, _ := d.run(t, daemon.ExitOK, "audit", "partitions")
	require.Regexp(t, `2024-01 +archived +9000 .*---`, table)

	dir := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(d.Data, "archive"))))
	key := filepath.Join(d.Data, "audit-public-key.pem")
	out, _ = d.run(t, daemon.ExitOK, "audit", "verify", "--dir", dir, "--public-key", key)
	require.Contains(t, out, "9000 rows are as they were signed for")
	rows := filepath.Join(dir, "000001-2024-01", "rows.ndjson.zst")
	body, err := os.ReadFile(rows) //nolint:gosec // a test's own
	require.NoError(t, err)
	body[len(body)/2] ^= 1
	require.NoError(t, os.WriteFile(rows, body, 0o600)) //nolint:gosec // a test's own
	out, _ = d.run(t, daemon.ExitFailed, "audit", "verify", "--dir", dir, "--public-key", key)
	require.Regexp(t, `WRONG  2024-01: row \d+`, out)
	d.run(t, daemon.ExitOK, "audit", "verify", "2024-01")

	var report archive.Report
	d.json(t, &report, "audit", "verify")
	require.Len(t, report.Months, 1)
	_, problem := d.run(t, daemon.ExitFailed, "audit", "export", "--to", "2024-02-01")
	require.Contains(t, problem, "2024-01")

	d.run(t, daemon.ExitOK, "audit", "restore", "2024-01")
	require.Equal(t, audit.StateArchived, state())
	d.run(t, daemon.ExitOK, "audit", "restore", "2024-01", "--yes")
	require.Equal(t, before, sum())
	require.Equal(t, audit.StateRestored, state())
	d.audited(t, "audit.partition_restored", "2024-01", 1)

	var id string
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT event_id::text FROM audit_logs_2024_01 WHERE target_id = '4711'`).Scan(&id))
	proof, _ := d.run(t, daemon.ExitOK, "audit", "prove", id)
	file := filepath.Join(t.TempDir(), "proof.json")
	require.NoError(t, os.WriteFile(file, []byte(proof), 0o600))
	out, _ = d.run(t, daemon.ExitOK, "audit", "verify", "--proof", file, "--public-key", key)
	require.Contains(t, out, id)
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(proof, `\"4711\"`, `\"4712\"`, 1)), 0o600))
	d.run(t, daemon.ExitFailed, "audit", "verify", "--proof", file, "--public-key", key)

	out, _ = d.run(t, daemon.ExitOK, "audit", "export", "--from", "2024-01-02", "--to", "2024-01-03", "--format", "csv", "--out", file)
	require.Empty(t, out)
	exported, err := os.ReadFile(file) //nolint:gosec // a test's own
	require.NoError(t, err)
	lines, err := csv.NewReader(bytes.NewReader(exported)).ReadAll()
	require.NoError(t, err)
	require.Len(t, lines, 1+24*60)
	out, _ = d.run(t, daemon.ExitOK, "audit", "export", "--from", "2024-01-02", "--to", "2024-01-03")
	require.Equal(t, 24*60, strings.Count(out, "\n"))

	month := time.Now().UTC().Format("2006-01")
	_, err = conn.Exec(t.Context(), `DELETE FROM audit_logs WHERE occurred_at >= $1::date AND action = 'task.created'`, month+"-01")
	require.NoError(t, err)
	var plan audit.Rebuilt
	d.json(t, &plan, "audit", "rebuild", month)
	require.Positive(t, plan.Missing)
	d.run(t, daemon.ExitOK, "audit", "rebuild", month, "--yes")
	d.json(t, &plan, "audit", "rebuild", month)
	require.Zero(t, plan.Missing+plan.Different+plan.Unexplained)

	for _, wrong := range [][]string{
		{"archive"},
		{"archive", "2024-13"},
		{"archive", "2024-01", "2024-02"},
		{"verify", "x"},
		{"verify", "--dir", dir},
		{"prove", "x"},
		{"export", "--format", "xml"},
		{"export", "--from", "yesterday"},
		{"export", "--workspace", "x"},
		{"rebuild"},
		{},
	} {
		_, problem := d.run(t, daemon.ExitUsage, append([]string{"audit"}, wrong...)...)
		require.Equal(t, 1, strings.Count(problem, "\n"), "%v: %s", wrong, problem)
	}
	for _, wrong := range [][]string{
		{"archive", month},
		{"archive", "2019-01"},
		{"restore", "2019-01"},
		{"restore", "2024-01"},
		{"verify", "2019-01"},
		{"prove", "01929000-0000-7000-8000-000000000001"},
		{"verify", "--dir", "/nowhere", "--public-key", key},
		{"verify", "--dir", dir, "--public-key", "/nowhere"},
	} {
		_, problem := d.run(t, daemon.ExitFailed, append([]string{"audit"}, wrong...)...)
		require.Equal(t, 1, strings.Count(problem, "\n"), "%v: %s", wrong, problem)
	}
}
