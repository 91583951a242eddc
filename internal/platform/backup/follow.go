package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
)

const (
	batchRows  = 100
	batchBytes = 4 << 20
	prefetch   = 100 // messages, of 1 MiB at most

	stuckAfter = 10 * time.Second

	absentWait = 500 * time.Millisecond // until a stream that is not there is looked for again
	heartbeat  = 500 * time.Millisecond // a consumer that is silent twice as long is gone
	expiry     = 10 * time.Second
)

var (
	// errGap says that a consumer's messages are not all here: reading starts again after the last that was copied.
	errGap = errors.New("a message is missing")
	// errRecreated says that the stream is another one than a moment ago.
	errRecreated = errors.New("the stream was made anew")
	// errStuck says that a consumer delivers nothing although the stream has more.
	errStuck = errors.New("nothing arrives")
	// errIncomplete says that the copy lacks what the stream holds: all of it is copied again.
	errIncomplete = errors.New("the copy lacks messages that the stream holds")
)

// follow copies the present incarnation of a stream until ctx ends or something breaks. It waits for a stream that is not there.
func (k *Keeper) follow(ctx context.Context, s *session, name string) error {
	stream, err := k.find(ctx, name)
	if err != nil {
		return err
	}
	created := stream.CachedInfo().Created
	f := &follower{k: k, session: s, stream: stream, name: name, created: bus.Incarnation(created)}
	if err := f.compare(ctx, true); err != nil {
		return err
	}
	messages, err := f.consume(ctx)
	if err != nil {
		return err
	}
	defer messages.Stop()
	for next := time.Now().Add(k.compareEvery); ; {
		batch, err := f.gather(ctx, messages, next)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if len(batch) > 0 {
			if err := f.write(ctx, batch); err != nil {
				return err
			}
		}
		if !time.Now().Before(next) {
			if err := f.compare(ctx, false); err != nil {
				return err
			}
			next = time.Now().Add(k.compareEvery)
		}
	}
}

// find waits for the stream: it is absent after NATS has lost its data, until `fdc migrate` makes it.
func (k *Keeper) find(ctx context.Context, name string) (jetstream.Stream, error) {
	for {
		askCtx, cancel := context.WithTimeout(ctx, askTimeout)
		stream, err := k.js.Stream(askCtx, name)
		cancel()
		switch {
		case err == nil:
			return stream, nil
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, fmt.Errorf("look up %s: %w", name, err)
		case !postgres.Wait(ctx, absentWait):
			return nil, ctx.Err()
		}
	}
}

// follower copies one incarnation.
type follower struct {
	k       *Keeper
	session *session
	stream  jetstream.Stream
	name    string
	created time.Time
	last    uint64    // copied, and all before it
	read    uint64    // by the consumer: how many messages it has delivered
	lacking bool      // rows were missing when compare looked last
	behind  time.Time // since when the stream is known to have more, and nothing has arrived
}

// consume makes a consumer that delivers what comes after the last one, in order, once, and goes away when nobody pulls. It is the
// incarnation's own: it can't go on in a stream that was made anew. The client's ordered consumer could, from a sequence of the old one.
func (f *follower) consume(ctx context.Context) (jetstream.MessagesContext, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	consumer, err := f.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Name: "backup-" + events.NewID(), Description: "Copies the stream into Postgres",
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: f.last + 1,
		AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1, MemoryStorage: true, Replicas: 1, InactiveThreshold: 3 * expiry,
	})
	if err != nil {
		return nil, fmt.Errorf("make a consumer of %s: %w", f.name, err)
	}
	info, err := f.stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", f.name, err)
	}
	if !bus.Incarnation(info.Created).Equal(f.created) {
		return nil, fmt.Errorf("%s: %w", f.name, errRecreated)
	}
	f.k.pending.WithLabelValues(f.name).Set(float64(consumer.CachedInfo().NumPending))
	messages, err := consumer.Messages(jetstream.PullMaxMessages(prefetch), jetstream.PullExpiry(expiry),
		jetstream.PullHeartbeat(heartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.name, err)
	}
	return messages, nil
}

// gather waits for a message, no longer than until, and takes along what comes right behind it.
func (f *follower) gather(ctx context.Context, messages jetstream.MessagesContext, until time.Time) (batch []message, err error) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for size := 0; len(batch) < batchRows && size < batchBytes; {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if errors.Is(err, context.DeadlineExceeded) {
			return batch, nil
		}
		if err != nil {
			return nil, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		if f.read++; meta.Sequence.Consumer != f.read {
			return nil, errGap
		}
		batch = append(batch, message{
			Sequence: clamp(meta.Sequence.Stream), Subject: msg.Subject(), Headers: msg.Headers(), Body: msg.Data(), PublishedAt: meta.Timestamp,
		})
		size += len(msg.Data())
		f.k.pending.WithLabelValues(f.name).Set(float64(meta.NumPending) + float64(len(batch)))
		if meta.NumPending == 0 {
			break
		}
	}
	return batch, nil
}

// write commits a batch.
func (f *follower) write(ctx context.Context, batch []message) error {
	if f.k.beforeWrite != nil {
		f.k.beforeWrite(f.name)
	}
	err := f.session.use(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return insert(ctx, tx, f.name, f.created, batch) })
	})
	if err != nil {
		return err
	}
	f.reach(uint64(batch[len(batch)-1].Sequence)) //nolint:gosec // it came from one
	f.k.pending.WithLabelValues(f.name).Sub(float64(len(batch)))
	return nil
}

func (f *follower) reach(sequence uint64) {
	f.last, f.behind = sequence, time.Time{}
	f.k.sequence.WithLabelValues(f.name).Set(float64(sequence))
}

// compare holds the copy against the stream: rows of messages that have left it go. When others are missing, a beginning follower
// starts with the stream's first message, and a running one ends so that the next begins. Messages that were read and not written yet are
// left out of it.
func (f *follower) compare(ctx context.Context, beginning bool) error {
	// In this order: what somebody restores in between is no copy without a message.
	last, rows, err := f.copied(ctx, f.last)
	if err != nil {
		return err
	}
	state, err := f.state(ctx, beginning)
	if err != nil {
		return err
	}
	switch {
	case beginning:
		f.reach(min(last, state.LastSeq))
		if last > state.LastSeq {
			f.k.log.Error().Str("stream", f.name).Uint64("last_sequence", state.LastSeq).Uint64("copied", last).
				Msg("the stream is in an earlier state than its backup: what came later is in stream_backup alone, until those sequences are used again")
		}
	case f.last == state.LastSeq && rows == state.Msgs:
		f.lacking, f.behind = false, time.Time{}
		return nil
	default: // which ones have left?
		if state, err = f.state(ctx, true); err != nil {
			return err
		}
	}
	err = f.session.use(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return prune(ctx, conn, f.name, f.created, f.last, state.FirstSeq, state.Deleted)
	})
	if err != nil {
		return err
	}
	if _, rows, err = f.copied(ctx, f.last); err != nil {
		return err
	}
	held := holds(state, f.last)
	switch {
	case state.Msgs == held:
		f.behind = time.Time{}
	case f.behind.IsZero(): // it may be on its way
		f.behind = time.Now()
	}
	switch {
	case !f.behind.IsZero() && time.Since(f.behind) > stuckAfter:
		return fmt.Errorf("%s: %w", f.name, errStuck)
	case rows >= held:
		f.lacking = false
	case beginning:
		f.k.log.Warn().Str("stream", f.name).Uint64("rows", rows).Uint64("messages", held).Msg("the backup lacks messages; copying all of them again")
		f.reach(0)
	case f.lacking:
		return fmt.Errorf("%s: %w", f.name, errIncomplete)
	default: // somebody may be about to take them out of the stream, having taken their rows
		f.lacking = true
	}
	return nil
}

func (f *follower) copied(ctx context.Context, upTo uint64) (last, rows uint64, err error) {
	err = f.session.use(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		last, rows, err = copied(ctx, conn, f.name, f.created, upTo)
		return err
	})
	return last, rows, err
}

// state asks for the stream's, with the sequences that were deleted between its first and its last, if details are wanted.
func (f *follower) state(ctx context.Context, details bool) (jetstream.StreamState, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	info, err := f.stream.Info(ctx, jetstream.WithDeletedDetails(details))
	if err != nil {
		return jetstream.StreamState{}, fmt.Errorf("look up %s: %w", f.name, err)
	}
	if !bus.Incarnation(info.Created).Equal(f.created) {
		return jetstream.StreamState{}, fmt.Errorf("%s: %w", f.name, errRecreated)
	}
	return info.State, nil
}

// holds is how many messages the stream holds up to a sequence.
func holds(state jetstream.StreamState, upTo uint64) uint64 {
	if state.Msgs == 0 || upTo < state.FirstSeq {
		return 0
	}
	n := min(upTo, state.LastSeq) - state.FirstSeq + 1
	for _, sequence := range state.Deleted {
		if sequence <= upTo {
			n--
		}
	}
	return n
}
