package httpapi_test

import (
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"fdc/internal/devstack/googleemu"
	"fdc/internal/httpapi"
	"fdc/internal/platform/flags"
)

func TestSyncIsQueued(t *testing.T) {
	t.Parallel()
	w := shared(t)
	alice, bob := w.signIn("alice", "connect=true"), w.signIn("bob")

	require.Equal(t, "pending_first_sync", alice.get("/api/google/sync").str("state"))
	require.Equal(t, "disconnected", bob.get("/api/google/sync").str("state"))
	require.Equal(t, "google-not-connected", bob.send(http.MethodPost, "/api/google/sync", object{}).code())

	queued := alice.send(http.MethodPost, "/api/google/sync", object{"type": "tasks"})
	require.Equal(t, http.StatusAccepted, queued.status)
	require.Equal(t, "queued", queued.str("status"))
	require.Equal(t, false, queued.field("coalesced"))
	job := "/api/google/sync?jobId=" + queued.str("jobId")
	require.Equal(t, job, queued.header.Get("Location"))
	again := alice.send(http.MethodPost, "/api/google/sync", nil) // no body: full, incremental
	require.Equal(t, queued.str("jobId"), again.str("jobId"))
	require.Equal(t, true, again.field("coalesced"))

	state := alice.get(job)
	require.Equal(t, "pending", state.str("status"))
	require.Equal(t, "full", state.str("type"), "both requests are covered")
	require.Equal(t, queued.str("jobId"), alice.get("/api/google/sync").str("activeJobId"))
	require.Equal(t, http.StatusNotFound, bob.get(job).status)
	require.Equal(t, http.StatusNotFound, bob.send(http.MethodDelete, job, nil).status)

	forced := alice.send(http.MethodPost, "/api/google/sync", `{"mode":"resync","force":true}`)
	require.Equal(t, http.StatusAccepted, forced.status)
	require.Equal(t, queued.str("jobId"), forced.str("jobId"))

	cancelled := alice.send(http.MethodDelete, job, nil)
	require.Equal(t, http.StatusAccepted, cancelled.status)
	require.Equal(t, "cancelled", alice.get(job).str("status"))

	for body, status := range map[string]int{
		`{"type":"mail"}`: 422, `{"type":null}`: 422, `{"mode":"fast"}`: 422, `{"force":true}`: 422, `[]`: 422, `{`: 400, `null`: 422,
	} {
		require.Equal(t, status, alice.send(http.MethodPost, "/api/google/sync", body).status, body)
	}
	for path, status := range map[string]int{
		"/api/google/sync?jobId=": 400, "/api/google/sync?jobId=7": 404, "/api/google/sync?jobId=a&jobId=b": 400,
		"/api/google/sync?jobId=00000000-0000-7000-8000-000000000000": 404,
	} {
		require.Equal(t, status, alice.get(path).status, path)
		require.Equal(t, status, alice.send(http.MethodDelete, path, nil).status, path)
	}
	require.Equal(t, http.StatusBadRequest, alice.send(http.MethodDelete, "/api/google/sync", nil).status)
}

func TestSyncBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *httpapi.Config) { c.SyncAsync = false })
	require.NoError(t, w.google.AddCalendar(w.email("alice"), googleemu.Calendar{ID: "team@example.com", Summary: "Team", TimeZone: "Asia/Tokyo"}))
	alice := w.signIn("alice", "connect=true")
	tasks := "/api/workspaces/" + alice.home() + "/tasks"
	made := alice.send(http.MethodPost, tasks, object{"title": "From here"})

	ended := alice.send(http.MethodPost, "/api/google/sync", object{"mode": "resync"})
	require.Equal(t, http.StatusOK, ended.status)
	require.Equal(t, "completed", ended.str("status"), ended.text)
	require.Equal(t, 1.0, ended.field("result", "tasks", "pushed"))
	require.NotEmpty(t, alice.get(tasks+"/"+made.str("id")).str("google", "taskId"))
	require.Equal(t, "ok", alice.get("/api/google/sync").str("state"))
}

func TestSyncSettings(t *testing.T) {
	t.Parallel()
	w := shared(t)
	require.NoError(t, w.google.AddCalendar(w.email("alice"), googleemu.Calendar{ID: "team@example.com", Summary: "Team", TimeZone: "Asia/Tokyo"}))
	alice, bob := w.signIn("alice", "connect=true"), w.signIn("bob")
	home := alice.home()

	require.Equal(t, "google-not-connected", bob.get("/api/google/tasklists").code())
	require.Equal(t, "google-not-connected", bob.get("/api/google/calendars").code())
	require.NotEmpty(t, alice.get("/api/google/tasklists").field("items"))
	calendars := alice.get("/api/google/calendars")
	require.Len(t, calendars.field("items"), 2)
	page := alice.get("/api/google/calendars?limit=1")
	require.Equal(t, calendars.str("items", 1, "id"), alice.get("/api/google/calendars?limit=1&cursor="+page.str("nextCursor")).str("items", 0, "id"))

	fresh := alice.get("/api/google/settings")
	require.Equal(t, home, fresh.str("workspaceId"))
	require.Equal(t, "@default", fresh.str("taskListId"))
	require.Equal(t, 15.0, fresh.field("intervalMinutes"))

	want := object{"workspaceId": home, "taskListId": "@default", "calendarIds": []any{"team@example.com"}, "autoSync": false, "intervalMinutes": 30.0}
	put := alice.send(http.MethodPut, "/api/google/settings", want)
	require.Equal(t, http.StatusOK, put.status, put.text)
	require.Equal(t, put.text, alice.get("/api/google/settings").text)

	for name, change := range map[string]func(object){
		"/workspaceId":     func(o object) { o["workspaceId"] = bob.home() },
		"/taskListId":      func(o object) { o["taskListId"] = "nobody's" },
		"/calendarIds/0":   func(o object) { o["calendarIds"] = []string{"nobody's"} },
		"/calendarIds":     func(o object) { o["calendarIds"] = nil },
		"/autoSync":        func(o object) { delete(o, "autoSync") },
		"/intervalMinutes": func(o object) { o["intervalMinutes"] = 4 },
	} {
		body := maps.Clone(want)
		change(body)
		r := alice.send(http.MethodPut, "/api/google/settings", body)
		require.Equal(t, http.StatusUnprocessableEntity, r.status, name)
		require.Equal(t, name, r.str("errors", 0, "pointer"))
	}
}

func TestCalendarEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *httpapi.Config) { c.SyncAsync = false })
	alice := w.signIn("alice", "connect=true")
	token, err := w.google.Token(w.email("alice"))
	require.NoError(t, err)
	for _, event := range []object{
		{"id": "aaaaa", "summary": "会議", "start": object{"dateTime": "2026-03-01T09:00:00+09:00", "timeZone": "Asia/Tokyo"}, "end": object{"dateTime": "2026-03-01T10:00:00+09:00", "timeZone": "Asia/Tokyo"}},
		{"id": "bbbbb", "summary": "Trip", "start": object{"date": "2026-03-01"}, "end": object{"date": "2026-03-03"}},
		{"id": "ccccc", "summary": "Later", "start": object{"dateTime": "2026-04-01T00:00:00Z"}, "end": object{"dateTime": "2026-04-01T01:00:00Z"}},
	} {
		r := alice.send(http.MethodPost, w.emu.URL+"/calendar/v3/calendars/primary/events", event, "Authorization", "Bearer "+token)
		require.Equal(t, http.StatusOK, r.status, r.text)
	}
	require.Equal(t, "completed", alice.send(http.MethodPost, "/api/google/sync", object{"type": "calendar"}).str("status"))

	list := alice.get("/api/calendar/events?from=2026-03-01T00:00:00%2B09:00&to=2026-03-31")
	require.Len(t, list.field("items"), 2, list.text)
	require.Equal(t, "2026-03-01", list.str("items", 0, "start"))
	require.Equal(t, "2026-03-03", list.str("items", 0, "end"))
	require.Equal(t, true, list.field("items", 0, "allDay"))
	require.Equal(t, "2026-03-01T00:00:00Z", list.str("items", 1, "start"))
	require.Equal(t, "Asia/Tokyo", list.str("items", 1, "timeZone"))
	require.Nil(t, list.field("items", 1, "recurringEventId"))
	first := alice.get("/api/calendar/events?from=2026-03-01&to=2026-05-01&limit=2")
	rest := alice.get("/api/calendar/events?from=2026-03-01&to=2026-05-01&limit=2&cursor=" + first.str("nextCursor"))
	require.Equal(t, "ccccc", rest.str("items", 0, "id"))
	require.Empty(t, w.signIn("bob").get("/api/calendar/events?from=2026-03-01&to=2026-05-01").field("items"))

	for _, query := range []string{
		"", "?from=2026-03-01", "?to=2026-03-01", "?from=2026-03-02&to=2026-03-01", "?from=2026-03-01&to=2026-03-01", "?from=x&to=y",
		"?from=0001-01-01&to=9999-12-31", "?from=2026-03-01&to=2026-03-02&limit=0", "?from=2026-03-01&to=2026-03-02&cursor=x",
		"?from=99999-01-01&to=2026-03-02", "?from=-1&to=2026-03-02",
	} {
		require.Equal(t, http.StatusBadRequest, alice.get("/api/calendar/events"+query).status, query)
	}
}

// A flag that is off has a sync answered when it has ended, like the variable.
func TestTheSyncFlag(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *httpapi.Config) { c.Flags = flags.New(nil, c.Log, flags.SyncAsync) })
	alice := w.signIn("alice", "connect=true")
	require.Equal(t, http.StatusOK, alice.send(http.MethodPost, "/api/google/sync", object{"type": "tasks"}).status)
}

// changeAtGoogle makes an event in the user's calendar.
func (w *world) changeAtGoogle(email string) {
	w.t.Helper()
	_, err := w.google.AddEvent(email, "primary", object{
		"summary": "made at Google", "start": object{"dateTime": "2026-03-01T09:00:00Z"}, "end": object{"dateTime": "2026-03-01T10:00:00Z"},
	})
	require.NoError(w.t, err)
}

// From an edit at Google to a job, over the address that Google was given; and nothing for whoever else calls there.
func TestGoogleTellsOfChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *httpapi.Config) { c.SyncAsync = false })
	alice := w.signIn("alice", "connect=true")
	require.Equal(t, "completed", alice.send(http.MethodPost, "/api/google/sync", object{}).str("status"))
	require.Nil(t, alice.get("/api/google/sync").field("activeJobId"))

	w.changeAtGoogle(w.email("alice"))
	require.Eventually(t, func() bool { return alice.get("/api/google/sync").field("activeJobId") != nil }, patience, 50*time.Millisecond)

	const hook = "/api/google/webhook"
	for range 3 {
		forged := w.visitor().send(http.MethodPost, hook, nil, "X-Goog-Channel-ID", "0190a5de-0000-7000-8000-000000000000",
			"X-Goog-Channel-Token", "guess", "X-Goog-Resource-State", "exists", "X-Goog-Message-Number", "2")
		require.Equal(t, http.StatusNotFound, forged.status)
		require.Equal(t, "not-found", forged.code())
	}
	require.Equal(t, http.StatusNotFound, w.visitor().send(http.MethodPost, hook, nil).status)
	require.Equal(t, http.StatusMethodNotAllowed, w.visitor().get(hook).status)
}

// Who guesses is charged by address; Google's own go on, each channel for itself.
func TestWebhookLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limited(0.5), func(c *httpapi.Config) { c.SyncAsync = false })
	alice := w.signIn("alice", "connect=true")
	require.Equal(t, "completed", alice.send(http.MethodPost, "/api/google/sync", object{}).str("status"))
	for {
		r := w.visitor().send(http.MethodPost, "/api/google/webhook", nil)
		if r.status == http.StatusTooManyRequests {
			r.refused("default", 30)
			break
		}
		require.Equal(t, http.StatusNotFound, r.status)
	}
	w.changeAtGoogle(w.email("alice"))
	require.Eventually(t, func() bool { return alice.get("/api/google/sync").field("activeJobId") != nil }, patience, 50*time.Millisecond)
}
