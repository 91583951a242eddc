package audit

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/worker"
)

// benchRows is how many rows a benchmark works on: FDC_AUDIT_BENCH_ROWS, or few.
func benchRows(b *testing.B) int {
	b.Helper()
	text := os.Getenv("FDC_AUDIT_BENCH_ROWS")
	if text == "" {
		return 20_000
	}
	n, err := strconv.Atoi(text)
	require.NoError(b, err)
	return n
}

// someRows makes n rows, and the events that they are of.
func someRows(b *testing.B, n int) ([]events.Event, []row) {
	b.Helper()
	list, rows := make([]events.Event, n), make([]row, n)
	for i := range list {
		list[i] = taskEvent(time.Time{})
		r, err := rowOf(list[i])
		require.NoError(b, err)
		rows[i] = r
	}
	return list, rows
}

// BenchmarkWriter compares the writer with bare COPY of rows that are made already, and with unnest … ON CONFLICT, on the same table in turn.
// again is what a batch costs that is known already.
func BenchmarkWriter(b *testing.B) {
	for _, size := range []int{1000, 5000} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			db := ensured(b)
			w := newWriter(b, db.Pool)
			var bare, unnest, ours, again time.Duration
			n := 0
			took := func(sum *time.Duration, run func() error) {
				began := time.Now()
				require.NoError(b, run())
				*sum += time.Since(began)
			}
			for b.Loop() {
				for range max(1, benchRows(b)/size) {
					_, first := someRows(b, size)
					_, second := someRows(b, size)
					list, _ := someRows(b, size)
					took(&bare, func() error { return copyRows(b.Context(), db.Pool, first) })
					took(&unnest, func() error { _, err := insertRows(b.Context(), db.Pool, second); return err })
					took(&ours, func() error { return w.HandleBatch(b.Context(), deliveries(list...)) })
					took(&again, func() error { return w.HandleBatch(b.Context(), deliveries(list...)) })
					n += size
				}
			}
			b.ReportMetric(float64(n)/ours.Seconds(), "rows/s")
			b.ReportMetric(float64(bare)/float64(ours), "×copy")
			b.ReportMetric(float64(unnest)/float64(ours), "×unnest")
			b.ReportMetric(float64(again)/float64(ours), "again/first")
		})
	}
}

// BenchmarkPartitions is what a write costs with many months, beside one with few.
func BenchmarkPartitions(b *testing.B) {
	few, many := pgtest.New(b), pgtest.New(b)
	for db, months := range map[*pgtest.DB]int{few: 1, many: 60} {
		for n := range months {
			_, err := ensureMonth(b.Context(), db.Pool, monthOf(time.Now()).add(-n))
			require.NoError(b, err)
		}
	}
	fewW, manyW := newWriter(b, few.Pool), newWriter(b, many.Pool)
	var one, sixty time.Duration
	for b.Loop() {
		for range max(1, benchRows(b)/1000) {
			for _, of := range []struct {
				w   *Writer
				sum *time.Duration
			}{{fewW, &one}, {manyW, &sixty}} {
				list, _ := someRows(b, 1000)
				began := time.Now()
				require.NoError(b, of.w.HandleBatch(b.Context(), deliveries(list...)))
				*of.sum += time.Since(began)
			}
		}
	}
	b.ReportMetric(float64(sixty)/float64(one), "60/1")
}

// BenchmarkArrival is how long an event takes from the stream into the log, a hundred a second.
func BenchmarkArrival(b *testing.B) {
	db := ensured(b)
	js, err := bus.JetStream(natstest.Connect(b, natstest.Provisioned(b), "provision"))
	require.NoError(b, err)
	declared, ok := bus.ConsumerNamed(bus.AuditArchiver)
	require.True(b, ok)
	inner := newWriter(b, db.Pool)
	delays := make(chan time.Duration, 1<<20)
	w := worker.New(js, worker.Config{
		Consumer: declared, BatchSize: 5000, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
		HandleBatch: func(ctx context.Context, batch []*worker.Delivery) error {
			if err := inner.HandleBatch(ctx, batch); err != nil {
				return err
			}
			for _, d := range batch {
				delays <- time.Since(d.Event.Time)
			}
			return nil
		},
	})
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	const each = 100
	for b.Loop() {
		tick := time.NewTicker(10 * time.Millisecond)
		for range each {
			<-tick.C
			ev := taskEvent(time.Time{})
			body, err := events.Encode(ev)
			require.NoError(b, err)
			_, err = js.Publish(b.Context(), ev.NATSSubject(), body)
			require.NoError(b, err)
		}
		tick.Stop()
	}
	all := make([]time.Duration, b.N*each)
	for i := range all {
		all[i] = <-delays
	}
	cancel()
	require.NoError(b, <-ended)
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}

// filled is a log with n rows, spread over twelve months that are over.
func filled(b *testing.B, n int) *pgtest.DB {
	b.Helper()
	db := ensured(b)
	first := monthOf(time.Now()).add(-12)
	for i := range 12 {
		_, err := ensureMonth(b.Context(), db.Pool, first.add(i))
		require.NoError(b, err)
	}
	_, err := db.Pool.Exec(b.Context(), `
		INSERT INTO audit_logs (event_id, occurred_at, workspace_id, actor_id, action, target_type, target_id, request_id, ip, user_agent, result, changes)
		SELECT gen_random_uuid(), $1::timestamptz + n * ($2::timestamptz - $1) / $3::bigint,
			('00000000-0000-7000-8000-' || lpad((n % 1000)::text, 12, '0'))::uuid, 'actor-' || n % 5000, 'task.updated', 'task',
			gen_random_uuid()::text, gen_random_uuid()::text, '192.0.2.' || n % 256, 'Mozilla/5.0 (X11; Linux x86_64)', 'ok',
			jsonb_build_object('taskId', gen_random_uuid(), 'version', n, 'changed', '["title"]'::jsonb)
		FROM generate_series(0, $3::bigint - 1) AS n`, first.start, monthOf(time.Now()).start, n)
	require.NoError(b, err)
	_, err = db.Pool.Exec(b.Context(), `VACUUM ANALYZE audit_logs`)
	require.NoError(b, err)
	return db
}

// BenchmarkPage is a page of 50 of a workspace's log, from anywhere in it.
func BenchmarkPage(b *testing.B) {
	n := benchRows(b)
	db := filled(b, n)
	pool := db.Pool
	var took []time.Duration
	for b.Loop() {
		for i := range 300 {
			f := Filter{WorkspaceID: fmt.Sprintf("00000000-0000-7000-8000-%012d", i*7%1000)}
			after := Position{At: monthOf(time.Now()).start.AddDate(0, 0, -i), ID: events.NewID()}
			began := time.Now()
			_, err := page(b.Context(), pool, f, after, 51)
			require.NoError(b, err)
			took = append(took, time.Since(began))
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(n), "rows")
}

// BenchmarkArchive is a month of so many rows to a folder, read back there, and verified again; and the memory that takes.
func BenchmarkArchive(b *testing.B) {
	n := benchRows(b)
	db := ensured(b)
	month := monthOf(time.Now()).add(-1)
	_, err := ensureMonth(b.Context(), db.Pool, month)
	require.NoError(b, err)
	_, err = db.Pool.Exec(b.Context(), `
		INSERT INTO audit_logs (event_id, occurred_at, workspace_id, actor_id, action, target_type, target_id, request_id, ip, user_agent, result, changes)
		SELECT gen_random_uuid(), $1::timestamptz + n * interval '20 days' / $2::bigint, gen_random_uuid(), gen_random_uuid()::text, 'task.updated', 'task',
			gen_random_uuid()::text, gen_random_uuid()::text, '192.0.2.' || n % 256, 'Mozilla/5.0 (X11; Linux x86_64)', 'ok',
			jsonb_build_object('taskId', gen_random_uuid(), 'version', n, 'changed', '["title"]'::jsonb)
		FROM generate_series(0, $2::bigint - 1) AS n`, month.start, n)
	require.NoError(b, err)
	_, err = db.Pool.Exec(b.Context(), `VACUUM ANALYZE `+month.table())
	require.NoError(b, err)
	storage, err := OpenDir(filepath.Join(b.TempDir(), "archive"))
	require.NoError(b, err)
	a := NewArchiver(ArchiveConfig{Database: postgres.Config{URL: db.URL, ConnectTimeout: patience}, Storage: storage, Key: testKey, Log: zerolog.Nop()})
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
	n := benchRows(b)
	db := filled(b, n)
	month := monthOf(time.Now()).add(-1)
	table := pgx.Identifier{month.table()}.Sanitize()
	exec := func(sql string) {
		_, err := db.Pool.Exec(b.Context(), sql)
		require.NoError(b, err)
	}
	attach := func(pool *pgxpool.Pool) time.Duration {
		began := time.Now()
		require.NoError(b, pgx.BeginFunc(b.Context(), pool, func(tx pgx.Tx) error { return attachPartition(b.Context(), tx, month) }))
		return time.Since(began)
	}
	var plain, known time.Duration
	for b.Loop() {
		exec(`ALTER TABLE audit_logs DETACH PARTITION ` + table)
		plain += attach(db.Pool)
		exec(`ALTER TABLE audit_logs DETACH PARTITION ` + table)
		exec(`ALTER TABLE ` + table + ` ADD CONSTRAINT ` + boundsConstraint + ` CHECK (` + month.bounds() + `)`)
		known += attach(db.Pool)
		exec(`ALTER TABLE ` + table + ` DROP CONSTRAINT ` + boundsConstraint)
	}
	b.ReportMetric(float64(known.Microseconds())/1000/float64(b.N), "attach-ms")
	b.ReportMetric(float64(plain)/float64(known), "×faster")
}
