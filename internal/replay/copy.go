package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"golang.org/x/time/rate"

	"fdc/internal/platform/bus"
	"fdc/internal/platform/worker"
)

const (
	publishBatch   = 500     // of an atomic batch; one fsync each
	publishBytes   = 4 << 20 // and no more bytes of them
	publishTimeout = 15 * time.Second

	codeBytesExceeded = 10077 // a stream that is full and refuses
)

// selects reports whether a line of a file is part of the selection. Its time is the one at which EVENTS took it.
func (s Selection) selects(l Line) bool {
	switch {
	case !s.Since.IsZero() && l.Time.Before(s.Since), !s.Until.IsZero() && !l.Time.Before(s.Until),
		l.Sequence < s.FromSeq, s.ToSeq != 0 && l.Sequence > s.ToSeq, s.UserID != "" && l.Event.UserID != s.UserID:
		return false
	}
	return letsThrough(s.Subjects(), l.Subject)
}

// letsThrough reports whether one of the filters matches the subject.
func letsThrough(filters []string, subject string) bool {
	for _, f := range filters {
		if _, ok := intersect(f, subject); ok {
			return true
		}
	}
	return false
}

// PlanFile checks a whole file and counts what of it is selected and taken by the consumer.
func PlanFile(file io.Reader, c bus.Consumer, s Selection, tell func(lines, total int64)) (*Plan, error) {
	plan := NewPlan(c.Name)
	n := int64(0)
	err := ReadLines(file, func(l Line) error {
		if n++; tell != nil && n%256 == 0 {
			tell(n, 0)
		}
		if s.selects(l) && letsThrough(c.Filters, l.Subject) {
			plan.add(l.Sequence, l.Event.Action())
		}
		return nil
	})
	return plan, err
}

// FeedFile puts what of a file is selected and taken by the consumer into REPLAY, and then waits until the consumer has handled it.
// The file was checked by PlanFile. id makes the copies of this call different from those of any other: REPLAY drops what it has
// seen within the hour.
func (r *Replays) FeedFile(ctx context.Context, file io.Reader, c bus.Consumer, s Selection, plan *Plan, id string, perSecond float64, away func()) error {
	limit := rate.NewLimiter(rate.Inf, publishBatch)
	size := publishBatch
	if perSecond > 0 {
		size = min(max(int(perSecond/10), 1), publishBatch)
		limit = rate.NewLimiter(rate.Limit(perSecond), size)
	}
	var last uint64 // in REPLAY
	fed := int64(0)
	var batch []*nats.Msg
	bytes := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := limit.WaitN(ctx, len(batch)); err != nil {
			return err
		}
		sequence, err := r.publish(ctx, batch, bus.Replay)
		if err != nil {
			return err
		}
		fed += int64(len(batch))
		last, batch, bytes = sequence, nil, 0
		if r.Tell != nil {
			r.Tell(fed, plan.Count)
		}
		return nil
	}
	err := ReadLines(file, func(l Line) error {
		if !s.selects(l) || !letsThrough(c.Filters, l.Subject) {
			return nil
		}
		msg := worker.Copy{
			Consumer: c.Name, ID: id + ":" + strconv.Itoa(l.Number), Subject: l.Subject, Body: append([]byte(nil), l.Body...),
			MessageID: l.Event.ID, Sequence: l.Sequence,
		}.Message()
		batch = append(batch, msg)
		if bytes += len(msg.Data); len(batch) < size && bytes < publishBytes {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return fmt.Errorf("%w; %d of %d events are queued and will be handled", err, fed, plan.Count)
	}
	return r.drained(ctx, c.Name, last, away)
}

// publish puts a batch into a stream, whole or not at all, and returns the last sequence. While the stream is full or NATS is away it waits.
func (r *Replays) publish(ctx context.Context, batch []*nats.Msg, stream string) (uint64, error) {
	began := time.Now()
	for failures := 1; ; failures++ {
		askCtx, cancel := context.WithTimeout(ctx, publishTimeout)
		ack, err := jetstreamext.PublishMsgBatch(askCtx, r.JS, cloned(batch))
		cancel()
		refused, _ := errors.AsType[*jetstream.APIError](err)
		switch {
		case err == nil:
			return ack.Sequence, nil
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case refused != nil && refused.ErrorCode == jetstreamext.JSErrCodeBatchPublishDuplicateMsgID:
			// An answer was lost: the batch is there. Or some of it is, from another way: the rest follows, one by one.
			return r.publishEach(ctx, batch, stream)
		case refused != nil && refused.ErrorCode == codeBytesExceeded:
			began = time.Now() // the consumer has to make room
		case refused != nil && refused.Code != 503, time.Since(began) > readerPatience:
			return 0, fmt.Errorf("publish to %s: %w", stream, err)
		}
		if failures == 2 && r.Waiting != nil {
			r.Waiting(err)
		}
		if err := wait(ctx); err != nil {
			return 0, err
		}
	}
}

func (r *Replays) publishEach(ctx context.Context, batch []*nats.Msg, stream string) (last uint64, err error) {
	for _, msg := range cloned(batch) {
		askCtx, cancel := context.WithTimeout(ctx, publishTimeout)
		ack, err := r.JS.PublishMsg(askCtx, msg, jetstream.WithExpectStream(stream))
		cancel()
		if err != nil {
			return last, fmt.Errorf("publish to %s: %w", stream, err)
		}
		last = max(last, ack.Sequence)
	}
	return last, nil
}

// cloned keeps the messages as they are: publishing a batch writes into their headers.
func cloned(batch []*nats.Msg) []*nats.Msg {
	copies := make([]*nats.Msg, len(batch))
	for i, msg := range batch {
		copies[i] = &nats.Msg{Subject: msg.Subject, Header: maps.Clone(msg.Header), Data: msg.Data}
	}
	return copies
}

// drained waits until the consumer on REPLAY has handled all up to a sequence.
func (r *Replays) drained(ctx context.Context, consumer string, last uint64, away func()) error {
	active, told := time.Now(), false
	var before uint64
	for failures := 0; ; {
		askCtx, cancel := context.WithTimeout(ctx, askTimeout)
		queue, err := r.JS.Consumer(askCtx, bus.Replay, consumer)
		cancel()
		if err != nil {
			if failures++; failures == 2 && r.Waiting != nil {
				r.Waiting(err)
			}
		} else {
			failures = 0
			info := queue.CachedInfo()
			if info.AckFloor.Stream >= last || info.NumPending == 0 && info.NumAckPending == 0 {
				return nil
			}
			if info.NumWaiting > 0 || info.AckFloor.Stream != before {
				active, told, before = time.Now(), false, info.AckFloor.Stream
			}
			if time.Since(active) > r.idle() && !told && away != nil {
				told = true
				away()
			}
		}
		if err := wait(ctx); err != nil {
			return err
		}
	}
}
