package gsync

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/api/calendar/v3"
	"google.golang.org/api/tasks/v1"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/task"
)

// What went wrong in other projects, each once: the name is the threads', the test is ours. The numbers are those of the list that
// the project keeps of them; 9, 10 and 14 are not in it.

// twentyhq/twenty#24096: a sync token that was no longer taken counted as "nothing changed", and what had been deleted stayed.
func TestB01AnInvalidSyncTokenIsNoEmptySuccess(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	ghost := p.event("ghost", "2026-03-02T09:00:00Z", nil)
	p.synced("", "")
	require.NoError(t, p.googleCalendar().Events.Delete(alice, ghost).Do())
	p.event("missed", "2026-03-03T09:00:00Z", nil)
	w.fault(http.MethodGet, "/calendar/v3/calendars/*", 1, 1, object{"expireSyncTokens": true})
	require.Equal(t, Counts{Created: 1, Deleted: 1}, p.synced("", "").Calendar)
	require.Equal(t, []string{"missed"}, p.titles(march, may))
	p.sameEvents(march, may)
	p.quiet()
}

// ridafkih/keeper.sh#199: the state was wiped before the new one was there.
func TestB02AResyncThatFailsLosesNothing(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	for i := range 2*testPage + 1 {
		p.event("kept", march.Add(time.Duration(i)*time.Minute).Format(time.RFC3339), nil)
	}
	for i := range 130 {
		p.create(task.Draft{Title: fmt.Sprintf("kept %d", i)})
	}
	p.synced("", "")
	for _, path := range []string{"/calendar/v3/calendars/*", "/tasks/v1/lists/*"} {
		w.fault(http.MethodGet, path, 2, 0, object{"status": 400, "reason": "invalid"})
		p.sync("", events.SyncResync)
		require.Len(t, p.titles(march, may), 2*testPage+1, path)
		require.Len(t, p.here(), 130, path)
	}
	w.control(http.MethodDelete, "/_emulator/faults", nil, nil)
	p.quiet()
}

// webhookdb/webhookdb#576: a resync went on with the old token, and so brought nothing back.
func TestB03AResyncSendsNoToken(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	p.event("lost here", "2026-03-02T09:00:00Z", nil)
	p.synced("", "")
	w.exec(`DELETE FROM calendar_events WHERE user_id = $1`, p.id)
	require.Zero(t, p.synced("", "").Calendar.Created, "a delta can't know")
	before := len(w.requests())
	require.EqualValues(t, 1, p.synced("", events.SyncResync).Calendar.Created)
	for _, r := range w.requests()[before:] {
		require.Empty(t, r.Query.Get("syncToken"), r.Path)
		require.Empty(t, r.Query.Get("updatedMin"), r.Path)
	}
}

// callumalpass/tasknotes#1997, ulsklyc/yuvomi#593: exported events were imported again, and those of one's own series too.
func TestB04OwnEventsAreNotImported(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	start := march.Add(33 * time.Hour)
	own := p.create(task.Draft{Title: "own", StartAt: &start})
	p.synced("", "")
	// The user makes a series of it at Google.
	_, err := p.googleCalendar().Events.Patch(alice, p.one("own").Google.EventID, &calendar.Event{Recurrence: []string{"RRULE:FREQ=DAILY;COUNT=5"}}).Do()
	require.NoError(t, err)
	for _, mode := range []string{events.SyncIncremental, events.SyncResync} {
		p.synced("", mode)
		require.Empty(t, p.titles(march, may), mode)
		require.Len(t, p.here(), 1, mode)
	}
	require.Equal(t, own.ID, p.one("own").ID)
}

// DouglasdeMoura/chroncal#68: an etag that was out of date was sent again and again.
func TestB05AStaleETagIsReadAnew(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	start := march.Add(33 * time.Hour)
	timed := p.create(task.Draft{Title: "timed", StartAt: &start})
	p.synced("", "")
	id := p.one("timed").Google.EventID
	w.exec(`UPDATE google_task_links SET event_etag = '"of last year"' WHERE user_id = $1`, p.id)
	p.patch(timed.ID, `{"title":"renamed"}`)
	before := len(w.writes())
	p.synced("", "")
	there, err := p.googleCalendar().Events.Get(alice, id).Do()
	require.NoError(t, err)
	require.Equal(t, "renamed", there.Summary)
	var patches []int
	for _, r := range w.writes()[before:] {
		if strings.HasSuffix(r.Path, id) {
			patches = append(patches, r.Status)
		}
	}
	require.Equal(t, []int{http.StatusPreconditionFailed, http.StatusOK}, patches)
	p.quiet()
}

// tasks/tasks#2387, #143: the first sync doubled tasks, and deleted those that had never been pushed.
func TestB06TheFirstSyncNeitherDoublesNorDeletes(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	same := task.Draft{Title: "on both sides", Notes: "the same", DueDate: "2026-03-09"}
	p.create(same)
	p.create(task.Draft{Title: "only here"})
	for _, one := range []*tasks.Task{
		{Title: same.Title, Notes: same.Notes, Due: "2026-03-09T00:00:00.000Z"}, {Title: "only there"},
	} {
		_, err := p.googleTasks().Tasks.Insert(defaultList, one).Do()
		require.NoError(t, err)
	}
	p.synced("", "")
	for _, title := range []string{"on both sides", "only here", "only there"} {
		p.one(title)
		p.oneThere(title)
	}
	p.quiet()
}

// home-assistant/core#110165, bergercookie/syncall#131, tasks/tasks#1126: due dates moved by a day, ends came before starts.
func TestB07DatesStayWhatTheyAre(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	for _, due := range []string{"2026-03-01", "2026-03-29", "2026-10-25", "2026-12-31", "2028-02-29"} {
		p.create(task.Draft{Title: "due " + due, DueDate: due, TimeZone: "Pacific/Kiritimati"})
		_, err := p.googleTasks().Tasks.Insert(defaultList, &tasks.Task{Title: "there " + due, Due: due + "T23:30:00Z"}).Do()
		require.NoError(t, err)
	}
	p.synced("", "")
	for title, list := range p.here() {
		require.Equal(t, title[len(title)-len(time.DateOnly):], list[0].DueDate, title)
	}
	for title, list := range p.there() {
		require.Equal(t, title[len(title)-len(time.DateOnly):]+"T00:00:00.000Z", list[0].Due, title)
	}
	start := time.Date(2026, 3, 29, 0, 30, 0, 0, time.UTC) // the hour that Berlin leaves out begins half an hour later
	p.create(task.Draft{Title: "over the gap", StartAt: &start, TimeZone: "Europe/Berlin"})
	p.synced("", "")
	made, err := p.googleCalendar().Events.Get(alice, p.one("over the gap").Google.EventID).Do()
	require.NoError(t, err)
	require.Equal(t, utcText(start), momentText(made.Start))
	require.Equal(t, utcText(start.Add(defaultLength)), momentText(made.End))
	p.quiet()
}

// tasks/tasks#798: where to go on was stored although the sync had failed, and the list stood still from then on.
func TestB08AFailedSyncDoesNotMoveOn(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	p.synced("", "")
	for i := range 150 {
		_, err := p.googleTasks().Tasks.Insert(defaultList, &tasks.Task{Title: fmt.Sprintf("new %d", i)}).Do()
		require.NoError(t, err)
	}
	cursorOf := func() string {
		t.Helper()
		var all string
		require.NoError(t, w.db.Pool.QueryRow(t.Context(),
			`SELECT string_agg(resource || sync_token || coalesce(updated_min::text, ''), ' ' ORDER BY resource) FROM sync_state WHERE user_id = $1`, p.id).Scan(&all))
		return all
	}
	before := cursorOf()
	w.fault(http.MethodGet, "/tasks/v1/lists/*", 2, 0, object{"status": 400, "reason": "invalid"})
	require.Equal(t, StatusFailed, p.sync(events.SyncTasks, "").Status)
	require.Equal(t, before, cursorOf())
	w.control(http.MethodDelete, "/_emulator/faults", nil, nil)
	p.synced(events.SyncTasks, "")
	require.Len(t, p.here(), 150)
	p.equal()
}

// MarcelRobitaille/nextcloud_google_synchronization#38, nextcloud/integration_google#256: a fixed offset in the place of a zone.
func TestB11ZonesAreKept(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	p.event("weekly", "2026-03-22T09:00:00+01:00", object{"recurrence": []string{"RRULE:FREQ=WEEKLY;COUNT=2"}})
	start := march.Add(33 * time.Hour)
	p.create(task.Draft{Title: "own", StartAt: &start, TimeZone: "America/Sao_Paulo"})
	p.synced("", "")
	shown, err := p.Events(t.Context(), p.id, march, may)
	require.NoError(t, err)
	require.Equal(t, []string{"2026-03-22T08:00:00Z", "2026-03-29T07:00:00Z"}, []string{shown[0].Start, shown[1].Start}, "nine in the morning, in winter and in summer")
	require.Equal(t, "Europe/Berlin", shown[1].TimeZone)
	made, err := p.googleCalendar().Events.Get(alice, p.one("own").Google.EventID).Do()
	require.NoError(t, err)
	require.Equal(t, "America/Sao_Paulo", made.Start.TimeZone)
}

// closeio/sync-engine#597, webhookdb/webhookdb#603, activepieces/activepieces#13425: a channel more with each sync, channels that
// nobody stopped, and states waited for that only Drive sends.
func TestB12OneChannelPerCalendar(t *testing.T) {
	t.Parallel()
	w := shared(t)
	h := w.listen()
	p := w.connected(alice)
	for range 5 {
		p.synced("", "")
	}
	h.hears("sync", 1)
	require.Len(t, w.asked("/watch"), 1)
	require.Len(t, p.channels(), 1)
	p.event("a change", "2026-03-02T09:00:00Z", nil)
	h.hears("exists", 1)
	require.Equal(t, 1, p.notified())
	require.NoError(t, w.Disconnect(t.Context(), testMeta, p.id))
	w.eventually("the channel is stopped", func() bool { return len(w.asked("/stop")) == 1 }) // by us, or by another test's Revoker
}

// calcom/cal.diy#7564, pimutils/vdirsyncer#1053, openclaw/gogcli#373: invalid_grant was swallowed, a missing refresh token found out
// too late, a rotated one thrown away.
func TestB13RefusedAndRotatedTokens(t *testing.T) {
	t.Parallel()
	w := shared(t)
	w.control(http.MethodPut, "/_emulator/settings", object{"rotateRefreshTokens": true}, nil)
	p := w.connected(alice)
	for range 3 {
		w.exec(`UPDATE google_accounts SET access_expires_at = now() WHERE user_id = $1`, p.id)
		p.synced("", "")
	}
	w.control(http.MethodPost, "/_emulator/revoke", object{"email": alice}, nil)
	w.exec(`UPDATE google_accounts SET access_expires_at = now() WHERE user_id = $1`, p.id)
	job := p.sync("", "")
	require.Equal(t, StatusFailed, job.Status)
	require.Equal(t, codeReauth, job.Error.Code)
	require.False(t, job.Error.Retryable)
	require.Equal(t, 1, w.count(p.id, "google.reauth_required"))
	st, err := w.Status(t.Context(), p.id)
	require.NoError(t, err)
	require.Equal(t, StateReauthRequired, st.State)

	other := w.user(bob)
	grant := other.consent(bob, true)
	grant.token.RefreshToken = ""
	requireFault(t, w.Connect(t.Context(), testMeta, other.id, grant), fault.Conflict, "google-consent-incomplete")
}

// 2witstudios/PageSpace#488: what had been found again was never pushed again.
func TestB15AnAdoptedEventIsPushedAgain(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	start := march.Add(33 * time.Hour)
	timed := p.create(task.Draft{Title: "timed", StartAt: &start})
	w.fault(http.MethodPost, "/calendar/v3/calendars/*", 1, 1, object{"drop": "after"})
	p.synced("", "")
	p.patch(timed.ID, `{"title":"renamed"}`)
	p.synced("", "")
	there, err := p.googleCalendar().Events.Get(alice, p.one("renamed").Google.EventID).Do()
	require.NoError(t, err)
	require.Equal(t, "renamed", there.Summary)

	// The same for a task that was found again after its insert had been lost.
	lost := p.create(task.Draft{Title: "lost"})
	w.fault(http.MethodPost, "/tasks/v1/lists/*", 1, 1, object{"drop": "after"})
	p.synced(events.SyncTasks, "")
	p.patch(lost.ID, `{"title":"found"}`)
	p.synced(events.SyncTasks, "")
	p.oneThere("found")
	require.Empty(t, p.there()["lost"])
	p.quiet()
}

// Home Assistant's google_tasks read one page of a hundred; cal.com's window dropped what moved out of it; tasks.org asked for changes
// from a second after the last one, and could miss what came in between.
func TestBReadsAreWhole(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	for i := range 101 {
		_, err := p.googleTasks().Tasks.Insert(defaultList, &tasks.Task{Title: fmt.Sprintf("number %d", i)}).Do()
		require.NoError(t, err)
	}
	id := p.event("moves far away", "2026-03-02T09:00:00Z", nil)
	p.synced("", "")
	require.Len(t, p.here(), 101)

	_, err := p.googleCalendar().Events.Patch(alice, id, &calendar.Event{Start: at("2031-03-02T09:00:00Z"), End: at("2031-03-02T10:00:00Z")}).Do()
	require.NoError(t, err)
	p.synced("", "")
	require.Empty(t, p.titles(march, may))
	require.Equal(t, []string{"moves far away"}, p.titles(march.AddDate(5, 0, 0), may.AddDate(5, 0, 0)))

	var latest time.Time
	require.NoError(t, w.db.Pool.QueryRow(t.Context(), `SELECT max(google_updated) FROM google_task_links WHERE user_id = $1`, p.id).Scan(&latest))
	p.synced(events.SyncTasks, "")
	requests := w.asked("/tasks")
	since, err := time.Parse(time.RFC3339Nano, requests[len(requests)-1].Query.Get("updatedMin"))
	require.NoError(t, err)
	require.WithinDuration(t, latest.Add(-overlap), since, time.Second, "what became visible late is read again")
}

// tasks.org: a task that Google no longer knows is made anew when it has changed here since.
func TestBATaskThatGoogleForgotIsMadeAnew(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	made := p.create(task.Draft{Title: "known"})
	p.synced(events.SyncTasks, "")
	w.exec(`UPDATE google_task_links SET google_task_id = 'forgotten' WHERE user_id = $1`, p.id)
	require.NoError(t, p.googleTasks().Tasks.Delete(defaultList, p.oneThere("known").Id).Do())
	p.patch(made.ID, `{"title":"changed"}`)
	p.synced(events.SyncTasks, "")
	p.synced(events.SyncTasks, "")
	p.oneThere("changed")
	p.one("changed")
	p.quiet()
}

// Of the conformance cases of the emulator those that speak of the client and have no other test here.
func TestClientSideOfConformance(t *testing.T) {
	t.Parallel()
	t.Run("45 a pause that Google asks for is kept", func(t *testing.T) {
		t.Parallel()
		w := shared(t)
		p := w.connected(alice)
		w.fault(http.MethodGet, "/tasks/v1/*", 1, 1, object{"status": 429, "reason": "rateLimitExceeded", "retryAfter": 1})
		var stamps []time.Time
		w.before(func(r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/tasks/") {
				stamps = append(stamps, time.Now())
			}
		})
		p.synced(events.SyncTasks, "")
		require.GreaterOrEqual(t, stamps[1].Sub(stamps[0]), time.Second)
	})
	t.Run("45 forbidden is not asked again", func(t *testing.T) {
		t.Parallel()
		w := shared(t)
		p := w.connected(alice)
		w.fault(http.MethodGet, "/calendar/v3/calendars/*", 1, 0, object{"status": 403, "reason": "forbidden"})
		require.Len(t, p.synced(events.SyncCalendar, "").Warnings, 1)
		require.Len(t, w.asked("/events"), 1)
	})
	t.Run("46 answers that are none leave the token where it was", func(t *testing.T) {
		t.Parallel()
		w := shared(t)
		p := w.connected(alice)
		p.event("before", "2026-03-02T09:00:00Z", nil)
		p.synced("", "")
		p.event("after", "2026-03-03T09:00:00Z", nil)
		for _, trouble := range []object{{"status": 500}, {"status": 503}, {"status": 502}, {"truncate": true}, {"drop": "before"}, {"drop": "after"}} {
			w.fault(http.MethodGet, "/calendar/v3/calendars/*", 1, maxTries-1, trouble)
			p.synced(events.SyncCalendar, "")
		}
		require.Equal(t, []string{"before", "after"}, p.titles(march, may))
		p.quiet()
	})
	t.Run("50 the server's clock decides", func(t *testing.T) {
		t.Parallel()
		w := shared(t)
		p := w.connected(alice)
		made := p.create(task.Draft{Title: "one"})
		p.synced(events.SyncTasks, "")
		w.control(http.MethodPost, "/_emulator/clock", object{"advanceSeconds": 300}, nil)
		_, err := p.googleTasks().Tasks.Patch(defaultList, p.oneThere("one").Id, &tasks.Task{Title: "there, first"}).Do()
		require.NoError(t, err)
		w.eventually("a moment passes", func() bool {
			p.patch(made.ID, fmt.Sprintf(`{"title":"here, later %d"}`, time.Now().UnixNano()))
			return time.Since(made.UpdatedAt) > 3*time.Second // more than the header's seconds hide
		})
		p.synced(events.SyncTasks, "")
		for title := range p.there() {
			require.Contains(t, title, "here, later")
		}
		p.quiet()
	})
}
