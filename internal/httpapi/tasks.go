package httpapi

import (
	"net/http"
	"time"

	"fdc/internal/task"
)

// Task is a task of a workspace.
type Task struct {
	ID        string      `json:"id"        format:"uuid" doc:"The task."`
	Title     string      `json:"title"     doc:"What is to be done."`
	Notes     string      `json:"notes"     doc:"More about it."`
	Status    string      `json:"status"    enum:"todo|done" doc:"Whether it is done."`
	DueDate   *string     `json:"dueDate"   format:"date" doc:"The day it is due."`
	StartAt   *time.Time  `json:"startAt"   doc:"When it begins."`
	EndAt     *time.Time  `json:"endAt"     doc:"When it ends."`
	TimeZone  *string     `json:"timeZone"  doc:"The IANA zone that its times are thought in."`
	Suit      string      `json:"suit"      enum:"spade|heart|diamond|club|joker|unclassified" doc:"Its class."`
	Version   int64       `json:"version"   min:"1" doc:"How many times it was written."`
	UpdatedAt time.Time   `json:"updatedAt" doc:"When it was written last."`
	Google    *TaskGoogle `json:"google"    doc:"What the user's own Google has of it; null when nothing."`
}

// TaskGoogle is what the user's Google has of a task.
type TaskGoogle struct {
	TaskID   *string    `json:"taskId"   doc:"The task in Google Tasks."`
	EventID  *string    `json:"eventId"  doc:"The event in Google Calendar, for a task with times."`
	SyncedAt *time.Time `json:"syncedAt" doc:"When it was synced last."`
	Error    *string    `json:"error"    doc:"Why the last sync of it failed."`
}

// NewTask asks for a task.
type NewTask struct {
	Title    string     `json:"title"              min:"1" max:"1024" doc:"What is to be done."`
	Notes    string     `json:"notes,omitempty"    max:"8192" doc:"More about it."`
	Status   string     `json:"status,omitempty"   enum:"todo|done" doc:"Todo when left out."`
	DueDate  *string    `json:"dueDate,omitempty"  format:"date" doc:"The day it is due, YYYY-MM-DD."`
	StartAt  *time.Time `json:"startAt,omitempty"  doc:"When it begins."`
	EndAt    *time.Time `json:"endAt,omitempty"    doc:"When it ends; after startAt, and not without it."`
	TimeZone *string    `json:"timeZone,omitempty" doc:"The IANA zone that its times are thought in, such as Asia/Tokyo."`
	Suit     string     `json:"suit,omitempty"     enum:"spade|heart|diamond|club|joker|unclassified" doc:"Unclassified when left out."`
}

// TaskPatch changes a task: null takes a field back to what a task made without it has.
type TaskPatch struct {
	Title    string     `json:"title,omitempty"    min:"1" max:"1024" doc:"What is to be done."`
	Notes    *string    `json:"notes,omitempty"    max:"8192" doc:"More about it."`
	Status   *string    `json:"status,omitempty"   enum:"todo|done" doc:"Whether it is done."`
	DueDate  *string    `json:"dueDate,omitempty"  format:"date" doc:"The day it is due, YYYY-MM-DD."`
	StartAt  *time.Time `json:"startAt,omitempty"  doc:"When it begins."`
	EndAt    *time.Time `json:"endAt,omitempty"    doc:"When it ends; after startAt, and not without it."`
	TimeZone *string    `json:"timeZone,omitempty" doc:"The IANA zone that its times are thought in."`
	Suit     *string    `json:"suit,omitempty"     enum:"spade|heart|diamond|club|joker|unclassified" doc:"Its class."`
}

func taskRoutes() []route {
	const tag, all, one = "tasks", "/api/workspaces/{id}/tasks", "/api/workspaces/{id}/tasks/{taskId}"
	patch := jsonBody[TaskPatch](smallBody)
	patch.media, patch.doc = mergePatchMedia, "A JSON Merge Patch (RFC 7396) of the task."
	return []route{
		{
			method: http.MethodGet, path: all, id: "listTasks", tag: tag, query: paging(),
			summary: "A workspace's tasks, oldest first.",
			answers: []answer{ok[Page[Task]](http.StatusOK, "A page of them.")},
			handle:  (*api).listTasks,
		},
		{
			method: http.MethodPost, path: all, id: "createTask", tag: tag,
			summary: "Make a task.",
			body:    jsonBody[NewTask](smallBody),
			answers: []answer{ok[Task](http.StatusCreated, "It.", "Location", "ETag")},
			handle:  (*api).createTask,
		},
		{
			method: http.MethodGet, path: one, id: "getTask", tag: tag,
			summary: "A task.",
			answers: []answer{ok[Task](http.StatusOK, "It.", "ETag")},
			handle:  (*api).getTask,
		},
		{
			method: http.MethodPatch, path: one, id: "patchTask", tag: tag,
			summary: "Change a task.",
			headers: []header{{"If-Match", "The version that is to be changed, as an entity tag; of several, any will do. 412 when it is another."}},
			body:    patch,
			answers: []answer{ok[Task](http.StatusOK, "As it is now.", "ETag")},
			faults:  []int{http.StatusPreconditionFailed},
			handle:  (*api).patchTask,
		},
		{
			method: http.MethodDelete, path: one, id: "deleteTask", tag: tag,
			summary: "Delete a task.",
			answers: []answer{empty(http.StatusNoContent, "It is gone.")},
			handle:  (*api).deleteTask,
		},
	}
}

func taskOf(t task.Task) Task {
	dto := Task{
		ID: t.ID, Title: t.Title, Notes: t.Notes, Status: t.Status, DueDate: optional(t.DueDate), StartAt: utc(t.StartAt),
		EndAt: utc(t.EndAt), TimeZone: optional(t.TimeZone), Suit: t.Suit, Version: t.Version, UpdatedAt: t.UpdatedAt.UTC(),
	}
	if g := t.Google; g != nil {
		dto.Google = &TaskGoogle{
			TaskID: optional(g.TaskID), EventID: optional(g.EventID), SyncedAt: utc(g.SyncedAt), Error: optional(g.Error),
		}
	}
	return dto
}

// optional is null for the empty string.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// given is the empty string for null.
func given(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

func (a *api) listTasks(c *call) error {
	limit, _ := value[int](c, "limit")
	cursor, _ := value[string](c, "cursor")
	list, next, err := a.Tasks.List(c.ctx(), c.user(), c.path("id"), cursor, limit)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, page(each(list, taskOf), next))
}

func (a *api) createTask(c *call) error {
	var in NewTask
	if err := c.decode(&in); err != nil {
		return err
	}
	t, err := a.Tasks.Create(c.ctx(), c.meta(), c.user(), c.path("id"), task.Draft{
		Title: in.Title, Notes: in.Notes, Status: in.Status, DueDate: given(in.DueDate), StartAt: in.StartAt, EndAt: in.EndAt,
		TimeZone: given(in.TimeZone), Suit: in.Suit,
	})
	if err != nil {
		return err
	}
	c.setHeader("Location", "/api/workspaces/"+c.path("id")+"/tasks/"+t.ID)
	return c.task(http.StatusCreated, t)
}

func (a *api) getTask(c *call) error {
	t, err := a.Tasks.Get(c.ctx(), c.user(), c.path("id"), c.path("taskId"))
	if err != nil {
		return err
	}
	return c.task(http.StatusOK, t)
}

// patchTask gives the patch to the feature as it came: what a null or a missing member means is the feature's to say.
func (a *api) patchTask(c *call) error {
	condition, err := expected(c.request().Header)
	if err != nil {
		return err
	}
	patch, err := c.body()
	if err != nil {
		return err
	}
	t, err := a.Tasks.Patch(c.ctx(), c.meta(), c.user(), c.path("id"), c.path("taskId"), patch, condition)
	if err != nil {
		return err
	}
	return c.task(http.StatusOK, t)
}

func (a *api) deleteTask(c *call) error {
	if err := a.Tasks.Delete(c.ctx(), c.meta(), c.user(), c.path("id"), c.path("taskId")); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

func (c *call) task(status int, t task.Task) error {
	c.setHeader("ETag", versionTag(t.Version))
	return c.json(status, taskOf(t))
}
