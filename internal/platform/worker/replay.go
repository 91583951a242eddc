package worker

import (
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/internal/platform/bus"
)

// Headers of a copy in REPLAY, beside the original's own. They say what the copy's place in REPLAY can't.
const (
	HeaderOriginalSequence = "Fdc-Sequence"    // in EVENTS; absent when nobody knows
	HeaderOriginalID       = "Fdc-Message-Id"  // the original's Nats-Msg-Id
	HeaderDeadLetter       = "Fdc-Dead-Letter" // its sequence in DEAD, of a dead letter that was requeued
)

// Copy is what REPLAY takes for one consumer.
type Copy struct {
	Consumer string
	ID       string // REPLAY drops a second one within the hour

	Subject    string      // in EVENTS
	Header     nats.Header // the original's
	Body       []byte
	MessageID  string // the original's Nats-Msg-Id
	Sequence   uint64 // in EVENTS; 0 when nobody knows
	DeadLetter uint64 // in DEAD; 0 when it is none
}

// Message is the copy as REPLAY holds it.
func (c Copy) Message() *nats.Msg {
	header := ownHeaders(c.Header)
	header.Set(jetstream.MsgIDHeader, c.ID)
	if c.MessageID != "" {
		header.Set(HeaderOriginalID, c.MessageID)
	}
	if c.Sequence != 0 {
		header.Set(HeaderOriginalSequence, strconv.FormatUint(c.Sequence, 10))
	}
	if c.DeadLetter != 0 {
		header.Set(HeaderDeadLetter, strconv.FormatUint(c.DeadLetter, 10))
	}
	return &nats.Msg{Subject: bus.ReplaySubject(c.Consumer, c.Subject), Header: header, Data: c.Body}
}

// ownHeaders are the headers that came with the event. The server's own would steer a copy: its batch, its expected
// sequence. Those that dead letters and copies carry are about the copy before.
func ownHeaders(h nats.Header) nats.Header {
	own := nats.Header{}
	for key, values := range h {
		switch key {
		case HeaderConsumer, HeaderReason, HeaderAttempts, HeaderSequence, HeaderOriginalSequence, HeaderOriginalID, HeaderDeadLetter:
		default:
			if !strings.HasPrefix(key, "Nats-") {
				own[key] = values
			}
		}
	}
	return own
}

// origin is what a message was when it came to EVENTS, wherever it comes from now.
type origin struct {
	Subject    string
	MessageID  string
	Sequence   uint64
	DeadLetter uint64
}

func (w *Worker) originOf(msg jetstream.Msg, meta *jetstream.MsgMetadata, from source) origin {
	header := msg.Headers()
	if !from.queue {
		return origin{Subject: msg.Subject(), MessageID: header.Get(jetstream.MsgIDHeader), Sequence: meta.Sequence.Stream}
	}
	o := origin{Subject: msg.Subject(), MessageID: header.Get(HeaderOriginalID)}
	if subject, ok := bus.OriginalSubject(w.cfg.Consumer.Name, o.Subject); ok {
		o.Subject = subject
	}
	if o.MessageID == "" {
		o.MessageID = header.Get(jetstream.MsgIDHeader)
	}
	// What is no number is not known.
	o.Sequence, _ = strconv.ParseUint(header.Get(HeaderOriginalSequence), 10, 64)
	o.DeadLetter, _ = strconv.ParseUint(header.Get(HeaderDeadLetter), 10, 64)
	return o
}

// means reports whether a message is part of the replay; of any other source everything is. userID is the event's, if it
// could be read.
func (s source) means(meta *jetstream.MsgMetadata, userID string) bool {
	if s.order == nil {
		return true
	}
	return meta.Sequence.Stream <= s.order.Until && !meta.Timestamp.Before(s.order.FromTime) &&
		(s.order.UserID == "" || s.order.UserID == userID)
}

// skip answers for what is not part of the replay.
func (w *Worker) skip(d *Delivery) {
	w.handled.WithLabelValues("skipped").Inc()
	w.answer(d, d.msg.Ack)
}
