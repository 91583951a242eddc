package gsync

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/worker"
)

// RunnerConfig says how a Runner works. Zero values stand for the defaults.
type RunnerConfig struct {
	Slots     int           // jobs running at the same time in this process; 8
	Lease     time.Duration // how long a job stays with a process that says nothing; 20 s
	Heartbeat time.Duration // how often it says something; a quarter of the lease
	Poll      time.Duration // how often the queue is looked at without a wake-up; 1 s
	Grace     time.Duration // what running jobs get to finish when the process stops; 10 s
}

func (c RunnerConfig) withDefaults() RunnerConfig {
	set := func(v *time.Duration, otherwise time.Duration) {
		if *v == 0 {
			*v = otherwise
		}
	}
	if c.Slots == 0 {
		c.Slots = 8
	}
	set(&c.Lease, 20*time.Second)
	set(&c.Heartbeat, c.Lease/4)
	set(&c.Poll, time.Second)
	set(&c.Grace, 10*time.Second)
	return c
}

// Runner claims jobs and runs them. Any number of runners share the queue, in one process or many.
type Runner struct {
	s    *Service
	cfg  RunnerConfig
	wake chan struct{}
}

// NewRunner returns a Runner; Run starts it.
func NewRunner(s *Service, cfg RunnerConfig) *Runner {
	return &Runner{s: s, cfg: cfg.withDefaults(), wake: make(chan struct{}, 1)}
}

// Wake makes the runner look at the queue now. It never blocks.
func (r *Runner) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Handle is the handler of sync.requested. The job is in Postgres, so that there is nothing to lose and nothing to repeat.
func (r *Runner) Handle(context.Context, *worker.Delivery) error {
	r.Wake()
	return nil
}

// Why a run ends early.
var (
	errStopping  = errors.New("the process is stopping")
	errLeaseLost = errors.New("the lease of the job is lost")
	errCancelled = errors.New("the job was cancelled")
)

// Run claims and runs jobs until ctx ends. Then it claims no more, lets the running ones finish for the time of grace,
// and gives the rest back to the queue. It outlives every failure of Postgres and Google, and returns nil.
func (r *Runner) Run(ctx context.Context) error {
	// Runs outlive ctx by the time of grace.
	runs, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var running sync.WaitGroup
	slots := make(chan struct{}, r.cfg.Slots)
	ticker := time.NewTicker(r.cfg.Poll)
	defer ticker.Stop()
	for ctx.Err() == nil {
		claimed, err := r.s.claim(ctx, r.cfg.Slots-len(slots), r.cfg.Lease, "")
		if err != nil && ctx.Err() == nil {
			r.s.log.Warn().Err(err).Msg("could not claim sync jobs")
		}
		for _, c := range claimed {
			slots <- struct{}{}
			running.Go(func() {
				r.s.runClaimed(runs, c, r.cfg)
				<-slots
				r.Wake() // a slot is free, and a request that came meanwhile may now start
			})
		}
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-ticker.C:
		}
	}
	done := make(chan struct{})
	go func() { running.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(r.cfg.Grace):
		stop(errStopping)
		<-done
	}
	return nil
}

// RunNow queues a sync and runs it here, or waits for the process that has taken it, until the job has ended; one of the same user whose
// process has gone silent comes first. When ctx ends first the job goes on elsewhere.
func (s *Service) RunNow(ctx context.Context, meta events.Meta, userID string, ask Ask) (Job, error) {
	job, _, err := s.Request(ctx, meta, userID, ask)
	if err != nil {
		return Job{}, err
	}
	cfg := RunnerConfig{}.withDefaults()
	for {
		claimed, err := s.claim(ctx, 1, cfg.Lease, userID)
		if err != nil {
			return Job{}, postgres.Fault(err)
		}
		for _, c := range claimed {
			s.runClaimed(ctx, c, cfg)
		}
		if job, err = s.Job(ctx, userID, job.ID); err != nil || job.Ended() {
			return job, err
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return Job{}, err
		}
	}
}

// maxAttempts is how often a job may begin before it fails for good.
const maxAttempts = 8

// claimed is a job with the lease under which this process runs it.
type claimed struct {
	jobRow
	lease   string
	expires time.Time // by this process's clock, and no later than the lease does
}

// claim takes up to so many jobs: first those whose process has gone silent, then pending ones that somebody waits for, then those
// that were due; of each kind the one whose user has waited longest since the last start. onlyUser, when not empty, is
// whose jobs count.
func (s *Service) claim(ctx context.Context, most int, lease time.Duration, onlyUser string) ([]claimed, error) {
	if most <= 0 {
		return nil, nil
	}
	var jobs []claimed
	token, asked := uuid.NewString(), time.Now()
	err := s.ob.Tx(ctx, func(tx pgx.Tx) error {
		jobs = nil
		ids, err := claimable(ctx, tx, most, onlyUser)
		if err != nil || len(ids) == 0 {
			return err
		}
		rows, err := tx.Query(ctx, `
			UPDATE sync_jobs SET status = 'processing', version = version + 1, attempt = attempt + 1, previous_start = started_at,
				started_at = clock_timestamp(), lease_token = $2, lease_expires_at = clock_timestamp() + $3::interval
			WHERE id = ANY ($1::text[]::uuid[]) RETURNING `+jobColumns, ids, token, lease)
		if err != nil {
			return fmt.Errorf("lease sync jobs: %w", err)
		}
		taken, err := pgx.CollectRows(rows, pgx.RowToStructByPos[jobRow])
		if err != nil {
			return fmt.Errorf("lease sync jobs: %w", err)
		}
		for _, row := range taken {
			err := outbox.Append(ctx, tx, events.New(s.background(row.UserID, row.RequestID), row.ID, events.SyncStarted{
				JobID: row.ID, UserID: row.UserID, Version: row.Version, Type: row.Type, Mode: row.Mode, Attempt: int64(row.Attempt),
			}))
			if err != nil {
				return err
			}
			jobs = append(jobs, claimed{jobRow: row, lease: token, expires: asked.Add(lease)})
		}
		return nil
	})
	if postgres.IsState(err, postgres.UniqueViolation) {
		return nil, nil // another runner was faster with a job of the same user
	}
	if err != nil {
		return nil, err
	}
	return jobs, nil
}

// claimable locks the jobs to take. Their order is that of an index, as long as it names columns: a bare id would be the text. A queue
// has no size that statistics could know, so the planner has to be told that sorting all of it for a few is no good idea.
func claimable(ctx context.Context, q postgres.Querier, most int, onlyUser string) ([]string, error) {
	if _, err := q.Exec(ctx, `SET LOCAL enable_sort = off`); err != nil {
		return nil, fmt.Errorf("find sync jobs: %w", err)
	}
	var only *string
	if onlyUser != "" {
		only = &onlyUser
	}
	var ids []string
	for _, sql := range []string{
		`
		SELECT id::text FROM sync_jobs
		WHERE status = 'processing' AND lease_expires_at < clock_timestamp() AND ($2::uuid IS NULL OR user_id = $2)
		ORDER BY lease_expires_at LIMIT $1 FOR UPDATE SKIP LOCKED`, `
		SELECT id::text FROM sync_jobs j
		WHERE status = 'pending' AND run_after <= clock_timestamp() AND ($2::uuid IS NULL OR user_id = $2)
			AND NOT EXISTS (SELECT 1 FROM sync_jobs p WHERE p.user_id = j.user_id AND p.status = 'processing')
			AND EXISTS (SELECT 1 FROM users u WHERE u.id = j.user_id AND u.disabled_at IS NULL)
		ORDER BY j.trigger <> 'user', j.previous_start NULLS FIRST, j.id LIMIT $1 FOR UPDATE OF j SKIP LOCKED`,
	} {
		rows, err := q.Query(ctx, sql, most-len(ids), only)
		if err != nil {
			return nil, fmt.Errorf("find sync jobs: %w", err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, fmt.Errorf("find sync jobs: %w", err)
		}
		if ids = append(ids, found...); len(ids) == most {
			break
		}
	}
	return ids, nil
}

// runClaimed runs a job to its end, or to the end of this attempt, and writes down which.
func (s *Service) runClaimed(ctx context.Context, c claimed, cfg RunnerConfig) {
	start := time.Now()
	s.metrics.running.Inc()
	defer s.metrics.running.Dec()

	runCtx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var beat sync.WaitGroup
	beat.Go(func() { s.keepLease(runCtx, end, c, cfg) })
	err := s.guarded(runCtx, c)
	if cause := context.Cause(runCtx); cause != nil && err != nil {
		if err = cause; ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", errStopping, cause)
		}
	}
	// The lease is kept until the outcome is written.
	outcome := s.settle(context.WithoutCancel(ctx), c, err)
	end(nil)
	beat.Wait()

	s.metrics.jobs.WithLabelValues(outcome).Inc()
	s.metrics.seconds.Observe(time.Since(start).Seconds())
	s.log.Info().Err(err).Str("job_id", c.ID).Str("user_id", c.UserID).Str("request_id", c.RequestID).Int("attempt", c.Attempt).
		Str("outcome", outcome).Dur("duration", time.Since(start)).Msg("sync attempt ended")
}

// guarded turns a panic into an error: one user's data must not take the process down, and all users' syncs with it.
func (s *Service) guarded(ctx context.Context, c claimed) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Str("job_id", c.ID).Msg("sync panicked")
			err = fmt.Errorf("sync panicked: %v", p)
		}
	}()
	return s.attempt(ctx, c)
}

// keepLease renews the lease until ctx ends. It ends the run when the lease is lost or its job's user wants it cancelled,
// and when nothing could renew the lease: a quarter of it before its end, so that a request on its way to Google has
// arrived by the time another process looks.
func (s *Service) keepLease(ctx context.Context, end context.CancelCauseFunc, c claimed, cfg RunnerConfig) {
	margin := cfg.Lease / 4
	ticker := time.NewTicker(cfg.Heartbeat)
	defer ticker.Stop()
	deadline := time.NewTimer(time.Until(c.expires.Add(-margin)))
	defer deadline.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-deadline.C:
			end(errLeaseLost)
			return
		case <-ticker.C:
		}
		asked := time.Now()
		beatCtx, cancel := context.WithTimeout(ctx, cfg.Heartbeat)
		cancelled, err := s.renewLease(beatCtx, c, cfg.Lease)
		cancel()
		switch {
		case errors.Is(err, errLeaseLost):
			end(errLeaseLost)
			return
		case err == nil && cancelled:
			end(errCancelled)
			return
		case err == nil:
			deadline.Reset(time.Until(asked.Add(cfg.Lease - margin)))
		case ctx.Err() == nil:
			s.log.Warn().Err(err).Str("job_id", c.ID).Msg("could not renew the lease of a sync job")
		}
	}
}

func (s *Service) renewLease(ctx context.Context, c claimed, lease time.Duration) (cancelled bool, err error) {
	err = s.ob.Pool().QueryRow(ctx, `
		UPDATE sync_jobs SET lease_expires_at = clock_timestamp() + $3::interval
		WHERE id = $1 AND lease_token = $2 AND status = 'processing' RETURNING cancel_requested`, c.ID, c.lease, lease).Scan(&cancelled)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, errLeaseLost
	}
	if err != nil {
		return false, fmt.Errorf("renew lease of job %s: %w", c.ID, err)
	}
	return cancelled, nil
}

// settleTimeout bounds the last words on an attempt; without them the lease runs out.
const settleTimeout = 10 * time.Second

// settle writes down how an attempt ended, unless it was completed, which has been written already.
func (s *Service) settle(ctx context.Context, c claimed, err error) (outcome string) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	switch {
	case err == nil:
		return "completed"
	case errors.Is(err, errGuarded):
		return "failed"
	case errors.Is(err, errLeaseLost):
		return "lost"
	case s.isCancelled(ctx, c):
		err = errCancelled // whatever else went wrong on the way
	}
	f, google := errors.AsType[*failure](err)
	switch {
	case errors.Is(err, errQuota):
		outcome, err = "released", s.release(ctx, c, f.retryAfter, nil)
	case errors.Is(err, errCancelled):
		outcome, err = "cancelled", s.endCancelled(ctx, c)
	case errors.Is(err, errStopping):
		outcome, err = "released", s.release(ctx, c, 0, nil)
	case !google && (fault.KindOf(err) == fault.Unavailable || postgres.Unreachable(err)) && postgres.Ping(ctx, s.ob.Pool()) != nil:
		outcome, err = "released", s.release(ctx, c, time.Second, nil)
	default:
		why, after := explain(err, c.Attempt, s.backoff)
		if why.Retryable && c.Attempt < maxAttempts {
			outcome, err = "retried", s.release(ctx, c, after, &why)
		} else {
			outcome, err = "failed", s.fail(ctx, c, why)
		}
	}
	if err != nil && !errors.Is(err, errLeaseLost) {
		s.log.Error().Err(err).Str("job_id", c.ID).Msg("could not write down how a sync attempt ended; its lease runs out")
	}
	return outcome
}

// isCancelled reports whether the job's user wants it cancelled; not when nobody can say.
func (s *Service) isCancelled(ctx context.Context, c claimed) bool {
	var cancelled bool
	err := s.ob.Pool().QueryRow(ctx, `SELECT cancel_requested FROM sync_jobs WHERE id = $1`, c.ID).Scan(&cancelled)
	return err == nil && cancelled
}

// release gives the job back to the queue, to start not before the pause is over. When another of the user's jobs is
// pending by now, this one keeps its place as the processing one, with nobody working on it. An attempt that was only
// interrupted, for which there is no why, doesn't count.
func (s *Service) release(ctx context.Context, c claimed, after time.Duration, why *JobError) error {
	failed := 0
	if why != nil {
		failed = 1
	}
	give := func() error {
		return s.ob.Tx(ctx, func(tx pgx.Tx) error {
			var version int64
			var notBefore time.Time
			err := tx.QueryRow(ctx, `
				UPDATE sync_jobs j SET lease_token = NULL, attempt = attempt - 1 + $5, version = version + $5, error = coalesce($4, error),
					previous_start = started_at, run_after = clock_timestamp() + $3::interval,
					status = CASE WHEN p.taken THEN 'processing' ELSE 'pending' END,
					lease_expires_at = CASE WHEN p.taken THEN clock_timestamp() + $3::interval END
				FROM (SELECT EXISTS (SELECT 1 FROM sync_jobs WHERE user_id = $6 AND status = 'pending') AS taken) p
				WHERE j.id = $1 AND j.lease_token = $2 AND j.status = 'processing' RETURNING j.version, j.run_after`,
				c.ID, c.lease, after, why, failed, c.UserID).Scan(&version, &notBefore)
			switch {
			case errors.Is(err, pgx.ErrNoRows):
				return errLeaseLost
			case err != nil:
				return fmt.Errorf("release job %s: %w", c.ID, err)
			case why == nil:
				return nil
			}
			return outbox.Append(ctx, tx, events.New(s.background(c.UserID, c.RequestID), c.ID, events.SyncRetried{
				JobID: c.ID, UserID: c.UserID, Version: version, Type: c.Type, Mode: c.Mode, Attempt: int64(c.Attempt), Code: why.Code,
				NotBefore: notBefore.UTC(),
			}))
		})
	}
	err := give()
	if postgres.IsState(err, postgres.UniqueViolation) {
		err = give() // a request came in between; now it is seen
	}
	return err
}

func (s *Service) endCancelled(ctx context.Context, c claimed) error {
	return s.ob.Tx(ctx, func(tx pgx.Tx) error {
		row, err := s.end(ctx, tx, c, StatusCancelled, nil, nil)
		if err != nil {
			return err
		}
		return tellCancelled(ctx, tx, s.background(c.UserID, c.RequestID), row)
	})
}

func (s *Service) fail(ctx context.Context, c claimed, why JobError) error {
	return s.ob.Tx(ctx, func(tx pgx.Tx) error { return s.failTx(ctx, tx, c, nil, why) })
}

func (s *Service) failTx(ctx context.Context, tx pgx.Tx, c claimed, result *Result, why JobError) error {
	row, err := s.end(ctx, tx, c, StatusFailed, result, &why)
	if err != nil {
		return err
	}
	return outbox.Append(ctx, tx, events.New(s.background(c.UserID, c.RequestID), c.ID, events.SyncFailed{
		JobID: c.ID, UserID: c.UserID, Version: row.Version, Type: c.Type, Mode: c.Mode, Attempt: int64(row.Attempt),
		Code: why.Code, Retryable: why.Retryable,
	}))
}

// end makes the status the job's last, with the result, or what is known of it. What an attempt failed of is forgotten by a job that
// has been completed.
func (s *Service) end(ctx context.Context, tx pgx.Tx, c claimed, status string, result *Result, why *JobError) (jobRow, error) {
	row, err := one(ctx, tx, `
		UPDATE sync_jobs SET status = $3, version = version + 1, completed_at = clock_timestamp(), lease_token = NULL,
			lease_expires_at = NULL, result = coalesce($4, result),
			error = CASE WHEN $3 = 'completed' THEN NULL ELSE coalesce($5, error) END
		WHERE id = $1 AND lease_token = $2 AND status = 'processing' RETURNING `+jobColumns, c.ID, c.lease, status, result, why)
	if errors.Is(err, pgx.ErrNoRows) {
		return jobRow{}, errLeaseLost
	}
	if err != nil {
		return jobRow{}, err
	}
	_, err = schedule(ctx, tx, c.UserID, later)
	return row, err
}
