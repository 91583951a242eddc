package service_test

import (
	"context"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/pgtest"
	"fdc/internal/gsync"
	"fdc/internal/identity"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/seal"
	"fdc/internal/task"
	"fdc/internal/workspace"
)

// large fills every table so that a sequential scan is never the cheapest plan for a few rows.
const large = `
INSERT INTO users (id, email, google_id) SELECT gen_random_uuid(), 'u' || n || '@example.com', 'g' || n FROM generate_series(1, 4000) n;
INSERT INTO sessions (id, user_id, token_hash, expires_at, last_seen_at)
	SELECT gen_random_uuid(), id, sha256(id::text::bytea), now() + interval '7 days', now() FROM users;
INSERT INTO replaced_tokens (token_hash, session_id) SELECT sha256(id::text::bytea), id FROM sessions;
INSERT INTO workspaces (id, name, created_by) SELECT gen_random_uuid(), 'w', id FROM users;
INSERT INTO workspace_members (workspace_id, user_id, role) SELECT id, created_by, 'OWNER' FROM workspaces;
INSERT INTO invitations (id, workspace_id, email, role) SELECT gen_random_uuid(), id, id || '@example.com', 'MEMBER' FROM workspaces;
INSERT INTO workspace_data (workspace_id, data, version) SELECT id, '{"a":1}', 1 FROM workspaces;
INSERT INTO tasks (id, workspace_id, title) SELECT gen_random_uuid(), id, 't' FROM workspaces, generate_series(1, 3);
INSERT INTO google_accounts (user_id, google_id, email, state) SELECT id, google_id, email, 'connected' FROM users;
INSERT INTO calendar_events (user_id, calendar_id, event_id, start_at, end_at)
	SELECT id, 'primary', 'e' || n, now() + n * interval '1 day', now() + n * interval '1 day 1 hour' FROM users, generate_series(1, 3) n;
INSERT INTO sync_settings (user_id, workspace_id, task_list_id, calendar_ids, auto_sync, interval_minutes)
	SELECT created_by, id, '@default', '{primary}', true, 15 FROM workspaces;
INSERT INTO sync_state (user_id, resource) SELECT id, 'tasks:@default' FROM users;
INSERT INTO google_task_links (user_id, task_id, workspace_id, task_list_id, google_task_id)
	SELECT w.created_by, t.id, w.id, 'list', t.id::text FROM tasks t JOIN workspaces w ON w.id = t.workspace_id;
INSERT INTO sync_jobs (id, user_id, type, mode, status, created_at, started_at, completed_at)
	SELECT gen_random_uuid(), id, 'full', 'incremental', 'completed', now(), now(), now() FROM users, generate_series(1, 2);
INSERT INTO outbox (event_id, aggregate, version, subject, body)
	SELECT gen_random_uuid(), 'x/' || n, 1, 'evt.x', 'x' FROM generate_series(1, 4000) n;
ANALYZE;
`

// statements remembers what was asked.
type statements struct {
	mu   sync.Mutex
	seen map[string][]any
}

// TraceQueryStart is called by pgx.
func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[q.SQL] = q.Args
	return ctx
}

// TraceQueryEnd is called by pgx.
func (*statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (s *statements) find(part string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sql := range s.seen {
		if strings.Contains(sql, part) {
			return true
		}
	}
	return false
}

var explainable = regexp.MustCompile(`(?i)^\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b`)

// What the services ask on every request, and what syncers and relays ask all the time, stays on indexes however large
// the tables grow. The statements are those that the code really sends.
func TestHotQueriesUseIndexes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := t.Context()
	_, err := db.Pool.Exec(ctx, large)
	require.NoError(t, err)

	trace := &statements{seen: map[string][]any{}}
	config, err := pgxpool.ParseConfig(db.URL)
	require.NoError(t, err)
	config.ConnConfig.Tracer = trace
	config.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	defer pool.Close()
	ask(t, pool, trace)

	for sql, args := range trace.seen {
		if !explainable.MatchString(sql) {
			continue
		}
		rows, err := db.Pool.Query(ctx, "EXPLAIN "+sql, args...)
		require.NoError(t, err, sql)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err, sql)
		plan := strings.Join(lines, "\n")
		require.NotContains(t, plan, "Seq Scan on ", "%s", sql)
	}
	require.Greater(t, len(trace.seen), 20, "statements seen")
}

// ask does what users, syncers and the relay do.
func ask(t *testing.T, pool *pgxpool.Pool, trace *statements) {
	t.Helper()
	ctx := t.Context()
	ob := outbox.New(pool, nil)
	workspaces := workspace.New(ob)
	tasks := task.New(ob, workspaces)
	users := identity.New(ob, workspaces, gsync.Access{})
	keys, err := seal.ParseKeys(seal.NewKey("v1"))
	require.NoError(t, err)
	google := gsync.New(gsync.Config{
		Outbox: ob, OAuth: gsync.OAuth{ClientID: "x", ClientSecret: "x", Endpoint: "http://127.0.0.1:1"}, Keys: keys, Tasks: tasks,
		Members: workspaces, Log: zerolog.Nop(),
	})
	meta := events.Meta{Source: "/fdc/test"}
	token, session, err := users.SignIn(ctx, meta, identity.Profile{GoogleID: "me", Email: "me@example.org", EmailVerified: true})
	require.NoError(t, err)
	me, home := session.User.ID, session.Memberships[0].WorkspaceID
	meta.ActorID = me

	must := func(err error) { t.Helper(); require.NoError(t, err) }
	must(users.SetSystemRole(ctx, meta, me, events.SystemRoleAdmin))
	_, err = users.Authenticate(ctx, token.Reveal())
	must(err)
	token, err = users.Rotate(ctx, meta, session.ID, token.Reveal())
	must(err)
	require.NotEmpty(t, token)
	_, err = users.Sessions(ctx, me)
	must(err)
	_, err = users.Sweep(ctx, meta)
	must(err)
	_, err = workspaces.List(ctx, me)
	must(err)
	_, _, err = workspaces.Members(ctx, me, home)
	must(err)
	for _, email := range []string{"guest@example.org", "u1@example.com"} {
		invited, err := workspaces.Invite(ctx, meta, me, home, email, workspace.RoleMember)
		must(err)
		_, err = workspaces.Resend(ctx, meta, me, home, invited.ID)
		must(err)
		must(workspaces.Withdraw(ctx, meta, me, home, invited.ID))
	}
	_, err = workspaces.Received(ctx, me)
	must(err)
	require.Error(t, workspaces.Decline(ctx, meta, me, home))
	_, err = workspaces.SweepInvitations(ctx, meta)
	must(err)
	_, err = workspaces.PutData(ctx, meta, me, home, []byte(`{"a":1}`), workspace.Expect{})
	must(err)
	_, err = workspaces.PatchData(ctx, meta, me, home, []byte(`{"b":1}`), workspace.Expect{})
	must(err)
	_, err = workspaces.Data(ctx, me, home)
	must(err)
	_, err = workspaces.DocumentDigests(ctx, []string{home})
	must(err)
	created, err := tasks.Create(ctx, meta, me, home, task.Draft{Title: "x"})
	must(err)
	_, next, err := tasks.List(ctx, me, home, "", 1)
	must(err)
	_, _, err = tasks.List(ctx, me, home, next, 1)
	must(err)
	_, err = tasks.Get(ctx, me, home, created.ID)
	must(err)
	_, err = tasks.Patch(ctx, meta, me, home, created.ID, []byte(`{"status":"done"}`), nil)
	must(err)
	_, err = pool.Exec(ctx, `INSERT INTO google_accounts (user_id, google_id, email, state, scopes)
		VALUES ($1, 'me', 'me@example.org', 'connected', ARRAY['https://www.googleapis.com/auth/tasks'])`, me)
	must(err)
	_, err = google.Status(ctx, me)
	must(err)
	_, err = google.Events(ctx, me, time.Now(), time.Now().AddDate(0, 1, 0))
	must(err)
	job, _, err := google.Request(ctx, meta, me, gsync.Ask{Type: events.SyncTasks, Mode: events.SyncIncremental})
	must(err)
	_, err = google.Job(ctx, me, job.ID)
	must(err)
	_, err = outbox.Age(ctx, pool)
	must(err)

	runCtx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- gsync.NewRunner(google, gsync.RunnerConfig{}).Run(runCtx) }()
	require.Eventually(t, func() bool { return trace.find("lease_token") }, patience, 10*time.Millisecond, "no runner asked for a job")
	stop()
	require.NoError(t, <-ended)
	must(tasks.Delete(ctx, meta, me, home, created.ID))
	must(users.Logout(ctx, meta, session.ID))
}
