package audit

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/worker"
)

const workspaceID = "0198a000-0000-7000-8000-000000000001"

func newWriter(tb testing.TB, pool *pgxpool.Pool) *Writer {
	tb.Helper()
	return NewWriter(pool, zerolog.New(zerolog.NewTestWriter(tb)), prometheus.NewRegistry())
}

// ensured is a fresh database with its partitions.
func ensured(tb testing.TB) *pgtest.DB {
	tb.Helper()
	db := pgtest.New(tb)
	_, err := EnsurePartitions(tb.Context(), db.Pool, time.Now(), MonthsAhead)
	require.NoError(tb, err)
	return db
}

func taskEvent(at time.Time) events.Event {
	ev := events.New(events.Meta{Source: "/fdc/api", ActorID: events.NewID(), RequestID: "r-1", IP: "192.0.2.7", UserAgent: "curl/8"},
		"", events.TaskCreated{TaskID: events.NewID(), WorkspaceID: workspaceID, Version: 1})
	if !at.IsZero() {
		ev.Time = at.UTC().Truncate(time.Microsecond)
	}
	return ev
}

func deliveries(list ...events.Event) []*worker.Delivery {
	batch := make([]*worker.Delivery, len(list))
	for i, ev := range list {
		batch[i] = &worker.Delivery{Event: ev, Attempt: 1}
	}
	return batch
}

// dump is the whole log, and its order, as text.
func dump(tb testing.TB, q postgres.Querier) []string {
	tb.Helper()
	rows, err := q.Query(tb.Context(), `SELECT a::text FROM audit_logs a ORDER BY occurred_at, event_id`)
	require.NoError(tb, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(tb, err)
	return list
}

func count(tb testing.TB, q postgres.Querier, query string) int {
	tb.Helper()
	var n int
	require.NoError(tb, q.QueryRow(tb.Context(), query).Scan(&n))
	return n
}

func golden(tb testing.TB) []events.Event {
	tb.Helper()
	files, err := filepath.Glob("../../events/testdata/fdc.*.json")
	require.NoError(tb, err)
	var list []events.Event
	for _, file := range files {
		b, err := os.ReadFile(file) //nolint:gosec // a name that Glob found
		require.NoError(tb, err)
		ev, err := events.Decode(b)
		require.NoError(tb, err, file)
		if ty, ok := events.TypeOf(ev.Data); ok && ty.Stored {
			list = append(list, ev)
		}
	}
	stored := 0
	for _, ty := range events.Types() {
		if ty.Stored {
			stored++
		}
	}
	require.GreaterOrEqual(tb, len(list), stored)
	return list
}

func TestRowIsAFunctionOfTheEvent(t *testing.T) {
	t.Parallel()
	odd := map[string]string{
		"access.denied": ResultDenied, "auth.login_failed": ResultFailed, "sync.failed": ResultFailed,
	}
	for _, ev := range golden(t) {
		r, err := RowOf(ev)
		require.NoError(t, err)

		raw, err := events.Encode(ev)
		require.NoError(t, err)
		decoded, err := events.Decode(raw)
		require.NoError(t, err)
		again, err := RowOf(decoded)
		require.NoError(t, err)
		require.Equal(t, r, again)

		require.Equal(t, ev.ID, r.EventID.String())
		require.Equal(t, ev.WorkspaceID, r.WorkspaceID.String())
		if !slices.Contains(unanswered, r.Action) {
			require.Equal(t, ev.UserID, r.UserID.String())
		}
		require.Equal(t, ev.Time, r.OccurredAt)
		require.Equal(t, ev.Action(), r.Action)
		require.Equal(t, ev.Subject, r.TargetID)
		require.Equal(t, []string{ev.ActorID, ev.RequestID, ev.IP, ev.UserAgent}, []string{r.ActorID, r.RequestID, r.IP, r.UserAgent})
		want := ResultOK
		if result, ok := odd[r.Action]; ok {
			want = result
			delete(odd, r.Action)
		}
		require.Equal(t, want, r.Result, r.Action)
		data, err := json.Marshal(ev.Data)
		require.NoError(t, err)
		require.JSONEq(t, string(data), r.Changes)
	}
	require.Empty(t, odd)
}

// unanswered are the facts of invitations from before the invitee's answer.
var unanswered = []string{"invitation.created", "invitation.resent", "invitation.withdrawn"}

// A workspace's log doesn't tell whether an invited address has an account: the rows are the same with and without a user.
func TestTheLogDoesNotNameInvitees(t *testing.T) {
	t.Parallel()
	seen := 0
	for _, ev := range golden(t) {
		if !slices.Contains(unanswered, ev.Action()) {
			continue
		}
		seen++
		require.NotEmpty(t, ev.UserID)
		known, err := RowOf(ev)
		require.NoError(t, err)
		ev.UserID = ""
		require.NoError(t, ev.Validate())
		unknown, err := RowOf(ev)
		require.NoError(t, err)
		require.Equal(t, unknown, known)
	}
	require.Equal(t, len(unanswered), seen)
}

func TestAddressesAreMasked(t *testing.T) {
	t.Parallel()
	// Encode refuses such an event; the log would not keep the address even so.
	ev := events.New(events.Meta{Source: "/fdc/api", ActorID: events.SystemActor}, "",
		events.UserCreated{UserID: events.NewID(), Version: 1, Email: "alice@example.com"})
	r, err := RowOf(ev)
	require.NoError(t, err)
	require.NotContains(t, r.Changes, "alice")
	require.Contains(t, r.Changes, `"a***@example.com"`)
}

func TestReplayGivesTheSameRows(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	w := newWriter(t, db.Pool)
	list := golden(t)
	for i := range list {
		list[i].ID = events.NewID() // the files share one
	}
	for range 50 {
		list = append(list, taskEvent(time.Time{}))
	}
	require.NoError(t, w.HandleBatch(t.Context(), deliveries(list...)))
	first := dump(t, db.Pool)
	require.Equal(t, len(list), len(first))

	t.Run("as a whole", func(t *testing.T) {
		require.NoError(t, w.HandleBatch(t.Context(), deliveries(list...)))
		require.Equal(t, first, dump(t, db.Pool))
	})
	t.Run("one by one, backwards", func(t *testing.T) {
		for _, ev := range slices.Backward(list) {
			require.NoError(t, w.HandleBatch(t.Context(), deliveries(ev)))
		}
		require.Equal(t, first, dump(t, db.Pool))
	})
	t.Run("into an empty log", func(t *testing.T) {
		_, err := db.Pool.Exec(t.Context(), `TRUNCATE audit_logs`)
		require.NoError(t, err)
		slices.Reverse(list)
		require.NoError(t, w.HandleBatch(t.Context(), deliveries(list...)))
		require.Equal(t, first, dump(t, db.Pool))
	})
}

func TestDuplicates(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	w := newWriter(t, db.Pool)
	a, b, c := taskEvent(time.Time{}), taskEvent(time.Time{}), taskEvent(time.Time{})
	rows := func() int { return count(t, db.Pool, `SELECT count(*) FROM audit_logs`) }

	require.NoError(t, w.HandleBatch(t.Context(), nil))
	require.NoError(t, w.HandleBatch(t.Context(), deliveries(a, b, a, a)), "inside a batch")
	require.Equal(t, 2, rows())
	require.NoError(t, w.HandleBatch(t.Context(), deliveries(b, c)), "across batches")
	require.Equal(t, 3, rows())
	require.InDelta(t, 3, testutil.ToFloat64(w.rows.WithLabelValues("insert")), 0)
	require.InDelta(t, 3, testutil.ToFloat64(w.rows.WithLabelValues("known")), 0)

	// Several copies of the service get the same events, as after a redelivery.
	many := []events.Event{a, b, c}
	for range 300 {
		many = append(many, taskEvent(time.Time{}))
	}
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { errs[i] = w.HandleBatch(t.Context(), deliveries(many...)) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, len(many), rows())
}

func TestWriterMakesAMissingMonth(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	w := newWriter(t, db.Pool)
	old := time.Date(2023, time.May, 31, 23, 59, 59, 999_999_000, time.UTC)
	list := []events.Event{taskEvent(time.Time{}), taskEvent(old), taskEvent(old.Add(time.Microsecond)), taskEvent(old)}
	require.NoError(t, w.HandleBatch(t.Context(), deliveries(list...)))
	require.Len(t, dump(t, db.Pool), len(list))
	require.Equal(t, 2, count(t, db.Pool, `SELECT count(*) FROM audit_logs_2023_05`))
	require.Equal(t, 1, count(t, db.Pool, `SELECT count(*) FROM audit_logs_2023_06`))
	require.Equal(t, 2, count(t, db.Pool, `SELECT count(*) FROM outbox WHERE body::text <> '' AND subject = 'evt.audit.partition_created.v1.system'
		AND convert_from(body, 'UTF8')::jsonb #>> '{data,month}' IN ('2023-05', '2023-06')`))
}

func TestDetachedMonthHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	w := newWriter(t, db.Pool)
	old := time.Date(2023, time.May, 3, 0, 0, 0, 0, time.UTC)
	require.NoError(t, w.HandleBatch(t.Context(), deliveries(taskEvent(old))))
	_, err := db.Pool.Exec(t.Context(), `ALTER TABLE audit_logs DETACH PARTITION audit_logs_2023_05`)
	require.NoError(t, err)

	now := taskEvent(time.Time{})
	require.NoError(t, w.HandleBatch(t.Context(), deliveries(taskEvent(old), now, taskEvent(old))))
	require.Equal(t, 1, count(t, db.Pool, `SELECT count(*) FROM audit_logs`))
	require.Equal(t, 1, count(t, db.Pool, `SELECT count(*) FROM audit_logs_2023_05`))
	require.Zero(t, testutil.ToFloat64(w.rejected), "they are retried, not set aside")

	list, err := Partitions(t.Context(), db.Pool)
	require.NoError(t, err)
	require.Equal(t, "2023-05", list[0].Month)
	require.Equal(t, StateDetached, list[0].State)
	require.Positive(t, list[0].Bytes)
}

// A month in the archive takes no late event, also while its table still waits to be dropped: the event goes aside at once, and says
// what to do. It is not retried until its attempts are used up.
func TestALateEventOfAnArchivedMonthGoesAsideAtOnce(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	w := newWriter(t, db.Pool)
	old := time.Date(2023, time.May, 3, 0, 0, 0, 0, time.UTC)
	require.NoError(t, w.HandleBatch(t.Context(), deliveries(taskEvent(old))))
	for _, sql := range []string{
		`ALTER TABLE audit_logs DETACH PARTITION audit_logs_2023_05`,
		`INSERT INTO audit_archives (sequence, month, manifest, signature) VALUES (1, '2023-05', '{"rows":1,"bytes":1}', '')`,
	} {
		_, err := db.Pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	for n, drop := range []string{`SELECT`, `DROP TABLE audit_logs_2023_05`} {
		_, err := db.Pool.Exec(t.Context(), drop)
		require.NoError(t, err)
		require.NoError(t, w.HandleBatch(t.Context(), deliveries(taskEvent(old), taskEvent(time.Time{}))))
		require.InDelta(t, n+1, testutil.ToFloat64(w.rejected), 0)
		require.Equal(t, n+1, count(t, db.Pool, `SELECT count(*) FROM audit_logs`))
	}
}

// The ping writes and leaves nothing.
func TestALogThatCanBeWrittenAnswersThePing(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	require.NoError(t, newWriter(t, db.Pool).Ping(t.Context()))
	require.Zero(t, count(t, db.Pool, `SELECT count(*) FROM audit_logs`))
}

func TestTroubleOfTheDatabaseIsHeld(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*testing.T, *pgtest.DB) *pgxpool.Pool{
		"read-only": func(t *testing.T, db *pgtest.DB) *pgxpool.Pool {
			t.Helper()
			_, err := EnsurePartitions(t.Context(), db.Pool, time.Now(), 0)
			require.NoError(t, err)
			return open(t, db, "default_transaction_read_only", "on")
		},
		"no table": func(t *testing.T, db *pgtest.DB) *pgxpool.Pool {
			t.Helper()
			_, err := db.Pool.Exec(t.Context(), `DROP TABLE audit_logs`)
			require.NoError(t, err)
			return db.Pool
		},
		"somebody makes partitions and does not finish": func(t *testing.T, db *pgtest.DB) *pgxpool.Pool {
			t.Helper()
			tx, err := db.Pool.Begin(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, tx.Rollback(context.Background())) })
			require.NoError(t, LockPartitions(t.Context(), tx))
			return db.Pool
		},
		"closed": func(t *testing.T, db *pgtest.DB) *pgxpool.Pool {
			t.Helper()
			pool := open(t, db, "application_name", "closed")
			require.NoError(t, pool.Ping(t.Context()))
			_, err := db.Pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'closed'`)
			require.NoError(t, err)
			return pool
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWriter(t, spoil(t, pgtest.New(t)))
			err := w.HandleBatch(t.Context(), deliveries(taskEvent(time.Time{}), taskEvent(time.Time{})))
			require.Equal(t, fault.Unavailable, fault.KindOf(err), "%v", err)
			require.Zero(t, testutil.ToFloat64(w.rejected))
			if name != "closed" { // only a connection was
				require.Error(t, w.Ping(t.Context()), "the worker would count attempts")
			}
		})
	}
}

// open makes a pool whose sessions have a setting.
func open(tb testing.TB, db *pgtest.DB, name, value string) *pgxpool.Pool {
	tb.Helper()
	cfg, err := pgxpool.ParseConfig(db.URL)
	require.NoError(tb, err)
	cfg.ConnConfig.RuntimeParams[name] = value
	pool, err := pgxpool.NewWithConfig(tb.Context(), cfg)
	require.NoError(tb, err)
	tb.Cleanup(pool.Close)
	return pool
}
