package audit

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
)

var byTest = events.Meta{Source: "/fdc/test", ActorID: events.OperatorActor}

// A month that goes to the archive in the middle of an export makes it fail: nobody takes a part for the whole.
func TestExportOfAMonthThatLeaves(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	w, log := newWriter(t, db.Pool), NewLog(outbox.New(db.Pool, nil))
	at := time.Date(2024, time.May, 1, 0, 0, 0, 0, time.UTC)
	var list []events.Event
	for i := range exportPage + 1 {
		list = append(list, taskEvent(at.Add(time.Duration(i)*time.Minute)))
	}
	require.NoError(t, w.HandleBatch(t.Context(), deliveries(list...)))
	var seen int
	rows, err := log.Export(t.Context(), byTest, Filter{WorkspaceID: workspaceID}, "ndjson", func(entries []Entry) error {
		seen += len(entries)
		_, err := db.Pool.Exec(t.Context(), `ALTER TABLE audit_logs DETACH PARTITION audit_logs_2024_05`)
		return err
	})
	require.Equal(t, fault.Conflict, fault.KindOf(err), "%v", err)
	require.EqualValues(t, exportPage, rows)
	require.Equal(t, exportPage, seen)
	require.Equal(t, 1, count(t, db.Pool, `SELECT count(*) FROM outbox WHERE subject LIKE 'evt.audit.exported.%'`), "what went out is on record")
	require.Equal(t, 1, count(t, db.Pool, `SELECT count(*) FROM outbox WHERE subject LIKE 'evt.audit.viewed.%'`))

	_, err = log.Export(t.Context(), byTest, Filter{}, "ndjson", func([]Entry) error { panic("there is nothing to show") })
	require.Equal(t, fault.Conflict, fault.KindOf(err))
	require.Equal(t, 1, count(t, db.Pool, `SELECT count(*) FROM outbox WHERE subject LIKE 'evt.audit.viewed.%'`), "nothing was shown")
}

// A page is read off an index, from the months it is in, whatever the filter.
func TestPagesComeFromIndexes(t *testing.T) {
	t.Parallel()
	db := ensured(t)
	thisMonth := MonthOf(time.Now())
	_, err := db.Pool.Exec(t.Context(), `
		INSERT INTO audit_logs (event_id, occurred_at, workspace_id, actor_id, action, target_type, target_id, result, changes)
		SELECT gen_random_uuid(), $1::timestamptz + n * interval '1 second', ('00000000-0000-7000-8000-' || lpad((n % 50)::text, 12, '0'))::uuid,
			'actor ' || n % 1000, 'task.created', 'task', n::text, 'ok', '{}' FROM generate_series(1, 50000) AS n`, thisMonth.Start())
	require.NoError(t, err)
	_, err = db.Pool.Exec(t.Context(), `ANALYZE audit_logs`)
	require.NoError(t, err)
	workspace, now := "00000000-0000-7000-8000-000000000007", thisMonth.Start().Add(50_000*time.Second) // whatever the day of the month
	for name, of := range map[string]struct {
		filter Filter
		after  Position
	}{
		"workspace":          {filter: Filter{WorkspaceID: workspace}},
		"workspace and time": {filter: Filter{WorkspaceID: workspace, From: now.AddDate(0, -1, 0), To: now}},
		"the next page":      {Filter{WorkspaceID: workspace}, Position{At: now, ID: events.NewID()}},
		"actor":              {filter: Filter{ActorID: "actor 7"}},
	} {
		sql, args := of.filter.query(of.after, 51)
		rows, err := db.Pool.Query(t.Context(), "EXPLAIN (COSTS OFF) "+sql, args...)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		plan := strings.Join(lines, "\n")
		month := thisMonth.Table()
		require.NotContains(t, plan, "Seq Scan on "+month, "%s:\n%s", name, plan)
		require.Contains(t, plan, month+"_", "%s uses an index of the month:\n%s", name, plan)
		if of.filter.ActorID == "" { // the actor's has no event ids
			require.NotContains(t, plan, "Sort", "%s comes in the order of its index:\n%s", name, plan)
		}
		if !of.filter.From.IsZero() {
			require.NotContains(t, plan, thisMonth.Add(2).Table(), "%s:\n%s", name, plan)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add(Position{At: time.Date(2026, time.March, 1, 9, 30, 15, 123456000, time.UTC), ID: events.NewID()}.String())
	f.Add("")
	f.Add("20260301T093015.123456Z/")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePosition(s)
		if err != nil {
			return
		}
		again, err := ParsePosition(p.String())
		require.NoError(t, err, fmt.Sprintf("%q", s))
		require.True(t, again.At.Equal(p.At))
		require.Equal(t, p.ID, again.ID)
	})
}
