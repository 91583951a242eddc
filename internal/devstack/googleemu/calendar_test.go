package googleemu

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/googleapi"
)

func TestCase11TwoPagesTokenOnTheLast(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addMany(2501)
	l := list(t, w.calendar(ann).Events.List("primary").MaxResults(9999))
	require.Equal(t, 2, l.pages)
	require.Len(t, l.items, 2501)
}

func TestCase12FilteredPageIsEmptyAndNamesTheNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addMany(30)
	ev := meeting(w.clock())
	ev["summary"] = "A needle in the hay"
	needle := w.add(ev)
	api := w.calendar(ann)
	page, err := api.Events.List("primary").Q("NEEDLE").MaxResults(10).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Empty(t, page.Items)
	require.NotEmpty(t, page.NextPageToken)
	require.Equal(t, []string{needle}, list(t, api.Events.List("primary").Q("NEEDLE").MaxResults(10)).ids())
}

func TestCase13ChangesWhilePagingAreInTheDelta(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addMany(5)
	api := w.calendar(ann)
	before := list(t, api.Events.List("primary")).ids()

	first, err := api.Events.List("primary").MaxResults(2).Context(t.Context()).Do()
	require.NoError(t, err)
	added := w.add(meeting(w.clock()))
	require.NoError(t, api.Events.Delete("primary", before[4]).Context(t.Context()).Do())
	_, err = api.Events.Patch("primary", before[0], &gcal.Event{Summary: "changed"}).Context(t.Context()).Do()
	require.NoError(t, err)

	rest := list(t, api.Events.List("primary").MaxResults(2).PageToken(first.NextPageToken))
	seen := rest.ids()
	for _, ev := range slices.Backward(first.Items) {
		seen = slices.Insert(seen, 0, ev.Id)
	}
	require.Equal(t, before, seen, "the pages are one snapshot")

	delta := list(t, api.Events.List("primary").SyncToken(rest.sync))
	require.Equal(t, []string{added, before[4], before[0]}, delta.ids())
	require.Equal(t, "cancelled", delta.items[1].Status)
	require.Equal(t, "changed", delta.items[2].Summary)
}

func TestCase14NothingChangedGivesAnEmptyDeltaAndAUsableToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addMany(3)
	api := w.calendar(ann)
	empty := list(t, api.Events.List("primary").SyncToken(list(t, api.Events.List("primary")).sync))
	require.Empty(t, empty.items)
	added := w.add(meeting(w.clock()))
	require.Equal(t, []string{added}, list(t, api.Events.List("primary").SyncToken(empty.sync)).ids())
}

func TestCase15SameTokenTwiceGivesTheSameDelta(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	token := list(t, api.Events.List("primary")).sync
	w.addMany(7)
	once := list(t, api.Events.List("primary").SyncToken(token).MaxResults(3))
	twice := list(t, api.Events.List("primary").SyncToken(token).MaxResults(3))
	require.Len(t, once.items, 7)
	require.Equal(t, 3, once.pages)
	require.Equal(t, once.ids(), twice.ids())
	require.Equal(t, once.sync, twice.sync)
}

func TestCase16SyncTokenForbidsRestrictions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	token := list(t, api.Events.List("primary")).sync
	day := w.clock().Format(time.RFC3339)
	for name, restrict := range map[string]func(*gcal.EventsListCall) *gcal.EventsListCall{
		"iCalUID":                 func(c *gcal.EventsListCall) *gcal.EventsListCall { return c.ICalUID("x") },
		"orderBy":                 func(c *gcal.EventsListCall) *gcal.EventsListCall { return c.OrderBy("updated") },
		"privateExtendedProperty": func(c *gcal.EventsListCall) *gcal.EventsListCall { return c.PrivateExtendedProperty("a=b") },
		"q":                       func(c *gcal.EventsListCall) *gcal.EventsListCall { return c.Q("x") },
		"sharedExtendedProperty":  func(c *gcal.EventsListCall) *gcal.EventsListCall { return c.SharedExtendedProperty("a=b") },
		"timeMin":                 func(c *gcal.EventsListCall) *gcal.EventsListCall { return c.TimeMin(day) },
		"timeMax":                 func(c *gcal.EventsListCall) *gcal.EventsListCall { return c.TimeMax(day) },
		"updatedMin":              func(c *gcal.EventsListCall) *gcal.EventsListCall { return c.UpdatedMin(day) },
		"showDeleted":             func(c *gcal.EventsListCall) *gcal.EventsListCall { return c.ShowDeleted(false) },
		"another singleEvents":    func(c *gcal.EventsListCall) *gcal.EventsListCall { return c.SingleEvents(true) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := restrict(api.Events.List("primary").SyncToken(token)).Context(t.Context()).Do()
			refused(t, err, http.StatusBadRequest, "badRequest")
		})
	}
	list(t, api.Events.List("primary").SyncToken(token).ShowDeleted(true).TimeZone("Asia/Tokyo"))
}

func TestCase17ExpiredOrCorruptToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.AddCalendar(ann, Calendar{ID: "second"}))
	require.NoError(t, w.AddUser("bea@example.com", "Bea"))
	api := w.calendar(ann)
	token := list(t, api.Events.List("primary")).sync
	for name, bad := range map[string]string{
		"nonsense": "CPDAlvWDx70CEPDAlvWDx70CGAU=", "cut": token[:len(token)-4], "changed": "A" + token[1:],
		"of another calendar": list(t, api.Events.List("second")).sync, "of another user": list(t, w.calendar("bea@example.com").Events.List("primary")).sync,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := api.Events.List("primary").SyncToken(bad).Context(t.Context()).Do()
			refused(t, err, http.StatusGone, "fullSyncRequired")
		})
	}

	w.faultRules(object{"match": object{"user": ann, "path": "*/events"}, "fault": object{"expireSyncTokens": true}})
	_, err := api.Events.List("primary").SyncToken(token).Context(t.Context()).Do()
	refused(t, err, http.StatusGone, "fullSyncRequired")
	_, err = api.Events.List("primary").SyncToken(token).Context(t.Context()).Do()
	refused(t, err, http.StatusGone, "fullSyncRequired")
	list(t, api.Events.List("primary").SyncToken(list(t, api.Events.List("primary")).sync))
}

func TestCase18OldUpdatedMin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	_, err := api.Events.List("primary").UpdatedMin(w.clock().AddDate(0, -3, 0).Format(time.RFC3339)).Context(t.Context()).Do()
	refused(t, err, http.StatusGone, "updatedMinTooLongAgo")

	old := w.add(meeting(w.clock()))
	w.pass(time.Minute)
	since := w.clock()
	recent := w.add(meeting(w.clock()))
	require.NoError(t, api.Events.Delete("primary", old).Context(t.Context()).Do())
	require.Equal(t, []string{recent, old}, list(t, api.Events.List("primary").UpdatedMin(since.Format(time.RFC3339))).ids(), "updatedMin implies deletions")
}

func TestCase19DeletedEventIsATombstoneInTheDeltaOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.add(meeting(w.clock()))
	token := list(t, api.Events.List("primary")).sync
	require.NoError(t, api.Events.Delete("primary", id).Context(t.Context()).Do())
	require.Empty(t, list(t, api.Events.List("primary")).items)

	delta := list(t, api.Events.List("primary").SyncToken(token))
	require.Len(t, delta.items, 1)
	tombstone := *delta.items[0]
	tombstone.Etag = ""
	require.Equal(t, gcal.Event{Kind: "calendar#event", Id: id, Status: "cancelled"}, tombstone)
	require.Equal(t, []string{id}, list(t, api.Events.List("primary").ShowDeleted(true)).ids())
}

func TestCase20GetOfADeletedEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.add(meeting(w.clock()))
	require.NoError(t, api.Events.Delete("primary", id).Context(t.Context()).Do())
	ev, err := api.Events.Get("primary", id).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, "cancelled", ev.Status)
	require.Equal(t, "meeting", ev.Summary)
	_, err = api.Events.Patch("primary", id, &gcal.Event{Summary: "alive?"}).Context(t.Context()).Do()
	refused(t, err, http.StatusForbidden, "forbidden")
	_, err = api.Events.Get("primary", "neverexisted").Context(t.Context()).Do()
	refused(t, err, http.StatusNotFound, "notFound")
}

func TestCase21SecondDelete(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.add(meeting(w.clock()))
	require.NoError(t, api.Events.Delete("primary", id).Context(t.Context()).Do())
	refused(t, api.Events.Delete("primary", id).Context(t.Context()).Do(), http.StatusGone, "deleted")
	refused(t, api.Events.Delete("primary", "neverexisted").Context(t.Context()).Do(), http.StatusNotFound, "notFound")
}

// standup seeds a daily series at 9:30 in Berlin from 2026-03-23, six days before the clocks change, and returns its id.
func (w *world) standup(rule string) string {
	w.t.Helper()
	return w.add(object{
		"summary": "standup", "recurrence": []string{rule},
		"start": object{"dateTime": "2026-03-23T09:30:00", "timeZone": "Europe/Berlin"},
		"end":   object{"dateTime": "2026-03-23T09:45:00", "timeZone": "Europe/Berlin"},
	})
}

func TestCase22SeriesOnceOrAsInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.standup("RRULE:FREQ=DAILY;COUNT=3")
	masters := list(t, api.Events.List("primary"))
	require.Equal(t, []string{id}, masters.ids())
	require.Equal(t, []string{"RRULE:FREQ=DAILY;COUNT=3"}, masters.items[0].Recurrence)

	l := list(t, api.Events.List("primary").SingleEvents(true).OrderBy("startTime"))
	require.Equal(t, []string{id + "_20260323T083000Z", id + "_20260324T083000Z", id + "_20260325T083000Z"}, l.ids())
	for _, ev := range l.items {
		require.Equal(t, id, ev.RecurringEventId)
		require.Empty(t, ev.Recurrence)
		require.Equal(t, ev.Start.DateTime, ev.OriginalStartTime.DateTime)
		one, err := api.Events.Get("primary", ev.Id).Context(t.Context()).Do()
		require.NoError(t, err)
		require.Equal(t, ev.Start, one.Start)
	}
	window := list(t, api.Events.List("primary").SingleEvents(true).TimeMin("2026-03-24T08:30:00Z").TimeMax("2026-03-25T08:30:00Z"))
	require.Equal(t, []string{id + "_20260324T083000Z"}, window.ids(), "timeMax is exclusive on starts")
	window = list(t, api.Events.List("primary").SingleEvents(true).TimeMin("2026-03-24T08:45:00Z"))
	require.Equal(t, []string{id + "_20260325T083000Z"}, window.ids(), "timeMin is exclusive on ends")
	require.Equal(t, []string{id}, list(t, api.Events.List("primary").TimeMin("2026-03-25T00:00:00Z")).ids())
	require.Empty(t, list(t, api.Events.List("primary").TimeMin("2026-03-26T00:00:00Z")).items)

	_, err := api.Events.Get("primary", id+"_20260326T083000Z").Context(t.Context()).Do()
	refused(t, err, http.StatusNotFound, "notFound")
}

func TestCase23CancelledExceptionIsABareRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.standup("RRULE:FREQ=DAILY;COUNT=3")
	token := list(t, api.Events.List("primary")).sync
	instance := id + "_20260324T083000Z"
	require.NoError(t, api.Events.Delete("primary", instance).Context(t.Context()).Do())

	for name, l := range map[string]listing{
		"full": list(t, api.Events.List("primary").ShowDeleted(false)), "delta": list(t, api.Events.List("primary").SyncToken(token)),
	} {
		i := slices.IndexFunc(l.items, func(ev *gcal.Event) bool { return ev.Id == instance })
		require.GreaterOrEqual(t, i, 0, name)
		row := *l.items[i]
		row.Etag = ""
		require.Equal(t, gcal.Event{
			Kind: "calendar#event", Id: instance, Status: "cancelled", RecurringEventId: id,
			OriginalStartTime: &gcal.EventDateTime{DateTime: "2026-03-24T08:30:00Z", TimeZone: "Europe/Berlin"},
		}, row, name)
	}
	require.Equal(t, []string{id + "_20260323T083000Z", id + "_20260325T083000Z"}, list(t, api.Events.List("primary").SingleEvents(true)).ids())
	refused(t, api.Events.Delete("primary", instance).Context(t.Context()).Do(), http.StatusGone, "deleted")

	_, err := api.Events.Patch("primary", instance, &gcal.Event{Status: "confirmed"}).Context(t.Context()).Do()
	require.NoError(t, err, "an instance may come back while its series lives")
	require.Len(t, list(t, api.Events.List("primary").SingleEvents(true)).items, 3)
}

func TestCase24MovedExceptionKeepsItsOriginalStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.standup("RRULE:FREQ=DAILY;COUNT=3")
	token := list(t, api.Events.List("primary").SingleEvents(true)).sync
	instance := id + "_20260324T083000Z"
	moved, err := api.Events.Patch("primary", instance, &gcal.Event{
		Start: &gcal.EventDateTime{DateTime: "2026-04-20T12:00:00Z"}, End: &gcal.EventDateTime{DateTime: "2026-04-20T12:15:00Z"},
	}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, instance, moved.Id)
	require.Equal(t, "2026-03-24T08:30:00Z", moved.OriginalStartTime.DateTime)
	require.Equal(t, "2026-04-20T12:00:00Z", moved.Start.DateTime)

	require.Equal(t, []string{id, instance}, list(t, api.Events.List("primary")).ids())
	require.Equal(t, []string{instance}, list(t, api.Events.List("primary").SingleEvents(true).SyncToken(token)).ids())
	window := api.Events.List("primary").SingleEvents(true).TimeMin("2026-03-24T00:00:00Z").TimeMax("2026-03-25T00:00:00Z")
	require.Empty(t, list(t, window).items, "it left its day")
	window = api.Events.List("primary").SingleEvents(true).TimeMin("2026-04-20T00:00:00Z")
	require.Equal(t, []string{instance}, list(t, window).ids())
}

func TestCase25SeriesAcrossDaylightSavingKeepsItsWallClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.standup("RRULE:FREQ=DAILY;COUNT=10")
	l := list(t, w.calendar(ann).Events.List("primary").SingleEvents(true).TimeZone("Europe/Berlin").OrderBy("startTime"))
	require.Len(t, l.items, 10)
	offsets := map[string]int{}
	for _, ev := range l.items {
		require.Equal(t, "09:30:00", ev.Start.DateTime[11:19])
		require.Equal(t, "09:45:00", ev.End.DateTime[11:19])
		require.Equal(t, "Europe/Berlin", ev.Start.TimeZone)
		offsets[ev.Start.DateTime[19:]]++
	}
	require.Equal(t, map[string]int{"+01:00": 6, "+02:00": 4}, offsets)
}

func TestCase26AllDayEventsAreDatesInEveryZone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.AddCalendar(ann, Calendar{ID: "primary", TimeZone: "Asia/Tokyo"}))
	id := w.add(object{"summary": "holiday", "start": object{"date": "2026-05-03"}, "end": object{"date": "2026-05-06"}, "recurrence": []string{"RRULE:FREQ=YEARLY;COUNT=2"}})
	api := w.calendar(ann)
	for _, zone := range []string{"Asia/Tokyo", "America/New_York", "UTC"} {
		l := list(t, api.Events.List("primary").SingleEvents(true).TimeZone(zone))
		require.Equal(t, []string{id + "_20260503", id + "_20270503"}, l.ids())
		require.Equal(t, &gcal.EventDateTime{Date: "2026-05-03"}, l.items[0].Start)
		require.Equal(t, &gcal.EventDateTime{Date: "2026-05-06"}, l.items[0].End)
		require.Equal(t, &gcal.EventDateTime{Date: "2027-05-03"}, l.items[1].OriginalStartTime)
	}
	ends := api.Events.List("primary").SingleEvents(true).TimeMin("2026-05-05T15:00:00Z").TimeMax("2026-06-01T00:00:00Z")
	require.Empty(t, list(t, ends).items, "in Tokyo it ends at 15:00 UTC")
	ends = api.Events.List("primary").SingleEvents(true).TimeMin("2026-05-05T14:59:59Z").TimeMax("2026-06-01T00:00:00Z")
	require.Len(t, list(t, ends).items, 1)
}

func TestCase27TouchedSeriesLeaksBeyondTheFirstWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.standup("RRULE:FREQ=WEEKLY")
	first := list(t, api.Events.List("primary").SingleEvents(true).TimeMin("2026-03-01T00:00:00Z").TimeMax("2026-04-01T00:00:00Z"))
	require.Len(t, first.items, 2)
	_, err := api.Events.Patch("primary", id, &gcal.Event{Summary: "renamed"}).Context(t.Context()).Do()
	require.NoError(t, err)
	delta := list(t, api.Events.List("primary").SingleEvents(true).SyncToken(first.sync))
	require.Len(t, delta.items, maxInstances)
	require.Greater(t, delta.items[maxInstances-1].Start.DateTime, "2039")
}

func TestSeriesThatChangesNamesTheInstancesItLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.standup("RRULE:FREQ=DAILY;COUNT=4")
	kept, lost := id+"_20260324T083000Z", id+"_20260326T083000Z"
	for _, instance := range []string{kept, lost} {
		_, err := api.Events.Patch("primary", instance, &gcal.Event{Summary: "special"}).Context(t.Context()).Do()
		require.NoError(t, err)
	}
	masters, instances := list(t, api.Events.List("primary")).sync, list(t, api.Events.List("primary").SingleEvents(true)).sync
	_, err := api.Events.Patch("primary", id, &gcal.Event{Recurrence: []string{"RRULE:FREQ=DAILY;COUNT=2"}}).Context(t.Context()).Do()
	require.NoError(t, err)

	status := func(l listing) map[string]string {
		m := map[string]string{}
		for _, ev := range l.items {
			m[strings.TrimPrefix(ev.Id, id)] = ev.Status
		}
		return m
	}
	require.Equal(t, map[string]string{"": "confirmed", "_20260326T083000Z": "cancelled"}, status(list(t, api.Events.List("primary").SyncToken(masters))))
	require.Equal(t, map[string]string{
		"_20260323T083000Z": "confirmed", "_20260325T083000Z": "cancelled", "_20260326T083000Z": "cancelled",
	}, status(list(t, api.Events.List("primary").SingleEvents(true).SyncToken(instances))))
	require.Equal(t, []string{kept, id}, list(t, api.Events.List("primary")).ids(), "what the series no longer has is not listed")
	_, err = api.Events.Patch("primary", lost, &gcal.Event{Status: "confirmed"}).Context(t.Context()).Do()
	refused(t, err, http.StatusForbidden, "forbidden")
}

func TestDeletedSeries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.standup("RRULE:FREQ=DAILY;COUNT=3")
	_, err := api.Events.Patch("primary", id+"_20260324T083000Z", &gcal.Event{Summary: "special"}).Context(t.Context()).Do()
	require.NoError(t, err)
	masters, instances := list(t, api.Events.List("primary")).sync, list(t, api.Events.List("primary").SingleEvents(true)).sync
	require.NoError(t, api.Events.Delete("primary", id).Context(t.Context()).Do())

	require.Empty(t, list(t, api.Events.List("primary")).items)
	require.Empty(t, list(t, api.Events.List("primary").SingleEvents(true)).items)
	require.Equal(t, []string{id}, list(t, api.Events.List("primary").SyncToken(masters)).ids())
	gone := list(t, api.Events.List("primary").SingleEvents(true).SyncToken(instances))
	require.Len(t, gone.items, 3)
	for _, ev := range gone.items {
		require.Equal(t, "cancelled", ev.Status)
		require.Equal(t, id, ev.RecurringEventId)
	}
	_, err = api.Events.Patch("primary", id+"_20260325T083000Z", &gcal.Event{Status: "confirmed"}).Context(t.Context()).Do()
	refused(t, err, http.StatusForbidden, "forbidden")
}

// newEvent is a valid one, an hour from now.
func (w *world) newEvent() *gcal.Event {
	return &gcal.Event{
		Summary: "new", Start: &gcal.EventDateTime{DateTime: w.clock().Format(time.RFC3339)},
		End: &gcal.EventDateTime{DateTime: w.clock().Add(time.Hour).Format(time.RFC3339)},
	}
}

func TestCase28SameClientIDIsADuplicateForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	ev := w.newEvent()
	ev.Id = "fdc0001v"
	made, err := api.Events.Insert("primary", ev).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, ev.Id, made.Id)
	_, err = api.Events.Insert("primary", ev).Context(t.Context()).Do()
	refused(t, err, http.StatusConflict, "duplicate")
	require.NoError(t, api.Events.Delete("primary", ev.Id).Context(t.Context()).Do())
	_, err = api.Events.Insert("primary", ev).Context(t.Context()).Do()
	refused(t, err, http.StatusConflict, "duplicate")
	_, err = api.Events.Update("primary", ev.Id, w.newEvent()).Context(t.Context()).Do()
	refused(t, err, http.StatusForbidden, "forbidden")
}

func TestCase29BadClientIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	for _, id := range []string{"wxyz1", "abcd", "ABCDE", "with-dash", strings.Repeat("a", 1025)} {
		ev := w.newEvent()
		ev.Id = id
		_, err := api.Events.Insert("primary", ev).Context(t.Context()).Do()
		refused(t, err, http.StatusBadRequest, "invalid")
	}
	ev := w.newEvent()
	ev.Id = strings.Repeat("v", 1024)
	_, err := api.Events.Insert("primary", ev).Context(t.Context()).Do()
	require.NoError(t, err)
}

func TestCase30ForeignEventKeepsItsContentThroughAConflict(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	foreign := meeting(w.clock())
	foreign["id"] = "fdc0001"
	w.add(foreign)
	ev := w.newEvent()
	ev.Id = "fdc0001"
	_, err := api.Events.Insert("primary", ev).Context(t.Context()).Do()
	refused(t, err, http.StatusConflict, "duplicate")
	got, err := api.Events.Get("primary", "fdc0001").Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, "meeting", got.Summary)
	require.Nil(t, got.ExtendedProperties, "what tells a client that it is not its own")
}

func TestCase31AllDayToTimedNeedsNulls(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.add(object{"start": object{"date": "2026-05-03"}, "end": object{"date": "2026-05-04"}})
	change := &gcal.Event{Start: &gcal.EventDateTime{DateTime: "2026-05-03T10:00:00Z"}, End: &gcal.EventDateTime{DateTime: "2026-05-03T11:00:00Z"}}
	_, err := api.Events.Patch("primary", id, change).Context(t.Context()).Do()
	refused(t, err, http.StatusBadRequest, "invalid")

	change.Start.NullFields, change.End.NullFields = []string{"Date"}, []string{"Date"}
	timed, err := api.Events.Patch("primary", id, change).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, &gcal.EventDateTime{DateTime: "2026-05-03T10:00:00Z", TimeZone: "UTC"}, timed.Start)

	back := &gcal.Event{
		Start: &gcal.EventDateTime{Date: "2026-05-03", NullFields: []string{"DateTime", "TimeZone"}},
		End:   &gcal.EventDateTime{Date: "2026-05-04", NullFields: []string{"DateTime", "TimeZone"}},
	}
	day, err := api.Events.Patch("primary", id, back).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, &gcal.EventDateTime{Date: "2026-05-03"}, day.Start)
}

func TestCase32StaleIfMatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.add(meeting(w.clock()))
	first, err := api.Events.Get("primary", id).Context(t.Context()).Do()
	require.NoError(t, err)

	patch := api.Events.Patch("primary", id, &gcal.Event{Summary: "second"})
	patch.Header().Set("If-Match", first.Etag)
	second, err := patch.Context(t.Context()).Do()
	require.NoError(t, err)
	require.NotEqual(t, first.Etag, second.Etag)

	_, err = patch.Context(t.Context()).Do()
	refused(t, err, http.StatusPreconditionFailed, "conditionNotMet")
	update := api.Events.Update("primary", id, w.newEvent())
	update.Header().Set("If-Match", first.Etag)
	_, err = update.Context(t.Context()).Do()
	refused(t, err, http.StatusPreconditionFailed, "conditionNotMet")
	remove := api.Events.Delete("primary", id)
	remove.Header().Set("If-Match", first.Etag)
	refused(t, remove.Context(t.Context()).Do(), http.StatusPreconditionFailed, "conditionNotMet")
	remove.Header().Set("If-Match", second.Etag)
	require.NoError(t, remove.Context(t.Context()).Do())
}

func TestCase33ReminderEditLeavesUpdatedAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.add(meeting(w.clock()))
	l := list(t, api.Events.List("primary"))
	w.pass(time.Minute)
	edited, err := api.Events.Patch("primary", id, &gcal.Event{Reminders: &gcal.EventReminders{
		Overrides: []*gcal.EventReminder{{Method: "popup", Minutes: 5}}, ForceSendFields: []string{"UseDefault"},
	}}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, l.items[0].Updated, edited.Updated)
	require.NotEqual(t, l.items[0].Etag, edited.Etag)
	require.Equal(t, []string{id}, list(t, api.Events.List("primary").SyncToken(l.sync)).ids(), "the delta has it all the same")

	renamed, err := api.Events.Patch("primary", id, &gcal.Event{Summary: "renamed"}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.NotEqual(t, l.items[0].Updated, renamed.Updated)
}

func TestCase34PrivatePropertiesAreANDed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	insert := func(properties map[string]string) string {
		ev := w.newEvent()
		ev.ExtendedProperties = &gcal.EventExtendedProperties{Private: properties}
		made, err := api.Events.Insert("primary", ev).Context(t.Context()).Do()
		require.NoError(t, err)
		return made.Id
	}
	both := insert(map[string]string{"app": "fdc", "task": "a=b"})
	insert(map[string]string{"app": "fdc"})
	insert(map[string]string{"task": "a=b"})
	require.Equal(t, []string{both}, list(t, api.Events.List("primary").PrivateExtendedProperty("app=fdc", "task=a=b")).ids())
	require.Empty(t, list(t, api.Events.List("primary").SharedExtendedProperty("app=fdc")).items)

	patched, err := api.Events.Patch("primary", both, &gcal.Event{ExtendedProperties: &gcal.EventExtendedProperties{Private: map[string]string{"more": "1"}}}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"app": "fdc", "task": "a=b", "more": "1"}, patched.ExtendedProperties.Private, "a patch merges")
}

func TestCase35CalendarRemovedFromTheList(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.AddCalendar(ann, Calendar{ID: "team", Summary: "チーム", TimeZone: "Asia/Tokyo"}))
	api := w.calendar(ann)
	all, err := api.CalendarList.List().Context(t.Context()).Do()
	require.NoError(t, err)
	require.Len(t, all.Items, 2)
	require.True(t, all.Items[0].Primary)
	require.Equal(t, "チーム", all.Items[1].Summary)
	require.Equal(t, "Asia/Tokyo", all.Items[1].TimeZone)

	require.NoError(t, api.CalendarList.Delete("team").Context(t.Context()).Do())
	delta, err := api.CalendarList.List().SyncToken(all.NextSyncToken).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Len(t, delta.Items, 1)
	require.Equal(t, "team", delta.Items[0].Id)
	require.True(t, delta.Items[0].Deleted)
	full, err := api.CalendarList.List().Context(t.Context()).Do()
	require.NoError(t, err)
	require.Len(t, full.Items, 1)

	_, err = api.CalendarList.List().SyncToken(all.NextSyncToken).MinAccessRole("owner").Context(t.Context()).Do()
	refused(t, err, http.StatusBadRequest, "badRequest")
	refused(t, api.CalendarList.Delete(ann).Context(t.Context()).Do(), http.StatusForbidden, "forbidden")
}

func TestCalendarWithoutDeletionsKeepsSilentAboutThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.Equal(t, http.StatusOK, w.control(http.MethodPost, "calendars", object{"email": ann, "id": "birthdays", "noDeletions": true}, nil))
	api := w.calendar(ann)
	made, err := api.Events.Insert("birthdays", w.newEvent()).Context(t.Context()).Do()
	require.NoError(t, err)
	token := list(t, api.Events.List("birthdays")).sync
	require.NoError(t, api.Events.Delete("birthdays", made.Id).Context(t.Context()).Do())
	require.Empty(t, list(t, api.Events.List("birthdays").SyncToken(token)).items)
	require.Empty(t, list(t, api.Events.List("birthdays")).items)
}

func TestInsertRefusesWhatGoogleRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	timed := func(clock string) *gcal.EventDateTime { return &gcal.EventDateTime{DateTime: clock} }
	const nine, ten = "2026-05-03T09:00:00Z", "2026-05-03T10:00:00Z"
	for name, tc := range map[string]struct {
		event  gcal.Event
		reason string
	}{
		"no start":           {gcal.Event{End: timed(ten)}, "required"},
		"no end":             {gcal.Event{Start: timed(nine)}, "required"},
		"end before start":   {gcal.Event{Start: timed(ten), End: timed(nine)}, "timeRangeEmpty"},
		"date and time":      {gcal.Event{Start: &gcal.EventDateTime{Date: "2026-05-03"}, End: timed(ten)}, "invalid"},
		"both in one":        {gcal.Event{Start: &gcal.EventDateTime{Date: "2026-05-03", DateTime: nine}, End: timed(ten)}, "invalid"},
		"no real zone":       {gcal.Event{Start: &gcal.EventDateTime{DateTime: nine, TimeZone: "Mars/Olympus"}, End: timed(ten)}, "invalid"},
		"recurrence without": {gcal.Event{Start: timed(nine), End: timed(ten), Recurrence: []string{"RRULE:FREQ=DAILY"}}, "required"},
		"broken rule":        {gcal.Event{Start: &gcal.EventDateTime{Date: "2026-05-03"}, End: &gcal.EventDateTime{Date: "2026-05-04"}, Recurrence: []string{"RRULE:FREQ=SOMETIMES"}}, "invalid"},
		"rule of seconds":    {gcal.Event{Start: &gcal.EventDateTime{Date: "2026-05-03"}, End: &gcal.EventDateTime{Date: "2026-05-04"}, Recurrence: []string{"RRULE:FREQ=SECONDLY"}}, "invalid"},
		"status nobody has":  {gcal.Event{Start: timed(nine), End: timed(ten), Status: "maybe"}, "invalid"},
		"no time at all":     {gcal.Event{Start: &gcal.EventDateTime{TimeZone: "UTC"}, End: timed(ten)}, "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := api.Events.Insert("primary", &tc.event).Context(t.Context()).Do()
			refused(t, err, http.StatusBadRequest, tc.reason)
		})
	}
	require.Empty(t, list(t, api.Events.List("primary")).items)
}

func TestTimesComeBackInTheAskedZone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.AddCalendar(ann, Calendar{ID: "primary", TimeZone: "Asia/Tokyo"}))
	api := w.calendar(ann)
	made, err := api.Events.Insert("primary", &gcal.Event{
		Start: &gcal.EventDateTime{DateTime: "2026-07-01T09:00:00", TimeZone: "America/New_York"}, End: &gcal.EventDateTime{DateTime: "2026-07-01T14:00:00Z"},
	}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, &gcal.EventDateTime{DateTime: "2026-07-01T22:00:00+09:00", TimeZone: "America/New_York"}, made.Start)
	require.Equal(t, &gcal.EventDateTime{DateTime: "2026-07-01T23:00:00+09:00", TimeZone: "Asia/Tokyo"}, made.End)
	got, err := api.Events.Get("primary", made.Id).TimeZone("Europe/Berlin").Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, "2026-07-01T15:00:00+02:00", got.Start.DateTime)
}

func TestUpdateReplacesAndPatchMerges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	ev := meeting(w.clock())
	ev["location"], ev["iCalUID"], ev["colorId"] = "here", "uid@elsewhere", "3"
	id := w.add(ev)
	patched, err := api.Events.Patch("primary", id, &gcal.Event{Summary: "patched", NullFields: []string{"ColorId"}}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, "here", patched.Location)
	require.Empty(t, patched.ColorId)
	require.Zero(t, patched.Sequence)

	moved := w.newEvent()
	moved.End.DateTime = w.clock().Add(2 * time.Hour).Format(time.RFC3339)
	updated, err := api.Events.Update("primary", id, moved).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Empty(t, updated.Location)
	require.Equal(t, patched.ICalUID, updated.ICalUID)
	require.Equal(t, patched.Created, updated.Created)
	require.EqualValues(t, 1, updated.Sequence)
}

func TestSeededNonsenseIsListedAndNeverExpanded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := object{"dateTime": "2026-05-03T10:00:00Z"}
	backwards := w.add(object{"summary": "backwards", "start": at, "end": object{"dateTime": "2026-05-03T09:00:00Z"}})
	broken := w.add(object{"summary": "broken", "start": at, "end": at, "recurrence": []string{"RRULE:FREQ=DAILY;BYDAY=XX"}})
	timeless := w.add(object{"summary": "timeless"})
	api := w.calendar(ann)
	require.Equal(t, []string{backwards, broken, timeless}, list(t, api.Events.List("primary")).ids())
	require.Equal(t, []string{backwards, timeless}, list(t, api.Events.List("primary").SingleEvents(true)).ids())
}

func TestPageTokensAreForTheirOwnListing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addMany(3)
	api := w.calendar(ann)
	first, err := api.Events.List("primary").MaxResults(1).Context(t.Context()).Do()
	require.NoError(t, err)
	for name, call := range map[string]*gcal.EventsListCall{
		"corrupt":           api.Events.List("primary").PageToken("x" + first.NextPageToken),
		"sync token":        api.Events.List("primary").PageToken(list(t, api.Events.List("primary")).sync),
		"other parameters":  api.Events.List("primary").PageToken(first.NextPageToken).SingleEvents(true),
		"another's listing": w.calendar(ann).Events.List("primary").PageToken(first.NextPageToken).Q("x"),
	} {
		_, err := call.Context(t.Context()).Do()
		require.Error(t, err, name)
		refused(t, err, http.StatusBadRequest, "invalid")
	}
	again, err := api.Events.List("primary").MaxResults(2).PageToken(first.NextPageToken).Context(t.Context()).Do()
	require.NoError(t, err, "the page size may change on the way")
	require.Len(t, again.Items, 2)
}

func TestParametersAreChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token, err := w.Token(ann)
	require.NoError(t, err)
	plain := &http.Client{CheckRedirect: w.http.CheckRedirect} // unjudged: these requests are wrong
	for _, query := range []string{
		"maxResults=0", "maxResults=x", "timeMin=2026-01-01", "timeZone=Mars/Olympus", "singleEvents=perhaps", "orderBy=color", "eventTypes=party", "fields=items",
		"q=a&q=b", "orderBy=startTime", "timeMin=2026-01-02T00:00:00Z&timeMax=2026-01-01T00:00:00Z", "privateExtendedProperty=none",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.base+"/calendar/v3/calendars/primary/events?"+query, http.NoBody)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := plain.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusBadRequest, res.StatusCode, query)
	}
}

func TestUnchangedEventIsNotModified(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.calendar(ann)
	id := w.add(meeting(w.clock()))
	ev, err := api.Events.Get("primary", id).Context(t.Context()).Do()
	require.NoError(t, err)
	_, err = api.Events.Get("primary", id).IfNoneMatch(ev.Etag).Context(t.Context()).Do()
	require.True(t, googleapi.IsNotModified(err), "%v", err)
}

func TestEventTypesAndOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	later, sooner := meeting(w.clock().Add(48*time.Hour)), meeting(w.clock())
	later["eventType"] = "focusTime"
	one, two := w.add(later), w.add(sooner)
	api := w.calendar(ann)
	require.Equal(t, []string{one}, list(t, api.Events.List("primary").EventTypes("focusTime")).ids())
	require.Equal(t, []string{one, two}, list(t, api.Events.List("primary").EventTypes("focusTime", "default")).ids())
	require.Equal(t, []string{two, one}, list(t, api.Events.List("primary").SingleEvents(true).OrderBy("startTime")).ids())
	w.pass(time.Minute)
	_, err := api.Events.Patch("primary", one, &gcal.Event{Summary: "touched"}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, []string{two, one}, list(t, api.Events.List("primary").OrderBy("updated")).ids())
}

func TestAttendeesAreCutToTheAskedNumber(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ev := meeting(w.clock())
	ev["attendees"] = []object{{"email": "a@example.com"}, {"email": "b@example.com"}}
	id := w.add(ev)
	got, err := w.calendar(ann).Events.Get("primary", id).MaxAttendees(1).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Len(t, got.Attendees, 1)
	require.True(t, got.AttendeesOmitted)
}
