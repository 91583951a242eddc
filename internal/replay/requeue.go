package replay

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"fdc/events"
	"fdc/internal/platform/backup"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/worker"
)

// Bounds of what is requeued or discarded at once: one transaction, one batch of the server, and this much memory.
const (
	portionLetters = 500
	portionBytes   = 16 << 20
)

// Requeue gives the letters to their consumers again, and to no other, and takes them out of DEAD. It returns how many it
// took out. Letters that are gone meanwhile are passed over. An interruption at any moment loses nothing: a letter leaves
// DEAD only after its copy is in REPLAY and the outbox tells of it. Whoever is interrupted does the same again; REPLAY drops
// a second copy within the hour, and after that handlers recognise what they have done.
func (d *DeadLetters) Requeue(ctx context.Context, meta events.Meta, letters []Letter, reason string, progress func(done int)) (int, error) {
	for _, l := range letters {
		if err := l.Requeueable(); err != nil {
			return 0, err
		}
	}
	newest := map[string]uint64{} // the last letter of each event and consumer
	for _, l := range letters {
		newest[l.identity()] = max(newest[l.identity()], l.Sequence)
	}
	told := func(l Letter) events.Payload {
		return events.OpsDeadLetterRequeued{Consumer: l.Consumer, Sequence: int64(l.Sequence), EventID: l.EventID(), Reason: reason} //nolint:gosec // NATS counts to 2^63
	}
	return d.takeOut(ctx, meta, letters, told, func(ctx context.Context, portion []Letter) error {
		var copies []worker.Copy
		for _, l := range portion {
			// The same event may have died twice: when somebody was interrupted after its copy was in REPLAY, and it failed again.
			// Once is enough.
			if newest[l.identity()] == l.Sequence {
				copies = append(copies, l.copy())
			}
		}
		return publish(ctx, d.js, copies)
	}, progress)
}

// Discard takes the letters out of DEAD for good, and returns how many it took out. The outbox tells of each before it goes.
func (d *DeadLetters) Discard(ctx context.Context, meta events.Meta, letters []Letter, reason string, progress func(done int)) (int, error) {
	told := func(l Letter) events.Payload {
		return events.OpsDeadLetterDiscarded{Consumer: l.Consumer, Sequence: int64(l.Sequence), EventID: l.EventID(), Reason: reason} //nolint:gosec // NATS counts to 2^63
	}
	return d.takeOut(ctx, meta, letters, told, nil, progress)
}

// CheckReason says what is wrong with a reason that is to be told of.
func CheckReason(reason string) error {
	probe := events.New(events.Meta{Source: "/fdc/cli", ActorID: events.OperatorActor}, "", events.OpsDeadLetterDiscarded{Consumer: "x", Sequence: 1, Reason: reason})
	if err := probe.Validate(); err != nil {
		return fault.Wrap(err, fault.Invalid, "reason-invalid", "the reason: want one line of at most 200 characters")
	}
	return nil
}

// Requeueable says why a letter can't go back.
func (l Letter) Requeueable() error {
	if _, ok := bus.ConsumerNamed(l.Consumer); !ok {
		return fmt.Errorf("dead letter %d is of the consumer %q, which isn't there any more; discard it", l.Sequence, l.Consumer)
	}
	return nil
}

// identity is the same for letters of one event and consumer.
func (l Letter) identity() string {
	if l.MessageID == "" {
		return strconv.FormatUint(l.Sequence, 10)
	}
	return l.Consumer + ":" + l.MessageID
}

// EventID is the event's id; empty when the message had none, or one that no event has.
func (l Letter) EventID() string {
	if events.ValidID(l.MessageID) {
		return l.MessageID
	}
	return ""
}

func (l Letter) copy() worker.Copy {
	return worker.Copy{
		Consumer: l.Consumer,
		// A letter's own, so that the event can be requeued again when it has failed again. The time tells two streams apart.
		ID:      "dead-" + strconv.FormatUint(l.Sequence, 10) + "-" + strconv.FormatInt(l.Time.UnixNano(), 36),
		Subject: l.Subject, Header: l.Header, Body: l.Body, MessageID: l.MessageID, Sequence: l.Original, DeadLetter: l.Sequence,
	}
}

// takeOut takes letters out of DEAD and its backup, portion by portion: it tells of them, lets before do what has to be done first,
// commits, and only then deletes them from the stream. Without the database nothing happens.
func (d *DeadLetters) takeOut(
	ctx context.Context, meta events.Meta, letters []Letter, told func(Letter) events.Payload,
	before func(context.Context, []Letter) error, progress func(done int),
) (int, error) {
	stream, err := d.js.Stream(ctx, bus.Dead)
	if err != nil {
		return 0, fmt.Errorf("look up %s: %w", bus.Dead, err)
	}
	done := 0
	for len(letters) > 0 {
		var portion []Letter
		if portion, letters, err = d.portion(ctx, letters); err != nil {
			return done, err
		}
		err := d.outbox.Tx(ctx, func(tx pgx.Tx) error {
			facts := make([]events.Event, len(portion))
			for i, l := range portion {
				facts[i] = events.New(meta, "", told(l))
			}
			if err := outbox.AppendAll(ctx, tx, facts); err != nil {
				return err
			}
			if err := forget(ctx, tx, stream, portion); err != nil {
				return err
			}
			if before == nil {
				return nil
			}
			return before(ctx, portion)
		})
		if err != nil {
			return done, err
		}
		err = concurrently(ctx, len(portion), func(ctx context.Context, i int) error {
			return remove(ctx, stream, portion[i].Sequence)
		})
		if err != nil {
			return done, err
		}
		done += len(portion)
		progress(done)
	}
	return done, nil
}

// forget takes the letters out of the backup of DEAD: what has been dealt with does not come back with a loss of NATS.
func forget(ctx context.Context, tx pgx.Tx, stream jetstream.Stream, portion []Letter) error {
	sequences, ids := make([]uint64, len(portion)), make([]string, 0, len(portion))
	for i, l := range portion {
		sequences[i] = l.Sequence
		if id := l.Header.Get(jetstream.MsgIDHeader); id != "" {
			ids = append(ids, id)
		}
	}
	return backup.Forget(ctx, tx, bus.Dead, stream.CachedInfo().Created, sequences, ids)
}

// portion splits off what is dealt with at once, read anew and in its entirety.
func (d *DeadLetters) portion(ctx context.Context, letters []Letter) (portion, rest []Letter, err error) {
	var sequences []uint64
	size := 0
	for _, l := range letters {
		if len(sequences) == portionLetters || size > 0 && size+l.Size > portionBytes {
			break
		}
		sequences = append(sequences, l.Sequence)
		size += l.Size
	}
	got, err := d.fetch(ctx, sequences)
	for i, l := range got {
		// Gone meanwhile; or another letter's, in a stream made anew.
		if l.Sequence != 0 && l.Time.Equal(letters[i].Time) {
			portion = append(portion, l)
		}
	}
	return portion, letters[len(sequences):], err
}

// remove takes one letter out. The server's answer for one that is not there is a general one.
func remove(ctx context.Context, stream jetstream.Stream, sequence uint64) error {
	err := stream.DeleteMsg(ctx, sequence)
	if err == nil {
		return nil
	}
	if _, lookErr := stream.GetMsg(ctx, sequence); errors.Is(lookErr, jetstream.ErrMsgNotFound) {
		return nil
	}
	return fmt.Errorf("delete dead letter %d, which has been dealt with (do the same again): %w", sequence, err)
}

// publish puts copies into REPLAY and returns when all are stored. One that is there already counts as stored.
func publish(ctx context.Context, js jetstream.JetStream, copies []worker.Copy) error {
	if len(copies) >= batchFrom {
		messages := make([]*nats.Msg, len(copies))
		for i, c := range copies {
			messages[i] = c.Message()
		}
		_, err := jetstreamext.PublishMsgBatch(ctx, js, messages)
		if apiErr, ok := errors.AsType[*jetstream.APIError](err); !ok || apiErr.ErrorCode != jetstreamext.JSErrCodeBatchPublishDuplicateMsgID {
			return refused(err)
		}
		// One of them is there already and the whole batch was refused: singles sort out which.
	}
	return concurrently(ctx, len(copies), func(ctx context.Context, i int) error {
		_, err := js.PublishMsg(ctx, copies[i].Message(), jetstream.WithExpectStream(bus.Replay))
		return refused(err)
	})
}

// batchFrom is from how many messages on an atomic batch is faster than singles.
const batchFrom = 8

func refused(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("put into %s (is it full, or has fdc migrate not run?): %w", bus.Replay, err)
}
