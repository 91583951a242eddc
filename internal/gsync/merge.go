package gsync

import (
	"strings"
	"time"

	"google.golang.org/api/tasks/v1"

	"fdc/internal/task"
)

// fields are what FDC and Google Tasks both hold of a task, in FDC's terms.
type fields struct {
	Title  string `json:"title"`
	Notes  string `json:"notes"`
	Due    string `json:"due"` // YYYY-MM-DD, or empty
	Status string `json:"status"`
}

// each lists the fields so that what holds for one holds for all.
func each(f *fields) [4]*string { return [4]*string{&f.Title, &f.Notes, &f.Due, &f.Status} }

// resembles reports whether f may be old after an edit: nobody changes both what a task is called and what is noted of it at once.
func (f fields) resembles(old fields) bool {
	return f.Title == old.Title || f.Notes == old.Notes && f.Notes != ""
}

// merge brings two sides together that both started from base. A field that one side changed has that side's value; one
// that both changed to different values has the later side's, and conflict is true.
func merge(base, local, remote fields, remoteLater bool) (merged fields, conflict bool) {
	merged = local
	b, r, m := each(&base), each(&remote), each(&merged)
	for i := range m {
		switch {
		case *r[i] == *b[i] || *r[i] == *m[i]:
		case *m[i] == *b[i]:
			*m[i] = *r[i]
		default:
			conflict = true
			if remoteLater {
				*m[i] = *r[i]
			}
		}
	}
	return merged, conflict
}

// localFields are the fields of a task of ours.
func localFields(d task.Draft) fields {
	return fields{Title: d.Title, Notes: d.Notes, Due: d.DueDate, Status: d.Status}
}

// writeTo sets the fields in a draft.
func (f fields) writeTo(d *task.Draft) {
	d.Title, d.Notes, d.DueDate, d.Status = f.Title, f.Notes, f.Due, f.Status
}

// untitled stands for the empty title that Google allows and FDC doesn't.
const untitled = "(untitled)"

// Google's words for the status of a task.
const (
	googleTodo = "needsAction"
	googleDone = "completed"
)

// remoteFields are the fields of a task of Google's as FDC could hold them. The same task always gives the same fields, so
// that what FDC can't hold is no difference to push back.
func remoteFields(t *tasks.Task) fields {
	f := fields{
		Title: strings.TrimSpace(shorten(strings.TrimSpace(clean(t.Title)), task.MaxTitle)), Notes: shorten(clean(t.Notes), task.MaxNotes),
		Status: task.Todo,
	}
	if f.Title == "" {
		f.Title = untitled
	}
	if len(t.Due) >= len(time.DateOnly) {
		// Only the date counts; the time of day is always midnight, in whatever zone it is read.
		if day, ok := readDate(t.Due[:len(time.DateOnly)]); ok {
			f.Due = day
		}
	}
	if t.Status == googleDone {
		f.Status = task.Done
	}
	return f
}

// googleTask is a new task with the fields.
func (f fields) googleTask() *tasks.Task {
	t := &tasks.Task{Title: f.Title, Notes: f.Notes, Status: googleTodo}
	if f.Due != "" {
		t.Due = f.Due + "T00:00:00.000Z"
	}
	if f.Status == task.Done {
		t.Status = googleDone
	}
	return t
}

// patch is what turns a task of Google's that has the old fields into one with f; nil when that is nothing.
func (f fields) patch(old fields) *tasks.Task {
	if f == old {
		return nil
	}
	whole, t := f.googleTask(), &tasks.Task{}
	if f.Title != old.Title {
		t.Title = whole.Title
	}
	if f.Notes != old.Notes {
		t.Notes = whole.Notes
		t.ForceSendFields = append(t.ForceSendFields, "Notes")
	}
	if f.Due != old.Due {
		if t.Due = whole.Due; t.Due == "" {
			t.NullFields = append(t.NullFields, "Due")
		}
	}
	if f.Status != old.Status {
		if t.Status = whole.Status; t.Status == googleTodo {
			t.NullFields = append(t.NullFields, "Completed")
		}
	}
	return t
}

// remoteTask is a task of Google's.
type remoteTask struct {
	ID      string
	Deleted bool
	Updated time.Time // by Google's clock; zero when Google doesn't say
	fields
}

func newRemoteTask(t *tasks.Task) remoteTask {
	r := remoteTask{ID: t.Id, Deleted: t.Deleted, fields: remoteFields(t)}
	if at, err := time.Parse(time.RFC3339, t.Updated); err == nil {
		r.Updated = at.UTC()
	}
	return r
}
