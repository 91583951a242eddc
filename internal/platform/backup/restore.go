package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"fdc/events"
	"fdc/internal/platform/bus"
)

const (
	// restoreLock is held by the one who restores: a second one waits, and finds nothing left to do.
	restoreLock = 0x0fdc_bac1

	portionRows = 50 // read, published and moved at once
)

// Restore publishes what the backup holds of streams that were lost into those that are there now, and moves the rows to them. Without such rows
// it costs one query. The connection is a direct one. What was interrupted is done by the next call; see the package for why nothing is doubled.
func Restore(ctx context.Context, conn *pgx.Conn, js jetstream.JetStream, log zerolog.Logger) error {
	return (&restorer{conn: conn, js: js, log: log}).run(ctx)
}

// restorer is one call of Restore.
type restorer struct {
	conn *pgx.Conn
	js   jetstream.JetStream
	log  zerolog.Logger

	afterStep func(step string) error // called after each step that a crash may follow; tests crash there
}

func (r *restorer) run(ctx context.Context) (err error) {
	present := map[string]jetstream.Stream{}
	created := make([]time.Time, len(streams))
	for i, name := range streams {
		stream, err := r.js.Stream(ctx, name)
		if err != nil {
			return fmt.Errorf("look up %s: %w", name, err)
		}
		present[name], created[i] = stream, bus.Incarnation(stream.CachedInfo().Created)
	}
	lost, err := others(ctx, r.conn, streams, created)
	if err != nil || len(lost) == 0 {
		return err
	}
	if _, err := r.conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, restoreLock); err != nil {
		return fmt.Errorf("wait for another restore: %w", err)
	}
	defer func() {
		if _, unlockErr := r.conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, restoreLock); unlockErr != nil && err == nil {
			err = fmt.Errorf("end the restore: %w", unlockErr)
		}
	}()
	for _, name := range lost {
		if err := r.stream(ctx, present[name]); err != nil {
			return fmt.Errorf("restore %s (do it again, nothing is doubled): %w", name, err)
		}
	}
	return nil
}

// stream restores the lost incarnations of one stream, the newest first: what it says holds against an older one, and what a restore that was
// interrupted by a second loss has put into it comes before the rest.
func (r *restorer) stream(ctx context.Context, stream jetstream.Stream) error {
	info, err := stream.Info(ctx) // it is not the one of a moment ago if another has restored meanwhile
	if err != nil {
		return fmt.Errorf("look it up: %w", err)
	}
	now := bus.Incarnation(info.Created)
	rows, err := r.conn.Query(ctx, `
		SELECT DISTINCT created FROM stream_backup WHERE stream = $1 AND created <> $2 ORDER BY created DESC`, info.Config.Name, now)
	if err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	lost, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil {
		return fmt.Errorf("read the backup: %w", err)
	}
	put, err := r.putter(ctx, stream, info)
	if err != nil {
		return err
	}
	for _, old := range lost {
		done, err := r.incarnation(ctx, info.Config.Name, old, now, put)
		log := r.log.With().Str("stream", info.Config.Name).Time("lost", old).
			Int("published", done.published).Int("there_already", done.there).Int("superseded", done.superseded).Logger()
		refused, conflict := errors.AsType[*conflictError](err)
		switch {
		case conflict:
			log.Error().Str("problem", refused.Error()).Msg("what NATS had lost is not restored in full")
		case err != nil:
			return err
		default:
			log.Info().Msg("restored what NATS had lost")
		}
	}
	return nil
}

// result counts what has become of messages.
type result struct{ published, there, superseded int }

// conflictError says why messages can't be put back at all; their rows stay.
type conflictError struct{ reason string }

func (e *conflictError) Error() string { return e.reason }

// putFunc puts a message of a lost stream into the present one, and returns its sequence there: zero when the present stream has
// something newer in its place.
type putFunc func(ctx context.Context, m message) (sequence uint64, published bool, err error)

// incarnation moves the rows of one lost incarnation to the present one, portion by portion, in order.
func (r *restorer) incarnation(ctx context.Context, name string, old, now time.Time, put putFunc) (done result, err error) {
	for after := int64(0); ; {
		portion, err := r.portion(ctx, name, old, after)
		if err != nil || len(portion) == 0 {
			return done, err
		}
		from, to := make([]int64, 0, len(portion)), make([]int64, 0, len(portion))
		var putErr error
		for _, m := range portion {
			var sequence uint64
			var published bool
			if sequence, published, putErr = put(ctx, m); putErr != nil {
				break
			}
			from, to = append(from, m.Sequence), append(to, clamp(sequence))
			switch {
			case published:
				done.published++
			case sequence != 0:
				done.there++
			default:
				done.superseded++
			}
			if putErr = r.step("published " + name); putErr != nil {
				return done, putErr
			}
		}
		if err := r.move(ctx, name, old, now, from, to); err != nil {
			return done, errors.Join(putErr, err)
		}
		if putErr != nil {
			return done, putErr
		}
		after = portion[len(portion)-1].Sequence
		if err := r.step("moved " + name); err != nil {
			return done, err
		}
	}
}

func (r *restorer) step(name string) error {
	if r.afterStep == nil {
		return nil
	}
	return r.afterStep(name)
}

func (r *restorer) portion(ctx context.Context, name string, created time.Time, after int64) ([]message, error) {
	rows, err := r.conn.Query(ctx, `
		SELECT sequence, subject, headers, body, published_at FROM stream_backup
		WHERE stream = $1 AND created = $2 AND sequence > $3 ORDER BY sequence LIMIT $4`, name, created, after, portionRows)
	if err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	portion, err := pgx.CollectRows(rows, pgx.RowToStructByPos[message])
	if err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	return portion, nil
}

// move makes rows of the old incarnation rows of the present one, in one statement: there is no moment without a copy. A sequence of zero
// takes a row away.
func (r *restorer) move(ctx context.Context, name string, old, now time.Time, from, to []int64) error {
	_, err := r.conn.Exec(ctx, `
		WITH gone AS (
			DELETE FROM stream_backup b USING unnest($4::bigint[], $5::bigint[]) AS m (was, is_now)
			WHERE b.stream = $1 AND b.created = $2 AND b.sequence = m.was RETURNING b.*, m.is_now
		)
		INSERT INTO stream_backup (stream, created, sequence, subject, headers, body, published_at)
		SELECT DISTINCT ON (is_now) stream, $3::timestamptz, is_now, subject, headers, body, published_at FROM gone WHERE is_now > 0
		ON CONFLICT DO NOTHING`, name, old, now, from, to) // the keeper's own copy is as good
	if err != nil {
		return fmt.Errorf("move rows of the backup: %w", err)
	}
	return nil
}

// putter is the way to put messages into the stream.
func (r *restorer) putter(ctx context.Context, stream jetstream.Stream, info *jetstream.StreamInfo) (putFunc, error) {
	switch info.Config.Name {
	case bus.Checkpoints:
		last := info.State.LastSeq
		return func(ctx context.Context, m message) (uint64, bool, error) {
			return r.putCheckpoint(ctx, stream, &last, m)
		}, nil
	case bus.Dead:
		known, err := letterIDs(ctx, stream, info.State)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, m message) (uint64, bool, error) { return r.putLetter(ctx, known, m) }, nil
	default:
		return func(ctx context.Context, m message) (uint64, bool, error) { return r.putFlag(ctx, stream, m) }, nil
	}
}

// putCheckpoint continues the chain, or finds the very checkpoint in its place.
func (r *restorer) putCheckpoint(ctx context.Context, stream jetstream.Stream, last *uint64, m message) (uint64, bool, error) {
	sequence := uint64(m.Sequence) //nolint:gosec // it came from one
	if sequence == *last+1 {
		_, err := r.publish(ctx, bus.Checkpoints, m, jetstream.WithExpectLastSequence(*last))
		if err == nil {
			*last = sequence
			return sequence, true, nil
		}
		if !bus.IsConflict(err) {
			return 0, false, err
		}
		info, infoErr := stream.Info(ctx) // somebody was faster
		if infoErr != nil {
			return 0, false, errors.Join(err, infoErr)
		}
		*last = info.State.LastSeq
	}
	if sequence > *last {
		return 0, false, &conflictError{fmt.Sprintf("the backup of %s lacks what comes before checkpoint %d; that one and all after it stay in stream_backup",
			bus.Checkpoints, sequence)}
	}
	there, err := stream.GetMsg(ctx, sequence)
	if err != nil {
		return 0, false, fmt.Errorf("read checkpoint %d: %w", sequence, err)
	}
	if !bytes.Equal(there.Data, m.Body) {
		return 0, false, &conflictError{fmt.Sprintf("somebody has signed another checkpoint %d since %s was lost: the chains can't be joined; "+
			"the lost one from there on stays in stream_backup", sequence, bus.Checkpoints)}
	}
	return sequence, false, nil
}

// putFlag sets what nobody has set or cleared meanwhile.
func (r *restorer) putFlag(ctx context.Context, stream jetstream.Stream, m message) (uint64, bool, error) {
	ack, err := r.publish(ctx, "KV_"+bus.Flags, m, jetstream.WithExpectLastSequencePerSubject(0))
	if err == nil {
		return ack.Sequence, true, nil
	}
	if !bus.IsConflict(err) {
		return 0, false, err
	}
	there, err := stream.GetLastMsgForSubject(ctx, m.Subject)
	if err != nil {
		return 0, false, fmt.Errorf("read %s: %w", m.Subject, err)
	}
	if bytes.Equal(there.Data, m.Body) {
		return there.Sequence, false, nil // by a restore that was interrupted
	}
	r.log.Info().Str("subject", m.Subject).Msg("a flag was set or cleared since it was lost; it stays so")
	return 0, false, nil
}

// putLetter puts a dead letter back under its own id, if none is there that has it.
func (r *restorer) putLetter(ctx context.Context, known map[string]uint64, m message) (uint64, bool, error) {
	id := m.Headers.Get(jetstream.MsgIDHeader)
	if id == "" { // somebody else's; one of our own, so that it isn't put in twice
		id = "restored-" + strconv.FormatInt(m.PublishedAt.UnixMicro(), 36) + "-" + strconv.FormatInt(m.Sequence, 10)
	}
	if sequence, ok := known[id]; ok {
		return sequence, false, nil
	}
	ack, err := r.publish(ctx, bus.Dead, m, jetstream.WithMsgID(id))
	if err != nil {
		return 0, false, err
	}
	known[id] = ack.Sequence
	return ack.Sequence, !ack.Duplicate, nil
}

func (r *restorer) publish(ctx context.Context, stream string, m message, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ack, err := r.js.PublishMsg(ctx, &nats.Msg{Subject: m.Subject, Header: ownHeaders(m.Headers), Data: m.Body},
		append(opts, jetstream.WithExpectStream(stream))...)
	if err != nil {
		return nil, fmt.Errorf("publish message %d of %s: %w", m.Sequence, stream, err)
	}
	return ack, nil
}

// ownHeaders leaves out what told the lost stream how to take the message. A rollup is part of what a marker says.
func ownHeaders(h nats.Header) nats.Header {
	own := nats.Header{}
	for key, values := range h {
		if !strings.HasPrefix(key, "Nats-") || key == jetstream.MsgRollup {
			own[key] = slices.Clone(values)
		}
	}
	return own
}

// letterIDs reads the message ids of what the stream holds, without bodies. After a loss that is nothing, or what an interrupted restore has put there.
func letterIDs(ctx context.Context, stream jetstream.Stream, state jetstream.StreamState) (map[string]uint64, error) {
	known := map[string]uint64{}
	if state.Msgs == 0 {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Name: "restore-" + events.NewID(), AckPolicy: jetstream.AckNonePolicy, HeadersOnly: true, MaxDeliver: 1,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: 3 * expiry,
	})
	if err != nil {
		return nil, fmt.Errorf("read the letters that are there: %w", err)
	}
	defer func() { _ = stream.DeleteConsumer(context.WithoutCancel(ctx), consumer.CachedInfo().Name) }() // it goes by itself, too
	messages, err := consumer.Messages(jetstream.PullExpiry(expiry), jetstream.PullHeartbeat(heartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return nil, fmt.Errorf("read the letters that are there: %w", err)
	}
	defer messages.Stop()
	for left := consumer.CachedInfo().NumPending; left > 0; {
		msg, err := messages.Next(jetstream.NextMaxWait(askTimeout))
		if errors.Is(err, nats.ErrTimeout) { // some were taken out meanwhile, or the server is slow
			info, err := consumer.Info(ctx)
			if err != nil {
				return nil, fmt.Errorf("read the letters that are there: %w", err)
			}
			left = info.NumPending
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the letters that are there: %w", err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, fmt.Errorf("read the letters that are there: %w", err)
		}
		left = meta.NumPending
		if id := msg.Headers().Get(jetstream.MsgIDHeader); id != "" {
			known[id] = meta.Sequence.Stream
		}
	}
	return known, nil
}
