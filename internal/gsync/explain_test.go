package gsync

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/platform/postgres"
)

// explainer runs queries and keeps their plans.
type explainer struct {
	postgres.Querier
	t       *testing.T
	options string // of EXPLAIN
	plans   []string
}

func (e *explainer) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	e.explain(ctx, sql, args)
	return e.Querier.Query(ctx, sql, args...)
}

func (e *explainer) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	e.explain(ctx, sql, args)
	return e.Querier.QueryRow(ctx, sql, args...)
}

func (e *explainer) explain(ctx context.Context, sql string, args []any) {
	e.t.Helper()
	rows, err := e.Querier.Query(ctx, "EXPLAIN "+e.options+" "+sql, args...)
	require.NoError(e.t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(e.t, err)
	e.plans = append(e.plans, sql+"\n"+strings.Join(lines, "\n"))
}

// The queries of every read and every sync go by an index, however large the tables of all users are.
func TestPlans(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	w.exec(`INSERT INTO users (id, email, google_id) SELECT gen_random_uuid(), 'u' || i || '@example.com', 'g-' || i FROM generate_series(1, 500) i`)
	w.exec(`INSERT INTO workspaces (id, name, created_by) SELECT gen_random_uuid(), 'x', id FROM users`)
	w.exec(`INSERT INTO tasks (id, workspace_id, title) SELECT gen_random_uuid(), w.id, 'x' FROM workspaces w, generate_series(1, 20)`)
	w.exec(`INSERT INTO google_task_links (user_id, task_id, workspace_id, task_list_id, google_task_id)
		SELECT w.created_by, t.id, w.id, 'list', t.id::text FROM tasks t JOIN workspaces w ON w.id = t.workspace_id`)
	w.exec(`INSERT INTO calendar_events (user_id, calendar_id, event_id, starts, ends, recurring_event_id)
		SELECT id, 'primary', 'e' || i, now() + i * interval '1 day', now() + i * interval '1 day', CASE WHEN i % 10 = 0 THEN 'e1' ELSE '' END
		FROM users, generate_series(1, 40) i`)
	w.exec(`INSERT INTO sync_jobs (id, user_id, type, mode, status, completed_at)
		SELECT gen_random_uuid(), id, 'full', 'incremental', 'completed', now() FROM users, generate_series(1, 20)`)
	w.exec(`INSERT INTO sync_jobs (id, user_id, type, mode) SELECT gen_random_uuid(), id, 'full', 'incremental' FROM users`)
	w.exec(`ANALYZE`)

	ctx := t.Context()
	q := &explainer{Querier: w.db.Pool, t: t}
	from := time.Now()
	rows, err := readWindow(ctx, q, p.id, from, from.AddDate(0, 0, 7))
	require.NoError(t, err)
	require.NotEmpty(t, rows)
	series := storedEvent{CalendarID: "primary", eventRow: eventRow{EventID: "e1", Recurrence: []string{"RRULE:FREQ=DAILY"}}}
	_, err = readReplaced(ctx, q, p.id, []storedEvent{series})
	require.NoError(t, err)
	_, err = claimable(ctx, q, 8, "")
	require.NoError(t, err)
	pair := pair{p.id, p.workspaceID, "list"}
	_, err = pair.linksOf(ctx, q, []string{"x"})
	require.NoError(t, err)
	_, err = pair.intents(ctx, q)
	require.NoError(t, err)
	_, err = pair.outgoing(ctx, q, nilUUID, taskPage)
	require.NoError(t, err)
	_, err = timedTasks(ctx, q, p.id, p.workspaceID, nilUUID, taskPage)
	require.NoError(t, err)
	_, err = readCursor(ctx, q, p.id, "calendar:primary")
	require.NoError(t, err)
	_, err = one(ctx, q, `SELECT `+jobColumns+` FROM sync_jobs WHERE id = $1 AND user_id = $2`, events.NewID(), p.id)
	require.ErrorIs(t, err, pgx.ErrNoRows)
	for _, p := range []*prune{pruneJobs(), pruneTombstones()} {
		_, err = p.step(ctx, q, time.Now())
		require.NoError(t, err)
	}
	for _, plan := range q.plans {
		for _, table := range []string{"calendar_events", "google_task_links", "tasks", "sync_jobs"} {
			require.NotContains(t, plan, "Seq Scan on "+table)
		}
	}
}

// A page of tasks to push costs a page, however many tasks the workspace has to push, or has deleted.
func TestPagesToPushReadPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.connected(alice)
	w.exec(`INSERT INTO tasks (id, workspace_id, title, start_at, deleted_at)
		SELECT gen_random_uuid(), $1, 'x', now(), CASE WHEN i % 2 = 0 THEN now() END FROM generate_series(1, 10000) i`, p.workspaceID)
	w.exec(`INSERT INTO google_task_links (user_id, task_id, workspace_id, task_list_id, google_task_id, event_id)
		SELECT $1, id, $2, 'list', id::text, id::text FROM tasks WHERE deleted_at IS NOT NULL`, p.id, p.workspaceID)
	w.exec(`ANALYZE`)
	q := &explainer{Querier: w.db.Pool, t: t, options: "(ANALYZE, TIMING OFF)"}
	pair := pair{p.id, p.workspaceID, "list"}
	out, err := pair.outgoing(t.Context(), q, nilUUID, taskPage)
	require.NoError(t, err)
	require.Len(t, out, taskPage)
	timed, err := timedTasks(t.Context(), q, p.id, p.workspaceID, nilUUID, taskPage)
	require.NoError(t, err)
	require.Len(t, timed, taskPage)
	for _, plan := range q.plans {
		for _, read := range actualRows.FindAllStringSubmatch(plan, -1) {
			rows, err := strconv.ParseFloat(read[1], 64)
			require.NoError(t, err)
			require.LessOrEqual(t, rows, 3.0*taskPage, plan)
		}
	}
	n, err := pair.countOutgoing(t.Context(), w.db.Pool)
	require.NoError(t, err)
	require.EqualValues(t, 10000, n)
	n, err = countTimed(t.Context(), w.db.Pool, p.id, p.workspaceID)
	require.NoError(t, err)
	require.EqualValues(t, 10000, n)
}

var actualRows = regexp.MustCompile(`actual rows=([0-9.]+)`)
