package gsync

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/task"
)

// requireFault checks the kind and the code of an error.
func requireFault(t *testing.T, err error, kind fault.Kind, code string) {
	t.Helper()
	var f *fault.Error
	require.ErrorAs(t, err, &f)
	require.Equal(t, kind, f.Kind, f.Detail)
	require.Equal(t, code, f.Code, f.Detail)
}

func TestConnectAndDisconnect(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.user(alice)
	ctx := t.Context()

	connection, err := w.account(ctx, w.ob.Pool(), p.id)
	require.NoError(t, err)
	require.Equal(t, account{UserID: p.id, State: StateDisconnected, Scopes: []string{}}, connection)
	for _, typ := range []string{events.SyncFull, events.SyncTasks, events.SyncCalendar} {
		_, _, err = w.Request(ctx, testMeta, p.id, Ask{Type: typ})
		requireFault(t, err, fault.Conflict, "google-not-connected")
	}
	_, err = w.TaskLists(ctx, p.id)
	requireFault(t, err, fault.Conflict, "google-not-connected")

	requireFault(t, w.Connect(ctx, testMeta, p.id, p.consent(alice, false)), fault.Conflict, "google-consent-incomplete")
	grant := p.consent(alice, true)
	require.Equal(t, alice, grant.Email)
	require.Equal(t, "A Person", grant.Name)
	require.True(t, grant.EmailVerified)
	require.NoError(t, w.Connect(ctx, testMeta, p.id, grant))
	require.Equal(t, 1, w.count(p.id, "google.connected"))
	var access, refresh []byte
	require.NoError(t, w.db.Pool.QueryRow(ctx, `SELECT access_token, refresh_token FROM google_accounts WHERE user_id = $1`, p.id).Scan(&access, &refresh))
	require.False(t, bytes.Contains(access, []byte(grant.token.AccessToken)))
	require.False(t, bytes.Contains(refresh, []byte(grant.token.RefreshToken)))
	_, err = w.open(p.id, kindAccess, refresh)
	require.Error(t, err, "a token opens only as what it was sealed")
	st, err := w.Status(ctx, p.id)
	require.NoError(t, err)
	require.Equal(t, SyncPendingFirst, st.State)
	require.True(t, st.Enabled)
	require.False(t, st.TokenExpired)
	require.Contains(t, st.Scopes, scopeTasks)

	p.create(task.Draft{Title: "stays one"})
	p.synced("", "")
	st, err = w.Status(ctx, p.id)
	require.NoError(t, err)
	require.Equal(t, SyncOK, st.State)
	require.NotNil(t, st.LastSyncedAt)
	require.Nil(t, st.ActiveJobID)

	require.NoError(t, w.google.AddUser(bob, "Another"))
	requireFault(t, w.Connect(ctx, testMeta, p.id, p.consent(bob, true)), fault.Conflict, "google-account-differs")

	job, _, err := w.Request(ctx, testMeta, p.id, Ask{})
	require.NoError(t, err)
	require.NoError(t, w.Disconnect(ctx, testMeta, p.id))
	require.NoError(t, w.Disconnect(ctx, testMeta, p.id), "it may be asked for again")
	require.Equal(t, 1, w.count(p.id, "google.disconnected"))
	require.Equal(t, StatusCancelled, p.ended(job.ID).Status)
	require.NoError(t, w.db.Pool.QueryRow(ctx, `SELECT access_token, refresh_token FROM google_accounts WHERE user_id = $1`, p.id).Scan(&access, &refresh))
	require.Nil(t, access)
	require.Nil(t, refresh)
	_, err = w.refresh(ctx, grant.token.RefreshToken)
	require.True(t, refusesGrant(err), "revoked at Google: %v", err)
	_, _, err = w.Request(ctx, testMeta, p.id, Ask{})
	requireFault(t, err, fault.Conflict, "google-not-connected")
	requireFault(t, w.Connect(ctx, testMeta, p.id, p.consent(bob, true)), fault.Conflict, "google-account-differs")

	require.NoError(t, w.Connect(ctx, testMeta, p.id, p.consent(alice, true)))
	p.quiet()
	p.oneThere("stays one")
}

func TestDisconnectWithoutGoogle(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	w.fault(http.MethodPost, "/revoke", 1, 0, object{"status": 503})
	require.NoError(t, w.Disconnect(t.Context(), testMeta, p.id))
	connection, err := w.account(t.Context(), w.ob.Pool(), p.id)
	require.NoError(t, err)
	require.Equal(t, StateDisconnected, connection.State)
}

func TestExactlyOneRefresh(t *testing.T) {
	t.Parallel()
	w := shared(t)
	w.control(http.MethodPut, "/_emulator/settings", object{"rotateRefreshTokens": true}, nil)
	p := w.connected(alice)
	for round := 1; round <= 3; round++ {
		w.exec(`UPDATE google_accounts SET access_expires_at = now() WHERE user_id = $1`, p.id)
		var group errgroup.Group
		tokens := make([]string, 12)
		for i := range tokens {
			node := w.newService(nil)
			group.Go(func() error {
				token, err := node.access(t.Context(), p.id, "")
				tokens[i] = token.value
				return err
			})
		}
		require.NoError(t, group.Wait())
		require.Len(t, slices.Compact(tokens), 1, "all have the same token")
		refreshes := slices.DeleteFunc(w.requests(), func(r loggedRequest) bool { return r.Path != "/token" })
		require.Len(t, refreshes, 1+round, "the exchange of the code and one refresh each round, with the rotated token")
	}
}

func TestRevokedAtGoogle(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	p.create(task.Draft{Title: "stays one"})
	p.synced("", "")
	w.control(http.MethodPost, "/_emulator/revoke", object{"email": alice}, nil)

	job := p.sync("", "")
	require.Equal(t, StatusFailed, job.Status)
	require.Equal(t, codeReauth, job.Error.Code)
	require.False(t, job.Error.Retryable)
	require.Equal(t, 1, w.count(p.id, "google.reauth_required"))
	require.Equal(t, 1, w.count(p.id, "sync.failed"))
	st, err := w.Status(t.Context(), p.id)
	require.NoError(t, err)
	require.Equal(t, StateReauthRequired, st.State)
	require.True(t, st.TokenExpired)
	_, _, err = w.Request(t.Context(), testMeta, p.id, Ask{})
	requireFault(t, err, fault.Conflict, "google-reauth-required")

	require.NoError(t, w.Connect(t.Context(), testMeta, p.id, p.consent(alice, true)))
	p.quiet()
	p.oneThere("stays one")
}

func TestTokenRefusedEarly(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	w.fault(http.MethodGet, "/tasks/*", 2, 1, object{"status": 401, "reason": "authError"})
	p.synced("", "")
	connection, err := w.account(t.Context(), w.ob.Pool(), p.id)
	require.NoError(t, err)
	require.Equal(t, StateConnected, connection.State)

	w.fault(http.MethodGet, "/tasks/*", 1, 0, object{"status": 401, "reason": "authError"})
	job := p.sync("", "")
	require.Equal(t, codeReauth, job.Error.Code)
	require.Equal(t, 1, w.count(p.id, "google.reauth_required"))
}

func TestTokenEndpointInTrouble(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	w.exec(`UPDATE google_accounts SET access_expires_at = now() WHERE user_id = $1`, p.id)
	w.fault(http.MethodPost, "/token", 1, 3, object{"status": 503})
	p.synced("", "")
}

func TestUntickedScopes(t *testing.T) {
	t.Parallel()
	w := shared(t)
	w.control(http.MethodPut, "/_emulator/settings", object{"grantedScopes": object{alice: []string{scopeTasks}}}, nil)
	p := w.connected(alice)
	p.create(task.Draft{Title: "one"})

	_, _, err := w.Request(t.Context(), testMeta, p.id, Ask{Type: events.SyncCalendar})
	requireFault(t, err, fault.Conflict, "google-scope-missing")
	require.ErrorContains(t, err, "Google Calendar")
	_, err = w.Calendars(t.Context(), p.id)
	requireFault(t, err, fault.Conflict, "google-scope-missing")
	settings, err := w.Settings(t.Context(), p.id)
	require.NoError(t, err)
	require.Empty(t, settings.CalendarIDs)

	result := p.synced("", "")
	require.EqualValues(t, 1, result.Tasks.Pushed)
	require.Len(t, result.Warnings, 1)
	require.Contains(t, result.Warnings[0], "Google Calendar")

	w.control(http.MethodPut, "/_emulator/settings", object{"grantedScopes": object{bob: []string{"openid", "email"}}}, nil)
	_, _, err = w.Request(t.Context(), testMeta, w.connected(bob).id, Ask{})
	requireFault(t, err, fault.Conflict, "google-scope-missing")
}

func TestSettings(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p, other := w.connected(alice), w.user(bob)
	ctx := t.Context()
	st, err := w.Settings(ctx, p.id)
	require.NoError(t, err)
	require.Equal(t, Settings{
		WorkspaceID: p.workspaceID, TaskListID: "@default", CalendarIDs: []string{alice}, AutoSync: true, IntervalMinutes: 15,
	}, st)
	lists, err := w.TaskLists(ctx, p.id)
	require.NoError(t, err)
	require.Len(t, lists, 1)

	good := st
	good.CalendarIDs, good.TaskListID, good.AutoSync, good.IntervalMinutes = []string{"primary", alice}, lists[0].ID, false, 60
	got, err := w.PutSettings(ctx, p.id, good)
	require.NoError(t, err)
	good.CalendarIDs = []string{alice}
	require.Equal(t, good, got)
	st, err = w.Settings(ctx, p.id)
	require.NoError(t, err)
	require.Equal(t, good, st)

	_, err = w.PutSettings(ctx, p.id, Settings{
		WorkspaceID: other.workspaceID, TaskListID: "no such list", CalendarIDs: []string{alice, "nobody@example.com"}, IntervalMinutes: 4,
	})
	var f *fault.Error
	require.ErrorAs(t, err, &f)
	require.Equal(t, fault.Invalid, f.Kind)
	var pointers []string
	for _, field := range f.Fields {
		pointers = append(pointers, field.Pointer)
	}
	require.ElementsMatch(t, []string{"/workspaceId", "/taskListId", "/calendarIds/1", "/intervalMinutes"}, pointers)
	_, err = w.PutSettings(ctx, p.id, Settings{WorkspaceID: "x", TaskListID: strings.Repeat("x", 2000), IntervalMinutes: 15})
	require.ErrorAs(t, err, &f)

	// Without Google, what needs no look at Google can be set.
	st, err = w.PutSettings(ctx, other.id, Settings{WorkspaceID: other.workspaceID, TaskListID: "@default", IntervalMinutes: 15})
	require.NoError(t, err)
	require.Equal(t, []string{}, st.CalendarIDs)
	_, err = w.PutSettings(ctx, other.id, Settings{
		WorkspaceID: other.workspaceID, TaskListID: "@default", CalendarIDs: []string{"primary"}, IntervalMinutes: 15,
	})
	requireFault(t, err, fault.Conflict, "google-not-connected")
}

func TestCalendarNoLongerChosen(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	p.event("here", "2026-03-02T09:00:00Z", nil)
	p.synced("", "")
	at := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	shown, err := w.Events(t.Context(), p.id, at, at.AddDate(0, 0, 1))
	require.NoError(t, err)
	require.Len(t, shown, 1)
	st, err := w.Settings(t.Context(), p.id)
	require.NoError(t, err)
	st.CalendarIDs = []string{}
	_, err = w.PutSettings(t.Context(), p.id, st)
	require.NoError(t, err)
	shown, err = w.Events(t.Context(), p.id, at, at.AddDate(0, 0, 1))
	require.NoError(t, err)
	require.Empty(t, shown)
	p.quiet()

	// A run that was under way then brings it back, for the time until the next one.
	w.exec(`INSERT INTO sync_state (user_id, resource) VALUES ($1, 'calendar:' || $2)`, p.id, alice)
	w.exec(`INSERT INTO calendar_events (user_id, calendar_id, event_id, title, start_at, end_at, starts, ends)
		VALUES ($1, $2, 'late', 'late', $3, $3, $3, $3)`, p.id, alice, at.Add(time.Hour))
	p.synced(events.SyncCalendar, "")
	shown, err = w.Events(t.Context(), p.id, at, at.AddDate(0, 0, 1))
	require.NoError(t, err)
	require.Empty(t, shown)
}

func TestSwitchToAnotherAccount(t *testing.T) {
	t.Parallel()
	w := shared(t)
	h := w.listen()
	p := w.connected(alice)
	require.NoError(t, w.google.AddUser(bob, "Another"))
	start := march.Add(33 * time.Hour)
	p.create(task.Draft{Title: "mine"})
	p.create(task.Draft{Title: "timed", StartAt: &start})
	p.event("of the first account", "2026-03-02T09:00:00Z", nil)
	p.synced("", "")
	h.hears("sync", 1)
	before, err := w.account(t.Context(), w.ob.Pool(), p.id)
	require.NoError(t, err)

	grant := p.consent(bob, true)
	lasting := grant.token.RefreshToken
	grant.token.RefreshToken = ""
	requireFault(t, w.Switch(t.Context(), testMeta, p.id, grant), fault.Conflict, "google-consent-incomplete")
	require.Equal(t, []string{"of the first account"}, p.titles(march, may), "nothing has happened")
	grant.token.RefreshToken = lasting
	require.NoError(t, w.Switch(t.Context(), testMeta, p.id, grant))
	require.Equal(t, []string{"google.disconnected", "google.connected"}, slices.DeleteFunc(w.told(p.id), func(action string) bool {
		return !strings.HasPrefix(action, "google.")
	})[1:])
	require.Empty(t, p.titles(march, may))
	require.Empty(t, p.channels())
	require.Len(t, w.asked("/stop"), 1)
	after, err := w.account(t.Context(), w.ob.Pool(), p.id)
	require.NoError(t, err)
	require.Equal(t, bob, after.Email)
	require.NotEqual(t, before.GoogleID, after.GoogleID)
	_, err = w.refresh(t.Context(), mustOpen(t, w.Service, p.id, before.RefreshToken))
	require.True(t, refusesGrant(err), "revoked at Google: %v", err)

	// All goes to the new account, and nothing more to the old one.
	writes := len(w.writes())
	p.synced("", "")
	require.Greater(t, len(w.writes()), writes)
	first := p.oneThere("mine")
	p.email = bob
	require.NotEqual(t, first.Id, p.oneThere("mine").Id)
	require.NotEmpty(t, p.one("timed").Google.EventID)
	p.equal()
	p.quiet()
	for _, r := range w.writes()[writes:] {
		require.Equal(t, bob, r.User, r.Path)
	}

	// Whoever has no account before, or the same, just connects.
	require.NoError(t, w.Switch(t.Context(), testMeta, p.id, p.consent(bob, true)))
	p.quiet()
}

func mustOpen(t *testing.T, s *Service, userID string, sealed []byte) string {
	t.Helper()
	token, err := s.open(userID, kindRefresh, sealed)
	require.NoError(t, err)
	return token
}
