package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
)

// Rebuilt compares a month of the log with the events that the stream still holds.
type Rebuilt struct {
	Month         string    `json:"month"`
	Reach         time.Time `json:"reach,omitzero"` // when the stream's first event was stored; what is older can't be told
	FirstSequence uint64    `json:"firstSequence"`  // of the month's events in the stream
	LastSequence  uint64    `json:"lastSequence"`
	Events        int64     `json:"events"`      // of the month
	Missing       int64     `json:"missing"`     // events without a row
	Different     int64     `json:"different"`   // events whose row says something else
	Unexplained   int64     `json:"unexplained"` // rows since the reach without an event
	Written       int64     `json:"written"`     // rows; 0 for a plan
	Examples      []string  `json:"examples"`    // ids of the first of them
}

// Progress is called with how far a long command is; total is an estimate, 0 when there is none.
type Progress func(phase string, done, total int64)

// Report calls p, which may be nil.
func (p Progress) Report(phase string, done, total int64) {
	if p != nil {
		p(phase, done, total)
	}
}

// rebuildChunk is how many rows are brought to the database at a time.
const rebuildChunk = 2000

// Rebuild brings a month of the log in line with the stream EVENTS, as far as that reaches: rows that are missing are added, rows that say
// something else than their event are replaced. Rows without an event are left alone: the stream forgets, the log doesn't. Without write
// it only compares. It needs a connection of its own, and memory for a chunk of rows.
func Rebuild(ctx context.Context, conn *pgx.Conn, js jetstream.JetStream, meta events.Meta, name string, write bool, progress Progress) (Rebuilt, error) {
	report := Rebuilt{Month: name, Examples: []string{}}
	m, err := ParseMonth(name)
	if err != nil {
		return report, fault.New(fault.Invalid, "invalid", "%v.", err)
	}
	if m.Before(firstMonth) || MonthOf(time.Now()).Before(m) {
		return report, fault.New(fault.Invalid, "invalid", "There is no %s in the audit log.", name)
	}
	if _, err := ensureMonth(ctx, conn, m); err != nil {
		if errors.Is(err, errDetached) || errors.Is(err, errArchived) {
			return report, fault.New(fault.Conflict, "audit-months-archived", "%s is in the archive; restore it first.", name)
		}
		return report, err
	}
	if _, err := conn.Exec(ctx, `CREATE TEMPORARY TABLE rebuilt (LIKE audit_logs)`); err != nil {
		return report, fmt.Errorf("rebuild %s: %w", name, err)
	}
	defer func() {
		dropCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = conn.Exec(dropCtx, `DROP TABLE IF EXISTS rebuilt`) // it goes with the connection at the latest
	}()
	if err := report.collect(ctx, conn, js, m, progress); err != nil {
		return report, fmt.Errorf("rebuild %s: %w", name, err)
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := report.compare(ctx, tx, m); err != nil || !write || report.Missing+report.Different == 0 {
			return err
		}
		return report.write(ctx, tx, meta)
	})
	if err != nil {
		return report, fmt.Errorf("rebuild %s: %w", name, err)
	}
	return report, nil
}

// collect brings the month's events into the table rebuilt.
func (r *Rebuilt) collect(ctx context.Context, conn *pgx.Conn, js jetstream.JetStream, m Month, progress Progress) error {
	stream, err := js.Stream(ctx, bus.Events)
	if err != nil {
		return fmt.Errorf("read %s: %w", bus.Events, err)
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return nil
	}
	r.Reach = state.FirstTime.UTC()
	// An event is stored after it happened: those of the month may be anywhere from its beginning to the end of the stream.
	from := m.Start()
	consumer, err := js.OrderedConsumer(ctx, bus.Events, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &from})
	if err != nil {
		return fmt.Errorf("read %s: %w", bus.Events, err)
	}
	var chunk []Row
	flush := func() error {
		if len(chunk) == 0 {
			return nil
		}
		_, err := conn.CopyFrom(ctx, pgx.Identifier{"rebuilt"}, Columns, copySource(chunk))
		chunk = chunk[:0]
		return err
	}
	for last := uint64(0); last < state.LastSeq; {
		batch, err := consumer.Fetch(rebuildChunk, jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return fmt.Errorf("read %s: %w", bus.Events, err)
		}
		n := 0
		for msg := range batch.Messages() {
			n++
			at, err := msg.Metadata()
			if err != nil {
				return fmt.Errorf("read %s: %w", bus.Events, err)
			}
			if last = at.Sequence.Stream; last > state.LastSeq {
				break
			}
			ev, err := events.Decode(msg.Data())
			if err != nil || MonthOf(ev.Time) != m {
				continue // what can't be read has no row either
			}
			one, err := RowOf(ev)
			if err != nil {
				continue
			}
			chunk = append(chunk, one)
			if r.Events++; r.FirstSequence == 0 {
				r.FirstSequence = last
			}
			r.LastSequence = last
		}
		if err := batch.Error(); err != nil {
			return fmt.Errorf("read %s: %w", bus.Events, err)
		}
		if err := flush(); err != nil {
			return err
		}
		progress.Report("reading events", int64(last), int64(state.LastSeq)) //nolint:gosec // sequences of a stream
		if n == 0 {
			break // the stream ends with messages that are gone
		}
	}
	return nil
}

const (
	// sameRow joins an event with its row, sameValues says that they agree.
	sameRow    = `l.occurred_at = r.occurred_at AND l.event_id = r.event_id`
	sameValues = `(l.workspace_id, l.actor_id, l.user_id, l.action, l.target_type, l.target_id, l.request_id, l.ip, l.user_agent, l.result, l.changes)
		IS NOT DISTINCT FROM
		(r.workspace_id, r.actor_id, r.user_id, r.Action, r.target_type, r.target_id, r.request_id, r.IP, r.user_agent, r.Result, r.Changes)`
)

// compare counts what differs.
func (r *Rebuilt) compare(ctx context.Context, tx pgx.Tx, m Month) error {
	err := tx.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE l.event_id IS NULL), count(*) FILTER (WHERE l.event_id IS NOT NULL AND NOT (`+sameValues+`))
		FROM rebuilt r LEFT JOIN audit_logs l ON `+sameRow).Scan(&r.Missing, &r.Different)
	if err != nil {
		return err
	}
	reach := m.Start()
	if r.Reach.After(reach) {
		reach = r.Reach
	}
	if !r.Reach.IsZero() {
		err = tx.QueryRow(ctx, `
			SELECT count(*) FROM audit_logs l WHERE l.occurred_at >= $1 AND l.occurred_at < $2
				AND NOT EXISTS (SELECT FROM rebuilt r WHERE `+sameRow+`)`, reach, m.Add(1).Start()).Scan(&r.Unexplained)
		if err != nil {
			return err
		}
	}
	rows, err := tx.Query(ctx, `
		SELECT r.event_id::text FROM rebuilt r LEFT JOIN audit_logs l ON `+sameRow+`
		WHERE l.event_id IS NULL OR NOT (`+sameValues+`) ORDER BY r.occurred_at, r.event_id LIMIT 10`)
	if err != nil {
		return err
	}
	r.Examples, err = pgx.CollectRows(rows, pgx.RowTo[string])
	return err
}

// write does it, and puts it on record.
func (r *Rebuilt) write(ctx context.Context, tx pgx.Tx, meta events.Meta) error {
	_, err := tx.Exec(ctx, `DELETE FROM audit_logs l USING rebuilt r WHERE `+sameRow+` AND NOT (`+sameValues+`)`)
	if err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, `INSERT INTO audit_logs SELECT * FROM rebuilt ON CONFLICT (occurred_at, event_id) DO NOTHING`)
	if err != nil {
		return err
	}
	r.Written = tag.RowsAffected()
	return outbox.Append(ctx, tx, events.New(meta, "", events.OpsReplayed{
		Consumer: bus.AuditArchiver, Count: r.Written, FirstSequence: int64(r.FirstSequence), LastSequence: int64(r.LastSequence), //nolint:gosec // sequences of a stream
	}))
}
