package audit

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"fdc/internal/platform/postgres"
)

// archivedMonth is a month of audit_archives, by its newest manifest.
type archivedMonth struct {
	Partition
	restored bool
}

// archived are the months that have gone to the archive.
func archived(ctx context.Context, q postgres.Querier) (map[string]archivedMonth, error) {
	rows, err := q.Query(ctx, `
		SELECT DISTINCT ON (month) month, convert_from(manifest, 'UTF8')::jsonb->>'rows', convert_from(manifest, 'UTF8')::jsonb->>'bytes',
			restored_at IS NOT NULL
		FROM audit_archives ORDER BY month, sequence DESC`)
	if err != nil {
		return nil, fmt.Errorf("list archived months: %w", err)
	}
	months := map[string]archivedMonth{}
	var of archivedMonth
	var count, bytes json.Number
	_, err = pgx.ForEachRow(rows, []any{&of.Month, &count, &bytes, &of.restored}, func() error {
		of.State = StateArchived
		if of.Rows, err = count.Int64(); err != nil {
			return err
		}
		if of.Bytes, err = bytes.Int64(); err != nil {
			return err
		}
		months[of.Month] = of
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list archived months: %w", err)
	}
	return months, nil
}
