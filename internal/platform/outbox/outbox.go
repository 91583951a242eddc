package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
)

// Append inserts the event into the outbox in the caller's transaction. The caller has locked or bumped the row of the
// event's aggregate in the same transaction. An event that breaks the wire contract is refused here, before the commit.
func Append(ctx context.Context, tx pgx.Tx, event events.Event) error {
	body, err := encode(event)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO outbox (event_id, aggregate, version, subject, body, traceparent)
		VALUES ($1, $2, $3, $4, $5, $6)`,
		event.ID, event.Aggregate(), event.Version(), event.NATSSubject(), body, traceparent(ctx))
	if err != nil {
		return fmt.Errorf("append event %s of %s: %w", event.Type, event.Aggregate(), err)
	}
	return nil
}

// AppendAll is Append for many events, in their order, with one statement.
func AppendAll(ctx context.Context, tx pgx.Tx, list []events.Event) error {
	n := len(list)
	ids, aggregates, subjects := make([]string, n), make([]string, n), make([]string, n)
	versions, bodies := make([]int64, n), make([][]byte, n)
	for i, event := range list {
		body, err := encode(event)
		if err != nil {
			return err
		}
		ids[i], aggregates[i], versions[i], subjects[i], bodies[i] = event.ID, event.Aggregate(), event.Version(), event.NATSSubject(), body
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO outbox (event_id, aggregate, version, subject, body, traceparent)
		SELECT event_id, aggregate, version, subject, body, $6
		FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::bytea[])
		     WITH ORDINALITY AS event (event_id, aggregate, version, subject, body, n)
		ORDER BY n`,
		ids, aggregates, versions, subjects, bodies, traceparent(ctx))
	if err != nil {
		return fmt.Errorf("append %d events: %w", n, err)
	}
	return nil
}

func encode(event events.Event) ([]byte, error) {
	if t, ok := events.TypeByName(event.Type); !ok || !t.Stored {
		return nil, fmt.Errorf("append event: %s is not for the stream", event.Type)
	}
	body, err := events.Encode(event)
	if err != nil {
		return nil, fmt.Errorf("append event: %w", err)
	}
	return body, nil
}

func traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// Outbox runs transactions that append events. It is safe for concurrent use.
type Outbox struct {
	pool  *pgxpool.Pool
	begin pgx.TxOptions
	nc    *nats.Conn
}

// New returns an Outbox that writes through pool and nudges the relay over nc. Without nc the relay's poll is the only
// wake-up.
func New(pool *pgxpool.Pool, nc *nats.Conn) *Outbox {
	return &Outbox{pool: pool, begin: postgres.TxOptions(pool), nc: nc}
}

// Pool is the pool that Tx uses, for reads.
func (o *Outbox) Pool() *pgxpool.Pool { return o.pool }

// Tx runs fn in a transaction, commits it when fn returns nil, and then nudges the relay. A database that is away or busy
// (no free connection, a lock not to be had, a deadlock) is reported as fault.Unavailable. It never repeats fn: some ask
// Google in between.
func (o *Outbox) Tx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	if err := pgx.BeginTxFunc(ctx, o.pool, o.begin, fn); err != nil {
		return postgres.Fault(err)
	}
	if o.nc != nil {
		// Only a hint: the relay polls, so a nudge that is lost costs 200 ms and no event.
		_ = o.nc.Publish(bus.OutboxNudge, nil)
	}
	return nil
}

// Stats is the backlog.
type Stats struct {
	Pending          int64   `json:"pending"`
	OldestAgeSeconds float64 `json:"oldestAgeSeconds"` // 0 when nothing is pending
}

// ReadStats counts what waits to be published.
func ReadStats(ctx context.Context, q postgres.Querier) (Stats, error) {
	var s Stats
	err := q.QueryRow(ctx, `
		SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 FROM outbox WHERE sequence IS NULL`).
		Scan(&s.Pending, &s.OldestAgeSeconds)
	if err != nil {
		return Stats{}, fmt.Errorf("read outbox statistics: %w", err)
	}
	return s, nil
}

// Age reports how long the oldest pending row has waited; zero when there is none. It reads one row whatever the backlog, past those that
// wait for the audit log.
func Age(ctx context.Context, q postgres.Querier) (time.Duration, error) {
	var seconds float64
	err := q.QueryRow(ctx, `
		SELECT coalesce((SELECT extract(epoch FROM clock_timestamp() - created_at)::float8 FROM outbox WHERE sequence IS NULL
			ORDER BY id LIMIT 1), 0)`).
		Scan(&seconds)
	if err != nil {
		return 0, fmt.Errorf("read outbox age: %w", err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}
