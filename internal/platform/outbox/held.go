package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"fdc/events"
	"fdc/internal/platform/bus"
)

// errRecreated ends a term: what was published went to a stream that is no more.
var errRecreated = errors.New("the stream was made anew")

// held is what is published and, as far as anybody knows, not yet in the audit log: the rows stay in the table until it is.
type held struct {
	js     jetstream.JetStream
	log    zerolog.Logger
	most   int        // rows
	stream time.Time  // when the stream was created
	rows   []position // in the order of the stream
	next   time.Time  // when the audit-archiver is asked after again
	full   time.Time  // when the table was last read from its start
}

type position struct {
	ID       int64
	Sequence uint64
}

// reconcile compares the table with the stream, event by event, and records what has arrived. Only rows of the last round can have
// arrived without a record, and only the relay publishes in number, so the last messages of the stream tell. What was published
// to a stream that is no more is pending again.
func (r *Relay) reconcile(ctx context.Context, conn *pgx.Conn) (*held, error) {
	last, err := awaitTail(ctx, r.js, conn, 2*batchRows)
	if err != nil {
		return nil, err
	}
	h := &held{js: r.js, log: r.log, most: r.maxHeld, stream: last.stream}
	lost, err := conn.Exec(ctx, `UPDATE outbox SET sequence = NULL, stream = NULL WHERE stream <> $1`, h.stream)
	if err != nil {
		return nil, fmt.Errorf("find rows of another stream: %w", err)
	}
	if n := lost.RowsAffected(); n > 0 {
		r.log.Warn().Int64("events", n).Msg("the stream was made anew; what the audit log had not written yet is published again")
	}
	found, err := conn.Exec(ctx, `
		UPDATE outbox SET sequence = arrived.sequence, stream = $3
		FROM unnest($1::uuid[], $2::bigint[]) AS arrived (event_id, sequence)
		WHERE outbox.event_id = arrived.event_id AND outbox.sequence IS NULL`, last.ids, last.sequences, h.stream)
	if err != nil {
		return nil, fmt.Errorf("record rows found in the stream: %w", err)
	}
	r.published.WithLabelValues("found").Add(float64(found.RowsAffected()))
	rows, err := conn.Query(ctx, `SELECT id, sequence FROM outbox WHERE sequence IS NOT NULL ORDER BY sequence`)
	if err != nil {
		return nil, fmt.Errorf("read published rows: %w", err)
	}
	if h.rows, err = pgx.CollectRows(rows, pgx.RowToStructByPos[position]); err != nil {
		return nil, fmt.Errorf("read published rows: %w", err)
	}
	return h, nil
}

// start is the id from which the table is read. Late commits have lower ids than published rows, but seldom by much: with
// a long audit log to wait for, the whole table is looked at no more often than a poll does.
func (h *held) start() int64 {
	if n := len(h.rows) - batchRows; n > 0 && time.Since(h.full) < pollInterval {
		return h.rows[n].ID
	}
	h.full = time.Now()
	return 0
}

// add records that the rows are published.
func (h *held) add(ctx context.Context, conn *pgx.Conn, rows []row, sequences []uint64) error {
	ids := make([]int64, len(rows))
	for i, w := range rows {
		ids[i] = w.ID
		h.rows = append(h.rows, position{ID: w.ID, Sequence: sequences[i]})
	}
	_, err := conn.Exec(ctx, `
		UPDATE outbox SET sequence = published.sequence, stream = $3
		FROM unnest($1::bigint[], $2::bigint[]) AS published (id, sequence)
		WHERE outbox.id = published.id`, ids, sequences, h.stream)
	if err != nil {
		return fmt.Errorf("record published rows: %w", err)
	}
	return nil
}

// release deletes what the audit-archiver has acknowledged, which it does after its commit, and what is too much to be held. Publishing
// doesn't depend on how far it is: when nobody answers for that, nothing is deleted for a while.
func (h *held) release(ctx context.Context, conn *pgx.Conn) error {
	if len(h.rows) == 0 || time.Now().Before(h.next) {
		return nil
	}
	h.next = time.Now().Add(releaseInterval)
	floor, err := h.floor(ctx)
	if errors.Is(err, errRecreated) {
		return err
	}
	if err != nil && ctx.Err() == nil {
		h.next = time.Now().Add(releaseRetry)
		h.log.Warn().Err(err).Msg("can't ask how far the audit log is; published events stay in the outbox")
	}
	n := max(0, len(h.rows)-h.most)
	for n < len(h.rows) && h.rows[n].Sequence <= floor {
		n++
	}
	if n == 0 {
		return nil
	}
	// Exactly these rows: a range of ids could take along a late commit.
	ids := make([]int64, n)
	for i, p := range h.rows[:n] {
		ids[i] = p.ID
	}
	if _, err := conn.Exec(ctx, `DELETE FROM outbox WHERE id = ANY($1)`, ids); err != nil {
		return fmt.Errorf("delete rows that the audit log has: %w", err)
	}
	h.rows = append(h.rows[:0], h.rows[n:]...)
	return nil
}

// floor is the sequence up to which the audit-archiver has acknowledged everything; 0 as long as it has no consumer.
func (h *held) floor(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	stream, err := h.js.Stream(ctx, bus.Events)
	if err != nil {
		return 0, fmt.Errorf("look up stream: %w", err)
	}
	if !bus.Incarnation(stream.CachedInfo().Created).Equal(h.stream) {
		return 0, errRecreated
	}
	consumer, err := stream.Consumer(ctx, bus.AuditArchiver)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look up consumer %s: %w", bus.AuditArchiver, err)
	}
	return consumer.CachedInfo().AckFloor.Stream, nil
}

// tail is the end of a stream.
type tail struct {
	stream    time.Time
	ids       []string
	sequences []uint64
}

// readTail reads the ids of the last n messages of EVENTS, without their bodies. Over a slow link it takes as long as it takes; it
// fails when NATS is silent for publishTimeout.
func readTail(ctx context.Context, js jetstream.JetStream, n uint64) (tail, error) {
	asking, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	stream, err := js.Stream(asking, bus.Events)
	if err != nil {
		return tail{}, fmt.Errorf("look up stream: %w", err)
	}
	t := tail{stream: bus.Incarnation(stream.CachedInfo().Created)}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return t, nil
	}
	first := state.FirstSeq
	if state.LastSeq >= n {
		first = max(first, state.LastSeq-n+1)
	}
	making, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	consumer, err := stream.OrderedConsumer(making, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first, HeadersOnly: true,
	})
	if err != nil {
		return tail{}, fmt.Errorf("read the stream's tail: %w", err)
	}
	err = bus.Scan(ctx, consumer, publishTimeout, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) bool {
		if id := msg.Headers().Get(jetstream.MsgIDHeader); events.ValidID(id) {
			t.ids, t.sequences = append(t.ids, id), append(t.sequences, meta.Sequence.Stream)
		}
		return meta.Sequence.Stream < state.LastSeq
	})
	if err != nil {
		return tail{}, fmt.Errorf("read the stream's tail: %w", err)
	}
	return t, nil
}

// awaitTail reads the tail and meanwhile keeps the session alive, which the database ends after sessionTimeout of silence.
func awaitTail(ctx context.Context, js jetstream.JetStream, conn *pgx.Conn, n uint64) (t tail, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		t, err = readTail(ctx, js, n)
	}()
	tick := time.NewTicker(sessionTimeout / 4)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return t, err
		case <-tick.C:
			if pingErr := conn.Ping(ctx); pingErr != nil {
				cancel()
				<-done
				return tail{}, fmt.Errorf("keep the relay's session: %w", pingErr)
			}
		}
	}
}
