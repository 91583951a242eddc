package push

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fdc/internal/platform/bus"
)

const (
	requestTimeout = 2 * time.Second
	feedHeartbeat  = 500 * time.Millisecond // a consumer that is silent twice as long is gone
	feedExpiry     = 10 * time.Second
	feedPrefetch   = 1000
	feedRetry      = 100 * time.Millisecond

	replayBatch    = 100
	replayAttempts = 3
	replayReaders  = 16 // of a node, at a time
)

// errGap says that a consumer's messages are not all here: the reading starts again after the last good one.
var errGap = errors.New("a message is missing")

// feed follows EVENTS until ctx ends, from the last event seen each time that the reading breaks. The client's own
// ordered consumer does the same, but waits up to 10 s for an answer that a restart has swallowed; here it is 2 s.
func (h *Hub) feed(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		err := h.follow(ctx, func() {
			if failures > 0 {
				h.log.Info().Msg("push feed reads again")
			}
			failures = 0
		})
		if ctx.Err() != nil {
			return
		}
		if failures++; failures == 1 {
			h.log.Warn().Err(err).Msg("push feed interrupted")
		}
		select {
		case <-ctx.Done():
		case <-time.After(feedRetry/2 + rand.N(feedRetry)): //nolint:gosec // jitter is no secret
		}
	}
}

// follow is one consumer's life.
func (h *Hub) follow(ctx context.Context, reading func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	// The consumer is in the memory of a server that may be another one after a reconnect.
	status := h.nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	defer h.nc.RemoveStatusListener(status)
	watch.Go(func() {
		select {
		case <-status:
			cancel(nats.ErrDisconnected)
		case <-ctx.Done():
		}
	})

	info, err := h.stream(ctx)
	if err != nil {
		return err
	}
	config := h.bind(info)
	consumer, err := h.consumer(ctx, config)
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(feedPrefetch), jetstream.PullExpiry(feedExpiry),
		jetstream.PullHeartbeat(feedHeartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fmt.Errorf("read %s: %w", bus.Events, err)
	}
	defer messages.Stop()
	reading()
	if consumer.CachedInfo().NumPending == 0 {
		h.caughtUp(info.State.LastSeq)
	}
	for n := uint64(1); ; n++ {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", bus.Events, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("read %s: %w", bus.Events, err)
		}
		if meta.Sequence.Consumer != n {
			return fmt.Errorf("read %s: %w", bus.Events, errGap)
		}
		seq := meta.Sequence.Stream
		ev, err := decode(msg.Subject(), msg.Data())
		if err != nil {
			h.skip(msg.Subject(), err)
			h.mu.Lock()
			h.history.reach(seq)
			h.advance(seq)
			h.mu.Unlock()
		} else {
			h.dispatch(seq, ev, msg.Data())
		}
		if meta.NumPending == 0 || seq >= info.State.LastSeq {
			h.caughtUp(seq)
		}
	}
}

// stream asks for the state of EVENTS.
func (h *Hub) stream(ctx context.Context) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := h.js.Stream(ctx, bus.Events)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", bus.Events, err)
	}
	return stream.CachedInfo(), nil
}

// consumer makes one that delivers in order, once, and goes away when nobody pulls.
func (h *Hub) consumer(ctx context.Context, config jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	config.AckPolicy = jetstream.AckNonePolicy
	config.MaxDeliver = 1
	config.MemoryStorage = true
	config.Replicas = 1
	consumer, err := h.js.CreateConsumer(ctx, bus.Events, config)
	if err != nil {
		return nil, fmt.Errorf("make a consumer of %s: %w", bus.Events, err)
	}
	return consumer, nil
}

// drop removes a consumer that was read. It would go by itself, but only later, and clients that come and go fast would leave the
// server many.
func (h *Hub) drop(ctx context.Context, consumer jetstream.Consumer) {
	if !h.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	if err := h.js.DeleteConsumer(ctx, bus.Events, consumer.CachedInfo().Name); err != nil {
		h.log.Debug().Err(err).Msg("push consumer left to expire")
	}
}

// bind says where to read from: after the last event, or at first and in a stream made anew, from a little earlier, so
// that changes are known that a session looked up a moment ago may not show.
func (h *Hub) bind(info *jetstream.StreamInfo) jetstream.ConsumerConfig {
	h.mu.Lock()
	defer h.mu.Unlock()
	config := jetstream.ConsumerConfig{InactiveThreshold: 3 * feedExpiry}
	epoch := epochOf(info.Created)
	if h.live && epoch == h.epoch && info.State.LastSeq >= h.pos {
		config.DeliverPolicy = jetstream.DeliverByStartSequencePolicy
		config.OptStartSeq = h.pos + 1
		return config
	}
	if h.live {
		h.log.Error().Msg("the stream was replaced or lost events; all clients start anew")
		for s := range h.sockets {
			s.end(CodeRestart)
		}
	}
	h.live, h.epoch, h.pos, h.recent, h.history = false, epoch, 0, nil, history{}
	since := time.Now().Add(-h.limits.memory)
	config.DeliverPolicy = jetstream.DeliverByStartTimePolicy
	config.OptStartTime = &since
	return config
}

// caughtUp opens the hub once the end of the stream was seen.
func (h *Hub) caughtUp(seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.live {
		return
	}
	h.history.reach(seq + 1)
	h.advance(seq)
	h.live = true
	select {
	case <-h.ready:
	default:
		close(h.ready)
	}
}

// replay writes the events of the socket's scopes after from and up to at: from the node's history as far as that goes
// back, and what is older from the stream. It returns errEnding when the socket ends meanwhile.
func (s *socket) replay(ctx context.Context, from uint64, at Cursor) error {
	seen := &view{s: s}
	for failures := 0; from < at.Sequence; {
		list, older := s.past(from, at.Sequence)
		if older <= from {
			return s.retell(list, seen)
		}
		next, err := s.replaySome(ctx, from, Cursor{at.Epoch, older}, seen)
		if errors.Is(err, errEnding) || ctx.Err() != nil {
			return errEnding
		}
		if next > from {
			failures = 0
		} else if failures++; failures == replayAttempts {
			return fmt.Errorf("replay events after %d: %w", from, err)
		}
		from = next
	}
	return nil
}

// past is what the history has for the events after from and up to to. Where it doesn't reach back so far, it begins after
// older.
func (s *socket) past(from, to uint64) (list []past, older uint64) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if list, ok := s.hub.history.since(from, to); ok {
		return list, from
	}
	if after := s.hub.history.after; after > from {
		return nil, min(after, to)
	}
	return nil, to
}

// retell writes what of the list is for the socket.
func (s *socket) retell(list []past, seen *view) error {
	for i, e := range list {
		if !seen.has(e.to) {
			continue
		}
		if err := s.tell(e.m, i < len(list)-1); err != nil {
			return err
		}
	}
	return nil
}

// replaySome goes as far as one consumer leads, and returns how far that was.
func (s *socket) replaySome(ctx context.Context, from uint64, to Cursor, seen *view) (uint64, error) {
	s.hub.mu.Lock()
	subjects := filters(s.user, s.workspaces, s.admin)
	s.hub.mu.Unlock()
	var consumer jetstream.Consumer
	err := s.hub.inTurn(ctx, func() (err error) {
		consumer, err = s.hub.consumer(ctx, jetstream.ConsumerConfig{
			FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from + 1,
			InactiveThreshold: 2 * requestTimeout,
		})
		return err
	})
	if err != nil {
		return from, err
	}
	defer s.hub.drop(ctx, consumer)
	var n uint64
	for left := consumer.CachedInfo().NumPending; left > 0; {
		want := min(left, replayBatch)
		var batch []jetstream.Msg
		err := s.hub.inTurn(ctx, func() (err error) {
			batch, err = fetch(ctx, consumer, int(want)) //nolint:gosec // no more than replayBatch
			return err
		})
		for i, msg := range batch {
			meta, err := msg.Metadata()
			if err != nil {
				return from, fmt.Errorf("fetch: %w", err)
			}
			if n++; meta.Sequence.Consumer != n {
				return from, errGap
			}
			if meta.Sequence.Stream > to.Sequence {
				return to.Sequence, nil
			}
			if err := s.forward(Cursor{to.Epoch, meta.Sequence.Stream}, msg, seen, i < len(batch)-1); err != nil {
				return from, err
			}
			from = meta.Sequence.Stream
			left--
		}
		if err != nil {
			return from, err
		}
	}
	return to.Sequence, nil
}

// inTurn asks the server while not too many do: if all clients come at once, their requests would wait there until they are
// too late. Nobody writes to a client meanwhile, which may take its time.
func (h *Hub) inTurn(ctx context.Context, ask func() error) error {
	select {
	case h.replaying <- struct{}{}:
		defer func() { <-h.replaying }()
		return ask()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetch takes n messages, or fewer and an error.
func fetch(ctx context.Context, consumer jetstream.Consumer, n int) ([]jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	batch, err := consumer.Fetch(n, jetstream.FetchContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	messages := make([]jetstream.Msg, 0, n)
	for msg := range batch.Messages() {
		messages = append(messages, msg)
	}
	switch {
	case len(messages) == n:
		return messages, nil
	case batch.Error() != nil:
		return messages, fmt.Errorf("fetch: %w", batch.Error())
	default:
		return messages, errGap
	}
}

// forward writes one replayed event, if it is for this socket.
func (s *socket) forward(at Cursor, msg jetstream.Msg, seen *view, more bool) error {
	ev, err := decode(msg.Subject(), msg.Data())
	if err != nil {
		s.hub.skip(msg.Subject(), err)
		return nil
	}
	if !seen.has(addressOf(ev)) {
		return nil
	}
	m, err := eventMessage(at, ev, msg.Data())
	if err != nil {
		s.hub.skip(msg.Subject(), err)
		return nil
	}
	return s.tell(m, more)
}
