package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/worker"
	"fdc/internal/service"
)

// auditBatch is the batch of the service.
const auditBatch = 5000

var auditColumns = []string{
	"event_id", "occurred_at", "workspace_id", "actor_id", "user_id", "action", "target_type", "target_id", "request_id", "ip",
	"user_agent", "result", "changes",
}

// auditRow is an event as the log holds it, made beforehand for those who only have to write it.
func auditRow(ev events.Event) ([]any, error) {
	changes, err := json.Marshal(ev.Data)
	if err != nil {
		return nil, fmt.Errorf("make an audit row: %w", err)
	}
	t, _ := events.TypeOf(ev.Data)
	optional := func(id string) any {
		if id == "" {
			return nil
		}
		return id
	}
	return []any{
		ev.ID, ev.Time, optional(ev.WorkspaceID), ev.ActorID, optional(ev.UserID), t.Action(), t.Aggregate, ev.Subject, ev.RequestID,
		ev.IP, ev.UserAgent, audit.ResultOK, string(changes),
	}, nil
}

// intoLog writes batches of events into the log.
type intoLog func(ctx context.Context, w *world, facts []events.Event) (write func(context.Context, int) error, err error)

// byWriter is the service's writer, given decoded events.
func byWriter(_ context.Context, w *world, facts []events.Event) (func(context.Context, int) error, error) {
	writer := audit.NewWriter(w.pool, zerolog.Nop(), prometheus.NewRegistry())
	return func(ctx context.Context, from int) error {
		var batch []*worker.Delivery
		for _, ev := range facts[from:min(from+auditBatch, len(facts))] {
			batch = append(batch, &worker.Delivery{Event: ev, Attempt: 1})
		}
		return writer.HandleBatch(ctx, batch)
	}, nil
}

func auditRows(facts []events.Event) ([][]any, error) {
	rows := make([][]any, len(facts))
	for i, ev := range facts {
		var err error
		if rows[i], err = auditRow(ev); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// byCopy is nothing but COPY, of values that are as PostgreSQL wants them.
func byCopy(_ context.Context, w *world, facts []events.Event) (func(context.Context, int) error, error) {
	rows, err := auditRows(facts)
	for _, row := range rows {
		for i, name := range auditColumns {
			if text, ok := row[i].(string); ok && (name == "event_id" || name == "workspace_id" || name == "user_id") {
				var id pgtype.UUID
				err = errors.Join(err, id.Scan(text))
				row[i] = id
			}
		}
	}
	return func(ctx context.Context, from int) error {
		_, err := w.pool.CopyFrom(ctx, pgx.Identifier{"audit_logs"}, auditColumns, pgx.CopyFromRows(rows[from:min(from+auditBatch, len(rows))]))
		return err
	}, err
}

// byUnnest is what is idempotent at once: INSERT of arrays with ON CONFLICT.
func byUnnest(_ context.Context, w *world, facts []events.Event) (func(context.Context, int) error, error) {
	rows, err := auditRows(facts)
	return func(ctx context.Context, from int) error {
		part := rows[from:min(from+auditBatch, len(rows))]
		columns := make([]any, len(auditColumns))
		for i := range columns {
			if auditColumns[i] == "occurred_at" {
				list := make([]time.Time, len(part))
				for n, row := range part {
					list[n], _ = row[i].(time.Time)
				}
				columns[i] = list
				continue
			}
			list := make([]*string, len(part))
			for n, row := range part {
				if text, ok := row[i].(string); ok {
					list[n] = &text
				}
			}
			columns[i] = list
		}
		_, err := w.pool.Exec(ctx, `
			INSERT INTO audit_logs (event_id, occurred_at, workspace_id, actor_id, user_id, action, target_type, target_id, request_id,
			                        ip, user_agent, result, changes)
			SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::uuid[], $6::text[], $7::text[], $8::text[],
			                     $9::text[], $10::text[], $11::text[], $12::text[], $13::jsonb[])
			ON CONFLICT (occurred_at, event_id) DO NOTHING`, columns...)
		return err
	}, err
}

// auditWrite compares the writer with bare COPY, which can't meet a row again, and with what can.
func auditWrite(ctx context.Context, b *bench) ([]sample, error) {
	n := b.amount(200_000, 10_000)
	var ours, raw, unnest time.Duration
	err := b.inTurns(
		func() (err error) { ours, err = b.fillLog(ctx, n, 1, byWriter); return err },
		func() (err error) { raw, err = b.fillLog(ctx, n, 1, byCopy); return err },
		func() (err error) { unnest, err = b.fillLog(ctx, n, 1, byUnnest); return err },
	)
	if err != nil {
		return nil, err
	}
	about := line{Case: fmt.Sprintf("audit: %d rows in batches of %d", n, auditBatch), Ours: "writer", Unit: perSecond}
	copied, conflict := about, about
	copied.Baseline, copied.Target = "bare COPY of rows made before", target{Ratio: 0.8}
	conflict.Baseline, conflict.Target = "unnest … ON CONFLICT", target{Ratio: 1}
	return []sample{
		{line: copied, ours: rate(n, ours), baseline: rate(n, raw)},
		{line: conflict, ours: rate(n, ours), baseline: rate(n, unnest)},
	}, nil
}

// fillLog times how a log with so many months gets its rows, all of them of the present one.
func (b *bench) fillLog(ctx context.Context, n, months int, how intoLog) (took time.Duration, err error) {
	err = b.inWorld(ctx, func(w *world) error {
		if _, err := audit.EnsurePartitions(ctx, w.pool, time.Now().AddDate(0, 1-months, 0), months-1); err != nil {
			return err
		}
		facts := history(n)
		write, err := how(ctx, w, facts)
		if err != nil {
			return err
		}
		if err := w.settle(ctx); err != nil {
			return err
		}
		began := time.Now()
		for from := 0; from < n; from += auditBatch {
			if err := write(ctx, from); err != nil {
				return err
			}
		}
		took = time.Since(began)
		return w.logged(ctx, n)
	})
	return took, err
}

// logged makes sure that the log has so many rows.
func (w *world) logged(ctx context.Context, n int) error {
	var got int
	if err := w.pool.QueryRow(ctx, `SELECT count(*) FROM audit_logs`).Scan(&got); err != nil {
		return fmt.Errorf("count the audit log: %w", err)
	}
	if got != n {
		return fmt.Errorf("the audit log has %d rows of %d", got, n)
	}
	return nil
}

// auditPartitions compares a log of five years with one of a month.
func auditPartitions(ctx context.Context, b *bench) ([]sample, error) {
	const months = 60
	n := b.amount(200_000, 10_000)
	var many, one time.Duration
	err := b.inTurns(
		func() (err error) { many, err = b.fillLog(ctx, n, months, byWriter); return err },
		func() (err error) { one, err = b.fillLog(ctx, n, 1, byWriter); return err },
	)
	if err != nil {
		return nil, err
	}
	return []sample{{
		line: line{
			Case: "audit: writing, by the number of partitions", Ours: fmt.Sprint(months), Baseline: "1", Unit: perSecond,
			Target: target{Ratio: 0.9},
		},
		ours: rate(n, many), baseline: rate(n, one),
	}}, nil
}

// auditLatency times the whole way of an event, from just before the commit of what it tells of to the commit of its row.
func auditLatency(ctx context.Context, b *bench) ([]sample, error) {
	const perSec = 100
	var took []time.Duration
	err := b.inWorld(ctx, func(w *world) error {
		if _, err := audit.EnsurePartitions(ctx, w.pool, time.Now(), 1); err != nil {
			return err
		}
		t, err := w.tasks(ctx, 100)
		if err != nil {
			return err
		}
		arrived, stopWriting, err := w.archive(ctx)
		if err != nil {
			return err
		}
		commit, stop, err := ourOutbox(ctx, w, t)
		if err == nil {
			took, err = measureCommits(ctx, arrived, perSec, b.length(), commit)
			err = errors.Join(err, stop())
		}
		return errors.Join(err, stopWriting())
	})
	if err != nil {
		return nil, err
	}
	about := fmt.Sprintf("audit at %d commits/s: commit → row, ", perSec)
	us := inMilliseconds(took)
	return []sample{
		{line: line{Case: about + "p50", Ours: "relay, writer", Unit: milliseconds, Target: target{AtMost: 150}}, ours: median(us)},
		{line: line{Case: about + "p99", Ours: "relay, writer", Unit: milliseconds}, ours: quantile(us, 0.99)},
	}, nil
}

// archive runs the service's worker and notes when each event's row has been committed.
func (w *world) archive(ctx context.Context) (*moments, func() error, error) {
	nc, err := w.connect(bus.AuditArchiver)
	if err != nil {
		return nil, nil, err
	}
	js, err := bus.JetStream(nc)
	if err != nil {
		return nil, nil, err
	}
	consumer, _ := bus.ConsumerNamed(bus.AuditArchiver)
	writer := audit.NewWriter(w.pool, zerolog.Nop(), prometheus.NewRegistry())
	arrived := newMoments()
	running := worker.New(js, worker.Config{
		Consumer: consumer, BatchSize: auditBatch, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(),
		HandleBatch: func(ctx context.Context, batch []*worker.Delivery) error {
			if err := writer.HandleBatch(ctx, batch); err != nil {
				return err
			}
			now := time.Now()
			for _, d := range batch {
				arrived.record(d.Event.ID, now)
			}
			return nil
		},
	})
	return arrived, background(ctx, running.Run), nil
}

// auditStream times how a backlog in the stream gets into the log: fetched, decoded, written, acknowledged.
func auditStream(ctx context.Context, b *bench) ([]sample, error) {
	n := b.amount(200_000, 5000)
	var took time.Duration
	err := b.inWorld(ctx, func(w *world) error {
		if _, err := audit.EnsurePartitions(ctx, w.pool, time.Now(), 1); err != nil {
			return err
		}
		if err := w.fill(ctx, history(n)); err != nil {
			return err
		}
		stopRelay := background(ctx, w.relay().Run)
		if err := errors.Join(w.stored(ctx, n+2), w.emptied(ctx), stopRelay()); err != nil {
			return err
		}
		if err := w.settle(ctx); err != nil {
			return err
		}
		began := time.Now()
		arrived, stop, err := w.archive(ctx)
		if err != nil {
			return err
		}
		err = until(ctx, 10*time.Minute, func(context.Context) (bool, error) { return arrived.count() >= n, nil })
		took = time.Since(began)
		return errors.Join(err, stop(), w.logged(ctx, n+2)) // and the two that the months are told with
	})
	return []sample{{
		line: line{Case: fmt.Sprintf("audit: a backlog of %d in the stream → rows", n), Ours: "service", Unit: perSecond},
		ours: rate(n, took),
	}}, err
}

// auditPage asks for pages of 50 anywhere in a log of five million rows, and exports all of it. The log is made once.
func auditPage(ctx context.Context, b *bench) ([]sample, error) {
	if b.run > 0 {
		return nil, nil
	}
	const months, workspaces = 6, 200
	rows := b.amount(5_000_000, 30_000) / months * months
	first := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	var samples []sample
	err := b.inWorld(ctx, func(w *world) error {
		actor := events.NewID()
		ids := make([]string, workspaces)
		for i := range ids {
			ids[i] = events.NewID()
		}
		for n := range months {
			at := first.AddDate(0, n, 0)
			if _, err := audit.EnsurePartitions(ctx, w.pool, at, 0); err != nil {
				return err
			}
			if err := w.makeHistory(ctx, at, rows/months, actor, ids); err != nil {
				return err
			}
			b.tell("%d rows made", rows/months*(n+1))
		}
		if err := w.settle(ctx); err != nil {
			return err
		}
		log := audit.NewLog(w.outbox)
		for _, kind := range []struct {
			name   string
			target float64
			filter func(*audit.Filter)
		}{
			{"page of 50", 5, func(*audit.Filter) {}},
			{"page of 50 of an actor", 5, func(f *audit.Filter) { f.ActorID = actor }},
			{"page of 50 of an action (one row in 100)", 0, func(f *audit.Filter) { f.Action = "task.deleted" }},
		} {
			took, err := b.askPages(ctx, log, ids, first, months, kind.filter)
			if err != nil {
				return err
			}
			about := fmt.Sprintf("audit: %s from %d rows, ", kind.name, rows)
			ms := inMilliseconds(took)
			samples = append(samples,
				sample{line: line{Case: about + "p50", Ours: "Log.Page", Unit: milliseconds}, ours: median(ms)},
				sample{line: line{Case: about + "p99", Ours: "Log.Page", Unit: milliseconds, Target: target{AtMost: kind.target}}, ours: quantile(ms, 0.99)})
		}
		took, err := exportLog(ctx, log, rows)
		samples = append(samples, sample{
			line: line{Case: fmt.Sprintf("audit: export of %d rows as NDJSON", rows), Ours: "Log.Export", Unit: perSecond}, ours: rate(rows, took),
		})
		return err
	})
	return samples, err
}

// makeHistory fills a month: a third of the rows is one workspace's, the others have the rest.
func (w *world) makeHistory(ctx context.Context, at time.Time, rows int, actor string, ids []string) error {
	err := pgx.BeginTxFunc(ctx, w.pool, postgres.TxOptions(w.pool), func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO audit_logs (event_id, occurred_at, workspace_id, actor_id, user_id, action, target_type,
		                        target_id, request_id, ip, user_agent, result, changes)
			SELECT gen_random_uuid(), $1::timestamptz + n * (interval '27 days' / $2::int), w,
			       CASE WHEN hashint4(n + 1) % 4 = 0 THEN $3::uuid::text ELSE md5((n % 5000)::text)::uuid::text END, NULL,
			       CASE WHEN hashint4(n + 2) % 100 = 0 THEN 'task.deleted' ELSE 'task.updated' END, 'task', md5(n::text)::uuid::text, 'r-' || n,
			       '192.0.2.7', 'Mozilla/5.0 (X11; Linux x86_64)', 'ok',
			       jsonb_build_object('taskId', md5(n::text)::uuid, 'workspaceId', w, 'version', n, 'origin', 'user', 'changed', jsonb_build_array('title'))
			FROM generate_series(1, $2::int) n, LATERAL (
				SELECT ($4::uuid[])[CASE WHEN n % 3 = 0 THEN 1 ELSE 1 + abs(hashint4(n)::bigint) % cardinality($4::uuid[]) END] AS w) AS of`,
			at, rows, actor, ids)
		return err
	})
	if err != nil {
		return fmt.Errorf("make a month of the audit log: %w", err)
	}
	return nil
}

// askPages asks for the page before a moment and the one after it, of the large workspace and of others by turns.
func (b *bench) askPages(
	ctx context.Context, log *audit.Log, ids []string, first time.Time, months int, narrow func(*audit.Filter),
) ([]time.Duration, error) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same places in every run
	span := first.AddDate(0, months, 0).Sub(first)
	var took []time.Duration
	for n := range b.amount(1000, 20) + 20 {
		f := audit.Filter{WorkspaceID: ids[0], To: first.Add(time.Duration(random.Int64N(int64(span))) + time.Hour)}
		if n%2 == 1 {
			f.WorkspaceID = ids[random.IntN(len(ids))]
		}
		narrow(&f)
		after := audit.Position{}
		for range 2 {
			began := time.Now()
			page, more, err := log.Page(ctx, f, after, 50)
			if err != nil {
				return nil, err
			}
			if n >= 20 { // the first ones pay for connections
				took = append(took, time.Since(began))
			}
			if !more {
				break
			}
			after = page[len(page)-1].Position()
		}
	}
	return took, nil
}

// counter takes an export and counts its lines.
type counter struct{ lines int }

func (w *counter) Write(p []byte) (int, error) {
	w.lines += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

func exportLog(ctx context.Context, log *audit.Log, rows int) (time.Duration, error) {
	var out counter
	began := time.Now()
	_, err := service.ExportAudit(ctx, log, events.Meta{Source: "/fdc/bench", ActorID: events.OperatorActor}, audit.Filter{}, "ndjson", &out, func(int64) {})
	took := time.Since(began)
	if err == nil && out.lines < rows {
		err = fmt.Errorf("%d of %d rows were exported", out.lines, rows)
	}
	return took, err
}
