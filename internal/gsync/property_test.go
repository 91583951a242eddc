package gsync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"google.golang.org/api/tasks/v1"

	"fdc/events"
	"fdc/internal/platform/outbox"
	"fdc/internal/task"
)

// edits is what a test knows of one field of one task: what both sides agreed on last, and the newest edit of each side since.
type edits struct{ agreed, here, there string }

// sides of a sync.
const (
	here  = "here"
	there = "there"
)

// deed is something that was done to a task on one side.
type deed struct {
	side     string
	deletion bool
	field    int // of an edit that may have been taken back, in the order of each; -1 otherwise
	at       time.Time
}

// clockStep is how close two deeds may be for their order to be unknown: Google's times are truncated.
const clockStep = 2 * time.Millisecond

// item is one task on both sides, as a test knows it. Its title begins with its name on both.
type item struct {
	name   string
	fields [4]edits // in the order of each
	suit   string   // what Google has not
	start  string
	deeds  []deed // since both sides agreed
}

// fate tells whether the task must live, or must be gone; neither means that either may be. Who deletes without knowing of
// an earlier edit of the other side has the last word or not; a later edit outlives a deletion.
func (i *item) fate() (live, gone bool) {
	last := -1
	for n, d := range i.deeds {
		if d.deletion {
			last = n
		}
	}
	if last < 0 {
		return true, false
	}
	end := i.deeds[last]
	edited := slices.ContainsFunc(i.deeds, func(d deed) bool { return !d.deletion && d.side != end.side })
	outlived := slices.ContainsFunc(i.deeds[last:], func(d deed) bool {
		return !d.deletion && d.at.Sub(end.at) > clockStep && !i.takenBack(d)
	})
	return outlived, !edited && !slices.ContainsFunc(i.deeds[last:], func(d deed) bool { return !d.deletion })
}

// takenBack reports whether the edit's side has the field as it was.
func (i *item) takenBack(d deed) bool {
	if d.field < 0 {
		return false
	}
	of := i.fields[d.field]
	return d.side == here && of.here == of.agreed || d.side == there && of.there == of.agreed
}

func (i *item) deleted(side string) bool {
	return slices.ContainsFunc(i.deeds, func(d deed) bool { return d.deletion && d.side == side })
}

// allowed is what a field may have become. Who edits alone is to be found everywhere; of two, either. Who deletes the task deletes
// also what that side made of it.
func (i *item) allowed(n int) []string {
	of := i.fields[n]
	var may []string
	must := false
	for _, of := range []struct{ side, value string }{{here, of.here}, {there, of.there}} {
		if of.value != "" {
			may = append(may, of.value)
			must = must || !i.deleted(of.side)
		}
	}
	if !must {
		may = append(may, of.agreed)
	}
	return may
}

// editor edits tasks on both sides and remembers what it wrote. Texts and dates never repeat.
type editor struct {
	*person
	r       *rand.Rand
	items   []*item
	made    int
	count   int
	dying   *Service // whose statements are watched
	watched *statements
	doubt   bool     // a process has died, and nobody has taken over
	steps   []string // for whoever reads a failure
}

func newEditor(t *testing.T, seed uint64) *editor {
	t.Helper()
	w := shared(t)
	config := w.ob.Pool().Config()
	e := &editor{person: w.connected(alice), r: rand.New(rand.NewPCG(seed, 11)), watched: &statements{QueryTracer: config.ConnConfig.Tracer}}
	config.ConnConfig.Tracer = e.watched
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	e.dying = w.newService(nil)
	e.dying.ob = outbox.New(pool, nil)
	return e
}

func (e *editor) note(format string, args ...any) {
	e.steps = append(e.steps, fmt.Sprintf(format, args...))
}

func (e *editor) history() string {
	return fmt.Sprintf("%d steps, the last ones\n%s", len(e.steps), strings.Join(e.steps[max(0, len(e.steps)-30):], "\n"))
}

// value is one that the field of that index never had before; a status changes.
func (e *editor) value(i *item, field int, now string) string {
	e.count++
	switch field {
	case 0:
		return fmt.Sprintf("%s %d", i.name, e.count)
	case 1:
		return fmt.Sprintf("note %d", e.count)
	case 2:
		return march.AddDate(0, 0, e.count).Format(time.DateOnly)
	}
	if now == task.Done {
		return task.Todo
	}
	return task.Done
}

// find is the item's task on our side, nil when there is none.
func (e *editor) find(i *item) *task.Task {
	e.t.Helper()
	var found []task.Task
	for title, same := range e.here() {
		if strings.HasPrefix(title, i.name+" ") {
			found = append(found, same...)
		}
	}
	require.LessOrEqual(e.t, len(found), 1, "%s is doubled here: %s", i.name, e.history())
	if len(found) == 0 {
		return nil
	}
	return &found[0]
}

// findThere is the item's task at Google, nil when there is none.
func (e *editor) findThere(i *item) *tasks.Task {
	e.t.Helper()
	var found []*tasks.Task
	for title, same := range e.there() {
		if strings.HasPrefix(title, i.name+" ") {
			found = append(found, same...)
		}
	}
	require.LessOrEqual(e.t, len(found), 1, "%s is doubled at Google: %s", i.name, e.history())
	if len(found) == 0 {
		return nil
	}
	return found[0]
}

func (e *editor) step() {
	e.t.Helper()
	switch dice := e.r.IntN(20); {
	case dice < 13:
		e.edit()
	case dice < 15:
		e.die()
	default:
		e.trouble()
	}
}

// edit does something to a task on one side.
func (e *editor) edit() {
	e.t.Helper()
	if len(e.items) < 3 || len(e.items) < 6 && e.r.IntN(8) == 0 {
		e.make()
		return
	}
	i := e.items[e.r.IntN(len(e.items))]
	if e.r.IntN(2) == 0 {
		e.editHere(i)
	} else {
		e.editThere(i)
	}
}

// make makes a new task on one side.
func (e *editor) make() {
	e.t.Helper()
	i := &item{name: fmt.Sprintf("t%d", e.made), suit: task.Unclassified}
	e.made++
	e.items = append(e.items, i)
	f := fields{Title: e.value(i, 0, ""), Notes: e.value(i, 1, ""), Due: e.value(i, 2, ""), Status: task.Todo}
	for n, v := range each(&f) {
		i.fields[n].agreed = *v
	}
	if e.r.IntN(2) == 0 {
		e.note("here: %v", f)
		var draft task.Draft
		f.writeTo(&draft)
		e.create(draft)
	} else {
		e.note("there: %v", f)
		e.insertThere(f.googleTask())
	}
}

func (e *editor) editHere(i *item) {
	e.t.Helper()
	one := e.find(i)
	if one == nil {
		return
	}
	d := deed{side: here, field: -1}
	names := [4]string{"title", "notes", "dueDate", "status"}
	now := localFields(one.Draft)
	switch dice := e.r.IntN(16); {
	case dice < 2:
		d.deletion = true
		e.remove(one.ID)
		e.note("here: delete %s", i.name)
	case dice < 4:
		i.suit = []string{task.Spade, task.Heart, task.Club, task.Joker}[e.r.IntN(4)]
		if i.suit == one.Suit {
			return
		}
		e.patch(one.ID, fmt.Sprintf(`{"suit":%q}`, i.suit))
		e.note("here: %s is %s", i.name, i.suit)
	case dice < 6:
		e.count++
		i.start = utcText(march.Add(time.Duration(e.count) * time.Hour))
		e.patch(one.ID, fmt.Sprintf(`{"startAt":%q}`, i.start))
		e.note("here: %s starts at %s", i.name, i.start)
	default:
		n := dice % 4
		v := e.value(i, n, *each(&now)[n])
		i.fields[n].here, d.field = v, n
		e.patch(one.ID, fmt.Sprintf(`{%q:%q}`, names[n], v))
		e.note("here: %s of %s = %s", names[n], i.name, v)
	}
	d.at = time.Now()
	i.deeds = append(i.deeds, d)
}

func (e *editor) editThere(i *item) {
	e.t.Helper()
	one := e.findThere(i)
	if one == nil {
		return
	}
	d := deed{side: there, field: -1}
	dice := e.r.IntN(12)
	if dice < 2 {
		d.deletion = true
		require.NoError(e.t, e.googleTasks().Tasks.Delete(defaultList, one.Id).Do())
		e.note("there: delete %s", i.name)
	} else {
		n := dice % 4
		if n == 0 && e.doubt {
			return // of an insert that waits to be known again, one of title and notes has to stay
		}
		now := remoteFields(one)
		wanted := now
		v := each(&wanted)[n]
		*v = e.value(i, n, *v)
		i.fields[n].there, d.field = *v, n
		_, err := e.googleTasks().Tasks.Patch(defaultList, one.Id, wanted.patch(now)).Do()
		require.NoError(e.t, err)
		e.note("there: field %d of %s = %s", n, i.name, *v)
	}
	d.at = time.Now()
	i.deeds = append(i.deeds, d)
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
	times := 1 + e.r.IntN(5)
	chosen := faults[e.r.IntN(len(faults))]
	if chosen != nil {
		if chosen["status"] == 401 {
			times = 1 // of a fresh token too it would be the end of the grant
		}
		methods := []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete}
		e.fault(methods[e.r.IntN(len(methods))], "/*/v*", 1+e.r.IntN(3), times, chosen)
	}
	mode := events.SyncIncremental
	if e.r.IntN(5) == 0 {
		mode = events.SyncResync
	}
	job := e.sync([]string{events.SyncTasks, events.SyncFull}[e.r.IntN(2)], mode)
	e.control(http.MethodDelete, "/_emulator/faults", nil, nil)
	e.note("sync %s with %v: %s", mode, chosen, job.Status)
	if job.Status == StatusCompleted && job.Result.Tasks.Failed == 0 {
		e.check()
	}
}

// die runs a sync whose process dies at one of its requests or statements; edits go on, and another takes over.
func (e *editor) die() {
	e.t.Helper()
	e.request([]string{events.SyncTasks, events.SyncFull}[e.r.IntN(2)])
	claimed, err := e.claim(e.t.Context(), 1, time.Millisecond, e.id)
	require.NoError(e.t, err)
	ctx, die := context.WithCancel(e.t.Context())
	defer die()
	var seen atomic.Int64
	after, kind, n := e.r.IntN(2) == 0, e.r.IntN(3), int64(1+e.r.IntN(8))
	count := func() {
		if seen.Add(1) == n {
			die()
		}
	}
	requests := func(r *http.Request) {
		if kind == 0 || kind == 1 && r.Method != http.MethodGet {
			count()
		}
	}
	switch {
	case kind == 2:
		n *= 8
		e.watched.set(after, count)
	case after:
		e.around(nil, requests)
	default:
		e.around(requests, nil)
	}
	err = e.dying.attempt(ctx, claimed[0])
	e.around(nil, nil)
	e.watched.set(after, nil)
	e.note("a process dies at %s %d (after: %v): %v", [...]string{"request", "write", "statement"}[kind], n, after, err)
	job, jobErr := e.Job(e.t.Context(), e.id, claimed[0].ID)
	require.NoError(e.t, jobErr)
	if !job.Ended() {
		require.Error(e.t, err)
		e.doubt = true
		for range e.r.IntN(4) {
			e.edit()
		}
		e.doubt = false
		e.eventually("somebody takes over", func() bool {
			claimed, err = e.claim(e.t.Context(), 1, time.Minute, e.id)
			require.NoError(e.t, err)
			return len(claimed) == 1
		})
		require.NoError(e.t, e.attempt(e.t.Context(), claimed[0]))
		e.note("another has taken over")
	}
	e.check()
}

// check looks for all edits after a sync that says it is done, and takes what it finds for agreed.
func (e *editor) check() {
	e.t.Helper()
	e.items = slices.DeleteFunc(e.items, func(i *item) bool {
		ours, theirs := e.find(i), e.findThere(i)
		live, gone := i.fate()
		require.Equal(e.t, ours == nil, theirs == nil, "%s is on one side only: %s", i.name, e.history())
		require.False(e.t, live && ours == nil, "%s must live: %s", i.name, e.history())
		require.False(e.t, gone && ours != nil, "%s must be gone: %s", i.name, e.history())
		if ours == nil {
			return true
		}
		now, google := localFields(ours.Draft), remoteFields(theirs)
		for n, v := range each(&now) {
			require.Contains(e.t, i.allowed(n), *v, "field %d of %s: %s", n, i.name, e.history())
			i.fields[n] = edits{agreed: *v}
		}
		require.Equal(e.t, now, google, "%s: %s", i.name, e.history())
		start := ""
		if ours.StartAt != nil {
			start = utcText(*ours.StartAt)
		}
		if !i.deleted(here) { // what Google hasn't is lost with the task that had it
			require.Equal(e.t, i.suit, ours.Suit, "%s: %s", i.name, e.history())
			require.Equal(e.t, i.start, start, "%s: %s", i.name, e.history())
		}
		i.suit, i.start, i.deeds = ours.Suit, start, nil
		return false
	})
}

// events checks that each timed task has its event, and that nothing else has.
func (e *editor) events() {
	e.t.Helper()
	wanted := []string{}
	for _, i := range e.items {
		if i.start != "" {
			wanted = append(wanted, e.find(i).Title+" "+i.start)
		}
	}
	list, err := e.googleCalendar().Events.List(primaryCalendar).Do()
	require.NoError(e.t, err)
	got := []string{}
	for _, event := range list.Items {
		start, err := time.Parse(time.RFC3339, event.Start.DateTime)
		require.NoError(e.t, err)
		got = append(got, event.Summary+" "+utcText(start))
	}
	require.ElementsMatch(e.t, wanted, got, e.history())
}

// propertyTime is for how long each search goes on; the environment's, or zero.
func propertyTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("FDC_SYNC_PROPERTY_TIME")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// forSeeds searches from one seed. FDC_SYNC_PROPERTY_TIME=5m goes on with new seeds for so long, from FDC_SYNC_PROPERTY_SEED.
func forSeeds(t *testing.T, search func(*testing.T, uint64)) {
	t.Helper()
	first, until := uint64(0), time.Now().Add(propertyTime(t))
	if text := os.Getenv("FDC_SYNC_PROPERTY_SEED"); text != "" {
		_, err := fmt.Sscan(text, &first)
		require.NoError(t, err)
	}
	for seed := first; seed == first || time.Now().Before(until); seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { search(t, seed) })
	}
}

// Whatever order edits on both sides, syncs, faults and crashes come in: after each sync that says it is done every edit is on both
// sides, or one of the same field that was made on the other side meanwhile; a task that one side deleted is gone, unless the other
// has edited it since; nothing is doubled; and a further sync writes nothing.
func TestEveryEditCounts(t *testing.T) {
	t.Parallel()
	forSeeds(t, func(t *testing.T, seed uint64) {
		t.Helper()
		e := newEditor(t, seed)
		for range 60 {
			e.step()
		}
		e.settle()
		e.check()
		e.synced(events.SyncFull, "")
		e.equal()
		e.quiet()
		e.events()
		require.Len(t, e.here(), len(e.items))
	})
}
