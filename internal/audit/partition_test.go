package audit

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/pgtest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/postgres"
)

const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	testenv.Parallel(6) // they wait for the database
	m.Run()
}

func TestMonthsAreUTC(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	tokyo := open(t, db, "timezone", "Asia/Tokyo")
	// In Tokyo it is November already.
	now := time.Date(2026, time.October, 31, 23, 59, 59, 999_999_000, time.UTC)
	created, err := EnsurePartitions(t.Context(), tokyo, now.In(time.FixedZone("JST", 9*3600)), 1)
	require.NoError(t, err)
	require.Equal(t, []string{"2026-10", "2026-11"}, created)

	w := newWriter(t, tokyo)
	w.now = func() time.Time { return now }
	last, first := taskEvent(now), taskEvent(now.Add(time.Microsecond))
	require.NoError(t, w.HandleBatch(t.Context(), deliveries(first, last)))
	require.NoError(t, w.HandleBatch(t.Context(), deliveries(first, last)), "by INSERT")
	for table, id := range map[string]string{"audit_logs_2026_10": last.ID, "audit_logs_2026_11": first.ID} {
		var got string
		require.NoError(t, tokyo.QueryRow(t.Context(), `SELECT string_agg(event_id::text, ' ') FROM `+table).Scan(&got))
		require.Equal(t, id, got)
	}

	utc := open(t, db, "timezone", "UTC")
	var bounds string
	require.NoError(t, utc.QueryRow(t.Context(),
		`SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'audit_logs_2026_11'`).Scan(&bounds))
	require.Equal(t, `FOR VALUES FROM ('2026-11-01 00:00:00+00') TO ('2026-12-01 00:00:00+00')`, bounds)
}

func TestEnsurePartitionsManyAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	now := time.Date(2026, time.November, 15, 12, 0, 0, 0, time.UTC)
	want := []string{"2026-11", "2026-12", "2027-01", "2027-02", "2027-03"}

	var wg sync.WaitGroup
	created, errs := make([][]string, 4), make([]error, 4)
	for i := range created {
		wg.Go(func() { created[i], errs[i] = EnsurePartitions(t.Context(), db.Pool, now, MonthsAhead) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	all := slices.Concat(created...)
	slices.Sort(all)
	require.Equal(t, want, all, "each once")
	require.Equal(t, 5, count(t, db.Pool, `SELECT count(DISTINCT convert_from(body, 'UTF8')::jsonb #>> '{data,month}') FROM outbox`))
	require.Equal(t, 5, count(t, db.Pool, `SELECT count(*) FROM outbox`))

	list, err := Partitions(t.Context(), db.Pool)
	require.NoError(t, err)
	require.Len(t, list, 5)
	for i, p := range list {
		require.Equal(t, want[i], p.Month)
		require.Equal(t, StateAttached, p.State)
	}
	again, err := EnsurePartitions(t.Context(), db.Pool, now, MonthsAhead)
	require.NoError(t, err)
	require.Empty(t, again)
	next, err := EnsurePartitions(t.Context(), db.Pool, now.AddDate(0, 1, 0), MonthsAhead)
	require.NoError(t, err)
	require.Equal(t, []string{"2027-04"}, next)

	// An attached partition has everything that a row's way through the log needs.
	require.Equal(t, 0, count(t, db.Pool, `
		SELECT count(*) FROM pg_index p
		WHERE p.indrelid = 'audit_logs'::regclass AND NOT EXISTS (
			SELECT FROM pg_inherits i JOIN pg_index c ON c.indexrelid = i.inhrelid
			WHERE i.inhparent = p.indexrelid AND c.indrelid = 'audit_logs_2026_11'::regclass AND c.indisvalid)`))
}

func TestMakingAPartitionWaitsForNobody(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	w := newWriter(t, db.Pool)
	require.NoError(t, w.HandleBatch(t.Context(), deliveries(taskEvent(time.Time{}))))

	tx, err := db.Pool.Begin(t.Context()) // a long export that also writes
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(context.WithoutCancel(t.Context()))) }()
	require.Equal(t, 1, count(t, tx, `SELECT count(*) FROM audit_logs`))
	r, err := RowOf(taskEvent(time.Time{}))
	require.NoError(t, err)
	n, err := insertRows(t.Context(), tx, []Row{r})
	require.NoError(t, err)
	require.Equal(t, int64(1), n)

	created, err := EnsurePartitions(t.Context(), db.Pool, time.Now(), MonthsAhead+1)
	require.NoError(t, err)
	require.Len(t, created, 1)
	require.NoError(t, w.HandleBatch(t.Context(), deliveries(taskEvent(time.Now().AddDate(0, MonthsAhead+1, -20)))))
}

func TestTwoKeepers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	keepers := make([]*Keeper, 2)
	for i := range keepers {
		keepers[i] = NewKeeper(postgres.Config{URL: db.URL, ConnectTimeout: patience}, zerolog.New(zerolog.NewTestWriter(t)), prometheus.NewRegistry())
		require.NoError(t, keepers[i].EnsureAhead(ctx))
		require.InDelta(t, MonthsAhead, testutil.ToFloat64(keepers[i].ahead), 0)
	}
	leaders := func() float64 { return testutil.ToFloat64(keepers[0].leader) + testutil.ToFloat64(keepers[1].leader) }
	for _, k := range keepers {
		k.ahead.Set(-9)
		running.Go(func() { require.NoError(t, k.Run(ctx)) })
	}
	for _, k := range keepers {
		require.Eventually(t, func() bool { return testutil.ToFloat64(k.ahead) == MonthsAhead }, patience, 5*time.Millisecond)
	}
	require.InDelta(t, 1, leaders(), 0)
	require.Equal(t, MonthsAhead+1, count(t, db.Pool, `SELECT count(*) FROM outbox`))
	require.Equal(t, 1, count(t, db.Pool, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`))

	cancel()
	running.Wait()
	require.Zero(t, leaders())
}

func TestKeeperOutlivesItsConnection(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	k := NewKeeper(postgres.Config{URL: db.URL, ConnectTimeout: patience}, zerolog.New(zerolog.NewTestWriter(t)), prometheus.NewRegistry())
	k.every = 5 * time.Millisecond
	k.retry = 5 * time.Millisecond
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	running.Go(func() { require.NoError(t, k.Run(ctx)) })
	leads := func() bool {
		return testutil.ToFloat64(k.leader) == 1 && testutil.ToFloat64(k.ahead) == MonthsAhead
	}
	require.Eventually(t, leads, patience, time.Millisecond)
	pid := func() int {
		return count(t, db.Pool, `SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE application_name = 'fdc-audit-keeper'
			AND datname = current_database()`)
	}
	first := pid()
	_, err := db.Pool.Exec(t.Context(), `SELECT pg_terminate_backend($1)`, first)
	require.NoError(t, err)
	// A partition lost by hand is made again by the next connection.
	_, err = db.Pool.Exec(t.Context(), `DROP TABLE `+pgx.Identifier{MonthOf(time.Now()).Add(2).Table()}.Sanitize())
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		list, err := Partitions(t.Context(), db.Pool)
		return err == nil && Ahead(list, time.Now()) == MonthsAhead && pid() != first && leads()
	}, patience, 10*time.Millisecond)
}

func TestMonthsAhead(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, time.December, 31, 23, 0, 0, 0, time.UTC)
	of := func(months ...string) (list []Partition) {
		for _, m := range months {
			list = append(list, Partition{Month: m, State: StateAttached})
		}
		return list
	}
	for _, tc := range []struct {
		list []Partition
		want int
	}{
		{nil, -1},
		{of("2027-01"), -1},
		{of("2026-12"), 0},
		{of("2026-11", "2026-12", "2027-01", "2027-03"), 1},
		{append(of("2026-12", "2027-01"), Partition{Month: "2027-02", State: StateDetached}), 1},
	} {
		require.Equal(t, tc.want, Ahead(tc.list, now))
	}
}

func FuzzParseTable(f *testing.F) {
	for _, seed := range []string{"audit_logs_2026_11", "audit_logs_0001_01", "audit_logs_2026_13", "audit_logs_2026_1", "audit_logs_", "audit_logs_+026_11"} {
		f.Add(seed, int64(0))
	}
	f.Add("", time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix())
	f.Fuzz(func(t *testing.T, name string, unix int64) {
		if m, ok := parseTable(name); ok && m.Table() != name {
			t.Fatalf("%q is read as %s", name, m)
		}
		at := time.Unix(unix, 0)
		if y := at.UTC().Year(); y < 0 || y > 9999 {
			return
		}
		m := MonthOf(at)
		if got, ok := parseTable(m.Table()); !ok || got != m {
			t.Fatalf("%s does not come back from %s", m, m.Table())
		}
		if at.Before(m.Start()) || !at.Before(m.Add(1).Start()) {
			t.Fatalf("%s is not in %s", at, m)
		}
	})
}

// Months that can't be made are told of once, and again after there have been enough.
func TestKeeperAlerts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	k := NewKeeper(postgres.Config{URL: db.URL, ConnectTimeout: patience}, zerolog.New(zerolog.NewTestWriter(t)), prometheus.NewRegistry())
	alerts := func() int {
		return count(t, db.Pool, `SELECT count(*) FROM outbox WHERE subject LIKE 'evt.audit.partitions_low.%'`)
	}
	now, next := MonthOf(time.Now()), MonthOf(time.Now()).Add(1)
	_, err := db.Pool.Exec(t.Context(), `CREATE TABLE `+next.Table()+` ()`) // in its way
	require.NoError(t, err)
	for range 2 {
		require.ErrorIs(t, k.EnsureAhead(t.Context()), errDetached)
		require.Equal(t, 1, alerts())
	}
	require.Equal(t, 1, count(t, db.Pool, fmt.Sprintf(
		`SELECT count(*) FROM outbox WHERE convert_from(body, 'UTF8') LIKE '%%"month":"%s","ahead":0%%'`, now)))
	_, err = db.Pool.Exec(t.Context(), `DROP TABLE `+next.Table())
	require.NoError(t, err)
	require.NoError(t, k.EnsureAhead(t.Context()))
	_, err = db.Pool.Exec(t.Context(), `DROP TABLE `+next.Table()+`; CREATE TABLE `+next.Table()+` ()`)
	require.NoError(t, err)
	require.Error(t, k.EnsureAhead(t.Context()))
	require.Equal(t, 2, alerts())
}
