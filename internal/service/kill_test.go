package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"fdc/events"
	"fdc/internal/devstack/natstest"
	"fdc/internal/devstack/testenv"
	"fdc/internal/platform/bus"
)

// Each service is killed under load, and started again, FDC_KILL_ROUNDS times. At the end every fact that was committed is in the
// stream once, in order per aggregate, every event has its row in the audit log, every sync has ended, nothing is among the
// dead letters, and the cache was never found to differ from its rows.
func TestEveryFactOnceWhenServicesAreKilled(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.impatient(t)
	services := []string{"api", bus.Syncer, bus.CacheInvalidator, bus.AuditArchiver}
	s.startAll(t)
	var load sync.WaitGroup
	var done atomic.Bool
	var acknowledged atomic.Int64
	for n := range 4 {
		user := s.signUp(t, fmt.Sprintf("load%d@example.com", n))
		load.Go(func() {
			for round := 0; !done.Load(); round++ {
				acknowledged.Add(user.work(t.Context(), round))
			}
		})
	}
	for range testenv.Size(t, "FDC_KILL_ROUNDS", 1) {
		for _, name := range services {
			before := acknowledged.Load()
			require.Eventually(t, func() bool { return acknowledged.Load() >= before+40 }, patience, 5*time.Millisecond, "no progress")
			s.kill(t, name)
			s.start(t, name)
		}
	}
	done.Store(true)
	load.Wait()
	s.accounted(t)
	s.consistent(t)
	for _, name := range services {
		s.stop(t, name)
	}
	t.Logf("%d requests acknowledged", acknowledged.Load())
}

// impatient has NATS deliver again after five seconds what a killed service has not answered, instead of half a minute.
func (s *system) impatient(t *testing.T) {
	t.Helper()
	owner, err := bus.JetStream(natstest.Connect(t, s.broker, "provision"))
	require.NoError(t, err)
	for _, declared := range bus.Consumers() {
		consumer, err := owner.Consumer(t.Context(), bus.Events, declared.Name)
		require.NoError(t, err)
		config := consumer.CachedInfo().Config
		config.AckWait = 5 * time.Second
		_, err = owner.UpdateConsumer(t.Context(), bus.Events, config)
		require.NoError(t, err)
	}
}

// user is a browser that is signed in.
type user struct {
	client    *http.Client
	api       string
	workspace string
}

// signUp walks the OAuth flow of a new user.
func (s *system) signUp(t *testing.T, email string) *user {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	u := &user{api: s.api, client: &http.Client{Jar: jar, Timeout: time.Minute}}
	_, err = u.call(t.Context(), http.MethodPost, s.google+"/_emulator/users", fmt.Sprintf(`{"email":%q,"name":"Load"}`, email))
	require.NoError(t, err)
	_, err = u.call(t.Context(), http.MethodGet,
		s.api+"/api/auth/login?redirect=/api/auth/session&connect=true&login_hint="+email, "")
	require.NoError(t, err)
	body, err := u.call(t.Context(), http.MethodGet, s.api+"/api/auth/session", "")
	require.NoError(t, err)
	var session struct {
		Workspaces []struct {
			ID string `json:"id"`
		} `json:"workspaces"`
		Google struct {
			State string `json:"state"`
		} `json:"google"`
	}
	require.NoError(t, json.Unmarshal(body, &session))
	require.Len(t, session.Workspaces, 1)
	require.NotEqual(t, "disconnected", session.Google.State)
	u.workspace = session.Workspaces[0].ID
	return u
}

// work does what a user does and returns how many requests were answered well. A server that is away costs an answer.
func (u *user) work(ctx context.Context, round int) (acknowledged int64) {
	base := u.api + "/api/workspaces/" + u.workspace
	requests := []struct{ method, url, body string }{
		{http.MethodPut, base + "/data", fmt.Sprintf(`{"data":{"round":%d}}`, round)},
		{http.MethodPatch, base + "/data", fmt.Sprintf(`{"patched":%d}`, round)},
		{http.MethodPost, base + "/tasks", fmt.Sprintf(`{"title":"task %d"}`, round)},
	}
	if round%20 == 5 {
		requests = append(requests, struct{ method, url, body string }{http.MethodPost, u.api + "/api/google/sync", `{}`})
	}
	for _, r := range requests {
		if _, err := u.call(ctx, r.method, r.url, r.body); err == nil {
			acknowledged++
		}
	}
	return acknowledged
}

func (u *user) call(ctx context.Context, method, url, body string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := u.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	content, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, url, response.Status, bytes.TrimSpace(content))
	}
	return content, err
}

// accounted waits until everything has drained and holds tables, stream, audit log and dead letters against each other.
func (s *system) accounted(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	require.Eventually(t, func() bool {
		var open int
		err := s.pool.QueryRow(ctx, `SELECT count(*) FROM sync_jobs WHERE status IN ('pending', 'processing')`).Scan(&open)
		return err == nil && open == 0
	}, 2*patience, 50*time.Millisecond, "a sync does not end")
	s.drained(t)

	stream, err := s.js.Stream(ctx, bus.Events)
	require.NoError(t, err)
	inStream, byAction := map[string]bool{}, map[string]int{}
	last := map[string]int64{}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	for range stream.CachedInfo().State.Msgs {
		msg, err := consumer.Next(jetstream.FetchMaxWait(patience))
		require.NoError(t, err)
		e, err := events.Decode(msg.Data())
		require.NoError(t, err)
		require.False(t, inStream[e.ID], "event %s is in the stream twice", e.ID)
		inStream[e.ID] = true
		byAction[e.Action()]++
		require.Equal(t, last[e.Aggregate()]+1, e.Version(), "%s of %s", e.Action(), e.Aggregate())
		last[e.Aggregate()] = e.Version()
	}
	t.Logf("%d events: %v", len(inStream), byAction)

	// The last version in the stream is the one in the table.
	for aggregate, query := range map[string]string{
		"workspace_data": `SELECT workspace_id::text, version FROM workspace_data WHERE version > 0`,
		"task":           `SELECT id::text, version FROM tasks`,
		"sync_job":       `SELECT id::text, version FROM sync_jobs`,
	} {
		rows, err := s.pool.Query(ctx, query)
		require.NoError(t, err)
		var id string
		var version int64
		n := 0
		_, err = pgx.ForEachRow(rows, []any{&id, &version}, func() error {
			n++
			if got := last[aggregate+"/"+id]; got != version {
				return fmt.Errorf("%s %s: version %d in the table, %d in the stream", aggregate, id, version, got)
			}
			return nil
		})
		require.NoError(t, err)
		require.Positive(t, n, "no %s at all", aggregate)
	}

	// Every event has its row, and no row is without an event.
	rows, err := s.pool.Query(ctx, `SELECT event_id::text FROM audit_logs`)
	require.NoError(t, err)
	audited, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Len(t, audited, len(inStream), "audit rows")
	for _, id := range audited {
		require.True(t, inStream[id], "audit row %s has no event", id)
	}
	dead, err := s.js.Stream(ctx, bus.Dead)
	require.NoError(t, err)
	if letter, err := dead.GetLastMsgForSubject(ctx, "dead.>"); !errors.Is(err, jetstream.ErrMsgNotFound) {
		require.NoError(t, err)
		t.Fatalf("dead letter on %s: %v", letter.Subject, letter.Header)
	}
}
