package googleemu

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/googleapi"
	gtasks "google.golang.org/api/tasks/v1"
)

func TestCase44InsertThatCommitsAndIsNotHeardOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.tasks(ann)
	w.fault("/tasks/v1/lists/*/tasks", object{"drop": "after"})
	_, err := api.Tasks.Insert("@default", &gtasks.Task{Title: "t", Notes: "n"}).Context(t.Context()).Do()
	require.Error(t, err)
	var refusal *googleapi.Error
	require.NotErrorAs(t, err, &refusal, "the client cannot know what became of it")
	l, err := api.Tasks.List("@default").UpdatedMin("2026-03-02T08:55:00Z").ShowHidden(true).ShowDeleted(true).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Len(t, l.Items, 1, "adopting this one instead of inserting again leaves one task")
	require.Equal(t, "n", l.Items[0].Notes)

	w.fault("/tasks/v1/lists/*/tasks", object{"drop": "before"})
	_, err = api.Tasks.Insert("@default", &gtasks.Task{Title: "never"}).Context(t.Context()).Do()
	require.Error(t, err)
	require.Equal(t, []string{"t"}, titles(t, api.Tasks.List("@default")))
}

func TestCase45RateLimitsAndForbidden(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lists := w.tasks(ann).Tasklists.List().Context(t.Context())
	for _, tc := range []struct {
		fault  object
		code   int
		reason string
		after  string
	}{
		{object{"status": 429, "retryAfter": 7}, 429, "rateLimitExceeded", "7"},
		{object{"status": 403, "reason": "rateLimitExceeded"}, 403, "rateLimitExceeded", ""},
		{object{"status": 403, "reason": "userRateLimitExceeded", "retryAfter": "Wed, 21 Oct 2026 07:28:00 GMT"}, 403, "userRateLimitExceeded", "Wed, 21 Oct 2026 07:28:00 GMT"},
		{object{"status": 403}, 403, "forbidden", ""},
	} {
		w.fault("/tasks/v1/users/@me/lists", tc.fault)
		_, err := lists.Do()
		refused(t, err, tc.code, tc.reason)
		var refusal *googleapi.Error
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, tc.after, refusal.Header.Get("Retry-After"))
		_, err = lists.Do()
		require.NoError(t, err, "a fault strikes once unless told otherwise")
	}
}

func TestCase46ServerErrorsLeaveTheTokenWhereItWas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	token := list(t, api.Events.List("primary")).sync
	w.addMany(3)
	want := list(t, api.Events.List("primary").SyncToken(token))
	for name, fault := range map[string]object{
		"500": {"status": 500}, "503": {"status": 503}, "502": {"status": 502}, "cut": {"truncate": true}, "gone": {"drop": "after"},
	} {
		w.fault("/calendar/v3/calendars/primary/events", fault)
		_, err := api.Events.List("primary").SyncToken(token).Context(t.Context()).Do()
		require.Error(t, err, name)
		var refusal *googleapi.Error
		switch name {
		case "cut":
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		case "gone":
			require.NotErrorAs(t, err, &refusal)
		case "502":
			require.ErrorAs(t, err, &refusal)
			require.Empty(t, refusal.Errors, "HTML says nothing that a client could read")
		default:
			refused(t, err, fault["status"].(int), "backendError")
		}
		require.Equal(t, want.ids(), list(t, api.Events.List("primary").SyncToken(token)).ids(), name)
	}
}

func TestCase47RestartLosesNothing(t *testing.T) {
	t.Parallel()
	file := t.TempDir() + "/google.json"
	w := &world{t: t, now: testTime}
	stop := w.start(file)
	require.NoError(t, w.AddUser(ann, "Ann Example"))
	c := w.oauth("email", tasksScope, eventsScope)
	tokens := w.signIn(c, oauth2.AccessTypeOffline)
	w.control(http.MethodPut, "settings", object{"rotateRefreshTokens": true}, nil)
	w.control(http.MethodPost, "clock", object{"advanceSeconds": 60}, nil)
	api := w.calendarWith(w.with(tokens.AccessToken))
	sync := list(t, api.Events.List("primary")).sync
	w.addMany(5)
	w.standup("RRULE:FREQ=DAILY;COUNT=30")
	newTask(t, w.tasks(ann), "kept")
	first, err := api.Events.List("primary").SyncToken(sync).MaxResults(2).Context(t.Context()).Do()
	require.NoError(t, err)
	want := list(t, api.Events.List("primary").SyncToken(sync))
	instances := list(t, api.Events.List("primary").SingleEvents(true))
	stop()

	w.start(file)
	api = w.calendarWith(w.with(tokens.AccessToken))
	_, err = api.Events.List("primary").SyncToken(sync).MaxResults(2).PageToken(first.NextPageToken).Context(t.Context()).Do()
	refused(t, err, http.StatusBadRequest, "invalid") // snapshots are not kept: the client starts again from its sync token
	got := list(t, api.Events.List("primary").SyncToken(sync))
	require.Equal(t, want.items, got.items)
	require.Equal(t, want.sync, got.sync)
	require.Equal(t, instances.items, list(t, api.Events.List("primary").SingleEvents(true)).items, "across the clock change too")
	require.Equal(t, []string{"kept"}, titles(t, w.tasksWith(w.with(tokens.AccessToken)).Tasks.List("@default")))
	rotated, err := w.refresh(w.oauth(), tokens.RefreshToken)
	require.NoError(t, err)
	require.NotEqual(t, tokens.RefreshToken, rotated.RefreshToken, "settings are kept")
	var clock struct{ Now string }
	w.control(http.MethodPost, "clock", object{"advanceSeconds": 0}, &clock)
	require.Equal(t, "2026-03-02T09:01:00.000Z", clock.Now)
}

func TestCase48ResyncFailsHalfWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addMany(5)
	api := w.calendar(ann)
	w.faultRules(object{"match": object{"path": "*/events"}, "nth": 2, "fault": object{"status": 503}})
	first, err := api.Events.List("primary").MaxResults(2).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Empty(t, first.NextSyncToken, "nothing to save before the last page")
	next := api.Events.List("primary").MaxResults(2).PageToken(first.NextPageToken)
	_, err = next.Context(t.Context()).Do()
	refused(t, err, http.StatusServiceUnavailable, "backendError")
	require.Len(t, list(t, next).items, 3, "the page is still there for another attempt")
}

func TestCase49OwnPushedEventIsRecognizableInTheDelta(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	token := list(t, api.Events.List("primary")).sync
	ev := w.newEvent()
	ev.Id, ev.ExtendedProperties = "fdc0001", &gcal.EventExtendedProperties{Private: map[string]string{"fdcTask": "1"}}
	pushed, err := api.Events.Insert("primary", ev).Context(t.Context()).Do()
	require.NoError(t, err)
	delta := list(t, api.Events.List("primary").SyncToken(token))
	require.Len(t, delta.items, 1)
	require.Equal(t, pushed.Etag, delta.items[0].Etag, "the version that the client wrote, not another")
	require.Equal(t, "1", delta.items[0].ExtendedProperties.Private["fdcTask"])
}

func TestCase50ServerClockIsTheOneThatCounts(t *testing.T) {
	t.Parallel()
	for _, skew := range []int{-300, 300} {
		w := newWorld(t)
		require.Equal(t, http.StatusOK, w.control(http.MethodPost, "clock", object{"advanceSeconds": skew}, nil))
		made := newTask(t, w.tasks(ann), "t")
		require.Equal(t, stamp(w.clock().Add(time.Duration(skew)*time.Second)), made.Updated)
		date, err := http.ParseTime(made.Header.Get("Date"))
		require.NoError(t, err)
		require.WithinDuration(t, w.clock().Add(time.Duration(skew)*time.Second), date, time.Second, "answers carry that clock's time")
	}
}

func TestFaultsMatchAndCount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.AddUser("bea@example.com", "Bea"))
	annLists, beaLists := w.tasks(ann).Tasklists.List().Context(t.Context()), w.tasks("bea@example.com").Tasklists.List().Context(t.Context())
	fails := func(call *gtasks.TasklistsListCall) bool { _, err := call.Do(); return err != nil }

	w.faultRules(object{"match": object{"method": "GET", "path": "/tasks/*", "user": "Bea@example.com"}, "nth": 2, "count": 2, "fault": object{"status": 500}})
	require.False(t, fails(annLists))
	require.Equal(t, []bool{false, true, true, false}, []bool{fails(beaLists), fails(beaLists), fails(beaLists), fails(beaLists)})

	w.faultRules(object{"match": object{}, "count": 0, "fault": object{"status": 500}})
	require.True(t, fails(annLists))
	require.True(t, fails(beaLists))
	require.Equal(t, http.StatusNoContent, w.control(http.MethodDelete, "faults", nil, nil))
	require.False(t, fails(annLists))

	w.faultRules(
		object{"match": object{"path": "/tasks/*"}, "fault": object{"latencyMs": 1}},
		object{"match": object{"path": "/tasks/*"}, "fault": object{"status": 429}},
	)
	require.True(t, fails(annLists), "faults of one request add up")
	w.faultRules(object{"match": object{"method": "POST"}, "fault": object{"status": 500}}, object{"match": object{"path": "/tasks"}, "fault": object{"status": 500}})
	require.False(t, fails(annLists), "a glob covers the whole path")
}

func TestFaultOnTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.oauth("email")
	token := w.signIn(c, oauth2.AccessTypeOffline).RefreshToken
	for reason, status := range map[string]int{"invalid_grant": 400, "internal_failure": 500} {
		w.faultRules(object{"match": object{"path": "/token", "user": ann}, "fault": object{"status": status, "reason": reason}})
		_, err := w.refresh(c, token)
		oauthRefused(t, err, status, reason)
		_, err = w.refresh(c, token)
		require.NoError(t, err)
	}
}

func TestBadControlDocumentsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, rule := range []object{
		{"match": object{"path": "*"}},
		{"match": object{"paht": "*"}, "fault": object{"status": 500}},
		{"nth": -1, "fault": object{"status": 500}},
		{"fault": object{"status": 200}},
		{"fault": object{"drop": "during"}},
		{"fault": object{"latencyMs": -1}},
		{"fault": object{"status": 429, "retryAfter": true}},
	} {
		require.Equal(t, http.StatusBadRequest, w.control(http.MethodPut, "faults", []object{rule}, nil), rule)
	}
	require.Equal(t, http.StatusBadRequest, w.control(http.MethodPut, "faults", object{}, nil))
	require.Equal(t, http.StatusBadRequest, w.control(http.MethodPost, "users", object{"email": "no email"}, nil))
	require.Equal(t, http.StatusBadRequest, w.control(http.MethodPost, "calendars", object{"email": ann, "id": "x", "timeZone": "Mars/Olympus"}, nil))
	require.Equal(t, http.StatusBadRequest, w.control(http.MethodPost, "calendars", object{"email": ann}, nil))
	require.Equal(t, http.StatusBadRequest, w.control(http.MethodPost, "clock", object{"advanceSeconds": 1e12}, nil))
	require.Equal(t, http.StatusBadRequest, w.control(http.MethodPut, "settings", object{"accessTokenSeconds": -1}, nil))
	require.Equal(t, http.StatusBadRequest, w.control(http.MethodGet, "requests?since=x", nil, nil))
	require.Equal(t, http.StatusNotFound, w.control(http.MethodPost, "token", object{"email": "nobody@example.com"}, nil))
	require.Equal(t, http.StatusNotFound, w.control(http.MethodPost, "revoke", object{"email": "nobody@example.com"}, nil))
	require.Equal(t, http.StatusNotFound, w.control(http.MethodGet, "nothing", nil, nil))
}

func TestRequestLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.Empty(t, w.requests("0"))
	var token struct {
		AccessToken string `json:"access_token"` //nolint:tagliatelle // the contract's name
	}
	require.Equal(t, http.StatusOK, w.control(http.MethodPost, "token", object{"email": ann}, &token))
	api := w.calendarWith(w.with(token.AccessToken))
	api.UserAgent = "fdc-test"
	_, err := api.Events.List("primary").EventTypes("default", "focusTime").Context(t.Context()).Do()
	require.NoError(t, err)
	w.fault("*", object{"drop": "before"})
	_, err = api.CalendarList.List().Context(t.Context()).Do()
	require.Error(t, err)
	_, err = api.Events.Get("primary", "none").Context(t.Context()).Do()
	require.Error(t, err)
	w.get(w.base + "/o/oauth2/v2/auth?login_hint=ANN%40example.com")

	all := w.requests("0")
	require.Len(t, all, 4)
	first := all[0]
	require.Contains(t, first.UserAgent, "fdc-test")
	first.UserAgent = ""
	require.Equal(t, loggedRequest{
		Seq: 1, Time: w.clock(), Method: "GET", Path: "/calendar/v3/calendars/primary/events", User: ann, Status: 200,
		Query: url.Values{"alt": {"json"}, "prettyPrint": {"false"}, "eventTypes": {"default", "focusTime"}},
	}, first)
	require.Equal(t, []int{200, 0, 404, 400}, []int{all[0].Status, all[1].Status, all[2].Status, all[3].Status})
	require.Equal(t, ann, all[3].User)
	require.Equal(t, all[2:], w.requests("2"))
	require.Empty(t, w.requests("4"))
}

func TestRequestLogKeepsTheNewest(t *testing.T) {
	t.Parallel()
	var l requestLog
	for range requestLogSize + 7 {
		l.add(loggedRequest{})
	}
	all := l.after(0)
	require.Len(t, all, requestLogSize)
	require.EqualValues(t, 8, all[0].Seq)
	require.EqualValues(t, requestLogSize+7, all[len(all)-1].Seq)
	require.Len(t, l.after(requestLogSize), 7)
}

func TestTooLargeBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ev := w.newEvent()
	ev.Description = string(make([]byte, maxBody))
	_, err := w.calendar(ann).Events.Insert("primary", ev).Context(t.Context()).Do()
	refused(t, err, http.StatusRequestEntityTooLarge, "uploadTooLarge")
	require.Empty(t, list(t, w.calendar(ann).Events.List("primary")).items)
}

func TestLatencyEndsWithTheEmulator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	w.fault("*/events", object{"latencyMs": maxLatency.Milliseconds()})
	ended := make(chan error, 1)
	go func() {
		_, err := api.Events.Insert("primary", w.newEvent()).Context(t.Context()).Do()
		ended <- err
	}()
	require.NoError(t, w.Close())
	require.Error(t, <-ended)
	require.Empty(t, w.st.user(ann).calendar("primary").Events, "what never answered never happened")
}

// A page that a developer happens to visit controls no emulator: not even by a request that needs no preflight.
func TestControlRefusesOtherOrigins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ask := func(method, path string, header ...string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, w.base+path, strings.NewReader(`{"email":"new@example.com","name":"New"}`))
		require.NoError(t, err)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		return answer.StatusCode
	}
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Sec-Fetch-Site", "cross-site", "Content-Type", "text/plain"},
		{"Origin", "https://evil.example"},
		{"Origin", "null"},
		{"Origin", "http://127.0.0.1:1"},
		{"Origin", w.base, "Sec-Fetch-Site", "same-site"},
	} {
		for _, path := range []string{"POST /_emulator/users", "DELETE /_emulator/faults", "GET /_emulator/requests", "POST /_emulator/token"} {
			method, at, _ := strings.Cut(path, " ")
			require.Equal(t, http.StatusForbidden, ask(method, at, header...), "%s %v", path, header)
		}
	}
	require.Equal(t, http.StatusOK, ask(http.MethodGet, "/_emulator/requests", "Origin", w.base, "Sec-Fetch-Site", "same-origin"))
	require.Less(t, ask(http.MethodPost, "/_emulator/users"), 300, "a program")
}
