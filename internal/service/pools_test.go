package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/pgtest"
	"fdc/internal/platform/bus"
)

// All services share three server connections of a PgBouncer in transaction mode, under load: every request is answered
// well, every fact is accounted for, and locks that outlive a transaction are held past the pooler only.
func TestServicesShareAPooler(t *testing.T) {
	t.Parallel()
	const servers, users, rounds = 3, 4, 20
	s := newSystem(t)
	database := s.pool.Config().ConnString()
	pooler := pgtest.Bouncer(t, database, servers)
	services := []string{"api", bus.Syncer, bus.CacheInvalidator, bus.AuditArchiver}
	for _, name := range services {
		s.environ[name] = append(s.environ[name], "DATABASE_URL="+pooler, "DATABASE_DIRECT_URL="+database)
		s.launch(t, name)
	}
	for _, name := range services {
		s.awaitReady(t, name)
	}
	worked := make(chan error, users)
	for n := range users {
		user := s.signUp(t, fmt.Sprintf("pooled%d@example.com", n))
		go func() { worked <- user.everything(t.Context(), rounds) }()
	}
	for range users {
		require.NoError(t, <-worked)
	}
	s.accounted(t)
	var incomplete, shared int
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM sync_jobs WHERE status <> 'completed'`).Scan(&incomplete))
	require.Zero(t, incomplete, "syncs")
	require.NoError(t, s.pool.QueryRow(t.Context(), `
		SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = ANY ($1)`,
		[]string{"fdc-api", "fdc-" + bus.Syncer, "fdc-" + bus.CacheInvalidator, "fdc-" + bus.AuditArchiver}).Scan(&shared))
	require.LessOrEqual(t, shared, servers)
	rows, err := s.pool.Query(t.Context(), `
		SELECT DISTINCT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
		WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1`)
	require.NoError(t, err)
	holders, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{"fdc-audit-keeper", "fdc-outbox-relay", "fdc-stream-backup"}, holders)
	for _, name := range services {
		s.stop(t, name)
	}
}

// A service that is told of a pooler only, and of no way past it, doesn't start its work, and says why.
func TestAPoolerAloneIsRefused(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.environ["api"] = append(s.environ["api"], "DATABASE_URL="+pgtest.Bouncer(t, s.pool.Config().ConnString(), 2))
	s.launch(t, "api")
	u := user{client: http.DefaultClient}
	require.Eventually(t, func() bool {
		_, err := u.call(t.Context(), http.MethodGet, s.metrics["api"]+"/readyz", "")
		return err != nil && strings.Contains(err.Error(), `"waiting":"database: `) && strings.Contains(err.Error(), "unsupported startup parameter")
	}, patience, 20*time.Millisecond)
	s.stop(t, "api")
}

// everything reads and writes what a user has, and asks for a sync in the middle of it. The first failure ends it.
func (u *user) everything(ctx context.Context, rounds int) error {
	base := u.api + "/api/workspaces/" + u.workspace
	for round := range rounds {
		for _, r := range []struct{ method, url, body string }{
			{http.MethodPut, base + "/data", fmt.Sprintf(`{"data":{"round":%d}}`, round)},
			{http.MethodGet, base + "/data", ""},
			{http.MethodPatch, base + "/data", fmt.Sprintf(`{"patched":%d}`, round)},
			{http.MethodPost, base + "/tasks", fmt.Sprintf(`{"title":"task %d"}`, round)},
			{http.MethodGet, base + "/tasks", ""},
			{http.MethodGet, u.api + "/api/auth/session", ""},
		} {
			if _, err := u.call(ctx, r.method, r.url, r.body); err != nil {
				return err
			}
		}
		if round == rounds/2 {
			if _, err := u.call(ctx, http.MethodPost, u.api+"/api/google/sync", `{}`); err != nil {
				return err
			}
		}
	}
	return nil
}

// Every connection of the API's pool waits for a lock. Whoever needs one more hears 503 with Retry-After long before the
// deadline of the request, and so do, after the lock timeout, those who wait. Then all is as before.
func TestASaturatedPoolAnswers503(t *testing.T) {
	t.Parallel()
	const connections = 2
	s := newSystem(t)
	s.environ["api"] = append(s.environ["api"], fmt.Sprintf("DATABASE_MAX_CONNS=%d", connections))
	s.start(t, "api")
	holder, err := s.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, holder.Rollback(context.Background())) }()

	var all []*user
	for n := range connections {
		u := s.signUp(t, fmt.Sprintf("waiting%d@example.com", n))
		_, err = holder.Exec(t.Context(), `SELECT FROM workspace_data WHERE workspace_id = $1 FOR UPDATE`, u.workspace)
		require.NoError(t, err)
		all = append(all, u)
	}
	waiting := make(chan error, connections)
	for _, u := range all {
		go func() {
			waiting <- u.refused(t.Context(), http.MethodPut, s.api+"/api/workspaces/"+u.workspace+"/data", `{"data":{}}`)
		}()
	}
	require.Eventually(t, func() bool {
		var n int
		err := s.pool.QueryRow(t.Context(), `
			SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'fdc-api' AND wait_event_type = 'Lock'`).Scan(&n)
		return err == nil && n == connections
	}, patience, 5*time.Millisecond, "the pool is not taken")

	asked := time.Now()
	const crowd = 50
	user, workspaces := all[0], s.api+"/api/workspaces"
	health := make(chan error, 1)
	go func() {
		_, err := user.call(t.Context(), http.MethodGet, s.api+"/api/health/deep", "")
		health <- err
	}()
	refused := make(chan error, crowd)
	for range crowd {
		go func() { refused <- user.refused(t.Context(), http.MethodGet, workspaces, "") }()
	}
	for range crowd {
		require.NoError(t, <-refused)
	}
	t.Logf("%d requests refused within %s", crowd, time.Since(asked).Round(time.Millisecond))

	require.ErrorContains(t, <-health, `"postgres":{"status":"failing","detail":"The database is busy right now`)
	_, err = user.call(t.Context(), http.MethodGet, s.api+"/api/health", "")
	require.NoError(t, err, "the process lives")
	for range connections {
		require.NoError(t, <-waiting)
	}
	_, err = user.call(t.Context(), http.MethodGet, workspaces, "")
	require.NoError(t, err)
	require.Eventually(t, func() bool { // an outcome is served for a second
		_, err = user.call(t.Context(), http.MethodGet, s.api+"/api/health/deep", "")
		return err == nil
	}, patience, 50*time.Millisecond)
}

// refused returns nil when the answer is that the database is busy, and when to come again.
func (u *user) refused(ctx context.Context, method, url, body string) error {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := u.client.Do(request)
	if err != nil {
		return err
	}
	var problem struct {
		Type string `json:"type"`
	}
	err = errors.Join(json.NewDecoder(response.Body).Decode(&problem), response.Body.Close())
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" ||
		problem.Type != "urn:fdc:problem:database-busy" {
		return fmt.Errorf("%s %s: %s, Retry-After %q, %s", method, url, response.Status, response.Header.Get("Retry-After"), problem.Type)
	}
	return nil
}
