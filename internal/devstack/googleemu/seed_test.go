package googleemu

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	gcal "google.golang.org/api/calendar/v3"
	gtasks "google.golang.org/api/tasks/v1"
)

func TestSeedDemo(t *testing.T) {
	t.Parallel()
	w, twin := newWorld(t), newWorld(t)
	for _, one := range []*world{w, twin} {
		require.NoError(t, SeedDemo(one.Emulator, w.clock()))
		require.NoError(t, SeedDemo(one.Emulator, w.clock().AddDate(1, 0, 0)), "seeding again does nothing")
	}
	api := w.calendar(alice)
	calendars, err := api.CalendarList.List().Context(t.Context()).Do()
	require.NoError(t, err)
	require.Len(t, calendars.Items, 2)
	zones := map[string]bool{}
	var recurring, allDay, moved, off, instances int
	for _, cal := range calendars.Items {
		zones[cal.TimeZone] = true
		stored := list(t, api.Events.List(cal.Id))
		require.Equal(t, stored.items, list(t, twin.calendar(alice).Events.List(cal.Id)).items, "the same now makes the same data")
		for _, ev := range stored.items {
			switch {
			case ev.Status == "cancelled":
				off++
			case ev.RecurringEventId != "":
				moved++
			case len(ev.Recurrence) > 0:
				recurring++
			case ev.Start.Date != "":
				allDay++
			}
			if ev.RecurringEventId != "" { // an exception is of an instance that the series really has
				master := w.st.user(alice).calendar(cal.Id).Events[ev.RecurringEventId]
				original := w.st.user(alice).calendar(cal.Id).Events[ev.Id].Original
				start, err := master.start(cal.TimeZone)
				require.NoError(t, err)
				require.Len(t, occurrences(start, master.recurrence(), original.At, original.At.Add(time.Second), 1), 1, ev.Id)
			}
		}
		from, to := w.clock().AddDate(0, 0, -183).Format(time.RFC3339), w.clock().AddDate(0, 0, 183).Format(time.RFC3339)
		for _, ev := range list(t, api.Events.List(cal.Id).SingleEvents(true).TimeMin(from).TimeMax(to)).items {
			require.NotEmpty(t, ev.Summary)
			instances++
		}
	}
	require.Len(t, zones, 2)
	require.GreaterOrEqual(t, recurring, 10)
	require.GreaterOrEqual(t, allDay, 20)
	require.GreaterOrEqual(t, moved, 2)
	require.GreaterOrEqual(t, off, 2)
	require.Greater(t, instances, 500)

	count := map[string]int{}
	require.NoError(t, w.tasks(alice).Tasks.List("@default").ShowHidden(true).MaxResults(100).Pages(t.Context(), func(page *gtasks.Tasks) error {
		for _, task := range page.Items {
			count["all"]++
			count[task.Status]++
			if task.Hidden {
				count["hidden"]++
			}
			if task.Parent != "" {
				count["child"]++
			}
			if task.Due != "" {
				count["due"]++
			}
		}
		return nil
	}))
	require.Equal(t, 40, count["all"])
	for _, kind := range []string{"needsAction", "completed", "hidden", "child", "due"} {
		require.Positive(t, count[kind], kind)
	}
	require.NotEmpty(t, list(t, w.calendar(bob).Events.List("primary")).items)
	require.NotEmpty(t, titles(t, w.tasks(bob).Tasks.List("@default")))
}

func TestControlMakesUsersAndCalendars(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.Equal(t, http.StatusOK, w.control(http.MethodPost, "users", object{"email": "Bea@Example.com", "name": "Bea"}, nil))
	require.Equal(t, http.StatusOK, w.control(http.MethodPost, "users", object{"email": "bea@example.com", "name": "Bea B."}, nil), "again is a change of name")
	require.Equal(t, http.StatusOK, w.control(http.MethodPost, "calendars", object{"email": "bea@example.com", "id": "primary", "timeZone": "Asia/Tokyo"}, nil))
	require.Equal(t, http.StatusOK, w.control(http.MethodPost, "calendars", object{"email": "bea@example.com", "id": "x#y@group.calendar.google.com", "summary": "X"}, nil))
	require.Equal(t, http.StatusNotFound, w.control(http.MethodPost, "calendars", object{"email": "nobody@example.com", "id": "x"}, nil))
	api := w.calendar("bea@example.com")
	primary, err := api.CalendarList.Get("primary").Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, "bea@example.com", primary.Id)
	require.Equal(t, "Asia/Tokyo", primary.TimeZone)
	made, err := api.Events.Insert("x#y@group.calendar.google.com", w.newEvent()).Context(t.Context()).Do()
	require.NoError(t, err, "escaped ids are understood")
	require.Equal(t, "x#y@group.calendar.google.com", made.Organizer.Email)
	_, err = api.Events.Insert("primary", &gcal.Event{}).Context(t.Context()).Do()
	refused(t, err, http.StatusBadRequest, "required")
}

func TestSeedingRefusesWhatHasNoPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.AddEvent("nobody@example.com", "primary", object{})
	require.Error(t, err)
	_, err = w.AddEvent(ann, "none", object{})
	require.Error(t, err)
	_, err = w.AddEvent(ann, "primary", object{"recurringEventId": "none"})
	require.Error(t, err)
	_, err = w.AddEvent(ann, "primary", object{"summary": 7})
	require.Error(t, err)
	_, err = w.AddTask(ann, "none", object{})
	require.Error(t, err)
	_, err = w.AddTask(ann, "@default", object{"parent": "none"})
	require.Error(t, err)
	_, err = w.AddTaskList("nobody@example.com", "x")
	require.Error(t, err)
}
