package googleemu

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	gtasks "google.golang.org/api/tasks/v1"
)

// newTask inserts a task with that title into the default list.
func newTask(t *testing.T, api *gtasks.Service, title string) *gtasks.Task {
	t.Helper()
	made, err := api.Tasks.Insert("@default", &gtasks.Task{Title: title}).Context(t.Context()).Do()
	require.NoError(t, err)
	return made
}

// titles lists all pages.
func titles(t *testing.T, call *gtasks.TasksListCall) []string {
	t.Helper()
	all := []string{}
	require.NoError(t, call.Pages(t.Context(), func(page *gtasks.Tasks) error {
		for _, one := range page.Items {
			all = append(all, one.Title)
		}
		return nil
	}))
	return all
}

func TestCase38DueKeepsTheDateOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.tasks(ann)
	made, err := api.Tasks.Insert("@default", &gtasks.Task{Title: "t", Due: "2026-12-01T23:30:00Z"}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, "2026-12-01T00:00:00.000Z", made.Due)
	require.Equal(t, "needsAction", made.Status)

	newTask(t, api, "without")
	require.Equal(t, []string{"t"}, titles(t, api.Tasks.List("@default").DueMin("2026-12-01T00:00:00Z").DueMax("2026-12-02T00:00:00Z")))
	require.Empty(t, titles(t, api.Tasks.List("@default").DueMax("2026-12-01T00:00:00Z")))
	cleared, err := api.Tasks.Patch("@default", made.Id, &gtasks.Task{NullFields: []string{"Due"}}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Empty(t, cleared.Due)
	_, err = api.Tasks.Insert("@default", &gtasks.Task{Due: "2026-12-01"}).Context(t.Context()).Do()
	refused(t, err, http.StatusBadRequest, "invalid")
}

func TestCase39CompletedInTheAppIsHidden(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.tasks(ann)
	_, err := w.AddTask(ann, "@default", object{"title": "in the app", "status": "completed", "hidden": true})
	require.NoError(t, err)
	byAPI := newTask(t, api, "by the API")
	_, err = api.Tasks.Patch("@default", byAPI.Id, &gtasks.Task{Status: "completed"}).Context(t.Context()).Do()
	require.NoError(t, err)
	newTask(t, api, "open")

	require.Equal(t, []string{"open", "by the API"}, titles(t, api.Tasks.List("@default")))
	require.Equal(t, []string{"open", "by the API", "in the app"}, titles(t, api.Tasks.List("@default").ShowHidden(true)))
	require.Equal(t, []string{"open"}, titles(t, api.Tasks.List("@default").ShowHidden(true).ShowCompleted(false)))
	require.NoError(t, api.Tasks.Clear("@default").Context(t.Context()).Do())
	require.Equal(t, []string{"open"}, titles(t, api.Tasks.List("@default")))
	got, err := api.Tasks.Get("@default", byAPI.Id).Context(t.Context()).Do()
	require.NoError(t, err)
	require.True(t, got.Hidden)
}

func TestCase40ReopenedTaskHasNoCompletion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.tasks(ann)
	made := newTask(t, api, "t")
	done, err := api.Tasks.Patch("@default", made.Id, &gtasks.Task{Status: "completed"}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, stamp(w.clock()), *done.Completed)
	require.NoError(t, api.Tasks.Clear("@default").Context(t.Context()).Do())
	open, err := api.Tasks.Patch("@default", made.Id, &gtasks.Task{Status: "needsAction"}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Nil(t, open.Completed)
	require.False(t, open.Hidden)
	require.Equal(t, []string{"t"}, titles(t, api.Tasks.List("@default")))
}

func TestCase41DeletedTask(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.tasks(ann)
	made := newTask(t, api, "t")
	w.pass(time.Minute)
	since := w.clock().Format(time.RFC3339)
	require.NoError(t, api.Tasks.Delete("@default", made.Id).Context(t.Context()).Do())
	require.Empty(t, titles(t, api.Tasks.List("@default").ShowHidden(true)))
	l, err := api.Tasks.List("@default").ShowDeleted(true).UpdatedMin(since).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	require.True(t, l.Items[0].Deleted)
	require.Equal(t, stamp(w.clock()), l.Items[0].Updated)

	refused(t, api.Tasks.Delete("@default", made.Id).Context(t.Context()).Do(), http.StatusNotFound, "notFound")
	_, err = api.Tasks.Patch("@default", made.Id, &gtasks.Task{Title: "alive?"}).Context(t.Context()).Do()
	refused(t, err, http.StatusNotFound, "notFound")
	got, err := api.Tasks.Get("@default", made.Id).Context(t.Context()).Do()
	require.NoError(t, err)
	require.True(t, got.Deleted)

	w.pass(tombstoneLife + time.Second)
	require.Empty(t, titles(t, w.tasks(ann).Tasks.List("@default").ShowDeleted(true)), "tombstones do not last")
}

func TestCase42Pages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 101 {
		_, err := w.AddTask(ann, "@default", object{"title": fmt.Sprint(i)})
		require.NoError(t, err)
	}
	api := w.tasks(ann)
	first, err := api.Tasks.List("@default").Context(t.Context()).Do()
	require.NoError(t, err)
	require.Len(t, first.Items, 20)
	require.NotEmpty(t, first.NextPageToken)

	big, err := api.Tasks.List("@default").MaxResults(1000).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Len(t, big.Items, 100)
	rest, err := api.Tasks.List("@default").MaxResults(1000).PageToken(big.NextPageToken).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Len(t, rest.Items, 1)
	require.Equal(t, "100", rest.Items[0].Title)
	require.Empty(t, rest.NextPageToken)
}

func TestCase43Move(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.tasks(ann)
	c, b, a := newTask(t, api, "c"), newTask(t, api, "b"), newTask(t, api, "a")
	require.Equal(t, []string{"a", "b", "c"}, titles(t, api.Tasks.List("@default")), "a new task comes first")

	moved, err := api.Tasks.Move("@default", a.Id).Previous(b.Id).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Greater(t, moved.Position, b.Position)
	require.Less(t, moved.Position, c.Position)
	require.Equal(t, []string{"b", "a", "c"}, titles(t, api.Tasks.List("@default")))

	child, err := api.Tasks.Move("@default", c.Id).Parent(b.Id).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, b.Id, child.Parent)
	_, err = api.Tasks.Move("@default", b.Id).Parent(c.Id).Context(t.Context()).Do()
	refused(t, err, http.StatusBadRequest, "invalid")
	_, err = api.Tasks.Move("@default", b.Id).Previous("nobody").Context(t.Context()).Do()
	refused(t, err, http.StatusBadRequest, "invalid")

	other, err := api.Tasklists.Insert(&gtasks.TaskList{Title: "other"}).Context(t.Context()).Do()
	require.NoError(t, err)
	across, err := api.Tasks.Move("@default", b.Id).DestinationTasklist(other.Id).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, b.Id, across.Id)
	require.Equal(t, []string{"a"}, titles(t, api.Tasks.List("@default").ShowDeleted(true)))
	require.ElementsMatch(t, []string{"b", "c"}, titles(t, api.Tasks.List(other.Id)), "what is under it comes along")
}

func TestManyInsertsBetweenTheSameTwoKeepTheirOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.tasks(ann)
	newTask(t, api, "last")
	first := newTask(t, api, "first")
	want := []string{"last"}
	for i := range 60 { // more than the gap can be halved
		_, err := api.Tasks.Insert("@default", &gtasks.Task{Title: fmt.Sprint(i)}).Previous(first.Id).Context(t.Context()).Do()
		require.NoError(t, err)
		want = append([]string{fmt.Sprint(i)}, want...)
	}
	require.Equal(t, append([]string{"first"}, want...), titles(t, api.Tasks.List("@default").MaxResults(100)))
}

func TestDeletingAParentDeletesWhatIsUnderIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.tasks(ann)
	parent := newTask(t, api, "parent")
	_, err := api.Tasks.Insert("@default", &gtasks.Task{Title: "child"}).Parent(parent.Id).Context(t.Context()).Do()
	require.NoError(t, err)
	require.NoError(t, api.Tasks.Delete("@default", parent.Id).Context(t.Context()).Do())
	require.Empty(t, titles(t, api.Tasks.List("@default")))
	_, err = api.Tasks.Insert("@default", &gtasks.Task{Title: "orphan"}).Parent(parent.Id).Context(t.Context()).Do()
	refused(t, err, http.StatusBadRequest, "invalid")
}

func TestTaskLimitsAndUnknownNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.tasks(ann)
	_, err := api.Tasks.Insert("@default", &gtasks.Task{Title: strings.Repeat("字", 1024), Notes: strings.Repeat("記", 8192)}).Context(t.Context()).Do()
	require.NoError(t, err)
	_, err = api.Tasks.Insert("@default", &gtasks.Task{Title: strings.Repeat("字", 1025)}).Context(t.Context()).Do()
	refused(t, err, http.StatusBadRequest, "invalid")
	_, err = api.Tasks.Insert("@default", &gtasks.Task{Notes: strings.Repeat("記", 8193)}).Context(t.Context()).Do()
	refused(t, err, http.StatusBadRequest, "invalid")
	_, err = api.Tasks.Insert("@default", &gtasks.Task{Status: "done"}).Context(t.Context()).Do()
	refused(t, err, http.StatusBadRequest, "invalid")
	_, err = api.Tasks.List("nobody's").Context(t.Context()).Do()
	refused(t, err, http.StatusNotFound, "notFound")
	_, err = api.Tasks.Get("@default", "none").Context(t.Context()).Do()
	refused(t, err, http.StatusNotFound, "notFound")

	token, err := w.Token(ann)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.base+"/tasks/v1/lists/@default/tasks", strings.NewReader(`{"titel":"misspelt"}`))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := new(http.Client).Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
}

func TestTaskUpdateReplaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.tasks(ann)
	made, err := api.Tasks.Insert("@default", &gtasks.Task{Title: "t", Notes: "n", Due: "2026-12-01T00:00:00Z"}).Context(t.Context()).Do()
	require.NoError(t, err)
	w.pass(time.Minute)
	patched, err := api.Tasks.Patch("@default", made.Id, &gtasks.Task{Title: "patched"}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, "n", patched.Notes)
	require.Greater(t, patched.Updated, made.Updated)
	require.NotEqual(t, made.Etag, patched.Etag)
	updated, err := api.Tasks.Update("@default", made.Id, &gtasks.Task{Id: made.Id, Title: "updated"}).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Empty(t, updated.Notes)
	require.Empty(t, updated.Due)
	stale := api.Tasks.Patch("@default", made.Id, &gtasks.Task{Title: "stale"})
	stale.Header().Set("If-Match", made.Etag)
	_, err = stale.Context(t.Context()).Do()
	refused(t, err, http.StatusPreconditionFailed, "conditionNotMet")
}

func TestTaskLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.AddTaskList(ann, "買い物")
	require.NoError(t, err)
	api := w.tasks(ann)
	l, err := api.Tasklists.List().Context(t.Context()).Do()
	require.NoError(t, err)
	require.Len(t, l.Items, 2)
	require.Equal(t, "My Tasks", l.Items[0].Title)
	require.Equal(t, "買い物", l.Items[1].Title)
	first, err := api.Tasklists.Get("@default").Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, l.Items[0].Id, first.Id)
	page, err := api.Tasklists.List().MaxResults(1).Context(t.Context()).Do()
	require.NoError(t, err)
	next, err := api.Tasklists.List().MaxResults(1).PageToken(page.NextPageToken).Context(t.Context()).Do()
	require.NoError(t, err)
	require.Equal(t, "買い物", next.Items[0].Title)
	require.Empty(t, next.NextPageToken)
}

func TestCompletedBounds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	api := w.tasks(ann)
	_, err := api.Tasks.Insert("@default", &gtasks.Task{Title: "done", Status: "completed", Completed: new("2026-02-01T10:00:00Z")}).Context(t.Context()).Do()
	require.NoError(t, err)
	newTask(t, api, "open")
	require.Equal(t, []string{"done"}, titles(t, api.Tasks.List("@default").CompletedMin("2026-02-01T10:00:00Z")))
	require.Empty(t, titles(t, api.Tasks.List("@default").CompletedMax("2026-02-01T10:00:00Z")))
}
