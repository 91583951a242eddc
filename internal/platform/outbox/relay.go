package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
)

const (
	// lockKey is the advisory lock of the one working relay of a database.
	lockKey = 0x0fdc_0b0c

	pollInterval = 200 * time.Millisecond

	// A batch costs 3 ms whatever its size, a single message half a millisecond.
	batchFrom = 8
	batchRows = 1000 // the server's limit for an atomic batch
	batchSize = 4 << 20

	// maxHeld is how many published rows wait for the audit log at most; beyond it the oldest go without.
	maxHeld         = 20_000
	releaseInterval = 100 * time.Millisecond
	releaseTimeout  = 250 * time.Millisecond
	releaseRetry    = 5 * time.Second

	// publishTimeout is short, since a leader that can't reach NATS must make way for one that can: what a revoked session may
	// do elsewhere is bounded by 3 s.
	publishTimeout = time.Second

	// A relay that is silent for longer than any of its steps takes loses its session, and with it the lock.
	sessionTimeout = 2 * time.Second
)

// Relay publishes what the outbox holds. Run it in every process of the API: one works, the others stand by.
type Relay struct {
	db  postgres.Config
	js  jetstream.JetStream
	log zerolog.Logger

	leader    prometheus.Gauge
	published *prometheus.CounterVec
	failures  prometheus.Counter
	latency   prometheus.Histogram

	maxHeld int

	// afterPublish is called between the acknowledgement and its record; tests crash the relay there.
	afterPublish func()
}

// NewRelay returns a relay that reads over a direct connection of its own.
func NewRelay(db postgres.Config, js jetstream.JetStream, log zerolog.Logger, metrics prometheus.Registerer) *Relay {
	r := &Relay{
		db: db, js: js, log: log.With().Str("component", "outbox").Logger(), maxHeld: maxHeld,
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "outbox_leader", Help: "1 while this process relays the outbox.",
		}),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outbox_published_total", Help: "Events that were published, by how: batch, single, or found in the stream already.",
		}, []string{"how"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "outbox_failures_total", Help: "Publish attempts that were not acknowledged.",
		}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "outbox_latency_seconds", Help: "From insert to acknowledgement, of the oldest event of each round.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5, 30, 120},
		}),
	}
	metrics.MustRegister(r.leader, r.published, r.failures, r.latency)
	return r
}

// Run stands by, relays while it holds the lock, and returns nil when ctx ends. It outlives every failure of Postgres
// and NATS.
func (r *Relay) Run(ctx context.Context) error {
	nudge := make(chan *nats.Msg, 1)
	sub, err := r.js.Conn().Subscribe(bus.OutboxNudge, func(m *nats.Msg) {
		select {
		case nudge <- m:
		default: // one waiting nudge is enough
		}
	})
	if err != nil {
		return fmt.Errorf("subscribe %s: %w", bus.OutboxNudge, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection is closing when this fails

	leader := postgres.Leader{
		DB: r.db, Session: "fdc-outbox-relay", Key: lockKey, Silence: sessionTimeout, Able: r.js.Conn().IsConnected, Leads: r.leader, Log: r.log,
	}
	return leader.Run(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		// What is lost in a crash is found out by the next relay, so no commit need wait for the disk.
		if _, err := conn.Exec(ctx, `SET synchronous_commit = off`); err != nil {
			return fmt.Errorf("prepare relay session: %w", err)
		}
		return r.lead(ctx, conn, nudge)
	})
}

// lead relays until ctx ends or the connection to either side breaks. Another relay may still reach what this one does not.
func (r *Relay) lead(ctx context.Context, conn *pgx.Conn, nudge <-chan *nats.Msg) error {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	// The predecessor, or this relay's last term, may have published what it could not record.
	held, err := r.reconcile(ctx, conn)
	if err != nil {
		return r.failed(ctx, err)
	}
	for {
		if !r.js.Conn().IsConnected() {
			return nats.ErrDisconnected
		}
		if err := held.release(ctx, conn); err != nil {
			return stopped(ctx, err)
		}
		rows, err := head(ctx, conn, held.start())
		if err != nil {
			return stopped(ctx, err)
		}
		if len(rows) == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-nudge:
			case <-poll.C:
			}
			continue
		}
		sequences, err := r.publish(ctx, rows)
		if err != nil {
			return r.failed(ctx, err)
		}
		r.latency.Observe(time.Since(rows[0].CreatedAt).Seconds())
		if r.afterPublish != nil {
			r.afterPublish()
		}
		if err := held.add(ctx, conn, rows, sequences); err != nil {
			return stopped(ctx, err)
		}
	}
}

// failed counts what went wrong with NATS.
func (r *Relay) failed(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		r.failures.Inc()
	}
	return stopped(ctx, err)
}

// stopped hides the errors of an orderly end.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // that is its purpose
	}
	return err
}

type row struct {
	ID          int64
	EventID     string
	Subject     string
	Body        []byte
	Traceparent string
	CreatedAt   time.Time
}

// message makes a fresh message: publishing a batch writes into the headers.
func (w row) message() *nats.Msg {
	header := nats.Header{
		jetstream.MsgIDHeader: []string{w.EventID},
		"Content-Type":        []string{"application/cloudevents+json"},
	}
	if w.Traceparent != "" {
		header["traceparent"] = []string{w.Traceparent}
	}
	return &nats.Msg{Subject: w.Subject, Header: header, Data: w.Body}
}

// head reads the oldest rows from an id on that are not published, at most batchRows of them and, past the first, at most batchSize bytes.
func head(ctx context.Context, conn *pgx.Conn, start int64) ([]row, error) {
	rows, err := conn.Query(ctx, `
		SELECT id, event_id::text, subject, body, traceparent, created_at
		FROM (SELECT *, sum(octet_length(body)) OVER (ORDER BY id) AS total
		      FROM (SELECT * FROM outbox WHERE sequence IS NULL AND id >= $3 ORDER BY id LIMIT $1) AS oldest) AS sized
		WHERE total <= $2 OR total = octet_length(body)
		ORDER BY id`, batchRows, batchSize, start)
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	oldest, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	return oldest, nil
}

// publish returns the rows' sequences when every row is in the stream.
func (r *Relay) publish(ctx context.Context, rows []row) ([]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if len(rows) >= batchFrom {
		sequences, err := r.publishBatch(ctx, rows)
		if !isDuplicate(err) {
			return sequences, err
		}
		// One message id is known already and the whole batch was refused: singles sort out which.
	}
	sequences := make([]uint64, len(rows))
	for i, w := range rows {
		ack, err := r.js.PublishMsg(ctx, w.message(), jetstream.WithExpectStream(bus.Events), jetstream.WithRetryAttempts(0))
		if err != nil {
			return nil, fmt.Errorf("publish event %s: %w", w.EventID, err)
		}
		sequences[i] = ack.Sequence
		if ack.Duplicate {
			r.published.WithLabelValues("found").Inc()
		} else {
			r.published.WithLabelValues("single").Inc()
		}
	}
	return sequences, nil
}

// publishBatch publishes all rows or none. A batch has one acknowledgement, with the sequence of its last message.
func (r *Relay) publishBatch(ctx context.Context, rows []row) ([]uint64, error) {
	messages := make([]*nats.Msg, len(rows))
	for i, w := range rows {
		messages[i] = w.message()
	}
	ack, err := jetstreamext.PublishMsgBatch(ctx, r.js, messages)
	if err != nil {
		return nil, fmt.Errorf("publish batch of %d from event %s: %w", len(rows), rows[0].EventID, err)
	}
	r.published.WithLabelValues("batch").Add(float64(len(rows)))
	sequences := make([]uint64, len(rows))
	for i := range rows {
		sequences[i] = ack.Sequence - uint64(len(rows)-1-i) //nolint:gosec // not negative
	}
	return sequences, nil
}

func isDuplicate(err error) bool {
	apiErr, ok := errors.AsType[*jetstream.APIError](err)
	return ok && apiErr.ErrorCode == jetstreamext.JSErrCodeBatchPublishDuplicateMsgID
}
