package archive

import (
	"crypto/ed25519"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/audit"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/postgres"
)

// filled is a log with n rows, spread over twelve months that are over.
func filled(b *testing.B, n int) *pgtest.DB {
	b.Helper()
	db := ensured(b)
	first := audit.MonthOf(time.Now()).Add(-12)
	_, err := audit.EnsurePartitions(b.Context(), db.Pool, first.Start(), 11)
	require.NoError(b, err)
	_, err = db.Pool.Exec(b.Context(), `
		INSERT INTO audit_logs (event_id, occurred_at, workspace_id, actor_id, action, target_type, target_id, request_id, ip, user_agent, result, changes)
		SELECT gen_random_uuid(), $1::timestamptz + n * ($2::timestamptz - $1) / $3::bigint,
			('00000000-0000-7000-8000-' || lpad((n % 1000)::text, 12, '0'))::uuid, 'actor-' || n % 5000, 'task.updated', 'task',
			gen_random_uuid()::text, gen_random_uuid()::text, '192.0.2.' || n % 256, 'Mozilla/5.0 (X11; Linux x86_64)', 'ok',
			jsonb_build_object('taskId', gen_random_uuid(), 'version', n, 'changed', '["title"]'::jsonb)
		FROM generate_series(0, $3::bigint - 1) AS n`, first.Start(), audit.MonthOf(time.Now()).Start(), n)
	require.NoError(b, err)
	_, err = db.Pool.Exec(b.Context(), `VACUUM ANALYZE audit_logs`)
	require.NoError(b, err)
	return db
}

// BenchmarkArchive is a month of so many rows to a folder, read back there, and verified again; and the memory that takes.
func BenchmarkArchive(b *testing.B) {
	n := testenv.Size(b, "FDC_AUDIT_BENCH_ROWS", 20_000)
	db := ensured(b)
	month := audit.MonthOf(time.Now()).Add(-1)
	_, err := audit.EnsurePartitions(b.Context(), db.Pool, month.Start(), 0)
	require.NoError(b, err)
	_, err = db.Pool.Exec(b.Context(), `
		INSERT INTO audit_logs (event_id, occurred_at, workspace_id, actor_id, action, target_type, target_id, request_id, ip, user_agent, result, changes)
		SELECT gen_random_uuid(), $1::timestamptz + n * interval '20 days' / $2::bigint, gen_random_uuid(), gen_random_uuid()::text, 'task.updated', 'task',
			gen_random_uuid()::text, gen_random_uuid()::text, '192.0.2.' || n % 256, 'Mozilla/5.0 (X11; Linux x86_64)', 'ok',
			jsonb_build_object('taskId', gen_random_uuid(), 'version', n, 'changed', '["title"]'::jsonb)
		FROM generate_series(0, $2::bigint - 1) AS n`, month.Start(), n)
	require.NoError(b, err)
	_, err = db.Pool.Exec(b.Context(), `VACUUM ANALYZE `+month.Table())
	require.NoError(b, err)
	storage, err := OpenDir(filepath.Join(b.TempDir(), "archive"))
	require.NoError(b, err)
	a := NewArchiver(Config{Database: postgres.Config{URL: db.URL, ConnectTimeout: patience}, Storage: storage, Key: testKey, Log: zerolog.Nop()})
	public, ok := testKey.Public().(ed25519.PublicKey)
	require.True(b, ok)
	watched, stop := watchHeap()
	var archiving, verifying, restoring time.Duration
	rows := 0
	for b.Loop() {
		began := time.Now()
		m, err := a.Archive(b.Context(), month.String(), nil)
		require.NoError(b, err)
		archiving += time.Since(began)
		began = time.Now()
		wrong, err := verifyMonth(b.Context(), storage, &m, func(int64) {})
		require.NoError(b, err)
		require.Nil(b, wrong)
		verifying += time.Since(began)
		began = time.Now()
		_, err = a.Restore(b.Context(), byTest, month.String(), nil)
		require.NoError(b, err)
		restoring += time.Since(began)
		rows += n
	}
	stop()
	report, err := Verify(b.Context(), storage, public, "", nil)
	require.NoError(b, err)
	require.Empty(b, report.Findings)
	b.ReportMetric(float64(rows)/archiving.Seconds(), "archived-rows/s")
	b.ReportMetric(float64(rows)/verifying.Seconds(), "verified-rows/s")
	b.ReportMetric(float64(rows)/restoring.Seconds(), "restored-rows/s")
	b.ReportMetric(float64(watched.Load())/(1<<20), "peak-MiB")
}

// watchHeap notes the most that the heap has grown to, with what is not collected yet.
func watchHeap() (grown *atomic.Int64, stop func()) {
	grown = &atomic.Int64{}
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				grown.Store(max(grown.Load(), int64(now.HeapAlloc)-int64(before.HeapAlloc))) //nolint:gosec // sizes of a heap
			}
		}
	}()
	return grown, func() { close(done); <-ended }
}

// BenchmarkAttach is how long a full month takes to become a part of the log: as restoring does it, beside a plain attach, which reads all of it.
func BenchmarkAttach(b *testing.B) {
	n := testenv.Size(b, "FDC_AUDIT_BENCH_ROWS", 20_000)
	db := filled(b, n)
	month := audit.MonthOf(time.Now()).Add(-1)
	table := pgx.Identifier{month.Table()}.Sanitize()
	exec := func(sql string) {
		_, err := db.Pool.Exec(b.Context(), sql)
		require.NoError(b, err)
	}
	attach := func(pool *pgxpool.Pool) time.Duration {
		began := time.Now()
		require.NoError(b, pgx.BeginFunc(b.Context(), pool, func(tx pgx.Tx) error { return audit.AttachPartition(b.Context(), tx, month) }))
		return time.Since(began)
	}
	var plain, known time.Duration
	for b.Loop() {
		exec(`ALTER TABLE audit_logs DETACH PARTITION ` + table)
		plain += attach(db.Pool)
		exec(`ALTER TABLE audit_logs DETACH PARTITION ` + table)
		exec(`ALTER TABLE ` + table + ` ADD CONSTRAINT ` + boundsConstraint + ` CHECK (` + month.Bounds() + `)`)
		known += attach(db.Pool)
		exec(`ALTER TABLE ` + table + ` DROP CONSTRAINT ` + boundsConstraint)
	}
	b.ReportMetric(float64(known.Microseconds())/1000/float64(b.N), "attach-ms")
	b.ReportMetric(float64(plain)/float64(known), "×faster")
}
