package gsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/internal/platform/postgres"
)

// link is what is known of a task at Google.
type link struct {
	TaskID        string
	GoogleTaskID  string
	Snapshot      *fields // what Google had when last heard of; of an intent what was to be inserted
	Sent          *fields // what Google was last asked to make of it, without an answer; nil when there is no such doubt
	SyncedVersion int64
	IntendedAt    *time.Time
}

const linkColumns = `task_id::text, coalesce(google_task_id, ''), snapshot, sent, synced_version, intended_at`

// base is the snapshot, empty when there is none.
func (l link) base() fields {
	if l.Snapshot == nil {
		return fields{}
	}
	return *l.Snapshot
}

// baseOf is what a state that Google has now is to be compared with, to tell what its user has changed there. A field that isn't as it
// was comes from what we sent without an answer, or was changed after that.
func (l link) baseOf(now fields) fields {
	base := l.base()
	if l.Sent == nil {
		return base
	}
	sent, b, n := *l.Sent, each(&base), each(&now)
	for i, s := range each(&sent) {
		if *n[i] != *b[i] {
			*b[i] = *s
		}
	}
	return base
}

// pair is a workspace and the list that mirrors it for a user.
type pair struct{ owner, workspaceID, listID string }

// linksOf reads the links of Google's tasks, in the order of our ids: who locks many tasks locks them in that order.
func (p pair) linksOf(ctx context.Context, q postgres.Querier, googleIDs []string) ([]link, error) {
	return p.links(ctx, q, `google_task_id = ANY ($4) ORDER BY task_id`, googleIDs)
}

// intents reads the links of inserts whose outcome was never heard.
func (p pair) intents(ctx context.Context, q postgres.Querier) ([]link, error) {
	return p.links(ctx, q, `intended_at IS NOT NULL AND google_task_id IS NULL ORDER BY task_id`)
}

func (p pair) links(ctx context.Context, q postgres.Querier, where string, args ...any) ([]link, error) {
	rows, err := q.Query(ctx, `SELECT `+linkColumns+` FROM google_task_links
		WHERE user_id = $1 AND workspace_id = $2 AND task_list_id = $3 AND `+where,
		append([]any{p.owner, p.workspaceID, p.listID}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("read task links: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[link])
	if err != nil {
		return nil, fmt.Errorf("read task links: %w", err)
	}
	return found, nil
}

// save stores that the task is what Google has under r's id. version is the task's when it had the same fields, 0 when
// it has more to push. An event that was made of the task stays.
func (p pair) save(ctx context.Context, tx pgx.Tx, taskID string, r remoteTask, version, generation int64) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO google_task_links (user_id, task_id, workspace_id, task_list_id, google_task_id, snapshot, google_updated,
			generation, synced_version, synced_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now())
		ON CONFLICT (user_id, task_id) DO UPDATE SET
			workspace_id = excluded.workspace_id, task_list_id = excluded.task_list_id, google_task_id = excluded.google_task_id,
			snapshot = excluded.snapshot, google_updated = excluded.google_updated, synced_version = excluded.synced_version,
			generation = excluded.generation, synced_at = now(), intended_at = NULL, sent = NULL,
			error = ''`,
		p.owner, taskID, p.workspaceID, p.listID, r.ID, r.fields, orNil(r.Updated), generation, version)
	if err != nil {
		return fmt.Errorf("save link of task %s: %w", taskID, err)
	}
	return nil
}

// intend journals that the task is about to be inserted with the fields.
func (p pair) intend(ctx context.Context, tx pgx.Tx, taskID string, f fields) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO google_task_links (user_id, task_id, workspace_id, task_list_id, snapshot, intended_at)
		VALUES ($1, $2, $3, $4, $5, now())
		ON CONFLICT (user_id, task_id) DO UPDATE SET
			workspace_id = excluded.workspace_id, task_list_id = excluded.task_list_id, google_task_id = NULL,
			snapshot = excluded.snapshot, google_updated = NULL, synced_version = 0, generation = 0,
			intended_at = excluded.intended_at, sent = NULL`,
		p.owner, taskID, p.workspaceID, p.listID, f)
	if err != nil {
		return fmt.Errorf("journal insert of task %s: %w", taskID, err)
	}
	return nil
}

// send journals that Google is about to be asked to make f of the task.
func (p pair) send(ctx context.Context, tx pgx.Tx, taskID string, f fields) error {
	_, err := tx.Exec(ctx, `UPDATE google_task_links SET sent = $3 WHERE user_id = $1 AND task_id = $2`, p.owner, taskID, f)
	if err != nil {
		return fmt.Errorf("journal change of task %s: %w", taskID, err)
	}
	return nil
}

// settled notes that the task has nothing to push at this version.
func (p pair) settled(ctx context.Context, tx pgx.Tx, taskID string, version int64) error {
	_, err := tx.Exec(ctx, `
		UPDATE google_task_links SET synced_version = $3, error = '' WHERE user_id = $1 AND task_id = $2`, p.owner, taskID, version)
	if err != nil {
		return fmt.Errorf("settle task %s: %w", taskID, err)
	}
	return nil
}

// refuse notes why Google did not take the task. An intent is over: Google has answered.
func (p pair) refuse(ctx context.Context, tx pgx.Tx, taskID, why string) error {
	_, err := tx.Exec(ctx, `
		UPDATE google_task_links SET error = $3, intended_at = NULL, sent = NULL,
			snapshot = CASE WHEN google_task_id IS NULL THEN NULL ELSE snapshot END
		WHERE user_id = $1 AND task_id = $2`, p.owner, taskID, why)
	if err != nil {
		return fmt.Errorf("mark task %s: %w", taskID, err)
	}
	return nil
}

// unlink forgets what Google had of the task. The row stays while there is an event of the task to take care of.
func (p pair) unlink(ctx context.Context, tx pgx.Tx, taskID string) error {
	_, err := tx.Exec(ctx, `
		UPDATE google_task_links SET google_task_id = NULL, snapshot = NULL, google_updated = NULL, synced_version = 0,
			intended_at = NULL, sent = NULL, error = ''
		WHERE user_id = $1 AND task_id = $2`, p.owner, taskID)
	if err != nil {
		return fmt.Errorf("unlink task %s: %w", taskID, err)
	}
	return dropLink(ctx, tx, p.owner, taskID)
}

// dropLink removes a link that holds nothing.
func dropLink(ctx context.Context, tx pgx.Tx, userID, taskID string) error {
	_, err := tx.Exec(ctx, `
		DELETE FROM google_task_links WHERE user_id = $1 AND task_id = $2 AND google_task_id IS NULL AND event_id IS NULL`,
		userID, taskID)
	if err != nil {
		return fmt.Errorf("drop link of task %s: %w", taskID, err)
	}
	return nil
}

// mark says of links that a full read has seen them.
func (p pair) mark(ctx context.Context, tx pgx.Tx, googleIDs []string, generation int64) error {
	_, err := tx.Exec(ctx, `
		UPDATE google_task_links SET generation = $5
		WHERE user_id = $1 AND workspace_id = $2 AND task_list_id = $3 AND google_task_id = ANY ($4) AND generation <> $5`,
		p.owner, p.workspaceID, p.listID, googleIDs, generation)
	if err != nil {
		return fmt.Errorf("mark task links: %w", err)
	}
	return nil
}

// unseen counts the links that a full read has not seen, and all.
func (p pair) unseen(ctx context.Context, q postgres.Querier, generation int64) (unseen, all int64, err error) {
	err = q.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE generation < $4), count(*) FROM google_task_links
		WHERE user_id = $1 AND workspace_id = $2 AND task_list_id = $3 AND google_task_id IS NOT NULL`,
		p.owner, p.workspaceID, p.listID, generation).Scan(&unseen, &all)
	if err != nil {
		return 0, 0, fmt.Errorf("count task links: %w", err)
	}
	return unseen, all, nil
}

// localTask is a task of ours, also a deleted one.
type localTask struct {
	ID string
	fields
	Version   int64
	UpdatedAt time.Time
	DeletedAt *time.Time
}

const localColumns = `t.id::text, t.title, t.notes, coalesce(t.due_date::text, ''), t.status, t.version, t.updated_at, t.deleted_at`

func (l *localTask) dest() []any {
	return []any{&l.ID, &l.Title, &l.Notes, &l.Due, &l.Status, &l.Version, &l.UpdatedAt, &l.DeletedAt}
}

// lockLocal reads a task and keeps it as it is until the end of the transaction; false when it is gone for good.
func lockLocal(ctx context.Context, tx pgx.Tx, taskID string) (l localTask, found bool, err error) {
	err = tx.QueryRow(ctx, `SELECT `+localColumns+` FROM tasks t WHERE t.id = $1 FOR NO KEY UPDATE`, taskID).Scan(l.dest()...)
	if errors.Is(err, pgx.ErrNoRows) {
		return l, false, nil
	}
	if err != nil {
		return l, false, fmt.Errorf("lock task %s: %w", taskID, err)
	}
	return l, true, nil
}

// twins finds tasks of the workspace that aren't at Google yet and have one of the titles.
func (p pair) twins(ctx context.Context, q postgres.Querier, titles []string) ([]localTask, error) {
	rows, err := q.Query(ctx, `
		SELECT `+localColumns+` FROM tasks t LEFT JOIN google_task_links l ON l.user_id = $1 AND l.task_id = t.id
		WHERE t.workspace_id = $2 AND t.deleted_at IS NULL AND t.title = ANY ($4)
			AND (l.task_id IS NULL OR l.task_list_id <> $3 OR l.google_task_id IS NULL AND l.intended_at IS NULL)
		ORDER BY t.id`, p.owner, p.workspaceID, p.listID, titles)
	if err != nil {
		return nil, fmt.Errorf("find tasks of the same title: %w", err)
	}
	return collectLocal(rows)
}

func collectLocal(rows pgx.Rows) ([]localTask, error) {
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l localTask, err error) {
		err = row.Scan(l.dest()...)
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("read tasks: %w", err)
	}
	return found, nil
}

// outgoing is a task that has something to push, with its link, which is empty when there is none.
type outgoing struct {
	localTask
	link
	Elsewhere bool // linked to another list
}

// outgoingSQL reads what a user ($1) has to push to a list ($3) of a workspace ($2): up to $5 tasks after $4. Living and deleted tasks
// are two branches, because each has an index of its own that gives the page in its order.
const outgoingSQL = `
	(SELECT ` + outgoingColumns + `
	FROM tasks t LEFT JOIN google_task_links l ON l.user_id = $1 AND l.task_id = t.id
	WHERE t.workspace_id = $2 AND t.id > $4 AND t.deleted_at IS NULL
		AND (l.google_task_id IS NULL OR l.task_list_id <> $3 OR l.synced_version <> t.version)
	ORDER BY t.id LIMIT $5)
	UNION ALL
	(SELECT ` + outgoingColumns + `
	FROM tasks t JOIN google_task_links l ON l.user_id = $1 AND l.task_id = t.id
	WHERE t.workspace_id = $2 AND t.id > $4 AND t.deleted_at IS NOT NULL
		AND l.google_task_id IS NOT NULL AND l.task_list_id = $3
	ORDER BY t.id LIMIT $5)
	ORDER BY 1 LIMIT $5`

const outgoingColumns = `t.id, t.title, t.notes, coalesce(t.due_date::text, ''), t.status, t.version, t.updated_at, t.deleted_at,
	coalesce(l.google_task_id, ''), l.snapshot, l.sent, coalesce(l.synced_version, 0), l.intended_at, coalesce(l.task_list_id <> $3, false)`

// outgoing reads the next tasks after an id that have something to push.
func (p pair) outgoing(ctx context.Context, q postgres.Querier, after string, most int) ([]outgoing, error) {
	rows, err := q.Query(ctx, outgoingSQL, p.owner, p.workspaceID, p.listID, after, most)
	if err != nil {
		return nil, fmt.Errorf("read tasks to push: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o outgoing, err error) {
		err = row.Scan(append(o.dest(), &o.GoogleTaskID, &o.Snapshot, &o.Sent, &o.SyncedVersion, &o.IntendedAt, &o.Elsewhere)...)
		o.TaskID = o.ID
		return o, err
	})
	if err != nil {
		return nil, fmt.Errorf("read tasks to push: %w", err)
	}
	return found, nil
}

// countOutgoing counts all tasks that have something to push.
func (p pair) countOutgoing(ctx context.Context, q postgres.Querier) (int64, error) {
	return countAll(ctx, q, outgoingSQL, p.owner, p.workspaceID, p.listID, nilUUID, nil)
}

// countAll counts what a query finds that takes its LIMIT as an argument, here nil.
func countAll(ctx context.Context, q postgres.Querier, sql string, args ...any) (n int64, err error) {
	if err := q.QueryRow(ctx, `SELECT count(*) FROM (`+sql+`) AS found`, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("count tasks to push: %w", err)
	}
	return n, nil
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
