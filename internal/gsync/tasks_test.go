package gsync

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/api/tasks/v1"

	"fdc/events"
	"fdc/internal/task"
)

func (p *person) insertThere(t *tasks.Task) *tasks.Task {
	p.t.Helper()
	made, err := p.googleTasks().Tasks.Insert(defaultList, t).Do()
	require.NoError(p.t, err)
	return made
}

func TestInsertWithoutAnswerMakesOneTask(t *testing.T) {
	t.Parallel()
	for _, fault := range []object{{"drop": "after"}, {"drop": "before"}, {"truncate": true}, {"status": 503}} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			t.Parallel()
			w := shared(t)
			p := w.connected(alice)
			p.insertThere(&tasks.Task{Title: "twice at Google", Notes: "n"}) // the same, but not ours
			p.create(task.Draft{Title: "before", Notes: "n", DueDate: "2026-02-28"})
			w.fault(http.MethodPost, "/tasks/v1/lists/*", 1, 1, fault)
			require.EqualValues(t, 1, p.synced("", "").Tasks.Pushed)
			p.equal()

			w.fault(http.MethodPost, "/tasks/v1/lists/*", 2, 3, fault)
			for range 6 {
				p.create(task.Draft{Title: "six alike"})
			}
			require.EqualValues(t, 6, p.synced("", "").Tasks.Pushed)
			require.Len(t, p.there()["six alike"], 6)
			p.equal()
			p.quiet()
		})
	}
}

// A process that dies between Google's answer and its commit leaves an intent; the next pull finds what became of it.
func TestInsertForgottenByACrash(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	p.synced("", "")
	made := p.create(task.Draft{Title: "forgotten"})
	list := p.googleTasks()
	found, err := list.Tasklists.Get(defaultList).Do()
	require.NoError(t, err)
	w.exec(`INSERT INTO google_task_links (user_id, task_id, workspace_id, task_list_id, snapshot, intended_at)
		VALUES ($1, $2, $3, $4, $5, now())`, p.id, made.ID, p.workspaceID, found.Id, localFields(made.Draft))
	p.insertThere(&tasks.Task{Title: "forgotten"})

	result := p.synced("", "")
	require.Equal(t, Counts{Pushed: 1}, result.Tasks)
	p.oneThere("forgotten")
	p.one("forgotten")
	p.quiet()
}

func TestWhatGoogleListsIsTakenInWhole(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	parent := p.insertThere(&tasks.Task{Title: "parent"})
	_, err := p.googleTasks().Tasks.Insert(defaultList, &tasks.Task{Title: "child"}).Parent(parent.Id).Do()
	require.NoError(t, err)
	p.insertThere(&tasks.Task{Title: "done", Status: googleDone})
	for title, due := range map[string]string{"date": "2026-12-01T00:00:00Z", "evening": "2026-12-01T23:30:00Z"} {
		p.insertThere(&tasks.Task{Title: title, Due: due})
	}
	for _, title := range []string{"", "   ", strings.Repeat("字", task.MaxTitle), "nul\x00here", " spaces around "} {
		_, err := w.google.AddTask(alice, defaultList, object{"title": title, "notes": "\x00notes"})
		require.NoError(t, err)
	}
	for i := range 120 {
		p.insertThere(&tasks.Task{Title: fmt.Sprintf("number %d", i)})
	}
	require.NoError(t, p.googleTasks().Tasks.Clear(defaultList).Do()) // hides what is done

	require.EqualValues(t, 130, p.synced("", "").Tasks.Created)
	require.Equal(t, "2026-12-01", p.one("date").DueDate)
	require.Equal(t, "2026-12-01", p.one("evening").DueDate)
	require.Equal(t, task.Done, p.one("done").Status)
	require.Len(t, p.here()[untitled], 2)
	p.equal()
	p.quiet()

	// Positions and parents are Google's: a push leaves them.
	p.patch(p.one("child").ID, `{"notes":"edited"}`)
	p.synced("", "")
	require.Equal(t, parent.Id, p.oneThere("child").Parent)
}

func TestTasksThatBothSidesHadBefore(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	p.create(task.Draft{Title: "same", Notes: "n"})
	p.create(task.Draft{Title: "not the same", Notes: "ours"})
	p.insertThere(&tasks.Task{Title: "same", Notes: "n"})
	p.insertThere(&tasks.Task{Title: "not the same", Notes: "theirs"})
	require.Equal(t, Counts{Created: 1, Pushed: 1}, p.synced("", "").Tasks)
	p.equal()
	p.quiet()
}

func TestAnotherListAndBack(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	p.create(task.Draft{Title: "one"})
	p.synced("", "")
	other, err := w.google.AddTaskList(alice, "Other")
	require.NoError(t, err)
	st, err := w.Settings(t.Context(), p.id)
	require.NoError(t, err)
	back := st.TaskListID
	for _, list := range []string{other, back, other} {
		st.TaskListID = list
		_, err = w.PutSettings(t.Context(), p.id, st)
		require.NoError(t, err)
		p.synced("", "")
		p.one("one")
		p.oneThere("one")
		p.quiet()
	}
}

func TestATaskMovedToAnotherListIsGone(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	other, err := w.google.AddTaskList(alice, "Other")
	require.NoError(t, err)
	for i := range 30 {
		p.create(task.Draft{Title: fmt.Sprintf("number %d", i)})
	}
	p.synced("", "")
	p.synced("", "")
	move := func(title string) {
		t.Helper()
		_, err := p.googleTasks().Tasks.Move(defaultList, p.oneThere(title).Id).DestinationTasklist(other).Do()
		require.NoError(t, err)
	}
	move("number 3")
	require.Zero(t, p.synced("", "").Tasks, "Google's deltas say nothing of it")
	require.Equal(t, Counts{Deleted: 1}, p.synced("", events.SyncResync).Tasks)
	require.Empty(t, p.here()["number 3"])

	for i := 10; i < 30; i++ {
		move(fmt.Sprintf("number %d", i))
	}
	job := p.sync("", events.SyncResync)
	require.Equal(t, codeSweepGuard, job.Error.Code, "too much at once to be believed")
	require.Zero(t, job.Result.Tasks)
	p.one("number 10")
}

func TestOneRefusedTask(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	for i := range 3 {
		p.create(task.Draft{Title: fmt.Sprintf("number %d", i)})
	}
	w.fault(http.MethodPost, "/tasks/v1/lists/*", 2, 1, object{"status": 400, "reason": "invalid"})
	result := p.synced("", "")
	require.Equal(t, Counts{Pushed: 2, Failed: 1}, result.Tasks)
	require.Len(t, result.Warnings, 1)
	require.NotEmpty(t, p.one("number 1").Google.Error)
	require.Equal(t, Counts{Pushed: 1}, p.synced("", "").Tasks, "it is tried again")
	require.Empty(t, p.one("number 1").Google.Error)
	p.quiet()
}

func TestListThatIsGone(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	p.create(task.Draft{Title: "one"})
	p.synced("", "")
	w.exec(`UPDATE google_accounts SET default_task_list = 'gone' WHERE user_id = $1`, p.id)
	result := p.synced("", "")
	require.Len(t, result.Warnings, 1)
	p.one("one")
}

func TestTwoUsersOfOneWorkspace(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p, q := w.connected(alice), w.connected(bob)
	w.exec(`INSERT INTO workspace_members (workspace_id, user_id, role) VALUES ($1, $2, 'MEMBER')`, p.workspaceID, q.id)
	st, err := w.Settings(t.Context(), q.id)
	require.NoError(t, err)
	st.WorkspaceID = p.workspaceID
	_, err = w.PutSettings(t.Context(), q.id, st)
	require.NoError(t, err)
	q.workspaceID = p.workspaceID

	p.create(task.Draft{Title: "ours"})
	p.insertThere(&tasks.Task{Title: "from alice"})
	q.insertThere(&tasks.Task{Title: "from bob"})
	for range 2 {
		p.synced("", "")
		q.synced("", "")
	}
	for _, one := range []*person{p, q} {
		one.equal()
		require.Len(t, one.there(), 3)
	}
	p.remove(p.one("from bob").ID)
	p.synced("", "")
	q.synced("", "")
	require.Len(t, q.there(), 2)
	p.quiet()
	q.quiet()

	// Who leaves the workspace has no more to do with its tasks.
	w.exec(`DELETE FROM workspace_members WHERE user_id = $1 AND workspace_id = $2`, q.id, q.workspaceID)
	result := q.synced("", "")
	require.Len(t, result.Warnings, 1)
	require.Len(t, q.there(), 2)
}

// Whatever is edited on either side, in whatever order with syncs and failures between: once quiet both sides have the
// same, each once, and the next sync writes nothing.
func TestInterleavings(t *testing.T) {
	t.Parallel()
	forSeeds(t, func(t *testing.T, seed uint64) {
		t.Helper()
		p := shared(t).connected(alice)
		r := rand.New(rand.NewPCG(seed, 7))
		for range 60 {
			p.step(r)
		}
		p.settle()
		p.equal()
		p.quiet()
	})
}

// settle syncs until nothing fails any more.
func (p *person) settle() {
	p.t.Helper()
	for range 5 {
		if job := p.sync(events.SyncTasks, ""); job.Status == StatusCompleted && job.Result.Tasks == (Counts{}) {
			return
		}
	}
	p.t.Fatal("five syncs did not bring peace")
}

// step does one random thing.
func (p *person) step(r *rand.Rand) {
	p.t.Helper()
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	title := pick("a", "b", "c", "d") // few, so that tasks look alike
	field := pick(`"notes":"n"`, `"notes":""`, `"title":"e"`, `"title":"f"`)
	var here []task.Task
	for _, same := range p.here() {
		here = append(here, same...)
	}
	var there []*tasks.Task
	for _, same := range p.there() {
		there = append(there, same...)
	}
	switch dice := r.IntN(20); {
	case dice < 4:
		p.create(task.Draft{Title: title, Notes: pick("", "n"), DueDate: pick("", "2026-02-28")})
	case dice < 7:
		p.insertThere(&tasks.Task{Title: title, Notes: pick("", "n")})
	case dice < 10 && len(here) > 0:
		p.patch(here[r.IntN(len(here))].ID, `{`+field+`,"status":"`+pick("todo", "done")+`"}`)
	case dice < 13 && len(there) > 0:
		var change tasks.Task
		require.NoError(p.t, json.Unmarshal([]byte(`{`+field+`}`), &change))
		change.ForceSendFields = []string{"Title"}
		if change.Title == "" {
			change.ForceSendFields = []string{"Notes"}
		}
		_, err := p.googleTasks().Tasks.Patch(defaultList, there[r.IntN(len(there))].Id, &change).Do()
		require.NoError(p.t, err)
	case dice < 14 && len(here) > 0:
		p.remove(here[r.IntN(len(here))].ID)
	case dice < 15 && len(there) > 0:
		require.NoError(p.t, p.googleTasks().Tasks.Delete(defaultList, there[r.IntN(len(there))].Id).Do())
	default:
		if dice < 18 {
			faults := []object{{"drop": "after"}, {"drop": "before"}, {"truncate": true}, {"status": 500}}
			p.fault(pick("POST", "PATCH", "GET", "DELETE"), "/tasks/v1/lists/*", 1+r.IntN(3), 1+r.IntN(2), faults[r.IntN(len(faults))])
		}
		p.sync(events.SyncTasks, pick(events.SyncIncremental, events.SyncIncremental, events.SyncResync))
		p.control(http.MethodDelete, "/_emulator/faults", nil, nil)
	}
}

// What Google Tasks doesn't hold of a task is worth as much as the rest: who has edited it after it was deleted there keeps it.
func TestDeletedThereButTimedHereSince(t *testing.T) {
	t.Parallel()
	p := shared(t).connected(alice)
	timed := p.create(task.Draft{Title: "timed since"})
	p.create(task.Draft{Title: "untouched"})
	p.synced("", "")
	for _, title := range []string{"timed since", "untouched"} {
		require.NoError(t, p.googleTasks().Tasks.Delete(defaultList, p.oneThere(title).Id).Do())
	}
	p.patch(timed.ID, `{"startAt":"2026-03-02T09:00:00Z"}`)
	require.Equal(t, Counts{Deleted: 1, Pushed: 1, Conflicts: 1}, p.synced("", "").Tasks)
	require.NotNil(t, p.one("timed since").StartAt)
	p.oneThere("timed since")
	require.Empty(t, p.here()["untouched"])
	p.equal()
	p.quiet()
}

// A change whose answer was lost is ours when it turns up at Google: what was changed here since counts, even back to what it was, and
// so does what was changed there.
func TestChangeWithoutAnswer(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"arrived", "arrived, then edited there", "did not arrive"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := shared(t)
			p := w.connected(alice)
			made := p.create(task.Draft{Title: "one", Notes: "old", DueDate: "2026-03-01"})
			p.synced("", "")
			p.patch(made.ID, `{"notes":"new","dueDate":"2026-03-02"}`)
			drop := dropOf(how != "did not arrive")
			w.fault(http.MethodPatch, "/tasks/v1/lists/*", 1, 1, object{"drop": drop})
			ctx, die := context.WithCancel(t.Context())
			w.around(nil, func(r *http.Request) {
				if r.Method == http.MethodPatch {
					die()
				}
			})
			p.request(events.SyncTasks)
			claimed, err := w.claim(t.Context(), 1, time.Millisecond, p.id)
			require.NoError(t, err)
			require.ErrorIs(t, w.attempt(ctx, claimed[0]), context.Canceled)
			w.around(nil, nil)

			p.patch(made.ID, `{"notes":"old"}`)
			want := fields{Title: "one", Notes: "old", Due: "2026-03-02", Status: task.Todo}
			if how == "arrived, then edited there" {
				_, err := p.googleTasks().Tasks.Patch(defaultList, p.oneThere("one").Id, &tasks.Task{Notes: "there, last"}).Do()
				require.NoError(t, err)
				want.Notes = "there, last"
			}
			w.eventually("somebody takes over", func() bool {
				claimed, err = w.claim(t.Context(), 1, time.Minute, p.id)
				require.NoError(t, err)
				return len(claimed) == 1
			})
			require.NoError(t, w.attempt(t.Context(), claimed[0]))
			require.Equal(t, want, localFields(p.one("one").Draft))
			p.equal()
			p.quiet()
		})
	}
}

func dropOf(arrived bool) string {
	if arrived {
		return "after"
	}
	return "before"
}

// Who edits a task at Google between a change whose answer was lost and its repetition came later.
func TestAnEditBetweenAChangeAndItsRepetition(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	made := p.create(task.Draft{Title: "one", Notes: "old"})
	p.synced("", "")
	p.patch(made.ID, `{"notes":"ours"}`)
	id := p.oneThere("one").Id
	w.fault(http.MethodPatch, "/tasks/v1/lists/*", 1, 1, object{"drop": "after"})
	edited := false
	w.around(nil, func(r *http.Request) {
		if r.Method == http.MethodPatch && !edited {
			edited = true
			_, err := p.googleTasks().Tasks.Patch(defaultList, id, &tasks.Task{Notes: "theirs, later"}).Do()
			require.NoError(t, err)
		}
	})
	p.synced(events.SyncTasks, "")
	require.Equal(t, "theirs, later", p.oneThere("one").Notes)
	require.Equal(t, "theirs, later", p.one("one").Notes)
	p.quiet()
}

// A long list passes page by page: what is in memory doesn't grow with it.
func TestALongList(t *testing.T) {
	t.Parallel()
	w := shared(t)
	p := w.connected(alice)
	const many = 5 * taskPage
	for i := range many {
		_, err := w.google.AddTask(alice, defaultList, object{"title": fmt.Sprintf("number %d", i)})
		require.NoError(t, err)
	}
	require.EqualValues(t, many, p.synced(events.SyncTasks, "").Tasks.Created)
	lists := slices.DeleteFunc(w.requests(), func(r loggedRequest) bool { return !strings.HasSuffix(r.Path, "/tasks") })
	require.Len(t, lists, many/taskPage)
	for _, r := range lists {
		for _, show := range []string{"showCompleted", "showHidden", "showDeleted"} {
			require.Equal(t, "true", r.Query.Get(show))
		}
	}
	require.Zero(t, p.synced(events.SyncTasks, events.SyncResync).Tasks)
}

// Where a task stands at Google, and under which one, is nothing that FDC shows, and nothing that it changes.
func TestPlacesAtGoogleAreKept(t *testing.T) {
	t.Parallel()
	p := shared(t).connected(alice)
	google := p.googleTasks()
	parent := p.insertThere(&tasks.Task{Title: "parent"})
	first, err := google.Tasks.Insert(defaultList, &tasks.Task{Title: "first"}).Parent(parent.Id).Do()
	require.NoError(t, err)
	second, err := google.Tasks.Insert(defaultList, &tasks.Task{Title: "second"}).Parent(parent.Id).Previous(first.Id).Do()
	require.NoError(t, err)
	p.synced("", "")
	p.patch(p.one("second").ID, `{"title":"second, edited here","status":"done"}`)
	p.patch(p.one("parent").ID, `{"notes":"edited here"}`)
	p.synced("", "")
	got := p.oneThere("second, edited here")
	require.Equal(t, parent.Id, got.Parent)
	require.Equal(t, second.Position, got.Position)
	require.Equal(t, second.Id, got.Id)
	p.quiet()
}

// A task that was inserted at Google without an answer is known again by its user's changes there, too.
func TestInsertWithoutAnswerAndThenAnEdit(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]struct {
		change *tasks.Task // nil: it is deleted
		want   fields
	}{
		"notes":   {&tasks.Task{Notes: "changed"}, fields{Title: "one", Notes: "changed", Status: task.Todo}},
		"title":   {&tasks.Task{Title: "other"}, fields{Title: "other", Notes: "n", Status: task.Todo}},
		"done":    {&tasks.Task{Status: googleDone}, fields{Title: "one", Notes: "n", Status: task.Done}},
		"deleted": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := shared(t)
			p := w.connected(alice)
			p.insertThere(&tasks.Task{Title: "another", Notes: "m"})
			p.create(task.Draft{Title: "one", Notes: "n"})
			p.request("")
			claimed, err := w.claim(t.Context(), 1, time.Millisecond, p.id)
			require.NoError(t, err)
			ctx, die := context.WithCancel(t.Context())
			w.around(nil, func(r *http.Request) {
				if r.Method == http.MethodPost {
					die()
				}
			})
			require.Error(t, w.attempt(ctx, claimed[0]))
			w.around(nil, nil)

			made := p.oneThere("one")
			if edit.change == nil {
				require.NoError(t, p.googleTasks().Tasks.Delete(defaultList, made.Id).Do())
			} else {
				_, err = p.googleTasks().Tasks.Patch(defaultList, made.Id, edit.change).Do()
				require.NoError(t, err)
			}
			p.synced("", "")
			p.equal()
			if edit.change == nil {
				require.Len(t, p.here(), 1)
			} else {
				require.Len(t, p.here(), 2)
				require.Equal(t, edit.want, localFields(p.one(edit.want.Title).Draft))
			}
			p.quiet()
		})
	}
}
