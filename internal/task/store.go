package task

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
)

// row is a task and the asking user's link, all of whose columns are null where there is none.
type row struct {
	Task
	Linked       bool
	GoogleTaskID *string
	EventID      *string
	SyncedAt     *time.Time
	LinkError    *string
}

func (r row) task() Task {
	t := r.Task
	t.StartAt, t.EndAt, t.UpdatedAt = storedTime(t.StartAt), storedTime(t.EndAt), t.UpdatedAt.UTC()
	if r.Linked {
		t.Google = &GoogleLink{
			TaskID: deref(r.GoogleTaskID), EventID: deref(r.EventID), SyncedAt: storedTime(r.SyncedAt), Error: deref(r.LinkError),
		}
	}
	return t
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// selectTasks wants the asking user as $1.
const selectTasks = `
	SELECT t.id, t.workspace_id, t.title, t.notes, t.status, coalesce(t.due_date::text, '') AS due_date, t.start_at, t.end_at,
	       t.time_zone, t.suit, t.version, t.updated_at,
	       l.task_id IS NOT NULL AS linked, l.google_task_id, l.event_id, l.synced_at, l.error AS link_error
	FROM tasks t LEFT JOIN google_task_links l ON l.user_id = $1 AND l.task_id = t.id
	`

func scanTask(r pgx.CollectableRow) (Task, error) {
	found, err := pgx.RowToStructByName[row](r)
	return found.task(), err
}

// listTasks gives the tasks after one id.
func listTasks(ctx context.Context, q postgres.Querier, userID, workspaceID, after string, limit int) ([]Task, error) {
	rows, _ := q.Query(ctx, selectTasks+`
		WHERE t.workspace_id = $2 AND t.deleted_at IS NULL AND t.id > $3
		  AND EXISTS (SELECT FROM workspace_members m WHERE m.workspace_id = $2 AND m.user_id = $1)
		ORDER BY t.id
		LIMIT $4`, userID, workspaceID, after, limit)
	return pgx.CollectRows(rows, scanTask)
}

// findTask reads one task. userID is nil where nobody's link is asked for.
func findTask(ctx context.Context, q postgres.Querier, userID *string, workspaceID, id, lock string) (Task, error) {
	rows, _ := q.Query(ctx, selectTasks+`
		WHERE t.id = $3 AND t.workspace_id = $2 AND t.deleted_at IS NULL `+lock, userID, workspaceID, id)
	t, err := pgx.CollectExactlyOneRow(rows, scanTask)
	if errors.Is(err, pgx.ErrNoRows) {
		return Task{}, fault.Missing("task")
	}
	return t, err
}

// lockTask is the lock for findTask.
const lockTask = `FOR NO KEY UPDATE OF t`

func insertTask(ctx context.Context, tx pgx.Tx, t *Task) error {
	err := tx.QueryRow(ctx, `
		INSERT INTO tasks (id, workspace_id, title, notes, status, due_date, start_at, end_at, time_zone, suit, updated_at)
		VALUES ($1, $2, $3, $4, $5, nullif($6, '')::date, $7, $8, $9, $10, clock_timestamp())
		RETURNING version, updated_at`,
		t.ID, t.WorkspaceID, t.Title, t.Notes, t.Status, t.DueDate, t.StartAt, t.EndAt, t.TimeZone, t.Suit).
		Scan(&t.Version, &t.UpdatedAt)
	t.UpdatedAt = t.UpdatedAt.UTC()
	return err
}

func updateTask(ctx context.Context, tx pgx.Tx, t *Task) error {
	err := tx.QueryRow(ctx, `
		UPDATE tasks
		SET title = $2, notes = $3, status = $4, due_date = nullif($5, '')::date, start_at = $6, end_at = $7, time_zone = $8,
		    suit = $9, version = version + 1, updated_at = clock_timestamp()
		WHERE id = $1
		RETURNING version, updated_at`,
		t.ID, t.Title, t.Notes, t.Status, t.DueDate, t.StartAt, t.EndAt, t.TimeZone, t.Suit).
		Scan(&t.Version, &t.UpdatedAt)
	t.UpdatedAt = t.UpdatedAt.UTC()
	return err
}

// buryTask makes the task a tombstone.
func buryTask(ctx context.Context, tx pgx.Tx, workspaceID, id string) (version int64, err error) {
	err = tx.QueryRow(ctx, `
		UPDATE tasks SET deleted_at = clock_timestamp(), updated_at = clock_timestamp(), version = version + 1
		WHERE id = $1 AND workspace_id = $2 AND deleted_at IS NULL
		RETURNING version`, id, workspaceID).Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, fault.Missing("task")
	}
	return version, err
}
