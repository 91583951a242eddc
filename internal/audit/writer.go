package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/worker"
)

// Writer turns events into rows. It takes events of the months from 2020-01 to 13 months from now; one outside is no
// event of this system but a broken clock.
type Writer struct {
	pool *pgxpool.Pool
	log  zerolog.Logger
	now  func() time.Time

	rows     *prometheus.CounterVec
	rejected prometheus.Counter
	lag      prometheus.Gauge
}

// NewWriter returns a writer for the worker's batch mode.
func NewWriter(pool *pgxpool.Pool, log zerolog.Logger, metrics prometheus.Registerer) *Writer {
	w := &Writer{
		pool: pool, log: log.With().Str("component", "audit").Logger(), now: time.Now,
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "audit_rows_total", Help: "Events by how their row got there: copy, insert, or known already.",
		}, []string{"how"}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "audit_rejected_total", Help: "Events that can have no row.",
		}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "audit_lag_seconds",
			Help: "How old the newest event of the last batch was when its row was there; consumer_lag tells how many wait.",
		}),
	}
	metrics.MustRegister(w.rows, w.rejected, w.lag)
	return w
}

// entry is a row and the delivery that it answers.
type entry struct {
	row      Row
	delivery *worker.Delivery
}

// HandleBatch writes one row per event and returns after the commit. Events that can have no row fail alone.
func (w *Writer) HandleBatch(ctx context.Context, batch []*worker.Delivery) error {
	entries := make([]entry, 0, len(batch))
	latest := MonthOf(w.now()).Add(maxMonthsAhead)
	for _, d := range batch {
		d.Fail(nil) // the worker repeats a batch that it held
		r, err := RowOf(d.Event)
		if err != nil {
			w.reject(d, err)
			continue
		}
		if m := MonthOf(r.OccurredAt); m.Before(firstMonth) || latest.Before(m) {
			w.reject(d, fmt.Errorf("event time %s is out of the audit log's range, %s to %s",
				r.OccurredAt.Format(time.RFC3339), firstMonth, latest))
			continue
		}
		entries = append(entries, entry{r, d})
	}
	if err := w.write(ctx, entries); err != nil {
		return err
	}
	// What comes again is old, and says nothing of how far the writer is behind.
	entries = slices.DeleteFunc(entries, func(e entry) bool { return e.delivery.Replayed })
	if len(entries) == 0 {
		return nil
	}
	newest := slices.MaxFunc(entries, func(a, b entry) int { return a.row.OccurredAt.Compare(b.row.OccurredAt) })
	w.lag.Set(max(0, w.now().Sub(newest.row.OccurredAt).Seconds()))
	return nil
}

// Ping reports whether the log can be written: it inserts a row and rolls back. So a database that is read-only or not
// migrated counts as unavailable, and an event that is always too slow does not.
func (w *Writer) Ping(ctx context.Context) error {
	probe := Row{
		EventID: pgtype.UUID{Bytes: uuid.New(), Valid: true}, OccurredAt: w.now().UTC(), ActorID: events.SystemActor, Action: "ops.ping",
		Result: ResultOK, Changes: "{}",
	}
	return postgres.Probe(ctx, w.pool, func(conn *pgx.Conn, ctx context.Context) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		_, err = insertRows(ctx, tx, []Row{probe})
		return errors.Join(err, tx.Rollback(ctx))
	})
}

// reject sets one event aside for good.
func (w *Writer) reject(d *worker.Delivery, err error) {
	w.rejected.Inc()
	d.Fail(worker.Discard(err))
}

// write stores the entries, or fails those that can't be stored. Its own error is never an event's fault.
func (w *Writer) write(ctx context.Context, entries []entry) error {
	if len(entries) == 0 {
		return nil
	}
	err := w.store(ctx, entries)
	if isPartitionMissing(err) {
		if entries, err = w.makeMonths(ctx, entries); err != nil || len(entries) == 0 {
			return held(err)
		}
		err = w.store(ctx, entries)
	}
	switch {
	case err == nil:
		return nil
	case !isRowsFault(err), isPartitionMissing(err): // gone again: an archive is under way
		return held(err)
	case len(entries) == 1:
		w.reject(entries[0].delivery, err)
		return nil
	}
	// One of them is refused: each half on its own, down to the culprit.
	half := len(entries) / 2
	if err := w.write(ctx, entries[:half]); err != nil {
		return err
	}
	return w.write(ctx, entries[half:])
}

// store writes all entries or none: by COPY, and when some are there already, the rest of them by INSERT.
func (w *Writer) store(ctx context.Context, entries []entry) error {
	rows := make([]Row, len(entries))
	for i := range entries {
		rows[i] = entries[i].row
	}
	err := copyRows(ctx, w.pool, rows)
	if err == nil {
		w.rows.WithLabelValues("copy").Add(float64(len(rows)))
		return nil
	}
	if !postgres.IsState(err, postgres.UniqueViolation) {
		return err
	}
	inserted, err := insertRows(ctx, w.pool, rows)
	if err != nil {
		return err
	}
	w.rows.WithLabelValues("insert").Add(float64(inserted))
	w.rows.WithLabelValues("known").Add(float64(int64(len(rows)) - inserted))
	return nil
}

// makeMonths makes the partitions that the entries need. The entries of a month that is detached fail, to be retried, and those of
// one in the archive are set aside; it returns the others.
func (w *Writer) makeMonths(ctx context.Context, entries []entry) ([]entry, error) {
	detached := map[Month]error{}
	seen := map[Month]bool{}
	var rest []entry
	for _, e := range entries {
		m := MonthOf(e.row.OccurredAt)
		if !seen[m] {
			seen[m] = true
			made, err := ensureMonth(ctx, w.pool, m)
			switch {
			case errors.Is(err, errDetached), errors.Is(err, errArchived):
				detached[m] = err
			case err != nil:
				return nil, err
			case made:
				w.log.Warn().Stringer("month", m).Msg("audit partition made by the writer")
			}
		}
		if err := detached[m]; errors.Is(err, errArchived) {
			w.reject(e.delivery, err)
			continue
		} else if err != nil {
			e.delivery.Fail(err)
			continue
		}
		rest = append(rest, e)
	}
	return rest, nil
}

// isPartitionMissing reports whether a row met no partition. That is a check violation too, but of no constraint.
func isPartitionMissing(err error) bool {
	return postgres.IsState(err, postgres.CheckViolation) && postgres.Constraint(err) == ""
}

// isRowsFault reports whether Postgres refused a row for what is in it: a data exception or an integrity violation.
func isRowsFault(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pgErr.Code[:2] == "22" || pgErr.Code[:2] == "23")
}

// held marks what may be wrong with the database rather than with an event. While Ping fails, too, the worker keeps the
// batch in progress: a read-only or unmigrated database must not fill the dead letters.
func held(err error) error {
	return fault.Wrap(err, fault.Unavailable, "audit-log-unavailable", "The audit log can't be written right now.")
}
