package gsync

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
)

// run is one attempt at a job. It is used by one goroutine.
type run struct {
	*client
	job      claimed
	meta     events.Meta
	account  account
	settings Settings
	result   Result // what is committed, of this and earlier attempts
	earlier  int64  // requests of earlier attempts
	warnings []string
	inside   bool   // the step under way acts for a member of the workspace, see asMember
	guarded  string // why a sweep was not carried out, for people; empty: none was held back
	told     told
}

// step is a part of a run, up to but not including its last transaction. That is finish, so that the last of all steps
// can share it with the job's completion. A nil finish has nothing to write.
type step func(ctx context.Context) (finish, error)

type finish func(ctx context.Context, tx pgx.Tx, d *Result) error

// attempt runs the job. It returns nil when the job is completed, and errGuarded when it has ended in questions.
func (s *Service) attempt(ctx context.Context, c claimed) error {
	r, err := s.begin(ctx, c)
	if err != nil {
		return err
	}
	steps, err := r.plan(ctx)
	if err != nil {
		return err
	}
	var last finish
	for _, step := range steps {
		if last != nil {
			if err := r.tx(ctx, last); err != nil {
				return err
			}
		}
		if last, err = step(ctx); err != nil {
			return err
		}
	}
	return r.complete(ctx, last)
}

var errTooOften = errors.New("the job ended without an answer too often")

func (s *Service) begin(ctx context.Context, c claimed) (*run, error) {
	if c.Attempt > maxAttempts {
		return nil, errTooOften
	}
	google, err := s.google(ctx, c.UserID)
	if err != nil {
		return nil, err
	}
	r := &run{client: google, job: c, meta: s.background(c.UserID, c.RequestID)}
	if c.Result != nil {
		r.result, r.earlier = *c.Result, c.Result.APICalls
	}
	// The token comes first: a refresh may tell that the user has granted less than before.
	if err := r.authorizePatiently(ctx); err != nil {
		return nil, err
	}
	if r.account, err = s.account(ctx, s.ob.Pool(), c.UserID); err != nil {
		return nil, err
	}
	if err := ready(r.account, scopesFor(c.Type)...); err != nil {
		return nil, err
	}
	return r, r.tx(ctx, nil)
}

// authorizePatiently obtains a token as call would.
func (c *client) authorizePatiently(ctx context.Context) error {
	_, err := call(ctx, c, idempotent, func() (struct{}, error) { return struct{}{}, nil })
	return err
}

// plan decides what the job does.
func (r *run) plan(ctx context.Context) ([]step, error) {
	var stored bool
	var err error
	if r.settings, stored, err = r.s.settings(ctx, r.userID); err != nil {
		return nil, err
	}
	var steps []step
	member, err := r.isMember(ctx)
	if err != nil {
		return nil, err
	}
	if !member {
		r.warn(warnNotMember)
	}
	if r.covers(events.SyncTasks) {
		switch {
		case !granted(r.account.Scopes, scopeTasks):
			r.warn("Tasks were left out: FDC has no access to Google Tasks.")
		case member:
			for _, s := range r.taskSteps() {
				steps = append(steps, r.asMember(s))
			}
		}
	}
	if r.covers(events.SyncCalendar) {
		if !granted(r.account.Scopes, scopeEvents) {
			r.warn("Calendars were left out: FDC has no access to Google Calendar.")
			return steps, nil
		}
		if member {
			steps = append(steps, r.asMember(r.pushEvents))
		}
		pulls, err := r.calendarSteps(ctx, stored)
		if err != nil {
			return nil, err
		}
		steps = append(steps, pulls...)
	}
	return steps, nil
}

func (r *run) covers(kind string) bool { return r.job.Type == kind || r.job.Type == events.SyncFull }

// isMember reports whether the chosen workspace is still one of the user's.
func (r *run) isMember(ctx context.Context) (bool, error) {
	if r.settings.WorkspaceID == "" {
		return false, nil
	}
	_, err := r.s.members.Role(ctx, r.s.ob.Pool(), r.userID, r.settings.WorkspaceID)
	if fault.KindOf(err) == fault.NotFound {
		return false, nil
	}
	return err == nil, err
}

// warnNotMember is for a user who isn't a member of the chosen workspace, or no longer.
const warnNotMember = "Tasks were left out: the chosen workspace is not one of yours."

var errNotMember = errors.New("the user is no longer a member of the workspace")

// asMember makes every transaction of a step check that its user is still a member of the workspace. When the membership ends
// meanwhile, so does the step, with a warning; what it has committed before stays.
func (r *run) asMember(s step) step {
	return func(ctx context.Context) (finish, error) {
		r.inside = true
		last, err := s(ctx)
		r.inside = false
		if errors.Is(err, errNotMember) {
			r.warn(warnNotMember)
			return nil, nil
		}
		if err != nil || last == nil {
			return last, err
		}
		return func(ctx context.Context, tx pgx.Tx, d *Result) error {
			err := r.lockMembership(ctx, tx)
			if errors.Is(err, errNotMember) {
				d.Warnings = append(d.Warnings, warnNotMember)
				return nil
			}
			if err != nil {
				return err
			}
			return last(ctx, tx, d)
		}, nil
	}
}

// lockMembership keeps the membership from ending before the transaction does; errNotMember when it has ended.
func (r *run) lockMembership(ctx context.Context, tx pgx.Tx) error {
	var found bool
	err := tx.QueryRow(ctx, `SELECT true FROM workspace_members WHERE workspace_id = $1 AND user_id = $2 FOR KEY SHARE`,
		r.settings.WorkspaceID, r.userID).Scan(&found)
	if errors.Is(err, pgx.ErrNoRows) {
		return errNotMember
	}
	if err != nil {
		return fmt.Errorf("lock membership of user %s: %w", r.userID, err)
	}
	return nil
}

// warn adds a sentence for people to the result, with the next transaction.
func (r *run) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

// tx runs fn in a transaction that commits only while this process holds the job. What fn counts is added to the job's
// result in the same transaction: a crash neither loses counts nor adds them twice.
func (r *run) tx(ctx context.Context, fn finish) error {
	var sum Result
	err := r.s.ob.Tx(ctx, func(tx pgx.Tx) error {
		var err error
		if sum, err = r.fenced(ctx, tx, fn); err != nil {
			return err
		}
		if sum.Tasks == r.result.Tasks && sum.Calendar == r.result.Calendar && len(sum.Warnings) == len(r.result.Warnings) {
			return nil
		}
		if _, err := tx.Exec(ctx, `UPDATE sync_jobs SET result = $2 WHERE id = $1`, r.job.ID, sum); err != nil {
			return fmt.Errorf("save result of job %s: %w", r.job.ID, err)
		}
		return nil
	})
	if err == nil {
		r.result, r.warnings = sum, nil
	}
	return err
}

// fenced locks the job's row, so that nobody takes over before the commit, runs fn, and returns what the job has done with it.
func (r *run) fenced(ctx context.Context, tx pgx.Tx, fn finish) (Result, error) {
	var cancelled bool
	err := tx.QueryRow(ctx, `
		SELECT cancel_requested OR EXISTS (SELECT 1 FROM users WHERE id = user_id AND disabled_at IS NOT NULL)
		FROM sync_jobs WHERE id = $1 AND lease_token = $2 AND status = 'processing' FOR NO KEY UPDATE`,
		r.job.ID, r.job.lease).Scan(&cancelled)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Result{}, errLeaseLost
	case err != nil:
		return Result{}, fmt.Errorf("lock job %s: %w", r.job.ID, err)
	case cancelled:
		return Result{}, errCancelled
	}
	if r.inside {
		if err := r.lockMembership(ctx, tx); err != nil {
			return Result{}, err
		}
	}
	d := Result{Warnings: r.warnings}
	if fn != nil {
		if err := fn(ctx, tx, &d); err != nil {
			return Result{}, err
		}
	}
	sum := r.result.plus(d)
	sum.APICalls = r.earlier + r.calls.Load()
	return sum, nil
}

// errGuarded ends a job that did all it could but a sweep, about which its user is asked. That is on record already.
var errGuarded = errors.New("a sweep was held back")

// sweeps decides about what a full read has not seen, of all that is stored. A list that is missing so much of so many has more
// likely gone wrong than told of deletions: then nothing is swept, the next read is no delta of this one, and the user is asked.
func (r *run) sweeps(what string, unseen, all int64) bool {
	if r.job.Force || all <= guardItems || unseen*guardShare <= all {
		return true
	}
	r.guarded = fmt.Sprintf("Google lists %d of %d %s no more. None was deleted here; if that is right, "+
		"ask for a sync with mode resync and force.", unseen, all, what)
	return false
}

// More than half of more than so many items is too much for a sweep without a question.
const guardItems, guardShare = 20, 2

// complete runs the last step's transaction and ends the job in it.
func (r *run) complete(ctx context.Context, last finish) error {
	err := r.s.ob.Tx(ctx, func(tx pgx.Tx) error {
		sum, err := r.fenced(ctx, tx, last)
		if err != nil {
			return err
		}
		if sum.Warnings == nil {
			sum.Warnings = []string{}
		}
		if r.guarded != "" {
			return r.s.failTx(ctx, tx, r.job, &sum, JobError{Code: codeSweepGuard, Message: r.guarded})
		}
		row, err := r.s.end(ctx, tx, r.job, StatusCompleted, &sum, nil)
		if err != nil {
			return err
		}
		return outbox.Append(ctx, tx, events.New(r.meta, r.job.ID, events.SyncCompleted{
			JobID: row.ID, UserID: row.UserID, Version: row.Version, Type: row.Type, Mode: row.Mode,
			Tasks: events.SyncCounts(sum.Tasks), Calendar: events.SyncCounts(sum.Calendar), APICalls: sum.APICalls,
			Warnings: int64(len(sum.Warnings)),
		}))
	})
	if err != nil {
		return fmt.Errorf("complete job %s: %w", r.job.ID, err)
	}
	if r.guarded != "" {
		return errGuarded
	}
	return nil
}

// Phases of a run, for its progress.
const (
	phaseTasks    = "tasks"
	phaseCalendar = "calendar"
	phasePush     = "push"
)

// told is when the progress was last told and stored.
type told struct {
	live, stored time.Time
	phase        string
}

// Bounds on how often progress is told.
const (
	liveEvery  = 200 * time.Millisecond
	storeEvery = time.Second
)

// progress tells how far a phase is. It is worth nothing a moment later, so what fails is forgotten.
func (r *run) progress(ctx context.Context, phase string, done, total int64) {
	now := time.Now()
	if r.s.nc != nil && (phase != r.told.phase || now.Sub(r.told.live) >= liveEvery) {
		ev := events.New(r.meta, r.job.ID, events.SyncProgress{JobID: r.job.ID, UserID: r.userID, Phase: phase, Done: done, Total: total})
		body, err := events.Encode(ev)
		if err == nil {
			err = r.s.nc.Publish(ev.NATSSubject(), body)
		}
		if err != nil {
			r.s.log.Debug().Err(err).Str("job_id", r.job.ID).Msg("progress not told")
		}
		r.told.live, r.told.phase = now, phase
	}
	if r.told.stored.IsZero() {
		r.told.stored = now // a job that is done within the second needs no row about its way
	}
	if now.Sub(r.told.stored) >= storeEvery {
		_, err := r.s.ob.Pool().Exec(ctx, `UPDATE sync_jobs SET progress = $3 WHERE id = $1 AND lease_token = $2`,
			r.job.ID, r.job.lease, Progress{Phase: phase, Done: done, Total: total})
		if err != nil {
			r.s.log.Debug().Err(err).Str("job_id", r.job.ID).Msg("progress not stored")
		}
		r.told.stored = now
	}
}

// Codes of a failed job, beside those that name what the user must do.
const (
	codeReauth      = "reauth_required"
	codeRateLimited = "rate_limited"
	codeUnavailable = "google_unavailable"
	codeTimeout     = "timeout"
	codeSweepGuard  = "sweep_guard"
	codeInternal    = "internal"
)

// explain says what a failed attempt means to its user, and when to try again.
func explain(err error, attempt int, backoff time.Duration) (why JobError, after time.Duration) {
	// Slower than the repetitions within an attempt, which have just been used up.
	ceiling := min(backoff*4<<min(attempt-1, 8), 2*time.Minute)
	after = ceiling/2 + rand.N(ceiling/2) //nolint:gosec // jitter is no secret
	f, ok := errors.AsType[*failure](err)
	if !ok {
		if ours, ok := errors.AsType[*fault.Error](err); ok && ours.Kind == fault.Conflict {
			return JobError{Code: codeReauth, Message: ours.Detail}, 0
		}
		return JobError{Code: codeInternal, Message: "Something went wrong on our side.", Retryable: true}, after
	}
	after = max(after, f.retryAfter)
	switch f.class {
	case classRate:
		return JobError{Code: codeRateLimited, Message: "Google asks for a pause.", Retryable: true}, after
	case classQuota:
		return JobError{Code: codeRateLimited, Message: "Google's quota for today is used up.", Retryable: true}, max(after, time.Hour)
	case classTransient:
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			return JobError{Code: codeTimeout, Message: "Google took too long to answer.", Retryable: true}, after
		}
		return JobError{Code: codeUnavailable, Message: "Google can't be reached or doesn't answer properly.", Retryable: true}, after
	case classScope:
		return JobError{Code: codeReauth, Message: "Google says that FDC has no access to this; connect again and allow it."}, 0
	default:
		return JobError{Code: codeInternal, Message: "Google refused a request that FDC can't do without."}, 0
	}
}
