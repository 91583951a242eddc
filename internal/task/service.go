package task

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// Bounds of List's pages.
const (
	DefaultLimit = 50
	MaxLimit     = 200
)

// Members says who is in a workspace.
type Members interface {
	// Role is fault.NotFound when the user isn't in the workspace.
	Role(ctx context.Context, q postgres.Querier, userID, workspaceID string) (string, error)
}

// Service is the way to tasks. It is safe for concurrent use.
type Service struct {
	outbox  *outbox.Outbox
	members Members
}

// New returns a Service that writes through ob and asks members who may.
func New(ob *outbox.Outbox, members Members) *Service { return &Service{outbox: ob, members: members} }

// List gives a page of a workspace's tasks, oldest first, and the cursor of the next one, empty on the last. A limit of 0
// is DefaultLimit.
func (s *Service) List(ctx context.Context, userID, workspaceID, cursor string, limit int) (items []Task, next string, err error) {
	after, err := parseCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	if limit == 0 {
		limit = DefaultLimit
	}
	if limit < 0 || limit > MaxLimit {
		return nil, "", fault.New(fault.Malformed, "bad-limit", "The limit is not between 1 and %d.", MaxLimit)
	}
	if !events.ValidID(workspaceID) {
		return nil, "", fault.Missing("workspace")
	}
	items, err = listTasks(ctx, s.outbox.Pool(), userID, workspaceID, after, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list tasks of workspace %s: %w", workspaceID, postgres.Fault(err))
	}
	if len(items) == 0 { // there are none, or the user isn't in the workspace
		_, err = s.members.Role(ctx, s.outbox.Pool(), userID, workspaceID)
		return items, "", err
	}
	if len(items) > limit {
		items = items[:limit]
		next = formatCursor(items[limit-1].ID)
	}
	return items, next, nil
}

// formatCursor makes the cursor for what comes after a task.
func formatCursor(id string) string {
	u := uuid.MustParse(id) // ids come from the database
	return base64.RawURLEncoding.EncodeToString(u[:])
}

// parseCursor gives the id that a cursor stands for; the lowest of all for the empty one.
func parseCursor(cursor string) (id string, err error) {
	if cursor == "" {
		return uuid.Nil.String(), nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil {
		return "", fault.Wrap(err, fault.Malformed, "bad-cursor", "The cursor is not one of this list.")
	}
	u, err := uuid.FromBytes(raw)
	if err != nil {
		return "", fault.Wrap(err, fault.Malformed, "bad-cursor", "The cursor is not one of this list.")
	}
	return u.String(), nil
}

// Get reads a task.
func (s *Service) Get(ctx context.Context, userID, workspaceID, id string) (Task, error) {
	if !events.ValidID(id) {
		return Task{}, fault.Missing("task")
	}
	if _, err := s.members.Role(ctx, s.outbox.Pool(), userID, workspaceID); err != nil {
		return Task{}, err
	}
	t, err := findTask(ctx, s.outbox.Pool(), &userID, workspaceID, id, "")
	if err != nil {
		return Task{}, fmt.Errorf("read task %s: %w", id, postgres.Fault(err))
	}
	return t, nil
}

// Create makes a task.
func (s *Service) Create(ctx context.Context, meta events.Meta, userID, workspaceID string, d Draft) (Task, error) {
	var t Task
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		if _, err := s.members.Role(ctx, tx, userID, workspaceID); err != nil {
			return err
		}
		var err error
		t, err = create(ctx, tx, meta, workspaceID, d, events.OriginUser)
		return err
	})
	return t, err
}

// CreateTx makes a task that a sync found at Google, in the caller's transaction.
func (s *Service) CreateTx(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID string, d Draft) (Task, error) {
	return create(ctx, tx, meta, workspaceID, d, events.OriginGoogle)
}

func create(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID string, d Draft, origin string) (Task, error) {
	if err := fault.Wrong(d.normalize()...); err != nil {
		return Task{}, err
	}
	t := Task{ID: events.NewID(), WorkspaceID: workspaceID, Draft: d}
	if err := insertTask(ctx, tx, &t); err != nil {
		return Task{}, fmt.Errorf("create task in workspace %s: %w", workspaceID, err)
	}
	err := outbox.Append(ctx, tx, events.New(meta, "", events.TaskCreated{
		TaskID: t.ID, WorkspaceID: workspaceID, Version: t.Version, Origin: origin,
	}))
	return t, err
}

// Patch applies a JSON Merge Patch (RFC 7396) to the newest version of a task. When ifMatch isn't nil, that
// has to be one of its versions.
func (s *Service) Patch(ctx context.Context, meta events.Meta, userID, workspaceID, id string, body json.RawMessage, ifMatch []int64) (Task, error) {
	p, err := parsePatch(body)
	if fault.KindOf(err) == fault.Malformed {
		return Task{}, err
	}
	invalid := err // told only to those who may know that there is such a task
	var t Task
	err = s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		if _, err := s.members.Role(ctx, tx, userID, workspaceID); err != nil {
			return err
		}
		var err error
		t, err = update(ctx, tx, meta, &userID, workspaceID, id, events.OriginUser, func(t *Task) error {
			if ifMatch != nil && !slices.Contains(ifMatch, t.Version) {
				err := fault.New(fault.PreconditionFailed, "precondition-failed", "The task is at version %d, not at the one expected.", t.Version)
				err.Extra = map[string]any{"currentVersion": t.Version}
				return err
			}
			if invalid != nil {
				return invalid
			}
			for _, set := range p {
				set(&t.Draft)
			}
			return nil
		})
		return err
	})
	return t, err
}

// UpdateTx changes a task as a sync found it changed at Google, in the caller's transaction. change gets the newest
// version, locked, and writes its Draft; an error of change is returned. The result has no Google link.
func (s *Service) UpdateTx(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID, id string, change func(*Task) error) (Task, error) {
	return update(ctx, tx, meta, nil, workspaceID, id, events.OriginGoogle, change)
}

func update(
	ctx context.Context, tx pgx.Tx, meta events.Meta, userID *string, workspaceID, id, origin string, change func(*Task) error,
) (Task, error) {
	if !events.ValidID(id) {
		return Task{}, fault.Missing("task")
	}
	old, err := findTask(ctx, tx, userID, workspaceID, id, lockTask)
	if err != nil {
		return Task{}, fmt.Errorf("lock task %s: %w", id, err)
	}
	t := old
	if err := change(&t); err != nil {
		return Task{}, err
	}
	d := t.Draft
	if err := fault.Wrong(d.normalize()...); err != nil {
		return Task{}, err
	}
	t = old
	t.Draft = d
	changed := d.changed(&old.Draft)
	if len(changed) == 0 {
		return old, nil
	}
	if err := updateTask(ctx, tx, &t); err != nil {
		return Task{}, fmt.Errorf("update task %s: %w", id, err)
	}
	err = outbox.Append(ctx, tx, events.New(meta, "", events.TaskUpdated{
		TaskID: id, WorkspaceID: workspaceID, Version: t.Version, Changed: events.Changed(changed...), Origin: origin,
	}))
	return t, err
}

// Delete makes a task a tombstone.
func (s *Service) Delete(ctx context.Context, meta events.Meta, userID, workspaceID, id string) error {
	return s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		if _, err := s.members.Role(ctx, tx, userID, workspaceID); err != nil {
			return err
		}
		return bury(ctx, tx, meta, workspaceID, id, events.OriginUser)
	})
}

// DeleteTx deletes a task that a sync found deleted at Google, in the caller's transaction.
func (s *Service) DeleteTx(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID, id string) error {
	return bury(ctx, tx, meta, workspaceID, id, events.OriginGoogle)
}

func bury(ctx context.Context, tx pgx.Tx, meta events.Meta, workspaceID, id, origin string) error {
	if !events.ValidID(id) {
		return fault.Missing("task")
	}
	version, err := buryTask(ctx, tx, workspaceID, id)
	if err != nil {
		return fmt.Errorf("delete task %s: %w", id, err)
	}
	return outbox.Append(ctx, tx, events.New(meta, "", events.TaskDeleted{
		TaskID: id, WorkspaceID: workspaceID, Version: version, Origin: origin,
	}))
}
