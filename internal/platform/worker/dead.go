package worker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"fdc/internal/platform/bus"
)

// Headers of a dead letter, beside the original's own.
const (
	HeaderConsumer = "Fdc-Dead-Consumer"
	HeaderReason   = "Fdc-Dead-Reason"
	HeaderAttempts = "Fdc-Dead-Attempts"
	HeaderSequence = "Fdc-Dead-Sequence" // in EVENTS
)

const maxReason = 1024

// errForgetting says that DEAD still knows the id of an earlier copy, which is not this one.
var errForgetting = errors.New("an earlier copy had the same id; storing a new one once that is forgotten")

// mostHeld is how many events wait in memory for DEAD to take their copy. Further ones wait in their stream, where each
// delivery counts: few are made.
const (
	mostHeld      = 256
	overflowDelay = time.Minute
)

// setAside copies the message to DEAD and says how to answer the original: terminate it once the copy is stored, else
// keep it. While DEAD can't take the copy the event is held with its reason, as an outage of DEAD is not the event's fault.
func (w *Worker) setAside(ctx context.Context, d *Delivery, reason error) (outcome string, answer func() error) {
	err := w.bury(ctx, d, reason)
	if err == nil {
		w.dead.Inc()
		return "dead", func() error { return d.msg.TermWithReason(firstLine(reason.Error())) }
	}
	level := zerolog.ErrorLevel
	if errors.Is(err, errForgetting) {
		level = zerolog.InfoLevel // a matter of seconds
	}
	w.log.WithLevel(level).Err(err).Uint64("sequence", d.Sequence).Msg("dead letter not stored; the event stays")
	if w.held.TryGo(func() error { w.hold(ctx, d, reason); return nil }) {
		return "held", func() error { return nil }
	}
	return "retried", func() error { return d.msg.NakWithDelay(overflowDelay + Backoff(d.Attempt)) }
}

// hold tries until the copy is stored, telling the server that work is in progress, or until the service stops: then the
// event is delivered again.
func (w *Worker) hold(ctx context.Context, d *Delivery, reason error) {
	beat := time.NewTicker(w.cfg.Consumer.AckWait / 3)
	defer beat.Stop()
	for tries := 1; ; {
		retry := time.After(min(Backoff(tries), 5*time.Second))
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				w.answer(d, d.msg.Nak)
				return
			case <-beat.C:
				w.answer(d, d.msg.InProgress)
			case <-retry:
				waiting = false
			}
		}
		if tries++; w.bury(ctx, d, reason) == nil {
			w.dead.Inc()
			w.handled.WithLabelValues("dead").Inc()
			w.answer(d, func() error { return d.msg.TermWithReason(firstLine(reason.Error())) })
			return
		}
	}
}

// bury stores the copy. It is not interrupted by the end of ctx.
func (w *Worker) bury(ctx context.Context, d *Delivery, reason error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	consumer := w.cfg.Consumer.Name
	header := ownHeaders(d.msg.Headers())
	id := d.origin.MessageID
	if id == "" {
		id = "sequence-" + strconv.FormatUint(d.Sequence, 10)
	}
	header.Set(jetstream.MsgIDHeader, consumer+":"+id)
	header.Set(HeaderConsumer, consumer)
	header.Set(HeaderReason, firstLine(reason.Error()))
	header.Set(HeaderAttempts, strconv.Itoa(min(d.Attempt, w.cfg.Consumer.MaxAttempts)))
	header.Set(HeaderSequence, strconv.FormatUint(d.Sequence, 10))

	ack, err := w.js.PublishMsg(ctx, &nats.Msg{Subject: "dead." + consumer + "." + d.origin.Subject, Header: header, Data: d.msg.Data()},
		jetstream.WithExpectStream(bus.Dead))
	if err != nil {
		return fmt.Errorf("copy to %s: %w", bus.Dead, err)
	}
	if !ack.Duplicate {
		return nil
	}
	// Known already. It may be this very copy, when an earlier answer got lost. But one that was requeued and has failed
	// again finds the letter that it was requeued from, or what is left of its id: that letter is deleted, or will be.
	if d.origin.DeadLetter != 0 && ack.Sequence <= d.origin.DeadLetter {
		return errForgetting
	}
	stream, err := w.js.Stream(ctx, bus.Dead)
	if err != nil {
		return fmt.Errorf("look up %s: %w", bus.Dead, err)
	}
	if _, err := stream.GetMsg(ctx, ack.Sequence); err != nil {
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return errForgetting
		}
		return fmt.Errorf("look up the earlier copy: %w", err)
	}
	return nil
}

// firstLine makes a reason fit a header: one line, bounded.
func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.ReplaceAll(s, "\r", " "), "\n")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}
