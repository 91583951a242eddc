package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/events"
	"fdc/internal/platform/bus"
)

const (
	requestTimeout  = 5 * time.Second
	readerHeartbeat = time.Second      // a consumer that is silent twice as long is gone
	readerInactive  = 30 * time.Second // then the server forgets its consumer

	readerRetry    = 100 * time.Millisecond
	readerPatience = 30 * time.Second // of one that has an end, with a server that is away
)

// ErrStreamReplaced says that EVENTS is not the stream whose events were read before.
var ErrStreamReplaced = errors.New("the stream EVENTS was made anew or lost its newest events; begin again")

// Stored is an event as the stream holds it. Its body is valid until the function that got it returns.
type Stored struct {
	Sequence uint64
	Subject  string
	Time     time.Time // at which the stream took it
	Header   nats.Header
	Body     []byte // nil for a reader of headers only
}

// Reader reads the selected events in their order, each once. It outlives restarts of NATS.
type Reader struct {
	NC        *nats.Conn
	JS        jetstream.JetStream
	Selection Selection
	Subjects  []string // instead of the selection's own

	// Follow goes on with what comes. Without a beginning in the selection only that is read. It ends with the selection.
	Follow bool
	// HeadersOnly leaves the bodies out; only for a selection without a user.
	HeadersOnly bool

	Waiting  func(error)             // told once per outage; may be nil
	Progress func(done, total int64) // told, at times, how far it is; may be nil

	stream  string // EVENTS, unless said otherwise
	each    func(Stored) error
	created time.Time    // of the stream
	begun   bool         // there is a position
	pos     uint64       // the last sequence that was seen
	end     uint64       // the last sequence that is read; 0 for a reader that follows
	seen    atomic.Int64 // messages
	total   int64        // messages to come, as the server counted them at first
}

// How a consumer's life ends.
var (
	errDone  = errors.New("all is read")
	errUntil = errors.New("the moment that ends the selection has come")
	errGap   = errors.New("a message is missing")
)

// Run calls each for every selected event and returns nil at the end of the selection, or when ctx of a reader that follows
// ends. An error of each ends it.
func (r *Reader) Run(ctx context.Context, each func(Stored) error) error {
	r.each = each
	if r.stream == "" {
		r.stream = bus.Events
	}
	away := time.Time{}
	for failures := 0; ; {
		before := r.seen.Load()
		err := r.follow(ctx)
		if r.seen.Load() > before {
			failures, away = 0, time.Time{}
		}
		stop, stopped := errors.AsType[*stopError](err)
		switch {
		case errors.Is(err, errDone):
			return nil
		case stopped:
			return stop.err
		case ctx.Err() != nil && r.Follow:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errUntil):
			r.Follow = false // what is there by now is read, and no more
			continue
		case errors.Is(err, ErrStreamReplaced), !r.temporary(err):
			return err
		}
		if away.IsZero() {
			away = time.Now()
		}
		if failures++; failures == 2 && r.Waiting != nil {
			r.Waiting(err)
		}
		if !r.Follow && time.Since(away) > readerPatience {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(readerRetry/2 + rand.N(readerRetry)): //nolint:gosec // jitter is no secret
		}
	}
}

// Position is the last sequence that the reader has seen.
func (r *Reader) Position() uint64 { return r.pos }

// stopError is an error of the caller's own.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }

// temporary reports whether another attempt may go better.
func (r *Reader) temporary(err error) bool {
	if denied := r.NC.LastError(); errors.Is(denied, nats.ErrPermissionViolation) {
		return false
	}
	if refused, ok := errors.AsType[*jetstream.APIError](err); ok && refused.Code == 503 {
		return true // the server is about to start, or to choose a leader
	}
	return bus.Unreachable(err) || errors.Is(err, errGap) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, jetstream.ErrNoHeartbeat) ||
		errors.Is(err, jetstream.ErrJetStreamNotEnabled)
}

// follow is one consumer's life.
func (r *Reader) follow(ctx context.Context) error {
	life, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The consumer is in the memory of a server that may be another one after a reconnect.
	status := r.NC.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	defer r.NC.RemoveStatusListener(status)

	config, err := r.bind(life)
	if err != nil {
		return err
	}
	askCtx, stopAsking := context.WithTimeout(life, requestTimeout)
	consumer, err := r.JS.CreatePushConsumer(askCtx, r.stream, config)
	stopAsking()
	if err != nil {
		return fmt.Errorf("read %s: %w", r.stream, err)
	}
	defer r.drop(ctx, consumer)
	pending := consumer.CachedInfo().NumPending
	if pending == 0 && !r.Follow {
		return errDone
	}
	if r.total == 0 {
		r.total = int64(pending) //nolint:gosec // messages of a stream
	}
	var got atomic.Uint64
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		if life.Err() != nil {
			return // what was fetched ahead
		}
		if err := r.take(msg, got.Add(1)); err != nil {
			cancel(err)
		}
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		cancel(err)
	}))
	if err != nil {
		return fmt.Errorf("read %s: %w", r.stream, err)
	}
	defer func() {
		consuming.Stop()
		<-consuming.Closed() // so that nothing is taken any more
	}()
	return fmt.Errorf("read %s: %w", r.stream, r.watch(life, status, consumer, &got))
}

// watch waits for the end of a consumer's life, and looks after one that is silent: the last messages of a selection can
// expire before they are delivered.
func (r *Reader) watch(life context.Context, status <-chan nats.Status, consumer jetstream.PushConsumer, got *atomic.Uint64) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var ends <-chan time.Time
	if r.Follow && !r.Selection.Until.IsZero() {
		timer := time.NewTimer(time.Until(r.Selection.Until))
		defer timer.Stop()
		ends = timer.C
	}
	for last := got.Load(); ; {
		select {
		case <-status:
			return nats.ErrDisconnected
		case <-life.Done():
			return context.Cause(life)
		case <-ends:
			return errUntil
		case <-tick.C:
			now := got.Load()
			if now != last || r.Follow {
				last = now
				continue
			}
			info, err := consumerInfo(life, consumer)
			switch {
			case life.Err() != nil: // it ended, maybe well, while a busy server was asked
				return context.Cause(life)
			case err != nil:
				return err
			case info.NumPending == 0 && info.Delivered.Consumer == got.Load():
				return errDone
			}
		}
	}
}

func consumerInfo(ctx context.Context, consumer jetstream.PushConsumer) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return consumer.Info(ctx)
}

// bind says where to read from: after the last event, or at first where the selection begins.
func (r *Reader) bind(ctx context.Context) (jetstream.ConsumerConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := r.JS.Stream(ctx, r.stream)
	if err != nil {
		return jetstream.ConsumerConfig{}, fmt.Errorf("look up %s: %w", r.stream, err)
	}
	info := stream.CachedInfo()
	s := r.Selection
	if r.created.IsZero() {
		r.created = info.Created
		if r.Follow && s.FromSeq == 0 && s.Since.IsZero() {
			r.pos, r.begun = info.State.LastSeq, true
		}
		if s.FromSeq > 0 {
			r.pos, r.begun = s.FromSeq-1, true
		}
	} else if !info.Created.Equal(r.created) || r.seen.Load() > 0 && info.State.LastSeq < r.pos {
		return jetstream.ConsumerConfig{}, ErrStreamReplaced
	}
	if !r.Follow && r.end == 0 {
		if r.end = info.State.LastSeq; s.ToSeq != 0 {
			r.end = min(r.end, s.ToSeq)
		}
	}
	if !r.Follow && (r.pos >= r.end || info.State.Msgs == 0) {
		return jetstream.ConsumerConfig{}, errDone
	}
	config := jetstream.ConsumerConfig{
		FilterSubjects: r.Subjects, HeadersOnly: r.HeadersOnly, InactiveThreshold: readerInactive,
		DeliverSubject: r.NC.NewInbox(), FlowControl: true, IdleHeartbeat: readerHeartbeat,
		AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1, MemoryStorage: true, Replicas: 1,
		DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	if subjects := s.Subjects(); len(r.Subjects) == 0 && !slices.Equal(subjects, []string{events.AllEvents}) {
		config.FilterSubjects = subjects // one that lets everything through would be compared with each subject
	}
	switch {
	case r.begun:
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, r.pos+1
	case !s.Since.IsZero():
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &s.Since
	}
	return config, nil
}

// drop removes a consumer that was read. It would go by itself, but only later.
func (r *Reader) drop(ctx context.Context, consumer jetstream.PushConsumer) {
	if !r.NC.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	_ = r.JS.DeleteConsumer(ctx, r.stream, consumer.CachedInfo().Name) // it goes by itself at the latest
}

// take is the n-th message of a consumer.
func (r *Reader) take(msg jetstream.Msg, n uint64) error {
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	if meta.Sequence.Consumer != n {
		return errGap
	}
	seq, s := meta.Sequence.Stream, &r.Selection
	if r.end != 0 && seq > r.end || s.ToSeq != 0 && seq > s.ToSeq || !s.Until.IsZero() && !meta.Timestamp.Before(s.Until) {
		return errDone
	}
	if (s.Since.IsZero() || !meta.Timestamp.Before(s.Since)) && r.concerns(msg.Data()) {
		err := r.each(Stored{Sequence: seq, Subject: msg.Subject(), Time: meta.Timestamp, Header: msg.Headers(), Body: msg.Data()})
		if err != nil {
			return &stopError{err}
		}
	}
	r.pos, r.begun = seq, true
	if done := r.seen.Add(1); r.Progress != nil && done%256 == 0 {
		r.Progress(done, r.total)
	}
	if seq == r.end || seq == s.ToSeq || !r.Follow && meta.NumPending == 0 {
		return errDone
	}
	return nil
}

// concerns reports whether an event is one of the selected user's. Few are: the id is looked for before the event is read.
func (r *Reader) concerns(body []byte) bool {
	if r.Selection.UserID == "" {
		return true
	}
	if !bytes.Contains(body, []byte(r.Selection.UserID)) {
		return false
	}
	ev, err := events.Decode(body)
	return err == nil && ev.UserID == r.Selection.UserID
}
