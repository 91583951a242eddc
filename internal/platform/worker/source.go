package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"fdc/internal/platform/bus"
)

// source is one of the durable consumers whose messages go to the handler.
type source struct {
	name  string // for the log
	queue bool   // on REPLAY: the messages are copies
	order *bus.ReplayOrder
	due   *atomic.Int64 // counts what its rate has to pay for; nil without one
}

// replayed reports whether the messages are handled again.
func (s source) replayed() bool { return s.queue || s.order != nil }

// Run consumes until ctx ends; then it fetches no more, finishes what it has, and returns nil. It waits for the consumer
// to exist and outlives every failure of NATS. Beside the live events it drains what is to be handled again: the service's
// part of REPLAY, and a replay of EVENTS while there is one. Neither delays the other.
func (w *Worker) Run(ctx context.Context) error {
	consumer, err := bus.BindConsumer(ctx, w.js, w.cfg.Consumer.Name, w.cfg.Waiting)
	if err != nil {
		return stopped(ctx, err)
	}
	w.log.Info().Msg("consuming")
	var sources sync.WaitGroup
	sources.Go(func() { w.drain(ctx, consumer, source{name: bus.Events}) })
	sources.Go(func() { w.drainQueue(ctx) })
	sources.Go(func() { w.drainReplays(ctx) })
	sources.Wait()
	return w.held.Wait()
}

// drain consumes until ctx ends, whatever happens.
func (w *Worker) drain(ctx context.Context, consumer jetstream.Consumer, from source) {
	for ctx.Err() == nil {
		if err := w.consume(ctx, consumer, from); err != nil && ctx.Err() == nil {
			w.log.Warn().Err(err).Str("source", from.name).Msg("consuming interrupted")
			pause(ctx, time.Second)
		}
	}
}

// pause waits for d, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// drainQueue drains the consumer on REPLAY. Live events don't wait for it to exist.
func (w *Worker) drainQueue(ctx context.Context) {
	consumer, err := bus.BindQueue(ctx, w.js, w.cfg.Consumer.Name, func(what string) {
		w.log.Warn().Str("for", what).Msg("nothing can be requeued yet; has fdc migrate run?")
	})
	if err == nil {
		w.drain(ctx, consumer, source{name: bus.Replay, queue: true})
	}
}

// drainReplays drains the replay consumer while there is one: it comes and goes with the replay. Each ReplayPoll the worker looks
// whether one has begun, and while there is one, whether it is still the same.
func (w *Worker) drainReplays(ctx context.Context) {
	var refused time.Time // the one that was complained of
	for ; ctx.Err() == nil; pause(ctx, w.cfg.ReplayPoll) {
		info, consumer := w.replay(ctx)
		if info == nil || info.Paused {
			continue
		}
		order, err := bus.ParseReplayOrder(info.Config.Metadata)
		if err != nil {
			if !refused.Equal(info.Created) {
				w.log.Error().Err(err).Str("source", info.Name).Msg("replay left alone; is this service older than the command that began it?")
				refused = info.Created
			}
			continue
		}
		w.drainReplay(ctx, consumer, info, order)
	}
}

// replay returns the replay consumer as it is now; nil when there is none, or NATS doesn't say.
func (w *Worker) replay(ctx context.Context) (*jetstream.ConsumerInfo, jetstream.Consumer) {
	consumer, err := w.js.Consumer(ctx, bus.Events, bus.ReplayConsumer(w.cfg.Consumer.Name))
	if err != nil {
		return nil, nil
	}
	return consumer.CachedInfo(), consumer
}

// drainReplay drains one replay until it is paused, is gone, or another has taken its place. A server that doesn't answer
// ends it, too: the next look finds out what is there then. A new replay delivers nothing for longer than a look takes to come.
func (w *Worker) drainReplay(ctx context.Context, consumer jetstream.Consumer, info *jetstream.ConsumerInfo, order bus.ReplayOrder) {
	w.log.Info().Str("replay_id", order.ID).Str("by", order.StartedBy).Uint64("until", order.Until).Msg("replay joined")
	ctx, leave := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		defer leave()
		for pause(ctx, w.cfg.ReplayPoll); ctx.Err() == nil; pause(ctx, w.cfg.ReplayPoll) {
			now, _ := w.replay(ctx)
			if now == nil || now.Paused || !now.Created.Equal(info.Created) {
				return
			}
		}
	})
	from := source{name: info.Name, order: &order}
	if order.Rate > 0 {
		from.due = new(atomic.Int64)
	}
	err := w.consume(ctx, consumer, from)
	leave()
	watch.Wait()
	if errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, nats.ErrNoResponders) {
		err = nil // it is over
	}
	w.log.Info().Err(err).Str("replay_id", order.ID).Msg("replay left")
}

// feed hands out the messages of a consumer.
type feed interface {
	// first waits for a message. It ends with jetstream.ErrMsgIteratorClosed.
	first() (jetstream.Msg, error)
	// more returns one that comes before ctx ends, or the context's error.
	more(ctx context.Context) (jetstream.Msg, error)
	stop()
}

// prefetchBytes is what waits for the next batch: some thousand events of the usual size, so that a batch is there when the
// one before is done, and no more memory than that when they are large. It is well above the largest message of EVENTS.
const prefetchBytes = 4 << 20

// pull begins to pull; the end of ctx ends the feed, after what was fetched already.
func (w *Worker) pull(ctx context.Context, consumer jetstream.Consumer, from source) (feed, error) {
	if from.due != nil {
		return newPaced(ctx, consumer, from.order.Rate, from.due), nil
	}
	var prefetch jetstream.PullMessagesOpt = jetstream.PullMaxMessages(w.cfg.Concurrency * 2)
	if w.cfg.HandleBatch != nil {
		prefetch = jetstream.PullMaxBytes(prefetchBytes)
	}
	messages, err := consumer.Messages(prefetch, jetstream.PullExpiry(10*time.Second), jetstream.PullHeartbeat(2*time.Second))
	if err != nil {
		return nil, fmt.Errorf("pull from %s: %w", from.name, err)
	}
	// Drain delivers what has been fetched already and then ends the iteration.
	return &pulled{messages, context.AfterFunc(ctx, messages.Drain)}, nil
}

// pulled fetches ahead.
type pulled struct {
	messages jetstream.MessagesContext
	undrain  func() bool
}

func (p *pulled) first() (jetstream.Msg, error) { return p.messages.Next() }

func (p *pulled) more(ctx context.Context) (jetstream.Msg, error) {
	return p.messages.Next(jetstream.NextContext(ctx))
}

func (p *pulled) stop() {
	p.undrain()
	p.messages.Stop()
}

// paced fetches no more than the rate lets it hand out at once: what waited in memory would be delivered again meanwhile.
// What a portion has cost is paid for before the next one, since only then is it known what of it was meant.
type paced struct {
	ctx      context.Context //nolint:containedctx // its end is the feed's end
	consumer jetstream.Consumer
	limit    *rate.Limiter
	due      *atomic.Int64
	portion  int
	ready    []jetstream.Msg
}

// pacedWait is how long a fetch waits, and so how long the feed takes to end.
const pacedWait = 500 * time.Millisecond

func newPaced(ctx context.Context, consumer jetstream.Consumer, perSecond float64, due *atomic.Int64) *paced {
	portion := min(max(int(perSecond/20), 1), 500)
	limit := rate.NewLimiter(rate.Limit(perSecond), portion)
	return &paced{ctx: ctx, consumer: consumer, limit: limit, due: due, portion: portion}
}

func (p *paced) first() (jetstream.Msg, error) {
	for len(p.ready) == 0 {
		if p.pay() != nil {
			return nil, jetstream.ErrMsgIteratorClosed
		}
		batch, err := p.consumer.Fetch(p.portion, jetstream.FetchMaxWait(pacedWait))
		if err != nil {
			return nil, fmt.Errorf("fetch: %w", err)
		}
		for msg := range batch.Messages() {
			p.ready = append(p.ready, msg)
		}
		if err := batch.Error(); err != nil && len(p.ready) == 0 {
			return nil, fmt.Errorf("fetch: %w", err)
		}
	}
	msg := p.ready[0]
	p.ready = p.ready[1:]
	return msg, nil
}

// pay waits until the rate allows more; its error is the context's.
func (p *paced) pay() error {
	for due := int(p.due.Swap(0)); due > 0; due -= p.portion {
		if err := p.limit.WaitN(p.ctx, min(due, p.portion)); err != nil {
			return err
		}
	}
	return p.ctx.Err()
}

func (p *paced) more(context.Context) (jetstream.Msg, error) {
	if len(p.ready) == 0 {
		return nil, context.DeadlineExceeded // a batch is what was fetched at once
	}
	return p.first()
}

func (*paced) stop() {}
