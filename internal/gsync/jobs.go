package gsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// Statuses of a job. The last three are its end.
const (
	StatusPending    = "pending"
	StatusProcessing = "processing"
	StatusCompleted  = "completed"
	StatusFailed     = "failed"
	StatusCancelled  = "cancelled"
)

// Job is one sync, from the request to its end.
type Job struct {
	ID          string     `json:"jobId"`
	Type        string     `json:"type"`
	Mode        string     `json:"mode"`
	Status      string     `json:"status"`
	CreatedAt   time.Time  `json:"createdAt"`
	StartedAt   *time.Time `json:"startedAt"`   // of the latest attempt
	CompletedAt *time.Time `json:"completedAt"` // of whatever end
	Attempt     int        `json:"attempt"`
	Progress    *Progress  `json:"progress"`
	Result      *Result    `json:"result"`
	Error       *JobError  `json:"error"` // of the latest attempt that failed
}

// Ended reports whether nothing more will happen to the job.
func (j Job) Ended() bool {
	return j.Status == StatusCompleted || j.Status == StatusFailed || j.Status == StatusCancelled
}

// Progress is how far a job is. Total is 0 while unknown.
type Progress struct {
	Phase string `json:"phase"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

// Result is what a job did, over all its attempts.
type Result struct {
	Tasks    Counts   `json:"tasks"`
	Calendar Counts   `json:"calendar"`
	APICalls int64    `json:"apiCalls"`
	Warnings []string `json:"warnings"`
}

// Counts is what one kind of sync did.
type Counts struct {
	Created   int64 `json:"created"`   // made here, found at Google
	Updated   int64 `json:"updated"`   // changed here after a change at Google
	Deleted   int64 `json:"deleted"`   // deleted here after a deletion at Google
	Pushed    int64 `json:"pushed"`    // made, changed or deleted at Google
	Conflicts int64 `json:"conflicts"` // changed on both sides since the last sync
	Failed    int64 `json:"failed"`    // refused by Google and left for the next sync
}

// plus adds what one transaction did.
func (r Result) plus(d Result) Result {
	r.Tasks, r.Calendar = r.Tasks.plus(d.Tasks), r.Calendar.plus(d.Calendar)
	for _, w := range d.Warnings {
		if len(r.Warnings) < maxWarnings && !slices.Contains(r.Warnings, w) {
			r.Warnings = append(slices.Clip(r.Warnings), w)
		}
	}
	return r
}

func (c Counts) plus(d Counts) Counts {
	return Counts{
		Created: c.Created + d.Created, Updated: c.Updated + d.Updated, Deleted: c.Deleted + d.Deleted,
		Pushed: c.Pushed + d.Pushed, Conflicts: c.Conflicts + d.Conflicts, Failed: c.Failed + d.Failed,
	}
}

// maxWarnings bounds what a job says; the counts go on.
const maxWarnings = 100

// JobError is why an attempt failed. Code is stable; Message is a sentence for people.
type JobError struct {
	Code      string `json:"code"`
	Message   string `json:"message"`
	Retryable bool   `json:"retryable"`
}

// Ask is what somebody wants of a sync.
type Ask struct {
	Type  string // tasks, calendar, or full, which an empty one is
	Mode  string // resync, or incremental, which an empty one is
	Force bool   // of a resync: delete here what Google lists no more, however much that is
}

// Request queues a sync. While one of the user's jobs is pending, that job takes the request on and coalesced is true. What keeps
// the user's Google from being synced at all is fault.Conflict.
func (s *Service) Request(ctx context.Context, meta events.Meta, userID string, ask Ask) (job Job, coalesced bool, err error) {
	ask.Type, ask.Mode = cmp.Or(ask.Type, events.SyncFull), cmp.Or(ask.Mode, events.SyncIncremental)
	if err := ask.check(); err != nil {
		return Job{}, false, err
	}
	a, err := s.account(ctx, s.ob.Pool(), userID)
	if err != nil {
		return Job{}, false, postgres.Fault(err)
	}
	if err := ready(a, scopesFor(ask.Type)...); err != nil {
		return Job{}, false, err
	}
	err = s.ob.Tx(ctx, func(tx pgx.Tx) error {
		job, coalesced, err = enqueue(ctx, tx, meta, userID, ask, events.TriggerUser)
		return err
	})
	return job, coalesced, err
}

func (a Ask) check() error {
	var wrong []fault.Field
	if a.Type != events.SyncTasks && a.Type != events.SyncCalendar && a.Type != events.SyncFull {
		wrong = append(wrong, fault.Field{Pointer: "/type", Detail: "must be tasks, calendar or full"})
	}
	if a.Mode != events.SyncIncremental && a.Mode != events.SyncResync {
		wrong = append(wrong, fault.Field{Pointer: "/mode", Detail: "must be incremental or resync"})
	}
	if a.Force && a.Mode != events.SyncResync {
		wrong = append(wrong, fault.Field{Pointer: "/force", Detail: "goes with mode resync only"})
	}
	return fault.Wrong(wrong...)
}

// scopesFor are the scopes of which a sync of that type needs at least one.
func scopesFor(typ string) []string {
	switch typ {
	case events.SyncTasks:
		return []string{scopeTasks}
	case events.SyncCalendar:
		return []string{scopeEvents}
	default:
		return []string{scopeTasks, scopeEvents}
	}
}

// enqueue inserts a pending job, or widens the one that is there. It ends: a pending job that vanishes between the two
// statements was claimed, and then the next insert finds room.
func enqueue(ctx context.Context, tx pgx.Tx, meta events.Meta, userID string, ask Ask, trigger string) (Job, bool, error) {
	for {
		row, err := insertJob(ctx, tx, meta, userID, ask, trigger)
		if !errors.Is(err, pgx.ErrNoRows) {
			return row.job(), false, err
		}
		row, err = widen(ctx, tx, meta, userID, ask, trigger)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		return row.job(), true, err
	}
}

// insertJob makes a pending job; pgx.ErrNoRows while the user has one.
func insertJob(ctx context.Context, tx pgx.Tx, meta events.Meta, userID string, ask Ask, trigger string) (jobRow, error) {
	wait := time.Duration(0)
	if trigger == events.TriggerWebhook {
		wait = notificationPause
	}
	row, err := one(ctx, tx, `
		INSERT INTO sync_jobs (id, user_id, type, mode, force, trigger, request_id, run_after, previous_start)
		VALUES ($1, $2, $3, $4, $5, $6, $7, now() + $8::interval, (SELECT max(started_at) FROM sync_jobs WHERE user_id = $2))
		ON CONFLICT (user_id) WHERE status = 'pending' DO NOTHING
		RETURNING `+jobColumns, events.NewID(), userID, ask.Type, ask.Mode, ask.Force, trigger, meta.RequestID, wait)
	if err != nil {
		return jobRow{}, err
	}
	return row, tellRequested(ctx, tx, meta, row, trigger)
}

// widen makes the user's pending job cover the request too. A resync covers an incremental sync of the same kinds, and a job that
// somebody waits for goes before one that was only due.
func widen(ctx context.Context, tx pgx.Tx, meta events.Meta, userID string, ask Ask, trigger string) (jobRow, error) {
	row, err := one(ctx, tx, `SELECT `+jobColumns+` FROM sync_jobs WHERE user_id = $1 AND status = 'pending' FOR UPDATE`, userID)
	if err != nil {
		return jobRow{}, err
	}
	if trigger == events.TriggerUser {
		_, err := tx.Exec(ctx, `
			UPDATE sync_jobs SET trigger = $2, run_after = CASE attempt WHEN 0 THEN created_at ELSE run_after END
			WHERE id = $1 AND trigger <> $2`, row.ID, trigger)
		if err != nil {
			return jobRow{}, fmt.Errorf("move sync job %s up: %w", row.ID, err)
		}
	}
	if row.Type != ask.Type {
		ask.Type = events.SyncFull
	}
	if row.Mode == events.SyncResync {
		ask.Mode = events.SyncResync
	}
	ask.Force = ask.Force || row.Force
	if row.Ask == ask {
		return row, nil
	}
	row, err = one(ctx, tx, `
		UPDATE sync_jobs SET type = $2, mode = $3, force = $4, version = version + 1 WHERE id = $1 RETURNING `+jobColumns,
		row.ID, ask.Type, ask.Mode, ask.Force)
	if err != nil {
		return jobRow{}, err
	}
	return row, tellRequested(ctx, tx, meta, row, trigger)
}

func tellRequested(ctx context.Context, tx pgx.Tx, meta events.Meta, row jobRow, trigger string) error {
	return outbox.Append(ctx, tx, events.New(meta, row.ID, events.SyncRequested{
		JobID: row.ID, UserID: row.UserID, Version: row.Version, Type: row.Type, Mode: row.Mode, Trigger: trigger,
	}))
}

// Job returns one of the user's jobs; fault.NotFound when it is none of theirs.
func (s *Service) Job(ctx context.Context, userID, jobID string) (Job, error) {
	if !validUUID(jobID) {
		return Job{}, fault.Missing("sync job")
	}
	row, err := one(ctx, s.ob.Pool(), `SELECT `+jobColumns+` FROM sync_jobs WHERE id = $1 AND user_id = $2`, jobID, userID)
	if errors.Is(err, pgx.ErrNoRows) {
		return Job{}, fault.Missing("sync job")
	}
	if err != nil {
		return Job{}, postgres.Fault(err)
	}
	return row.job(), nil
}

// JobsByID lists jobs of whatever user, for operators. Those that are no more are left out.
func JobsByID(ctx context.Context, q postgres.Querier, ids []string) ([]Job, error) {
	rows, err := q.Query(ctx, `SELECT `+jobColumns+` FROM sync_jobs WHERE id = ANY ($1::text[]::uuid[]) ORDER BY id`, ids)
	if err != nil {
		return nil, fmt.Errorf("query sync jobs: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[jobRow])
	if err != nil {
		return nil, fmt.Errorf("query sync jobs: %w", err)
	}
	jobs := make([]Job, len(list))
	for i, row := range list {
		jobs[i] = row.job()
	}
	return jobs, nil
}

// Cancel ends one of the user's jobs: a pending one at once, a running one at its next page. A job that has ended already
// is returned as it is.
func (s *Service) Cancel(ctx context.Context, meta events.Meta, userID, jobID string) (Job, error) {
	if !validUUID(jobID) {
		return Job{}, fault.Missing("sync job")
	}
	var job Job
	err := s.ob.Tx(ctx, func(tx pgx.Tx) error {
		row, err := one(ctx, tx, `SELECT `+jobColumns+` FROM sync_jobs WHERE id = $1 AND user_id = $2 FOR UPDATE`, jobID, userID)
		if errors.Is(err, pgx.ErrNoRows) {
			return fault.Missing("sync job")
		}
		if err != nil {
			return err
		}
		if !row.job().Ended() {
			if row, err = cancelRow(ctx, tx, meta, row); err != nil {
				return err
			}
		}
		job = row.job()
		return nil
	})
	return job, err
}

// cancelRow ends a job that nobody works on, and asks the one who works on it to end it.
func cancelRow(ctx context.Context, tx pgx.Tx, meta events.Meta, row jobRow) (jobRow, error) {
	if row.Status == StatusProcessing && row.Leased {
		return one(ctx, tx, `UPDATE sync_jobs SET cancel_requested = true WHERE id = $1 RETURNING `+jobColumns, row.ID)
	}
	row, err := one(ctx, tx, `
		UPDATE sync_jobs SET status = 'cancelled', version = version + 1, completed_at = now(), lease_expires_at = NULL
		WHERE id = $1 RETURNING `+jobColumns, row.ID)
	if err != nil {
		return jobRow{}, err
	}
	return row, tellCancelled(ctx, tx, meta, row)
}

func tellCancelled(ctx context.Context, tx pgx.Tx, meta events.Meta, row jobRow) error {
	return outbox.Append(ctx, tx, events.New(meta, row.ID, events.SyncCancelled{
		JobID: row.ID, UserID: row.UserID, Version: row.Version,
	}))
}

// cancelJobs ends all that the user has under way.
func cancelJobs(ctx context.Context, tx pgx.Tx, meta events.Meta, userID string) error {
	rows, err := tx.Query(ctx, `
		SELECT `+jobColumns+` FROM sync_jobs WHERE user_id = $1 AND status IN ('pending', 'processing') ORDER BY id FOR UPDATE`,
		userID)
	if err != nil {
		return fmt.Errorf("read sync jobs of user %s: %w", userID, err)
	}
	jobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[jobRow])
	if err != nil {
		return fmt.Errorf("read sync jobs of user %s: %w", userID, err)
	}
	for _, row := range jobs {
		if _, err := cancelRow(ctx, tx, meta, row); err != nil {
			return err
		}
	}
	return nil
}

// Status is a user's sync at a glance.
type Status struct {
	Enabled      bool       `json:"enabled"` // syncs run by themselves
	State        string     `json:"state"`
	LastSyncedAt *time.Time `json:"lastSyncedAt"`
	Scopes       []string   `json:"scopes"`
	TokenExpired bool       `json:"tokenExpired"` // only the user can renew it
	ActiveJobID  *string    `json:"activeJobId"`
}

// States of a user's sync, besides StateDisconnected and StateReauthRequired.
const (
	SyncPendingFirst = "pending_first_sync"
	SyncOK           = "ok"
	SyncSyncing      = "syncing"
	SyncStale        = "stale"
)

// staleAfter is how many intervals may pass without a sync.
const staleAfter = 3

// Status returns the state of the user's sync.
func (s *Service) Status(ctx context.Context, userID string) (Status, error) {
	a, err := s.account(ctx, s.ob.Pool(), userID)
	if err != nil {
		return Status{}, postgres.Fault(err)
	}
	settings, _, err := s.settings(ctx, userID)
	if err != nil {
		return Status{}, err
	}
	st := Status{Scopes: a.Scopes, TokenExpired: a.State == StateReauthRequired}
	var lastFailed bool
	err = s.ob.Pool().QueryRow(ctx, `
		SELECT (SELECT id::text FROM sync_jobs WHERE user_id = $1 AND status IN ('pending', 'processing')
		        ORDER BY status DESC LIMIT 1),
		       (SELECT completed_at FROM sync_jobs WHERE user_id = $1 AND status = 'completed'
		        ORDER BY created_at DESC LIMIT 1),
		       coalesce((SELECT status = 'failed' FROM sync_jobs WHERE user_id = $1 AND completed_at IS NOT NULL
		                 ORDER BY created_at DESC LIMIT 1), false)`, userID).
		Scan(&st.ActiveJobID, &st.LastSyncedAt, &lastFailed)
	if err != nil {
		return Status{}, postgres.Fault(fmt.Errorf("read sync status of user %s: %w", userID, err))
	}
	if st.LastSyncedAt != nil {
		*st.LastSyncedAt = st.LastSyncedAt.UTC()
	}
	due := time.Duration(settings.IntervalMinutes) * time.Minute * staleAfter
	switch {
	case a.State != StateConnected:
		st.State = a.State
	case st.ActiveJobID != nil:
		st.State = SyncSyncing
	case st.LastSyncedAt == nil:
		st.State = SyncPendingFirst
	case lastFailed, settings.AutoSync && time.Since(*st.LastSyncedAt) > due:
		st.State = SyncStale
	default:
		st.State = SyncOK
	}
	st.Enabled = a.State == StateConnected && settings.AutoSync
	return st, nil
}

// jobRow is a job as the table has it.
type jobRow struct {
	ID     string
	UserID string
	Ask
	Status      string
	Version     int64
	Attempt     int
	Leased      bool
	RequestID   string
	Progress    *Progress
	Result      *Result
	Error       *JobError
	CreatedAt   time.Time
	StartedAt   *time.Time
	CompletedAt *time.Time
}

const jobColumns = `id::text, user_id::text, type, mode, force, status, version, attempt, lease_token IS NOT NULL, request_id,
	progress, result, error, created_at, started_at, completed_at`

func (r jobRow) job() Job {
	j := Job{
		ID: r.ID, Type: r.Type, Mode: r.Mode, Status: r.Status, CreatedAt: r.CreatedAt.UTC(), StartedAt: utc(r.StartedAt),
		CompletedAt: utc(r.CompletedAt), Attempt: r.Attempt, Progress: r.Progress, Error: r.Error,
	}
	if r.Result != nil {
		result := *r.Result
		result.Warnings = append([]string{}, result.Warnings...) // an empty list, not null
		j.Result = &result
	}
	return j
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

// one reads exactly one job; pgx.ErrNoRows is in the chain when there is none.
func one(ctx context.Context, q postgres.Querier, sql string, args ...any) (jobRow, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return jobRow{}, fmt.Errorf("query sync job: %w", err)
	}
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[jobRow])
	if err != nil {
		return jobRow{}, fmt.Errorf("query sync job: %w", err)
	}
	return row, nil
}

func validUUID(s string) bool {
	_, err := uuid.Parse(s)
	return err == nil && len(s) == 36
}
