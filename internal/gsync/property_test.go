package gsync

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/api/tasks/v1"

	"fdc/events"
	"fdc/internal/task"
)

// edits is what a test knows of one field of one task: what both sides agreed on last, and the newest edit of each side since.
// Who edits alone is to be found everywhere; of two, either.
type edits struct{ agreed, here, there string }

func (e edits) allowed() []string {
	switch {
	case e.here == "" && e.there == "":
		return []string{e.agreed}
	case e.there == "":
		return []string{e.here}
	case e.here == "":
		return []string{e.there}
	}
	return []string{e.here, e.there}
}

// editor edits tasks on both sides and remembers what it wrote. Values never repeat.
type editor struct {
	*person
	r     *rand.Rand
	notes map[string]*edits // by title
	dues  map[string]*edits
	count int
	steps []string // for whoever reads a failure
}

func (e *editor) note(format string, args ...any) {
	e.steps = append(e.steps, fmt.Sprintf(format, args...))
}

// value is one that was never there before, of notes or of a due date.
func (e *editor) value(due bool) string {
	e.count++
	if due {
		return march.AddDate(0, 0, e.count).Format(time.DateOnly)
	}
	return fmt.Sprintf("note %d", e.count)
}

func (e *editor) step() {
	e.t.Helper()
	titles := slices.Sorted(maps.Keys(e.notes))
	title := titles[e.r.IntN(len(titles))]
	due := e.r.IntN(2) == 0
	of, field := e.notes[title], "notes"
	if due {
		of, field = e.dues[title], "dueDate"
	}
	switch dice := e.r.IntN(10); {
	case dice < 3:
		of.here = e.value(due)
		e.note("here: %s of %s = %s", field, title, of.here)
		e.patch(e.one(title).ID, fmt.Sprintf(`{%q:%q}`, field, of.here))
	case dice < 6:
		of.there = e.value(due)
		e.note("there: %s of %s = %s", field, title, of.there)
		change := &tasks.Task{Notes: of.there}
		if due {
			change = &tasks.Task{Due: of.there + "T00:00:00.000Z"}
		}
		_, err := e.googleTasks().Tasks.Patch(defaultList, e.oneThere(title).Id, change).Do()
		require.NoError(e.t, err)
	case dice < 7:
		e.dying()
	default:
		e.trouble()
	}
}

// trouble syncs while Google misbehaves, or not.
func (e *editor) trouble() {
	e.t.Helper()
	faults := []object{
		nil, nil,
		{"drop": "after"},
		{"drop": "before"},
		{"truncate": true},
		{"status": 500},
		{"status": 503},
		{"status": 429, "reason": "rateLimitExceeded"},
		{"status": 401, "reason": "authError"},
	}
	times := 1 + e.r.IntN(3)
	chosen := faults[e.r.IntN(len(faults))]
	if chosen != nil {
		if chosen["status"] == 401 {
			times = 1 // of a fresh token too it would be the end of the grant
		}
		methods := []string{http.MethodGet, http.MethodPost, http.MethodPatch}
		e.fault(methods[e.r.IntN(len(methods))], "/tasks/v1/lists/*", 1+e.r.IntN(3), times, chosen)
	}
	mode := events.SyncIncremental
	if e.r.IntN(5) == 0 {
		mode = events.SyncResync
	}
	job := e.sync(events.SyncTasks, mode)
	e.control(http.MethodDelete, "/_emulator/faults", nil, nil)
	e.note("sync %s with %v: %s", mode, chosen, job.Status)
	if job.Status == StatusCompleted && job.Result.Tasks.Failed == 0 {
		e.check()
	}
}

// dying runs a sync whose process dies at one of its requests; another takes over.
func (e *editor) dying() {
	e.t.Helper()
	e.request(events.SyncTasks)
	claimed, err := e.claim(e.t.Context(), 1, time.Millisecond, "")
	require.NoError(e.t, err)
	ctx, die := context.WithCancel(e.t.Context())
	defer die()
	var seen atomic.Int64
	n := int64(1 + e.r.IntN(6))
	crash := func(*http.Request) {
		if seen.Add(1) == n {
			die()
		}
	}
	if e.r.IntN(2) == 0 {
		e.around(crash, nil)
	} else {
		e.around(nil, crash)
	}
	err = e.attempt(ctx, claimed[0])
	e.around(nil, nil)
	e.note("a process dies at request %d: %v", n, err)
	if err != nil {
		e.eventually("somebody takes over", func() bool {
			claimed, err = e.claim(e.t.Context(), 1, time.Minute, "")
			require.NoError(e.t, err)
			return len(claimed) == 1
		})
		require.NoError(e.t, e.attempt(e.t.Context(), claimed[0]))
	}
	e.check()
}

// check looks for all edits after a sync that says it is done, and takes what it finds for agreed.
func (e *editor) check() {
	e.t.Helper()
	history := func() string {
		return fmt.Sprintf("%d steps, the last ones %q", len(e.steps), e.steps[max(0, len(e.steps)-25):])
	}
	for title, of := range e.notes {
		here, there := e.one(title), e.oneThere(title)
		require.Contains(e.t, of.allowed(), here.Notes, "notes of %s here: %s", title, history())
		require.Equal(e.t, here.Notes, there.Notes, "notes of %s: %s", title, history())
		*of = edits{agreed: here.Notes}
		due := e.dues[title]
		require.Contains(e.t, due.allowed(), here.DueDate, "due date of %s here: %s", title, history())
		require.Equal(e.t, here.DueDate, remoteFields(there).Due, "due date of %s: %s", title, history())
		*due = edits{agreed: here.DueDate}
	}
}

// Whatever order edits on both sides, syncs, faults and crashes come in: after each sync that says it is done every edit is on both
// sides, or one of the same field that was made on the other side meanwhile; nothing is doubled; and a further sync writes nothing.
// FDC_SYNC_PROPERTY_TIME=5m goes on with new seeds for so long.
func TestEveryEditCounts(t *testing.T) {
	t.Parallel()
	seeds, until := uint64(4), time.Now()
	if text := os.Getenv("FDC_SYNC_PROPERTY_TIME"); text != "" {
		d, err := time.ParseDuration(text)
		require.NoError(t, err)
		until = until.Add(d)
	}
	for seed := uint64(0); seed < seeds || time.Now().Before(until); seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			if seed < seeds {
				t.Parallel()
			}
			p := newWorld(t).connected(alice)
			e := &editor{person: p, r: rand.New(rand.NewPCG(seed, 11)), notes: map[string]*edits{}, dues: map[string]*edits{}}
			for i := range 4 {
				title := fmt.Sprintf("task %d", i)
				if i%2 == 0 {
					p.create(task.Draft{Title: title})
				} else {
					p.insertThere(&tasks.Task{Title: title})
				}
				e.notes[title], e.dues[title] = &edits{}, &edits{}
			}
			p.synced(events.SyncTasks, "")
			e.check()
			for range 50 {
				e.step()
			}
			p.settle()
			e.check()
			p.equal()
			p.quiet()
			require.Len(t, p.here(), 4)
			require.Len(t, p.there(), 4)
		})
	}
}
