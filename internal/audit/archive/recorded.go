package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"fdc/internal/audit"
	"fdc/internal/platform/postgres"
)

// lastManifest is the newest manifest of a month, of all when it is empty; nil when there is none. What is in the database was signed by
// this system before it got there, so the signature is not looked at.
func lastManifest(ctx context.Context, q postgres.Querier, month string) (*signed, error) {
	list, err := manifests(ctx, q, `($1 = '' OR month = $1) ORDER BY sequence DESC LIMIT 1`, month)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

// droppable are the manifests of months whose table has waited since before a time.
func droppable(ctx context.Context, q postgres.Querier, before time.Time) ([]*signed, error) {
	return manifests(ctx, q, `archived_at < $1 AND restored_at IS NULL AND dropped_at IS NULL
		AND NOT EXISTS (SELECT FROM audit_archives n WHERE n.month = audit_archives.month AND n.sequence > audit_archives.sequence)
		ORDER BY sequence`, before)
}

func manifests(ctx context.Context, q postgres.Querier, where string, args ...any) ([]*signed, error) {
	rows, err := q.Query(ctx, `SELECT manifest, signature FROM audit_archives WHERE `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*signed, error) {
		s := &signed{}
		if err := row.Scan(&s.raw, &s.signature); err != nil {
			return nil, err
		}
		err := json.Unmarshal(s.raw, &s.Manifest)
		s.digest = s.name()
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	return list, nil
}

func insertManifest(ctx context.Context, tx pgx.Tx, s *signed) error {
	_, err := tx.Exec(ctx, `INSERT INTO audit_archives (sequence, month, manifest, signature) VALUES ($1, $2, $3, $4)`,
		s.Sequence, s.Month, s.raw, s.signature)
	if err != nil {
		return fmt.Errorf("record manifest of %s: %w", s.Month, err)
	}
	return nil
}

// restoredSince are the months that came back after a time.
func restoredSince(ctx context.Context, q postgres.Querier, since time.Time) (map[string]bool, error) {
	rows, err := q.Query(ctx, `SELECT month FROM audit_archives WHERE restored_at > $1`, since)
	if err != nil {
		return nil, fmt.Errorf("list restored months: %w", err)
	}
	months, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list restored months: %w", err)
	}
	set := map[string]bool{}
	for _, m := range months {
		set[m] = true
	}
	return set, nil
}

// dropMonth drops the detached table of an archived month.
func dropMonth(ctx context.Context, conn *pgx.Conn, s *signed) error {
	m, err := audit.ParseMonth(s.Month)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := audit.LockPartitions(ctx, tx); err != nil {
			return err
		}
		state, err := audit.PartitionState(ctx, tx, m)
		if err != nil {
			return err
		}
		if state != "" && state != audit.StateDetached {
			return fmt.Errorf("drop %s: it is %s", m.Table(), state)
		}
		if _, err := tx.Exec(ctx, `DROP TABLE IF EXISTS `+pgx.Identifier{m.Table()}.Sanitize()); err != nil {
			return fmt.Errorf("drop %s: %w", m.Table(), err)
		}
		if _, err := tx.Exec(ctx, `UPDATE audit_archives SET dropped_at = now() WHERE sequence = $1`, s.Sequence); err != nil {
			return fmt.Errorf("note that %s was dropped: %w", m.Table(), err)
		}
		return nil
	})
}
