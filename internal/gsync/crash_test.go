package gsync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"google.golang.org/api/calendar/v3"
	"google.golang.org/api/tasks/v1"

	"fdc/events"
	"fdc/internal/platform/outbox"
	"fdc/internal/task"
)

// A process that dies before or after any of its requests leaves nothing that the next attempt doesn't put right: each
// task and each event is there once, both sides are equal, and what was counted is counted once.
func TestCrashAtEveryRequest(t *testing.T) {
	t.Parallel()
	for _, moment := range []string{"before", "after"} {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			w := shared(t)
			crashed := true
			for n := 1; crashed; n++ {
				p := w.connected(fmt.Sprintf("user%d@example.com", n))
				p.work()
				p.request("")
				claimed, err := w.claim(t.Context(), 1, time.Millisecond, p.id)
				require.NoError(t, err)

				ctx, die := context.WithCancel(t.Context())
				seen := 0
				crash := func(*http.Request) {
					if seen++; seen == n {
						die()
					}
				}
				if moment == "before" {
					w.around(crash, nil)
				} else {
					w.around(nil, crash)
				}
				err = w.attempt(ctx, claimed[0])
				w.around(nil, nil)
				die()
				if crashed = err != nil; crashed {
					require.ErrorIs(t, err, context.Canceled)
				}
				p.takenOver(claimed[0], err)
			}
		})
	}
}

// statements calls fn before, or after, each statement of a pool that it watches; begin and commit are statements too.
type statements struct {
	pgx.QueryTracer
	mu    sync.Mutex
	after bool
	fn    func() // nil: nothing
}

func (s *statements) call(after bool) {
	s.mu.Lock()
	fn := s.fn
	if s.after != after {
		fn = nil
	}
	s.mu.Unlock()
	if fn != nil {
		fn()
	}
}

func (s *statements) set(after bool, fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after, s.fn = after, fn
}

func (s *statements) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	s.call(false)
	return s.QueryTracer.TraceQueryStart(ctx, conn, data)
}

func (s *statements) TraceQueryEnd(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryEndData) {
	s.QueryTracer.TraceQueryEnd(ctx, conn, data)
	s.call(true)
}

// The same for the other thing that a sync waits for: the database. In go test a process dies at some of its statements, with
// FDC_SYNC_PROPERTY_TIME set at each of them.
func TestCrashAtEveryStatement(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		t.Run(map[bool]string{false: "before", true: "after"}[after], func(t *testing.T) {
			t.Parallel()
			w := shared(t)
			config := w.ob.Pool().Config()
			watched := &statements{QueryTracer: config.ConnConfig.Tracer}
			config.ConnConfig.Tracer = watched
			pool, err := pgxpool.NewWithConfig(t.Context(), config)
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			dying := w.newService(nil)
			dying.ob = outbox.New(pool, nil)
			steps := rand.New(rand.NewPCG(1, 2))
			crashed := true
			for n := 1; crashed; n++ {
				if propertyTime(t) == 0 {
					n += steps.IntN(14)
				}
				p := w.connected(fmt.Sprintf("user%d@example.com", n))
				p.work()
				p.request("")
				claimed, err := w.claim(t.Context(), 1, time.Millisecond, p.id)
				require.NoError(t, err)
				ctx, die := context.WithCancel(t.Context())
				seen := 0
				watched.set(after, func() {
					if seen++; seen == n {
						die()
					}
				})
				err = dying.attempt(ctx, claimed[0])
				watched.set(after, nil)
				die()
				p.takenOver(claimed[0], err)
				crashed = seen >= n
			}
		})
	}
}

// takenOver sees to it that a job whose process has died, unless it was through with it, is done by another.
func (p *person) takenOver(c claimed, died error) {
	p.t.Helper()
	job, err := p.Job(p.t.Context(), p.id, c.ID)
	require.NoError(p.t, err)
	if !job.Ended() { // or the answer to the last commit was all that it missed
		require.Error(p.t, died)
		p.eventually("somebody takes over", func() bool {
			next, err := p.claim(p.t.Context(), 1, time.Minute, p.id)
			require.NoError(p.t, err)
			if len(next) == 1 {
				c = next[0]
			}
			return len(next) == 1
		})
		require.NoError(p.t, p.attempt(p.t.Context(), c))
		job, err = p.Job(p.t.Context(), p.id, c.ID)
		require.NoError(p.t, err)
	}
	require.Equal(p.t, StatusCompleted, job.Status)
	p.worked(job)
}

// work leaves a sync something of everything to do.
func (p *person) work() {
	p.t.Helper()
	start := march.Add(33 * time.Hour)
	p.event("one", "2026-03-03T09:00:00Z", nil)
	p.create(task.Draft{Title: "changed here"})
	p.create(task.Draft{Title: "deleted here"})
	p.create(task.Draft{Title: "changed there"})
	p.create(task.Draft{Title: "deleted there"})
	p.synced("", "")
	p.patch(p.one("changed here").ID, `{"notes":"here"}`)
	p.remove(p.one("deleted here").ID)
	_, err := p.googleTasks().Tasks.Patch(defaultList, p.oneThere("changed there").Id, &tasks.Task{Notes: "there"}).Do()
	require.NoError(p.t, err)
	require.NoError(p.t, p.googleTasks().Tasks.Delete(defaultList, p.oneThere("deleted there").Id).Do())
	p.insertThere(&tasks.Task{Title: "new there"})
	p.create(task.Draft{Title: "new here"})
	p.create(task.Draft{Title: "timed", StartAt: &start})
	p.event("two", "2026-03-04T09:00:00Z", nil)
}

// worked checks that all of it was done, once.
func (p *person) worked(job Job) {
	p.t.Helper()
	p.equal()
	for _, title := range []string{"changed here", "changed there", "new here", "new there", "timed"} {
		p.oneThere(title)
	}
	require.Len(p.t, p.there(), 5)
	require.Equal(p.t, "here", p.oneThere("changed here").Notes)
	require.Equal(p.t, "there", p.one("changed there").Notes)
	require.Equal(p.t, []string{"one", "two"}, p.titles(march, may))
	list, err := p.googleCalendar().Events.List(primaryCalendar).Do()
	require.NoError(p.t, err)
	require.Len(p.t, list.Items, 3)
	got := job.Result.Tasks
	got.Pushed = 0 // what was pushed without an answer isn't counted
	require.Equal(p.t, Counts{Created: 1, Updated: 1, Deleted: 1}, got)
	require.EqualValues(p.t, 1, job.Result.Calendar.Created)
	p.quiet()
}

// Whatever happens to a calendar, its deltas add up to what a full read gives.
func TestCalendarInterleavings(t *testing.T) {
	t.Parallel()
	forSeeds(t, func(t *testing.T, seed uint64) {
		t.Helper()
		p := shared(t).connected(alice)
		r := rand.New(rand.NewPCG(seed, 8))
		for range 50 {
			p.calendarStep(r)
		}
		p.synced(events.SyncCalendar, "")
		p.sameEvents(march, may)
		require.Zero(t, p.synced(events.SyncCalendar, events.SyncResync).Calendar)
		p.quiet()
	})
}

// calendarStep does one random thing to the calendar.
func (p *person) calendarStep(r *rand.Rand) {
	p.t.Helper()
	g := p.googleCalendar()
	start := march.Add(time.Duration(r.IntN(30*24)) * time.Hour)
	move := &calendar.Event{Summary: fmt.Sprint("moved ", r.IntN(1000)), Start: at(utcText(start)), End: at(utcText(start.Add(time.Hour)))}
	rules := []string{"RRULE:FREQ=DAILY", "RRULE:FREQ=WEEKLY;COUNT=5", "RRULE:FREQ=DAILY;INTERVAL=2;UNTIL=20260420T000000Z"}
	rule := []string{rules[r.IntN(len(rules))]}

	pick := func(single bool) string {
		p.t.Helper()
		list, err := g.Events.List(primaryCalendar).SingleEvents(single).TimeMin(utcText(march)).TimeMax(utcText(may)).MaxResults(2500).Do()
		require.NoError(p.t, err)
		if len(list.Items) == 0 {
			return ""
		}
		return list.Items[r.IntN(len(list.Items))].Id
	}
	dice := r.IntN(14)
	switch {
	case dice < 2:
		p.event(fmt.Sprint("single ", r.IntN(1000)), utcText(start), nil)
		return
	case dice < 5:
		p.event(fmt.Sprint("series ", r.IntN(1000)), utcText(start), object{"recurrence": rule})
		return
	case dice >= 10:
		p.synced(events.SyncCalendar, "")
		return
	}
	id := pick(dice < 8) // an instance or a single one; else a series, an exception or a single one
	if id == "" {
		return
	}
	var err error
	switch dice {
	case 5, 6:
		_, err = g.Events.Patch(primaryCalendar, id, move).Do()
	case 7, 8:
		err = g.Events.Delete(primaryCalendar, id).Do()
	default:
		_, err = g.Events.Patch(primaryCalendar, id, &calendar.Event{Recurrence: rule}).Do()
		if isRefused(err) {
			return // an exception has no rule of its own
		}
	}
	if isRefused(err) {
		return // gone with its series
	}
	require.NoError(p.t, err)
}

func isRefused(err error) bool {
	v := judge(err)
	return err != nil && (v.class == classPermanent || v.class == classNotFound || v.class == classGone)
}
