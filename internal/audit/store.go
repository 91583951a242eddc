package audit

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"fdc/internal/platform/postgres"
)

const table = "audit_logs"

// Columns of audit_logs, in the order of Row's fields.
var Columns = []string{
	"event_id", "occurred_at", "workspace_id", "actor_id", "user_id", "action", "target_type", "target_id",
	"request_id", "ip", "user_agent", "result", "changes",
}

// copyRows writes all rows or none: one that is there already is a unique violation.
func copyRows(ctx context.Context, pool *pgxpool.Pool, rows []Row) error {
	_, err := pool.CopyFrom(ctx, pgx.Identifier{table}, Columns, copySource(rows))
	if err != nil {
		return fmt.Errorf("copy %d rows: %w", len(rows), err)
	}
	return nil
}

func copySource(rows []Row) pgx.CopyFromSource {
	return pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) { return rows[i].Values(), nil })
}

// insertRows writes the rows that are not there yet and says how many those were.
func insertRows(ctx context.Context, q postgres.Querier, rows []Row) (int64, error) {
	tag, err := q.Exec(ctx, `
		INSERT INTO audit_logs (event_id, occurred_at, workspace_id, actor_id, user_id, action, target_type, target_id,
		                        request_id, ip, user_agent, result, changes)
		SELECT event_id, occurred_at, workspace_id, actor_id, user_id, action, target_type, target_id,
		       request_id, ip, user_agent, result, changes::jsonb
		FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::uuid[], $6::text[], $7::text[], $8::text[],
		            $9::text[], $10::text[], $11::text[], $12::text[], $13::text[])
		  AS new (event_id, occurred_at, workspace_id, actor_id, user_id, action, target_type, target_id,
		          request_id, ip, user_agent, result, changes)
		ON CONFLICT (occurred_at, event_id) DO NOTHING`, rowArguments(rows)...)
	if err != nil {
		return 0, fmt.Errorf("insert %d rows: %w", len(rows), err)
	}
	return tag.RowsAffected(), nil
}

func column[T any](rows []Row, of func(*Row) T) []T {
	values := make([]T, len(rows))
	for i := range rows {
		values[i] = of(&rows[i])
	}
	return values
}

// partitionTables are the log's months, attached or not: a detached one is known by its name in the log's schema.
const partitionTables = `
	SELECT c.oid, c.relname,
	       CASE WHEN i.inhrelid IS NULL THEN 'detached' WHEN i.inhdetachpending THEN 'detaching' ELSE 'attached' END AS state,
	       greatest(c.reltuples::bigint, pg_stat_get_live_tuples(c.oid), 0) AS rows
	FROM pg_class c
	LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'audit_logs'::regclass
	WHERE c.relkind = 'r' AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'audit_logs'::regclass)`

func listPartitions(ctx context.Context, q postgres.Querier) ([]Partition, error) {
	rows, err := q.Query(ctx, `
		SELECT relname, state, rows, pg_total_relation_size(oid)
		FROM (`+partitionTables+`) AS tables WHERE relname ~ $1 ORDER BY relname`, `^audit_logs_\d{4}_\d{2}$`)
	if err != nil {
		return nil, err
	}
	list := []Partition{}
	var name string
	var p Partition
	_, err = pgx.ForEachRow(rows, []any{&name, &p.State, &p.Rows, &p.Bytes}, func() error {
		if m, ok := parseTable(name); ok {
			p.Month = m.String()
			list = append(list, p)
		}
		return nil
	})
	return list, err
}

// PartitionState is the state of the month's table, empty when there is none.
func PartitionState(ctx context.Context, q postgres.Querier, m Month) (string, error) {
	var state string
	err := q.QueryRow(ctx, `SELECT coalesce((SELECT state FROM (`+partitionTables+`) AS tables WHERE relname = $1), '')`,
		m.Table()).Scan(&state)
	if err != nil {
		return "", fmt.Errorf("look up %s: %w", m.Table(), err)
	}
	return state, nil
}

// LockPartitions lets one transaction at a time make partitions, and bounds how long this one waits for any lock.
func LockPartitions(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, fmt.Sprintf(`SET LOCAL lock_timeout = '%d ms'`, lockWait.Milliseconds())); err != nil {
		return fmt.Errorf("set lock timeout: %w", err)
	}
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, makingLock); err != nil {
		return fmt.Errorf("lock the making of partitions: %w", err)
	}
	return nil
}

func createPartition(ctx context.Context, tx pgx.Tx, m Month) error {
	name := pgx.Identifier{m.Table()}.Sanitize()
	if _, err := tx.Exec(ctx, `CREATE TABLE `+name+` (LIKE audit_logs INCLUDING ALL)`); err != nil {
		return fmt.Errorf("create %s: %w", m.Table(), err)
	}
	return AttachPartition(ctx, tx, m)
}

// own gives the month's table to the owner of the log, no matter which role has made it: the audit-archiver must be able to drop it.
func own(ctx context.Context, tx pgx.Tx, m Month) error {
	var owner string
	err := tx.QueryRow(ctx, `SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'audit_logs'::regclass`).Scan(&owner)
	if err == nil {
		_, err = tx.Exec(ctx, `ALTER TABLE `+pgx.Identifier{m.Table()}.Sanitize()+` OWNER TO `+pgx.Identifier{owner}.Sanitize())
	}
	if err != nil {
		return fmt.Errorf("give %s to the owner of the audit log: %w", m.Table(), err)
	}
	return nil
}

// AttachPartition makes the month's table a part of the log, with the log's owner.
func AttachPartition(ctx context.Context, tx pgx.Tx, m Month) error {
	if err := own(ctx, tx, m); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, fmt.Sprintf(`ALTER TABLE audit_logs ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')`,
		pgx.Identifier{m.Table()}.Sanitize(), m.bound(), m.Add(1).bound()))
	if err != nil {
		return fmt.Errorf("attach %s: %w", m.Table(), err)
	}
	return nil
}
