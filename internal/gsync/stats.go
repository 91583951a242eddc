package gsync

import (
	"context"
	"fmt"
	"time"

	"fdc/internal/platform/postgres"
)

// Stats counts the jobs of all users.
type Stats struct {
	Pending    int `json:"pending"`
	Processing int `json:"processing"`
	// Of the last 24 hours.
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
	Cancelled int `json:"cancelled"`
}

// ReadStats counts the jobs that wait, that are under way, and that ended in the last 24 hours.
func ReadStats(ctx context.Context, q postgres.Querier) (Stats, error) {
	var s Stats
	err := q.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM sync_jobs WHERE status = 'pending'),
		       (SELECT count(*) FROM sync_jobs WHERE status = 'processing'),
		       count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'cancelled')
		FROM sync_jobs WHERE completed_at > now() - interval '24 hours'`).
		Scan(&s.Pending, &s.Processing, &s.Completed, &s.Failed, &s.Cancelled)
	if err != nil {
		return Stats{}, fmt.Errorf("count sync jobs: %w", err)
	}
	return s, nil
}

// Overdue is for how long the job that waits longest has waited beyond its time: for a syncer, or for another one than the one that
// held it and is gone. Zero when none does.
func Overdue(ctx context.Context, q postgres.Querier) (time.Duration, error) {
	var seconds float64
	err := q.QueryRow(ctx, `
		SELECT coalesce(extract(epoch FROM clock_timestamp() - min(due)), 0)::float8 FROM (
			SELECT run_after AS due FROM sync_jobs WHERE status = 'pending'
			UNION ALL SELECT lease_expires_at FROM sync_jobs WHERE status = 'processing'
		) jobs WHERE due < clock_timestamp()`).Scan(&seconds)
	if err != nil {
		return 0, fmt.Errorf("look for overdue sync jobs: %w", err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}
