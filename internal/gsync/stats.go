package gsync

import (
	"context"
	"fmt"

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
