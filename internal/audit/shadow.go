package audit

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"fdc/events"
	"fdc/internal/platform/postgres"
)

// Shadow says of each event what Writer would do about its row, "" where it is there as it should be. It reads only.
func Shadow(ctx context.Context, q postgres.Querier, batch []events.Event) ([]string, error) {
	whats := make([]string, len(batch))
	var rows []Row
	var at []int32 // of rows, in batch
	for i, ev := range batch {
		r, err := RowOf(ev)
		if err != nil {
			whats[i] = "it would become a dead letter: " + err.Error()
			continue
		}
		rows, at = append(rows, r), append(at, int32(i))
	}
	archives, err := archived(ctx, q)
	if err != nil {
		return nil, err
	}
	differences, err := compareRows(ctx, q, rows)
	if err != nil {
		return nil, fmt.Errorf("compare %d rows: %w", len(rows), postgres.Fault(err))
	}
	for i, what := range differences {
		if of, ok := archives[MonthOf(rows[i].OccurredAt).String()]; ok && !of.restored && what == missing {
			what = "its month is in the archive: it would become a dead letter"
		}
		whats[at[i]] = what
	}
	return whats, nil
}

const missing = "its row would be added"

// compareRows says of each row whether the log lacks it or says something else.
func compareRows(ctx context.Context, q postgres.Querier, rows []Row) ([]string, error) {
	values := `workspace_id, actor_id, user_id, action, target_type, target_id, request_id, ip, user_agent, result, changes`
	var differs []string
	for name := range strings.SplitSeq(values, ", ") {
		differs = append(differs, fmt.Sprintf("CASE WHEN l.%[1]s IS DISTINCT FROM r.%[1]s THEN '%[1]s' END", name))
	}
	found, err := q.Query(ctx, `
		SELECT r.n - 1, l.event_id IS NULL, concat_ws(', ', `+strings.Join(differs, ", ")+`)
		FROM (
			SELECT n, event_id, occurred_at, workspace_id, actor_id, user_id, action, target_type, target_id, request_id, ip, user_agent, result,
			       changes::jsonb AS changes
			FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::uuid[], $6::text[], $7::text[], $8::text[],
			            $9::text[], $10::text[], $11::text[], $12::text[], $13::text[]) WITH ORDINALITY
			  AS new (event_id, occurred_at, workspace_id, actor_id, user_id, action, target_type, target_id,
			          request_id, ip, user_agent, result, changes, n)
		) AS r LEFT JOIN audit_logs l ON l.occurred_at = r.occurred_at AND l.event_id = r.event_id
		WHERE l.event_id IS NULL OR (l.workspace_id, l.actor_id, l.user_id, l.action, l.target_type, l.target_id, l.request_id, l.ip,
			l.user_agent, l.result, l.changes)
			IS DISTINCT FROM
			(r.workspace_id, r.actor_id, r.user_id, r.Action, r.target_type, r.target_id, r.request_id, r.IP, r.user_agent, r.Result, r.Changes)`,
		rowArguments(rows)...)
	if err != nil {
		return nil, err
	}
	whats := make([]string, len(rows))
	var n int
	var absent bool
	var columns string
	_, err = pgx.ForEachRow(found, []any{&n, &absent, &columns}, func() error {
		if whats[n] = missing; !absent {
			whats[n] = "its row says something else in " + columns + "; a replay leaves it, fdc audit rebuild replaces it"
		}
		return nil
	})
	return whats, err
}

// rowArguments are the rows as the arrays of a statement, in the order of columns.
func rowArguments(rows []Row) []any {
	return []any{
		column(rows, func(r *Row) pgtype.UUID { return r.EventID }),
		column(rows, func(r *Row) pgtype.Timestamptz { return pgtype.Timestamptz{Time: r.OccurredAt, Valid: true} }),
		column(rows, func(r *Row) pgtype.UUID { return r.WorkspaceID }),
		column(rows, func(r *Row) string { return r.ActorID }),
		column(rows, func(r *Row) pgtype.UUID { return r.UserID }),
		column(rows, func(r *Row) string { return r.Action }),
		column(rows, func(r *Row) string { return r.TargetType }),
		column(rows, func(r *Row) string { return r.TargetID }),
		column(rows, func(r *Row) string { return r.RequestID }),
		column(rows, func(r *Row) string { return r.IP }),
		column(rows, func(r *Row) string { return r.UserAgent }),
		column(rows, func(r *Row) string { return r.Result }),
		column(rows, func(r *Row) string { return r.Changes }),
	}
}
