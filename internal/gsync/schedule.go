package gsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/events"
)

// Bounds of what runs by itself.
const (
	// scheduleEvery is how often the scheduler looks for users who are due.
	scheduleEvery = time.Second
	// maxScheduled is how many jobs that nobody waits for may be pending at a time. Whoever is due beyond that stays so: after an
	// outage the queue is as short as ever, and who asks finds a place near its front.
	maxScheduled = 32
	// keepJobs is how long a job stays on record after its end; the audit log has its history. The newest of each user stays.
	keepJobs = 3 * 24 * time.Hour
	// keepTombstones is how long a deleted task stays at least; longer while a link to Google hasn't heard of it.
	keepTombstones = 30 * 24 * time.Hour
	// pruneEvery is the pause between two passes over what has ended long ago.
	pruneEvery = time.Hour
	// pruneBatch is how many rows a pass looks at each second: it keeps a transaction short.
	pruneBatch = 1000
)

// Scheduler makes jobs of users who want to be synced by themselves, each some time after the end of the one before. Any number
// of schedulers work side by side. When users are due is in Postgres, so there is nothing to derive anew when one starts, and
// nothing that could differ from it: a schedule changes in the transaction that changes what it comes from.
type Scheduler struct {
	s      *Service
	prunes []*prune
}

// NewScheduler returns a Scheduler; Run starts it.
func NewScheduler(s *Service) *Scheduler {
	return &Scheduler{s, []*prune{pruneJobs(), pruneTombstones()}}
}

// Run makes jobs until ctx ends, and then returns nil. It outlives every failure of Postgres.
func (c *Scheduler) Run(ctx context.Context) error {
	ticker := time.NewTicker(scheduleEvery)
	defer ticker.Stop()
	for {
		_, err := c.s.makeDue(ctx)
		if err != nil && ctx.Err() == nil {
			c.s.log.Warn().Err(err).Msg("users who are due for a sync not looked for")
		}
		for _, p := range c.prunes {
			if _, err := p.step(ctx, c.s.ob.Pool(), time.Now()); err != nil && ctx.Err() == nil {
				c.s.log.Warn().Err(err).Msg("what has ended long ago not removed")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// makeDue makes a job of each user who is due, as far as there is room, and returns how many.
func (s *Service) makeDue(ctx context.Context) (made int, err error) {
	err = s.ob.Tx(ctx, func(tx pgx.Tx) error {
		made = 0
		rows, err := tx.Query(ctx, `
			SELECT user_id::text FROM sync_schedules WHERE next_at <= clock_timestamp()
			ORDER BY next_at LIMIT greatest(0, $1 - (
				SELECT count(*) FROM sync_jobs WHERE status = 'pending' AND trigger <> 'user'))
			FOR UPDATE SKIP LOCKED`, maxScheduled)
		if err != nil {
			return fmt.Errorf("find users who are due: %w", err)
		}
		due, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("find users who are due: %w", err)
		}
		for _, userID := range due {
			wanted, err := schedule(ctx, tx, userID, later)
			if err != nil {
				return err
			}
			if !wanted {
				continue
			}
			job, err := s.enqueueDue(ctx, tx, userID)
			if err != nil {
				return err
			}
			if job {
				made++
			}
		}
		return nil
	})
	return made, err
}

// enqueueDue makes a job unless one is pending, which will do.
func (s *Service) enqueueDue(ctx context.Context, tx pgx.Tx, userID string) (made bool, err error) {
	trigger := events.TriggerSchedule
	var known bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM sync_jobs WHERE user_id = $1)`, userID).Scan(&known); err != nil {
		return false, fmt.Errorf("look for jobs of user %s: %w", userID, err)
	}
	if !known {
		trigger = events.TriggerConnect
	}
	_, err = insertJob(ctx, tx, s.background(userID, ""), userID, Ask{Type: events.SyncFull, Mode: events.SyncIncremental}, trigger)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// dueness is when a schedule is due next.
type dueness bool

const (
	atOnce dueness = true
	later  dueness = false // an interval from now, give or take a tenth, so that users spread
)

// schedule brings the user's schedule up to date with the account and the settings, and reports whether there is one. Whoever
// cancels pending jobs must not call it: makeDue comes from the schedule to the pending job, and two orders would be a deadlock. So
// the schedule of an account that is no longer connected goes when it is due.
func schedule(ctx context.Context, tx pgx.Tx, userID string, due dueness) (wanted bool, err error) {
	err = tx.QueryRow(ctx, `
		WITH wanted AS (
			SELECT g.user_id, coalesce(s.interval_minutes, $4) * interval '1 minute' AS every
			FROM google_accounts g LEFT JOIN sync_settings s USING (user_id)
			WHERE g.user_id = $1 AND g.state = 'connected' AND g.scopes && $3 AND coalesce(s.auto_sync, true)
		), dropped AS (
			DELETE FROM sync_schedules WHERE user_id = $1 AND NOT EXISTS (SELECT 1 FROM wanted)
		), made AS (
			INSERT INTO sync_schedules (user_id, next_at)
			SELECT user_id, clock_timestamp() + CASE WHEN $2 THEN interval '0' ELSE every * (0.9 + 0.2 * random()) END FROM wanted
			ON CONFLICT (user_id) DO UPDATE SET next_at = excluded.next_at
		)
		SELECT EXISTS (SELECT 1 FROM wanted)`, userID, bool(due), []string{scopeTasks, scopeEvents, scopeCalendar}, defaultInterval).Scan(&wanted)
	if err != nil {
		return false, fmt.Errorf("schedule syncs of user %s: %w", userID, err)
	}
	return wanted, nil
}
