package archive

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
)

// Restorable is the newest manifest of a month that can come back from the archive.
func (a *Archiver) Restorable(ctx context.Context, q postgres.Querier, name string) (Manifest, error) {
	s, err := a.restorable(ctx, q, name)
	if err != nil {
		return Manifest{}, err
	}
	return s.Manifest, nil
}

func (a *Archiver) restorable(ctx context.Context, q postgres.Querier, name string) (*signed, error) {
	if _, err := audit.ParseMonth(name); err != nil {
		return nil, fault.New(fault.Invalid, "invalid", "%v.", err)
	}
	s, err := lastManifest(ctx, q, name)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, fault.New(fault.NotFound, "not-found", "%s has never been archived.", name)
	}
	list, err := audit.Partitions(ctx, q)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(list, func(p audit.Partition) bool { return p.Month == name && p.Attached() }) {
		return nil, fault.New(fault.Conflict, "audit-month-attached", "%s is in the audit log already.", name)
	}
	return s, nil
}

// Restore brings a month back from the archive, with the same rows: verified on the way in, and in the log only when all of it is. It
// stays for KeepRestored, then it goes to the archive again.
func (a *Archiver) Restore(ctx context.Context, meta events.Meta, name string, progress audit.Progress) (m Manifest, err error) {
	err = a.alone(ctx, func(conn *pgx.Conn) error {
		s, err := a.restorable(ctx, conn, name)
		if err != nil {
			return err
		}
		m = s.Manifest
		keys, err := ReadKeys(ctx, a.Storage, Public(a.Key))
		if err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
		genuine, err := readManifest(ctx, a.Storage, keys.of(s.Sequence), folder(s.Sequence, s.Month))
		if err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
		if genuine.name() != s.name() {
			return fault.New(fault.Conflict, "audit-archive-changed", "The archive's manifest of %s is not the one that was written.", name)
		}
		return a.restore(ctx, conn, meta, s, progress)
	})
	if err != nil {
		return m, err
	}
	a.Log.Info().Str("month", name).Int64("rows", m.Rows).Msg("audit month restored")
	return m, nil
}

// restore does it in one transaction. The table is made apart and has a constraint that says what its bounds will be, so attaching it
// reads none of its rows; the log is locked, and only against other changes of its months, for that moment.
func (a *Archiver) restore(ctx context.Context, conn *pgx.Conn, meta events.Meta, s *signed, progress audit.Progress) error {
	m, err := audit.ParseMonth(s.Month)
	if err != nil {
		return err
	}
	table := pgx.Identifier{m.Table()}.Sanitize()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		state, err := audit.PartitionState(ctx, tx, m)
		if err != nil {
			return err
		}
		if state != "" { // it has not been dropped; what it holds is compared with the archive by being read from there
			if _, err := tx.Exec(ctx, `DROP TABLE `+table); err != nil {
				return fmt.Errorf("replace %s: %w", m.Table(), err)
			}
		}
		_, err = tx.Exec(ctx, fmt.Sprintf(`CREATE TABLE %s (LIKE audit_logs INCLUDING ALL, CONSTRAINT %s CHECK (%s))`,
			table, boundsConstraint, m.Bounds()))
		if err != nil {
			return fmt.Errorf("make %s: %w", m.Table(), err)
		}
		if err := a.load(ctx, tx, m, s, progress); err != nil {
			return err
		}
		if err := a.reach("loaded"); err != nil {
			return err
		}
		if err := audit.LockPartitions(ctx, tx); err != nil {
			return err
		}
		if err := audit.AttachPartition(ctx, tx, m); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `ALTER TABLE `+table+` DROP CONSTRAINT `+boundsConstraint); err != nil {
			return fmt.Errorf("attach %s: %w", m.Table(), err)
		}
		_, err = tx.Exec(ctx, `UPDATE audit_archives SET restored_at = now(), dropped_at = NULL WHERE sequence = $1`, s.Sequence)
		if err != nil {
			return fmt.Errorf("note that %s was restored: %w", m.Table(), err)
		}
		return outbox.Append(ctx, tx, events.New(meta, "", events.AuditPartitionRestored{Month: s.Month, Rows: s.Rows}))
	})
}

// boundsConstraint is what lets a table be attached without a look at its rows.
const boundsConstraint = "audit_logs_month_bounds"

// load fills the month's table from the archive.
func (a *Archiver) load(ctx context.Context, tx pgx.Tx, m audit.Month, s *signed, progress audit.Progress) error {
	rows := newRowSource(ctx, func(ctx context.Context, give func(audit.Row) error) error {
		return readMonth(ctx, a.Storage, &s.Manifest, func(done int64) { progress.Report("restoring", done, s.Rows) }, func(line []byte) error {
			r, err := parseRow(line)
			if err != nil {
				return err
			}
			return give(r)
		})
	})
	defer rows.close()
	n, err := tx.CopyFrom(ctx, pgx.Identifier{m.Table()}, audit.Columns, rows)
	if err != nil {
		return fmt.Errorf("load %s: %w", s.Month, err)
	}
	if n != s.Rows {
		return fmt.Errorf("load %s: %d rows instead of %d", s.Month, n, s.Rows)
	}
	return nil
}

// rowSource gives COPY the rows that a function finds. The function runs beside it, some rows ahead.
type rowSource struct {
	rows   chan audit.Row
	result error // of the function, once rows is closed
	err    error // the same, once COPY has seen that: it asks for the error in between, too
	now    audit.Row
	cancel context.CancelFunc
}

func newRowSource(ctx context.Context, find func(ctx context.Context, give func(audit.Row) error) error) *rowSource {
	ctx, cancel := context.WithCancel(ctx)
	s := &rowSource{rows: make(chan audit.Row, 1024), cancel: cancel}
	go func() {
		defer close(s.rows)
		s.result = find(ctx, func(r audit.Row) error {
			select {
			case s.rows <- r:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return s
}

func (s *rowSource) Next() bool {
	var ok bool
	if s.now, ok = <-s.rows; !ok {
		s.err = s.result
	}
	return ok
}

func (s *rowSource) Values() ([]any, error) { return s.now.Values(), nil }
func (s *rowSource) Err() error             { return s.err }

// close ends the function.
func (s *rowSource) close() {
	s.cancel()
	for range s.rows {
		continue // until it has ended
	}
}
