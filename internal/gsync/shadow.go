package gsync

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/postgres"
)

// Shadow says of each event which job Runner would be woken for, "" for one that has ended, is running or is gone. It reads only.
func Shadow(ctx context.Context, q postgres.Querier, batch []events.Event) ([]string, error) {
	ids := make([]string, len(batch))
	for i, ev := range batch {
		ids[i] = ev.Subject
	}
	waiting := map[string]bool{}
	rows, err := q.Query(ctx, `SELECT id::text FROM sync_jobs WHERE id = ANY ($1::text[]::uuid[]) AND status = $2`, ids, StatusPending)
	if err == nil {
		var id string
		_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
			waiting[id] = true
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("look up %d jobs: %w", len(ids), postgres.Fault(err))
	}
	whats := make([]string, len(batch))
	for i, id := range ids {
		if waiting[id] {
			whats[i] = "the syncers would look for work: job " + id + " is pending"
		}
	}
	return whats, nil
}
