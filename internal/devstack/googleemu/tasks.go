package googleemu

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"
	"unicode/utf8"
)

const (
	needsAction   = "needsAction"
	completed     = "completed"
	maxTitle      = 1024
	maxNotes      = 8192
	tombstoneLife = 90 * 24 * time.Hour // deleted tasks are listed for so long
	// Positions leave gaps, so that a task finds a place between two others without moving them.
	firstPosition = int64(1) << 50
	positionGap   = int64(1) << 20
)

func (e *Emulator) routeTasks() {
	const (
		lists = " /tasks/v1/users/@me/lists"
		tasks = " /tasks/v1/lists/{list}/tasks"
	)
	e.api("GET"+lists, tasksRead, params{"maxResults": positive, "pageToken": text}, e.listTaskLists)
	e.api("POST"+lists, tasksWrite, nil, e.insertTaskList)
	e.api("GET"+lists+"/{list}", tasksRead, nil, func(c *call) (any, error) {
		list, err := c.taskList()
		if err != nil {
			return nil, err
		}
		return list.render(), nil
	})
	e.api("GET"+tasks, tasksRead, params{
		"completedMax": timestamp, "completedMin": timestamp, "dueMax": timestamp, "dueMin": timestamp, "updatedMin": timestamp,
		"maxResults": positive, "pageToken": text,
		"showAssigned": boolean, "showCompleted": boolean, "showDeleted": boolean, "showHidden": boolean,
	}, e.listTasks)
	e.api("POST"+tasks, tasksWrite, params{"parent": text, "previous": text}, e.insertTask)
	e.api("GET"+tasks+"/{task}", tasksRead, nil, func(c *call) (any, error) {
		list, t, err := c.findTask()
		if err != nil {
			return nil, err
		}
		return t.render(list.ID), nil
	})
	e.api("PATCH"+tasks+"/{task}", tasksWrite, nil, func(c *call) (any, error) { return e.rewriteTask(c, false) })
	e.api("PUT"+tasks+"/{task}", tasksWrite, nil, func(c *call) (any, error) { return e.rewriteTask(c, true) })
	e.api("DELETE"+tasks+"/{task}", tasksWrite, nil, e.deleteTask)
	e.api("POST"+tasks+"/{task}/move", tasksWrite, params{"destinationTasklist": text, "parent": text, "previous": text}, e.moveTask)
	e.api("POST /tasks/v1/lists/{list}/clear", tasksWrite, nil, e.clearTasks)
}

func (c *call) taskList() (*taskList, error) {
	list := c.user.taskList(c.PathValue("list"))
	if list == nil {
		return nil, notFound("task list " + c.PathValue("list"))
	}
	return list, nil
}

func (c *call) findTask() (*taskList, *task, error) {
	list, err := c.taskList()
	if err != nil {
		return nil, nil, err
	}
	t := list.Tasks[c.PathValue("task")]
	if t == nil {
		return nil, nil, notFound("task " + c.PathValue("task"))
	}
	return list, t, nil
}

// findLiving is findTask for writes, to which a deleted task is none.
func (c *call) findLiving() (*taskList, *task, error) {
	list, t, err := c.findTask()
	if err == nil && t.Deleted {
		err = notFound("task " + t.ID)
	}
	return list, t, err
}

func (l *taskList) render() object {
	return object{
		"kind": "tasks#taskList", "id": l.ID, "etag": etag(l.Seq), "title": l.Title, "updated": stamp(l.Updated),
		"selfLink": "https://www.googleapis.com/tasks/v1/users/@me/lists/" + url.PathEscape(l.ID),
	}
}

func (t *task) status() string {
	if t.Completed != nil {
		return completed
	}
	return needsAction
}

func (t *task) render(list string) object {
	o := object{
		"kind": "tasks#task", "id": t.ID, "etag": etag(t.Seq), "title": t.Title, "updated": stamp(t.Updated), "status": t.status(),
		"position": fmt.Sprintf("%020d", t.Position), "links": []object{},
		"selfLink":    "https://www.googleapis.com/tasks/v1/lists/" + url.PathEscape(list) + "/tasks/" + url.PathEscape(t.ID),
		"webViewLink": "https://tasks.google.com/task/" + url.PathEscape(t.ID),
	}
	if t.Notes != "" {
		o["notes"] = t.Notes
	}
	if t.Due != "" {
		o["due"] = t.Due + "T00:00:00.000Z"
	}
	if t.Completed != nil {
		o["completed"] = stamp(*t.Completed)
	}
	if t.Parent != "" {
		o["parent"] = t.Parent
	}
	if t.Hidden {
		o["hidden"] = true
	}
	if t.Deleted {
		o["deleted"] = true
	}
	return o
}

func (e *Emulator) listTaskLists(c *call) (any, error) {
	p, err := e.page(c, "taskLists", c.size(1000, 1000), func() ([]row, error) {
		var rows []row
		add := func(l *taskList) {
			o := l.render()
			rows = append(rows, func() object { return o })
		}
		add(c.user.TaskLists[c.user.Default]) // the default list comes first
		for _, l := range bySeq(c.user.TaskLists, func(l *taskList) int64 { return l.Seq }) {
			if l.ID != c.user.Default {
				add(l)
			}
		}
		return rows, nil
	})
	if err != nil {
		return nil, err
	}
	return taskPage("tasks#taskLists", p), nil
}

// taskPage is a page of the Tasks API, which has no sync tokens.
func taskPage(kind string, p page) object {
	answer := object{"kind": kind, "etag": etag(p.seq), "items": p.items()}
	if p.next != "" {
		answer["nextPageToken"] = p.next
	}
	return answer
}

func (e *Emulator) insertTaskList(c *call) (any, error) {
	body, err := c.decode()
	if err != nil {
		return nil, err
	}
	title, err := limited(body, "title", maxTitle)
	if err != nil {
		return nil, err
	}
	if len(c.user.TaskLists) >= maxTaskLists {
		return nil, overQuota("Too many task lists.")
	}
	return e.addTaskList(c.user, newTaskID(), title, c.now).render(), nil
}

func (e *Emulator) addTaskList(u *user, id, title string, now time.Time) *taskList {
	l := &taskList{ID: id, Title: title, Seq: u.next(), Updated: now, Tasks: map[string]*task{}}
	u.TaskLists[l.ID] = l
	e.changed()
	return l
}

// newTaskID makes an id as opaque as Google's.
func newTaskID() string { return opaque([]byte(rand.Text()[:16])) }

// newEventID makes one in the alphabet that clients must use too.
func newEventID() string {
	b := []byte(rand.Text())
	for i, c := range b { // A-Z and 2-7: the last four letters have no place in a-v
		switch {
		case c >= 'W' && c <= 'Z':
			b[i] = '0' + c - 'W'
		case c >= 'A':
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func (e *Emulator) listTasks(c *call) (any, error) {
	list, err := c.taskList()
	if err != nil {
		return nil, err
	}
	p, err := e.page(c, "tasks/"+list.ID, c.size(20, 100), func() ([]row, error) {
		var rows []row
		all := slices.SortedFunc(maps.Values(list.Tasks), func(a, b *task) int {
			return cmp.Or(cmp.Compare(a.Position, b.Position), cmp.Compare(a.ID, b.ID))
		})
		id := list.ID
		for _, t := range all {
			if c.wantsTask(t) {
				rows = append(rows, func() object { return t.render(id) })
			}
		}
		return rows, nil
	})
	if err != nil {
		return nil, err
	}
	return func() any { return taskPage("tasks#tasks", p) }, nil
}

func (c *call) wantsTask(t *task) bool {
	within := func(at time.Time, low, high string) bool {
		return (!c.query.Has(low) || !at.Before(c.time(low))) && (!c.query.Has(high) || at.Before(c.time(high)))
	}
	bounded := func(low, high string) bool { return c.query.Has(low) || c.query.Has(high) }
	switch {
	case t.Deleted && (!c.flag("showDeleted", false) || c.now.Sub(t.Updated) > tombstoneLife),
		t.Completed != nil && !c.flag("showCompleted", true),
		t.Hidden && !c.flag("showHidden", false),
		!within(t.Updated, "updatedMin", ""):
		return false
	case bounded("completedMin", "completedMax") && (t.Completed == nil || !within(*t.Completed, "completedMin", "completedMax")):
		return false
	case bounded("dueMin", "dueMax"):
		due, err := time.Parse(dateLayout, t.Due)
		return err == nil && within(due, "dueMin", "dueMax")
	}
	return true
}

// limited is a text field within Google's length; absent and null are "".
func limited(body object, name string, limit int) (string, error) {
	if body[name] == nil {
		return "", nil
	}
	s, ok := body[name].(string)
	if !ok {
		return "", badRequest("invalid", "Invalid value for %s: expected string.", name)
	}
	if utf8.RuneCountInString(s) > limit {
		return "", badRequest("invalid", "The %s is longer than %d characters.", name, limit)
	}
	return s, nil
}

// taskFields are the fields of a task. Unlike Calendar, Tasks refuses names it does not know.
var taskFields = []string{
	"assignmentInfo", "completed", "deleted", "due", "etag", "hidden", "id", "kind", "links", "notes", "parent", "position", "selfLink", "status",
	"title", "updated", "webViewLink",
}

// apply writes what a body says over a copy of the task. What it does not mention stays.
func (t *task) apply(body object, now time.Time) (*task, error) {
	for name := range body {
		if !slices.Contains(taskFields, name) {
			return nil, badRequest("badRequest", "Invalid JSON payload received. Unknown name %q: Cannot find field.", name)
		}
	}
	next := *t
	var err error
	if _, ok := body["title"]; ok {
		if next.Title, err = limited(body, "title", maxTitle); err != nil {
			return nil, err
		}
	}
	if _, ok := body["notes"]; ok {
		if next.Notes, err = limited(body, "notes", maxNotes); err != nil {
			return nil, err
		}
	}
	if due, ok := body["due"]; ok {
		if next.Due, err = dueDate(due); err != nil {
			return nil, err
		}
	}
	if deleted, ok := body["deleted"].(bool); ok && deleted {
		next.Deleted = true
	}
	return &next, next.applyStatus(body, now)
}

// applyStatus completes or reopens. Reopening forgets when it was completed and shows the task again.
func (t *task) applyStatus(body object, now time.Time) error {
	status := t.status()
	if v, ok := body["status"]; ok && v != nil {
		if status, ok = v.(string); !ok || status != needsAction && status != completed {
			return badRequest("invalid", "Invalid value for status: %v", v)
		}
	}
	if status == needsAction {
		t.Completed, t.Hidden = nil, false
		return nil
	}
	if text, ok := body["completed"].(string); ok && text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return badRequest("invalid", "Invalid value for completed: %q", text)
		}
		t.Completed = new(at.UTC().Truncate(time.Millisecond))
	}
	if t.Completed == nil {
		t.Completed = &now
	}
	return nil
}

// dueDate keeps the date of a timestamp: the API cannot read or write the time of day.
func dueDate(v any) (string, error) {
	if v == nil || v == "" {
		return "", nil
	}
	s, _ := v.(string)
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return "", badRequest("invalid", "Invalid value for due: %v", v)
	}
	return at.UTC().Format(dateLayout), nil
}

func (e *Emulator) insertTask(c *call) (any, error) {
	list, err := c.taskList()
	if err != nil {
		return nil, err
	}
	body, err := c.decode()
	if err != nil {
		return nil, err
	}
	if len(list.Tasks) >= maxTasks {
		return nil, overQuota("Too many tasks in the list.")
	}
	t, err := (&task{ID: newTaskID()}).apply(body, c.now)
	if err != nil {
		return nil, err
	}
	if err := list.place(t, c.query.Get("parent"), c.query.Get("previous")); err != nil {
		return nil, err
	}
	e.putTask(c.user, list, t, c.now)
	return t.render(list.ID), nil
}

// putTask stores a record as the newest change.
func (e *Emulator) putTask(u *user, list *taskList, t *task, now time.Time) {
	t.Seq, t.Updated = u.next(), now
	list.Tasks[t.ID], list.Updated = t, now
	e.changed()
}

// place puts the task under a parent, behind a sibling or, without one, first.
func (l *taskList) place(t *task, parent, previous string) error {
	if parent != "" {
		p := l.Tasks[parent]
		if p == nil || p.Deleted || p.ID == t.ID || p.Parent == t.ID {
			return badRequest("invalid", "Invalid parent: %q", parent)
		}
	}
	t.Parent = parent
	siblings := l.siblings(t)
	index := 0
	if previous != "" {
		index = slices.IndexFunc(siblings, func(s *task) bool { return s.ID == previous }) + 1
		if index == 0 {
			return badRequest("invalid", "Invalid previous: %q", previous)
		}
	}
	t.Position = between(siblings, index)
	if t.Position < 0 { // no room left: spread all of them again
		for i, s := range siblings {
			moved := *s
			moved.Position = firstPosition + int64(i)*positionGap
			siblings[i], l.Tasks[s.ID] = &moved, &moved
		}
		t.Position = between(siblings, index)
	}
	return nil
}

// siblings are the others under the task's parent, in order.
func (l *taskList) siblings(t *task) []*task {
	var siblings []*task
	for _, s := range l.Tasks {
		if s.Parent == t.Parent && s.ID != t.ID && !s.Deleted {
			siblings = append(siblings, s)
		}
	}
	slices.SortFunc(siblings, func(a, b *task) int { return cmp.Or(cmp.Compare(a.Position, b.Position), cmp.Compare(a.ID, b.ID)) })
	return siblings
}

// between is a position for the index-th place, negative when its neighbours leave no gap.
func between(siblings []*task, index int) int64 {
	switch {
	case len(siblings) == 0:
		return firstPosition
	case index == 0:
		return siblings[0].Position - positionGap
	case index == len(siblings):
		return siblings[index-1].Position + positionGap
	}
	low, high := siblings[index-1].Position, siblings[index].Position
	if high-low < 2 {
		return -1
	}
	return low + (high-low)/2
}

func (e *Emulator) rewriteTask(c *call, replace bool) (any, error) {
	list, old, err := c.findLiving()
	if err != nil {
		return nil, err
	}
	body, err := c.decode()
	if err != nil {
		return nil, err
	}
	if err := c.precondition(etag(old.Seq)); err != nil {
		return nil, err
	}
	if replace { // what a PUT does not mention is gone
		for _, name := range []string{"title", "notes", "due"} {
			if _, ok := body[name]; !ok {
				body[name] = nil
			}
		}
		if body["status"] == nil {
			body["status"] = needsAction
		}
	}
	next, err := old.apply(body, c.now)
	if err != nil {
		return nil, err
	}
	e.putTask(c.user, list, next, c.now)
	return next.render(list.ID), nil
}

// deleteTask deletes the task and those under it. The tombstones are newer than everything before.
func (e *Emulator) deleteTask(c *call) (any, error) {
	list, t, err := c.findLiving()
	if err != nil {
		return nil, err
	}
	if err := c.precondition(etag(t.Seq)); err != nil {
		return nil, err
	}
	for _, one := range list.family(t) {
		next := *one
		next.Deleted = true
		e.putTask(c.user, list, &next, c.now)
	}
	return nil, nil
}

// family is the task and all living ones under it.
func (l *taskList) family(t *task) []*task {
	all := []*task{t}
	for _, child := range bySeq(l.Tasks, func(t *task) int64 { return t.Seq }) {
		if child.Parent == t.ID && !child.Deleted {
			all = append(all, l.family(child)...)
		}
	}
	return all
}

// moveTask gives the task another place, in another list if asked. It keeps its id, and takes along what is under it.
func (e *Emulator) moveTask(c *call) (any, error) {
	list, old, err := c.findLiving()
	if err != nil {
		return nil, err
	}
	target := list
	if id := c.query.Get("destinationTasklist"); id != "" {
		if target = c.user.taskList(id); target == nil {
			return nil, notFound("task list " + id)
		}
	}
	parent := c.query.Get("parent")
	under := list.family(old)
	if parent != "" && slices.ContainsFunc(under, func(t *task) bool { return t.ID == parent }) {
		return nil, badRequest("invalid", "Invalid parent: %q", parent)
	}
	next := *old
	if err := target.place(&next, parent, c.query.Get("previous")); err != nil {
		return nil, err
	}
	if target != list {
		for _, t := range under {
			delete(list.Tasks, t.ID)
			child := *t
			e.putTask(c.user, target, &child, c.now)
		}
		list.Updated = c.now
	}
	e.putTask(c.user, target, &next, c.now)
	return next.render(target.ID), nil
}

// clearTasks hides what is completed, as a completion in Google's own apps does at once.
func (e *Emulator) clearTasks(c *call) (any, error) {
	list, err := c.taskList()
	if err != nil {
		return nil, err
	}
	for _, t := range bySeq(list.Tasks, func(t *task) int64 { return t.Seq }) {
		if t.Completed != nil && !t.Hidden && !t.Deleted {
			next := *t
			next.Hidden = true
			e.putTask(c.user, list, &next, c.now)
		}
	}
	return nil, nil
}

// seedTask is what AddTask takes beyond the API: states that only Google's own apps produce.
type seedTask struct {
	Hidden  bool   `json:"hidden"`
	Deleted bool   `json:"deleted"`
	Parent  string `json:"parent"`
	ID      string `json:"id"`
}

func readSeedTask(body object) (seedTask, error) {
	var s seedTask
	b, err := json.Marshal(body)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}
