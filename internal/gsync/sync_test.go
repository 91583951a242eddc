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
	"fdc/internal/devstack/googleemu"
	"fdc/internal/platform/fault"
	"fdc/internal/task"
)

func TestFullSyncOfTheDemo(t *testing.T) {
	t.Parallel()
	w := shared(t)
	now := time.Now()
	require.NoError(t, googleemu.SeedDemo(w.google, now))
	p := w.connected(alice)
	for i := range 30 {
		p.create(task.Draft{Title: fmt.Sprintf("ours %d", i), Status: []string{task.Todo, task.Done}[i%2]})
	}
	theirs := 0
	for _, same := range p.there() {
		theirs += len(same)
	}

	result := p.synced("", "")
	require.EqualValues(t, theirs, result.Tasks.Created)
	require.EqualValues(t, 30, result.Tasks.Pushed)
	require.Empty(t, result.Warnings)
	require.Positive(t, result.APICalls)
	p.equal()

	rows := 0
	for _, id := range p.calendars(t) {
		err := p.googleCalendar().Events.List(id).MaxResults(2500).Pages(t.Context(), func(page *calendar.Events) error {
			for _, e := range page.Items {
				if e.Status != statusCancelled {
					rows++
				}
			}
			return nil
		})
		require.NoError(t, err)
	}
	require.EqualValues(t, rows, result.Calendar.Created)
	for month := -7; month <= 7; month++ {
		from := now.AddDate(0, month, 0)
		p.sameEvents(from, from.AddDate(0, 1, 0))
	}
	p.sameEvents(now.AddDate(0, 0, -199), now.AddDate(0, 0, 199))

	p.quiet()
	p.equal()
}

// calendars are the ids of the person's calendars that FDC syncs.
func (p *person) calendars(t *testing.T) []string {
	t.Helper()
	st, err := p.Settings(t.Context(), p.id)
	require.NoError(t, err)
	return st.CalendarIDs
}

// sameEvents checks that FDC shows what Google shows.
func (p *person) sameEvents(from, to time.Time) {
	p.t.Helper()
	from, to = from.UTC().Truncate(time.Second), to.UTC().Truncate(time.Second)
	ours, err := p.Events(p.t.Context(), p.id, from, to)
	require.NoError(p.t, err)
	type shown struct {
		id, calendar, title, start, end, status, series string
	}
	got, want := map[shown]int{}, map[shown]int{}
	for _, e := range ours {
		got[shown{e.ID, e.CalendarID, e.Title, e.Start, e.End, e.Status, e.RecurringEventID}]++
	}
	for _, id := range p.calendars(p.t) {
		list := p.googleCalendar().Events.List(id).SingleEvents(true).MaxResults(2500).
			TimeMin(from.Format(time.RFC3339)).TimeMax(to.Format(time.RFC3339))
		err := list.Pages(p.t.Context(), func(page *calendar.Events) error {
			for _, e := range page.Items {
				if e.ExtendedProperties == nil {
					want[shown{e.Id, id, e.Summary, momentText(e.Start), momentText(e.End), e.Status, e.RecurringEventId}]++
				}
			}
			return nil
		})
		require.NoError(p.t, err)
	}
	differ := map[shown][2]int{} // an event, and how often each side shows it
	for e, n := range want {
		if got[e] != n {
			differ[e] = [2]int{got[e], n}
		}
	}
	for e, n := range got {
		if want[e] != n {
			differ[e] = [2]int{n, want[e]}
		}
	}
	require.Empty(p.t, differ, "%s to %s: what FDC and Google don't show alike", from, to)
}

func momentText(m *calendar.EventDateTime) string {
	if m.Date != "" {
		return m.Date
	}
	at, err := time.Parse(time.RFC3339, m.DateTime)
	if err != nil {
		return err.Error()
	}
	return utcText(at)
}

func TestASecondSyncAsksLittle(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	require.NoError(t, w.google.AddCalendar(alice, googleemu.Calendar{ID: "second", Summary: "Second"}))
	p.create(task.Draft{Title: "one"})
	p.synced("", "")

	result := p.synced("", "")
	require.LessOrEqual(t, result.APICalls, int64(2+1+1), "a call per calendar, one per list and one")
	for _, r := range w.requests() {
		require.Equal(t, "fdc/test", r.Agent)
	}
}

func TestEditsOnBothSides(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	for _, title := range []string{"ours", "theirs", "both", "same field", "gone here", "gone there", "gone there, changed here", "reopened"} {
		p.create(task.Draft{Title: title, Notes: "old", DueDate: "2026-12-01"})
	}
	p.patch(p.one("reopened").ID, `{"status":"done"}`)
	p.synced("", "")
	p.equal()
	g := p.googleTasks()
	there := func(title, body string) {
		one := p.oneThere(title)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch,
			w.base+"/tasks/v1/lists/@default/tasks/"+one.Id, bodyOf(body))
		require.NoError(t, err)
		resp, err := p.http().Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
	}

	p.patch(p.one("ours").ID, `{"notes":"new","dueDate":null}`)
	there("theirs", `{"notes":"new","status":"completed","due":null}`)
	p.patch(p.one("both").ID, `{"notes":"ours"}`)
	there("both", `{"due":"2027-01-02T00:00:00Z"}`)
	there("same field", `{"notes":"theirs"}`)
	p.patch(p.one("same field").ID, `{"notes":"ours, later"}`)
	p.remove(p.one("gone here").ID)
	require.NoError(t, g.Tasks.Delete(defaultList, p.oneThere("gone there").Id).Do())
	require.NoError(t, g.Tasks.Delete(defaultList, p.oneThere("gone there, changed here").Id).Do())
	p.patch(p.one("gone there, changed here").ID, `{"notes":"still wanted"}`)
	p.patch(p.one("reopened").ID, `{"status":"todo"}`)

	result := p.synced(events.SyncTasks, "")
	require.Equal(t, Counts{Updated: 2, Deleted: 1, Pushed: 6, Conflicts: 2}, result.Tasks)
	p.equal()
	require.Equal(t, "new", p.oneThere("ours").Notes)
	require.Empty(t, p.oneThere("ours").Due)
	require.Equal(t, task.Done, p.one("theirs").Status)
	require.Empty(t, p.one("theirs").DueDate)
	require.Equal(t, "ours", p.one("both").Notes)
	require.Equal(t, "2027-01-02", p.one("both").DueDate)
	require.Equal(t, "ours, later", p.one("same field").Notes)
	require.Empty(t, p.here()["gone there"])
	require.Empty(t, p.there()["gone here"])
	require.Equal(t, "still wanted", p.oneThere("gone there, changed here").Notes)
	require.Nil(t, p.oneThere("reopened").Completed)
	p.quiet()
}

func bodyOf(s string) *strings.Reader { return strings.NewReader(s) }

// A list that comes back nearly empty has more likely gone wrong than told of deletions.
func TestSweepGuard(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{events.SyncTasks, events.SyncCalendar} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := shared(t)
			p := w.connected(alice)
			const all, left = 24, 11
			theirs := make([]string, all)
			var emptied func(string)
			var here func() int
			if kind == events.SyncTasks {
				google := p.googleTasks()
				for i := range theirs {
					made, err := google.Tasks.Insert(defaultList, &tasks.Task{Title: fmt.Sprintf("task %d", i)}).Do()
					require.NoError(t, err)
					theirs[i] = made.Id
				}
				// To another list: the list says nothing of what left it, unlike of what was deleted.
				other, err := google.Tasklists.Insert(&tasks.TaskList{Title: "Other"}).Do()
				require.NoError(t, err)
				emptied = func(id string) {
					_, err := google.Tasks.Move(defaultList, id).DestinationTasklist(other.Id).Do()
					require.NoError(t, err)
				}
				here = func() int { return len(p.here()) }
			} else {
				google := p.googleCalendar()
				day := time.Date(2026, 5, 1, 9, 0, 0, 0, time.UTC)
				for i := range theirs {
					start := day.AddDate(0, 0, i)
					made, err := google.Events.Insert(primaryCalendar, &calendar.Event{
						Summary: fmt.Sprintf("event %d", i), Start: moment(start, "UTC"), End: moment(start.Add(time.Hour), "UTC"),
					}).Do()
					require.NoError(t, err)
					theirs[i] = made.Id
				}
				emptied = func(id string) { require.NoError(t, google.Events.Delete(primaryCalendar, id).Do()) }
				here = func() int {
					list, err := p.Events(t.Context(), p.id, day, day.AddDate(0, 2, 0))
					require.NoError(t, err)
					return len(list)
				}
			}
			p.synced(kind, events.SyncIncremental)
			require.Equal(t, all, here())
			for _, id := range theirs[left:] {
				emptied(id)
			}
			p.create(task.Draft{Title: "made here", Suit: "heart", Status: "todo"})

			for range 2 {
				job := p.sync(kind, events.SyncResync)
				require.Equal(t, StatusFailed, job.Status)
				require.Equal(t, codeSweepGuard, job.Error.Code)
				require.Contains(t, job.Error.Message, "13 of 24")
				require.False(t, job.Error.Retryable)
				require.GreaterOrEqual(t, here(), all, "nothing is deleted before the user was asked")
			}
			require.Equal(t, 2, w.count(p.id, "sync.failed"))

			job, err := w.RunNow(t.Context(), testMeta, p.id, Ask{Type: kind, Mode: events.SyncResync, Force: true})
			require.NoError(t, err)
			require.Equal(t, StatusCompleted, job.Status, "%+v", job.Error)
			if kind == events.SyncTasks {
				require.EqualValues(t, all-left, job.Result.Tasks.Deleted)
				require.Equal(t, left+1, here())
				p.equal()
			} else {
				require.EqualValues(t, all-left, job.Result.Calendar.Deleted)
				require.Equal(t, left, here())
			}
		})
	}
}

func TestForce(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	_, _, err := w.Request(t.Context(), testMeta, p.id, Ask{Force: true})
	var wrong *fault.Error
	require.ErrorAs(t, err, &wrong)
	require.Equal(t, []fault.Field{{Pointer: "/force", Detail: "goes with mode resync only"}}, wrong.Fields)

	_, _, err = w.Request(t.Context(), testMeta, p.id, Ask{Mode: events.SyncResync})
	require.NoError(t, err)
	_, coalesced, err := w.Request(t.Context(), testMeta, p.id, Ask{Mode: events.SyncResync, Force: true})
	require.NoError(t, err)
	require.True(t, coalesced)
	_, _, err = w.Request(t.Context(), testMeta, p.id, Ask{})
	require.NoError(t, err)
	jobs, err := w.claim(t.Context(), 1, time.Minute, p.id)
	require.NoError(t, err)
	require.Equal(t, Ask{Type: events.SyncFull, Mode: events.SyncResync, Force: true}, jobs[0].Ask, "a request that comes later takes nothing back")
}
