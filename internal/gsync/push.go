package gsync

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/api/calendar/v3"

	"fdc/internal/platform/postgres"
)

// defaultLength is that of an event whose task has no end.
const defaultLength = time.Hour

// maxGenerations is how many ids of one task may be taken before it is left for the next sync.
const maxGenerations = 5

// timedTask is a task that has or needs an event on the primary calendar.
type timedTask struct {
	ID         string
	Title      string
	Notes      string
	StartAt    *time.Time
	EndAt      *time.Time
	TimeZone   string
	Version    int64
	Deleted    bool
	EventID    string
	EventETag  string
	Generation int
}

// pushEvents makes events of the workspace's timed tasks, and takes away those whose task has no time any more.
func (r *run) pushEvents(ctx context.Context) (finish, error) {
	after, done, total := nilUUID, int64(0), int64(0)
	for {
		timed, err := timedTasks(ctx, r.s.ob.Pool(), r.userID, r.settings.WorkspaceID, after, taskPage)
		if err != nil {
			return nil, err
		}
		if done == 0 {
			total = int64(len(timed))
		}
		if done == 0 && len(timed) == taskPage {
			if total, err = countTimed(ctx, r.s.ob.Pool(), r.userID, r.settings.WorkspaceID); err != nil {
				return nil, err
			}
		}
		for _, t := range timed {
			if err := r.pushEvent(ctx, t); err != nil {
				return nil, fmt.Errorf("push event of task %s: %w", t.ID, err)
			}
			done++
			r.progress(ctx, phasePush, done, max(done, total))
			after = t.ID
		}
		if len(timed) < taskPage {
			return nil, nil
		}
	}
}

// timedSQL reads the tasks of a workspace ($2) whose event a user ($1) has to make, change or delete: up to $4 tasks after $3.
const timedSQL = `
	(SELECT ` + timedColumns + `
	FROM tasks t LEFT JOIN google_task_links l ON l.user_id = $1 AND l.task_id = t.id
	WHERE t.workspace_id = $2 AND t.id > $3 AND t.deleted_at IS NULL
		AND (t.start_at IS NOT NULL AND coalesce(l.event_version, 0) <> t.version OR t.start_at IS NULL AND l.event_id IS NOT NULL)
	ORDER BY t.id LIMIT $4)
	UNION ALL
	(SELECT ` + timedColumns + `
	FROM tasks t JOIN google_task_links l ON l.user_id = $1 AND l.task_id = t.id
	WHERE t.workspace_id = $2 AND t.id > $3 AND t.deleted_at IS NOT NULL AND l.event_id IS NOT NULL
	ORDER BY t.id LIMIT $4)
	ORDER BY 1 LIMIT $4`

const timedColumns = `t.id, t.title, t.notes, t.start_at, t.end_at, t.time_zone, t.version, t.deleted_at IS NOT NULL,
	coalesce(l.event_id, ''), coalesce(l.event_etag, ''), coalesce(l.event_generation, 0)`

func countTimed(ctx context.Context, q postgres.Querier, userID, workspaceID string) (int64, error) {
	return countAll(ctx, q, timedSQL, userID, workspaceID, nilUUID, nil)
}

func timedTasks(ctx context.Context, q postgres.Querier, userID, workspaceID, after string, most int) ([]timedTask, error) {
	rows, err := q.Query(ctx, timedSQL, userID, workspaceID, after, most)
	if err != nil {
		return nil, fmt.Errorf("read timed tasks: %w", err)
	}
	timed, err := pgx.CollectRows(rows, pgx.RowToStructByPos[timedTask])
	if err != nil {
		return nil, fmt.Errorf("read timed tasks: %w", err)
	}
	return timed, nil
}

// pushEvent pushes one task. What Google refuses is marked on the task and left for the next sync.
func (r *run) pushEvent(ctx context.Context, t timedTask) error {
	err := r.tx(ctx, nil) // before Google is asked to change anything
	if err != nil {
		return err
	}
	switch {
	case t.Deleted || t.StartAt == nil:
		err = r.deleteEvent(ctx, t)
	case t.EventID == "":
		err = r.insertEvent(ctx, t)
	default:
		err = r.patchEvent(ctx, t, t.EventETag)
	}
	if isClass(err, classPermanent) || isClass(err, classNotFound) || isClass(err, classConflict) || isClass(err, classStale) {
		why := refusal(err)
		return r.tx(ctx, func(ctx context.Context, tx pgx.Tx, d *Result) error {
			d.Calendar.Failed++
			d.Warnings = append(d.Warnings, "Google did not take the event of a task: "+why)
			return r.saveEvent(ctx, tx, t, why)
		})
	}
	return err
}

// eventID is the id of the task's event: made here, so that an insert whose answer was lost is found again. An id stays
// taken at Google after its event is deleted, hence the generation.
func eventID(taskID string, generation int) string {
	return "fdc" + strings.ReplaceAll(taskID, "-", "") + "g" + strconv.Itoa(generation)
}

// event is what Google shall have of the task.
func (t timedTask) event() *calendar.Event {
	end := t.StartAt.Add(defaultLength)
	if t.EndAt != nil {
		end = *t.EndAt
	}
	return &calendar.Event{
		Summary: t.Title, Description: t.Notes, Start: moment(*t.StartAt, t.TimeZone), End: moment(end, t.TimeZone),
		ExtendedProperties: &calendar.EventExtendedProperties{Private: map[string]string{taskProperty: t.ID}},
		ForceSendFields:    []string{"Description"},
	}
}

func moment(at time.Time, zone string) *calendar.EventDateTime {
	// A patch merges: without the null an event that was made an all-day one would have both a date and a time.
	return &calendar.EventDateTime{DateTime: utcText(at), TimeZone: zone, NullFields: []string{"Date"}}
}

// insertEvent makes the event. An id that is taken belongs to an insert of ours whose answer was lost, to an event that
// was deleted, or to somebody else: only the first is ours to go on with.
func (r *run) insertEvent(ctx context.Context, t timedTask) error {
	var err error
	for range maxGenerations {
		var made *calendar.Event
		wanted := t.event()
		wanted.Id = eventID(t.ID, t.Generation)
		made, err = call(ctx, r.client, idempotent, func() (*calendar.Event, error) {
			return r.calendar.Events.Insert(primaryCalendar, wanted).Context(ctx).Do()
		})
		if err == nil {
			return r.eventPushed(ctx, t, made)
		}
		if !isClass(err, classConflict) {
			return err
		}
		current, getErr := r.getEvent(ctx, wanted.Id)
		if getErr != nil {
			return getErr
		}
		if current != nil && isOf(current, t.ID) {
			t.EventID = current.Id
			return r.patchEvent(ctx, t, current.Etag)
		}
		t.Generation++
	}
	return err
}

// patchEvent brings the event up to date. One that changed at Google is overwritten in what FDC says of it and left alone
// otherwise; one that was deleted there is made anew, for its task has changed since.
func (r *run) patchEvent(ctx context.Context, t timedTask, etag string) error {
	for try := 1; ; try++ {
		patched, err := call(ctx, r.client, idempotent, func() (*calendar.Event, error) {
			patch := r.calendar.Events.Patch(primaryCalendar, t.EventID, t.event()).Context(ctx)
			if etag != "" {
				patch.Header().Set("If-Match", etag)
			}
			return patch.Do()
		})
		if err == nil {
			return r.eventPushed(ctx, t, patched)
		}
		if !isClass(err, classStale) && !isClass(err, classNotFound) && !isClass(err, classGone) && !isClass(err, classPermanent) {
			return err
		}
		current, getErr := r.getEvent(ctx, t.EventID)
		switch {
		case getErr != nil:
			return getErr
		case current == nil || !isOf(current, t.ID):
			t.EventID = ""
			t.Generation++
			return r.insertEvent(ctx, t)
		case !isClass(err, classStale) || try == maxTries:
			return err
		}
		etag = current.Etag
	}
}

// isOf reports whether the event is the living one that FDC made of the task.
func isOf(e *calendar.Event, taskID string) bool {
	return e.Status != statusCancelled && e.ExtendedProperties != nil && e.ExtendedProperties.Private[taskProperty] == taskID
}

// getEvent reads an event of the primary calendar; nil when there is none.
func (r *run) getEvent(ctx context.Context, id string) (*calendar.Event, error) {
	got, err := call(ctx, r.client, idempotent, func() (*calendar.Event, error) {
		return r.calendar.Events.Get(primaryCalendar, id).Context(ctx).Do()
	})
	if isClass(err, classNotFound) || isClass(err, classGone) {
		return nil, nil
	}
	return got, err
}

func (r *run) deleteEvent(ctx context.Context, t timedTask) error {
	_, err := call(ctx, r.client, idempotent, func() (struct{}, error) {
		return struct{}{}, r.calendar.Events.Delete(primaryCalendar, t.EventID).Context(ctx).Do()
	})
	pushed := int64(1)
	if isClass(err, classNotFound) || isClass(err, classGone) {
		pushed, err = 0, nil
	}
	if err != nil {
		return err
	}
	t.EventID, t.EventETag = "", ""
	t.Generation++
	return r.tx(ctx, func(ctx context.Context, tx pgx.Tx, d *Result) error {
		d.Calendar.Pushed += pushed
		if err := r.saveEvent(ctx, tx, t, ""); err != nil {
			return err
		}
		if t.Deleted {
			return dropLink(ctx, tx, r.userID, t.ID)
		}
		return nil
	})
}

func (r *run) eventPushed(ctx context.Context, t timedTask, e *calendar.Event) error {
	t.EventID, t.EventETag = e.Id, e.Etag
	return r.tx(ctx, func(ctx context.Context, tx pgx.Tx, d *Result) error {
		d.Calendar.Pushed++
		return r.saveEvent(ctx, tx, t, "")
	})
}

// saveEvent stores what the calendar holds of the task. With an error the task stays one to push.
func (r *run) saveEvent(ctx context.Context, tx pgx.Tx, t timedTask, why string) error {
	version := t.Version
	if why != "" {
		version = 0
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO google_task_links (user_id, task_id, workspace_id, task_list_id, event_id, event_etag, event_generation,
			event_version, error, synced_at)
		VALUES ($1, $2, $3, '', nullif($4, ''), $5, $6, $7, $8, now())
		ON CONFLICT (user_id, task_id) DO UPDATE SET
			event_id = excluded.event_id, event_etag = excluded.event_etag, event_generation = excluded.event_generation,
			event_version = excluded.event_version, error = excluded.error, synced_at = now()`,
		r.userID, t.ID, r.settings.WorkspaceID, t.EventID, t.EventETag, t.Generation, version, why)
	if err != nil {
		return fmt.Errorf("save event of task %s: %w", t.ID, err)
	}
	return nil
}
