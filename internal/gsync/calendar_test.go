package gsync

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/api/calendar/v3"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/task"
)

// event adds an hour's event to the primary calendar at Google, with whatever more.
func (p *person) event(title, start string, more object) string {
	p.t.Helper()
	at, err := time.Parse(time.RFC3339, start)
	require.NoError(p.t, err)
	e := object{
		"summary": title, "start": object{"dateTime": start, "timeZone": "Europe/Berlin"},
		"end": object{"dateTime": at.Add(time.Hour).Format(time.RFC3339), "timeZone": "Europe/Berlin"},
	}
	maps.Copy(e, more)
	id, err := p.google.AddEvent(p.email, primaryCalendar, e)
	require.NoError(p.t, err)
	return id
}

var (
	march = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	may   = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
)

// titles are what FDC shows in a window.
func (p *person) titles(from, to time.Time) []string {
	p.t.Helper()
	shown, err := p.Events(p.t.Context(), p.id, from, to)
	require.NoError(p.t, err)
	titles := []string{}
	for _, e := range shown {
		titles = append(titles, e.Title)
	}
	return titles
}

func TestCalendarDeltas(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	single := p.event("single", "2026-03-03T09:00:00Z", nil)
	weekly := object{"recurrence": []string{"RRULE:FREQ=WEEKLY;COUNT=8", "EXDATE;TZID=Europe/Berlin:20260316T100000"}}
	series := p.event("series", "2026-03-02T10:00:00+01:00", weekly)
	doomed := p.event("doomed", "2026-03-04T10:00:00+01:00", weekly)
	require.EqualValues(t, 3, p.synced("", "").Calendar.Created)
	p.sameEvents(march, may)

	g := p.googleCalendar()
	instances, err := g.Events.Instances(alice, series).Do()
	if err != nil {
		// The emulator may not serve instances: their ids follow from the series'.
		instances = &calendar.Events{Items: []*calendar.Event{
			{Id: series + "_20260309T090000Z"}, {Id: series + "_20260323T090000Z"}, {Id: series + "_20260330T080000Z"},
		}}
	}
	patch := func(id string, e *calendar.Event) {
		t.Helper()
		_, err := g.Events.Patch(alice, id, e).Do()
		require.NoError(t, err)
	}
	patch(single, &calendar.Event{Summary: "renamed"})
	patch(instances.Items[0].Id, &calendar.Event{Summary: "moved", Start: at("2026-03-10T12:00:00+01:00"), End: at("2026-03-10T13:00:00+01:00")})
	require.NoError(t, g.Events.Delete(alice, instances.Items[1].Id).Do())
	patch(doomed+"_20260311T090000Z", &calendar.Event{Summary: "of a doomed series"})
	require.NoError(t, g.Events.Delete(alice, doomed).Do())
	p.event("new", "2026-03-20T09:00:00Z", nil)

	result := p.synced(events.SyncCalendar, "").Calendar
	require.EqualValues(t, 1, result.Updated)
	require.Positive(t, result.Created)
	require.Positive(t, result.Deleted)
	p.sameEvents(march, may)
	require.NotContains(t, p.titles(march, may), "of a doomed series")

	require.NoError(t, g.Events.Delete(alice, single).Do())
	require.Equal(t, Counts{Deleted: 1}, p.synced(events.SyncCalendar, "").Calendar)
	p.sameEvents(march, may)
	p.quiet()
}

func at(s string) *calendar.EventDateTime {
	return &calendar.EventDateTime{DateTime: s, TimeZone: "Europe/Berlin"}
}

func TestManyPages(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	start := march
	for range 2*testPage + 1 {
		start = start.Add(time.Minute)
		p.event("one of many", start.Format(time.RFC3339), nil)
	}
	result := p.synced(events.SyncCalendar, "")
	require.EqualValues(t, 2*testPage+1, result.Calendar.Created)
	p.sameEvents(march, may)

	// A read that fails after the first page shows what was there, and its token is not kept.
	w.fault(http.MethodGet, "/calendar/v3/calendars/*", 2, 1, object{"status": 404})
	result = p.synced(events.SyncCalendar, events.SyncResync)
	require.Len(t, result.Warnings, 1)
	require.Len(t, p.titles(march, may), 2*testPage+1)
	p.quiet()
}

func TestRefusedCalendarLeavesTheRest(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	p.event("primary", "2026-03-02T09:00:00Z", nil)
	p.create(task.Draft{Title: "one"})
	st, err := w.Settings(t.Context(), p.id)
	require.NoError(t, err)
	w.exec(`INSERT INTO sync_settings VALUES ($1, $2, '@default', $3, true, 15)`, p.id, st.WorkspaceID, []string{"gone", alice})
	result := p.synced("", "")
	require.EqualValues(t, 1, result.Calendar.Created)
	require.EqualValues(t, 1, result.Tasks.Pushed)
	require.Len(t, result.Warnings, 1)
}

func TestBrokenEvents(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	moment := func(s string) object { return object{"dateTime": s, "timeZone": "Europe/Berlin"} }
	p.event("ends before it starts", "2026-03-02T09:00:00Z", object{"end": moment("2026-03-02T08:00:00Z")})
	p.event("bad rule", "2026-03-03T09:00:00Z", object{"recurrence": []string{"RRULE:FREQ=SOMETIMES"}})
	p.event("never", "2026-03-04T09:00:00Z", object{"recurrence": []string{"RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"}})
	p.event("every second", "2026-03-05T09:00:00Z", object{"recurrence": []string{"RRULE:FREQ=SECONDLY"}})
	p.event("on Mars", "2026-03-06T09:00:00Z", object{
		"start": object{"dateTime": "2026-03-06T09:00:00Z", "timeZone": "Mars/Olympus"}, "end": object{"dateTime": "2026-03-06T10:00:00Z", "timeZone": "Mars/Olympus"},
	})
	p.event("nul\x00 and \uFFFD", "2026-03-07T09:00:00Z", nil)
	p.event("a day that ends when it begins", "2026-03-08T09:00:00Z", object{
		"start": object{"date": "2026-03-08"}, "end": object{"date": "2026-03-08"},
	})
	result := p.synced(events.SyncCalendar, "")
	require.EqualValues(t, 7, result.Calendar.Created)
	require.Equal(t, []string{
		"ends before it starts", "bad rule", "every second", "on Mars", "nul and \uFFFD", "a day that ends when it begins",
	}, p.titles(march, may))
	p.quiet()
}

func TestEventsWindow(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	for _, window := range [][2]time.Time{{may, march}, {march, march}, {march, march.AddDate(0, 0, 401)}} {
		_, err := w.Events(t.Context(), p.id, window[0], window[1])
		requireFault(t, err, fault.Malformed, "bad-window")
	}
	shown, err := w.Events(t.Context(), events.NewID(), march, may)
	require.NoError(t, err)
	require.Empty(t, shown)
}

func TestTimedTasksBecomeEvents(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	start, end := march.Add(33*time.Hour), march.Add(35*time.Hour)
	timed := p.create(task.Draft{Title: "timed", StartAt: &start, EndAt: &end, TimeZone: "Asia/Tokyo"})
	open := p.create(task.Draft{Title: "open end", Notes: "some", StartAt: &start})
	p.create(task.Draft{Title: "no time"})
	there := func() map[string]*calendar.Event {
		t.Helper()
		byTitle := map[string]*calendar.Event{}
		list, err := p.googleCalendar().Events.List(alice).Do()
		require.NoError(t, err)
		for _, e := range list.Items {
			require.NotContains(t, byTitle, e.Summary)
			byTitle[e.Summary] = e
		}
		return byTitle
	}

	require.Equal(t, Counts{Pushed: 2}, p.synced(events.SyncCalendar, "").Calendar)
	got := there()
	require.Len(t, got, 2)
	require.Equal(t, utcText(start), momentText(got["timed"].Start))
	require.Equal(t, utcText(end), momentText(got["timed"].End))
	require.Equal(t, "Asia/Tokyo", got["timed"].Start.TimeZone)
	require.Equal(t, utcText(start.Add(time.Hour)), momentText(got["open end"].End))
	require.Equal(t, "some", got["open end"].Description)
	require.Equal(t, got["timed"].Id, p.one("timed").Google.EventID)
	require.Empty(t, p.titles(march, may), "FDC's own events are tasks already")
	p.synced("", "")
	p.quiet()

	// Edited here, and touched at Google meanwhile: what the user added there stays.
	_, err := p.googleCalendar().Events.Patch(alice, got["timed"].Id, &calendar.Event{Location: "Room 1", Summary: "renamed there"}).Do()
	require.NoError(t, err)
	p.patch(timed.ID, `{"title":"timed, renamed","endAt":null}`)
	p.synced("", "")
	got = there()
	require.Equal(t, "Room 1", got["timed, renamed"].Location)
	require.Equal(t, utcText(start.Add(time.Hour)), momentText(got["timed, renamed"].End))
	p.quiet()

	// Deleted at Google: it stays so until the task changes, and then it is made anew under another id.
	require.NoError(t, p.googleCalendar().Events.Delete(alice, got["open end"].Id).Do())
	p.quiet()
	require.NotContains(t, there(), "open end")
	p.patch(open.ID, `{"notes":"more"}`)
	p.synced("", "")
	require.NotEqual(t, got["open end"].Id, there()["open end"].Id)

	// Without a time, and deleted.
	p.patch(timed.ID, `{"startAt":null}`)
	p.remove(open.ID)
	p.synced("", "")
	require.Empty(t, there())
	p.quiet()
	p.equal()
}

func TestEventInsertWithoutAnswer(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	start := march.Add(33 * time.Hour)
	p.create(task.Draft{Title: "timed", StartAt: &start})
	w.fault(http.MethodPost, "/calendar/v3/calendars/*", 1, 1, object{"drop": "after"})
	p.synced("", "")
	list, err := p.googleCalendar().Events.List(alice).Do()
	require.NoError(t, err)
	require.Len(t, list.Items, 1)
	p.quiet()
}

func TestForeignEventIsNeverAdopted(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	start := march.Add(33 * time.Hour)
	timed := p.create(task.Draft{Title: "timed", StartAt: &start})
	foreign := p.event("foreign", "2026-03-02T09:00:00Z", object{"id": eventID(timed.ID, 0)})
	p.synced("", "")
	list, err := p.googleCalendar().Events.List(alice).Do()
	require.NoError(t, err)
	var titles []string
	for _, e := range list.Items {
		titles = append(titles, e.Summary)
		require.Equal(t, e.Summary == "foreign", e.Id == foreign)
	}
	slices.Sort(titles)
	require.Equal(t, []string{"foreign", "timed"}, titles)
	require.True(t, strings.HasSuffix(p.one("timed").Google.EventID, "g1"))
	p.quiet()
}
