package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"fdc/events"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/postgres"
)

// Delivery is one event on its way to a handler.
type Delivery struct {
	Event    events.Event
	Attempt  int    // 1 for the first
	Sequence uint64 // in EVENTS; 0 when nobody knows it any more
	Replayed bool   // it comes again at somebody's request

	msg     jetstream.Msg
	origin  origin
	outcome error
}

// Fail marks this delivery of a batch as failed while the batch as a whole succeeds. It takes the same errors as a
// handler returns.
func (d *Delivery) Fail(err error) { d.outcome = err }

// Handler handles one event.
type Handler func(ctx context.Context, d *Delivery) error

// BatchHandler handles several events in one go: an error is the outcome of all of them, except those it called Fail on.
type BatchHandler func(ctx context.Context, batch []*Delivery) error

// Config says what to consume and how. Exactly one of Handle and HandleBatch is set.
type Config struct {
	Consumer    bus.Consumer
	Handle      Handler
	Concurrency int // handlers at the same time; 16 when zero

	HandleBatch BatchHandler
	BatchSize   int           // a batch closes at so many events; 1,000 when zero
	BatchBytes  int           // or so many bytes of them; 16 MiB when zero
	BatchWait   time.Duration // or so long after its first; 100 ms when zero

	// Ping reports whether everything answers that the handler depends on, besides NATS. nil: it depends on nothing else.
	// It must not wait for what slow handlers use up, such as a connection of their pool.
	Ping func(ctx context.Context) error

	// ReplayPoll is how often the worker looks for a replay to its consumer; a second when zero. A new replay must deliver
	// nothing for longer than that (package replay sees to it).
	ReplayPoll time.Duration

	Log     zerolog.Logger
	Metrics prometheus.Registerer
	Waiting func(what string) // told what the worker waits for before it can start; may be nil
}

// Worker consumes for one service. Several copies share the work.
type Worker struct {
	cfg Config
	js  jetstream.JetStream
	log zerolog.Logger

	handled  *prometheus.CounterVec
	duration prometheus.Histogram
	dead     prometheus.Counter

	held errgroup.Group // dead letters that DEAD has not taken yet
}

// New returns a worker; Run starts it.
func New(js jetstream.JetStream, cfg Config) *Worker {
	cfg.Concurrency = orDefault(cfg.Concurrency, 16)
	cfg.BatchSize = orDefault(cfg.BatchSize, 1000)
	cfg.BatchBytes = orDefault(cfg.BatchBytes, 16<<20)
	cfg.BatchWait = orDefault(cfg.BatchWait, 100*time.Millisecond)
	cfg.ReplayPoll = orDefault(cfg.ReplayPoll, time.Second)
	labels := prometheus.Labels{"consumer": cfg.Consumer.Name}
	w := &Worker{
		cfg: cfg, js: js, log: cfg.Log.With().Str("consumer", cfg.Consumer.Name).Logger(),
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "worker_handled_total", Help: "Deliveries by outcome.", ConstLabels: labels,
		}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "worker_handle_seconds", Help: "Time in the handler, of one event or one batch.", ConstLabels: labels,
			Buckets: prometheus.ExponentialBuckets(.0005, 2.5, 12),
		}),
		dead: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dlq_total", Help: "Events set aside in DEAD.", ConstLabels: labels,
		}),
	}
	w.held.SetLimit(mostHeld)
	cfg.Metrics.MustRegister(w.handled, w.duration, w.dead, newLag(js, cfg.Consumer.Name))
	return w
}

func orDefault[T int | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // that is its purpose
	}
	return err
}

// consume pulls until ctx ends or the subscription breaks.
func (w *Worker) consume(ctx context.Context, consumer jetstream.Consumer, from source) error {
	messages, err := w.pull(ctx, consumer, from)
	if err != nil {
		return err
	}
	defer messages.stop()
	if w.cfg.HandleBatch != nil {
		return w.consumeBatches(ctx, messages, from)
	}
	return w.consumeEach(ctx, messages, from)
}

func (w *Worker) consumeEach(ctx context.Context, messages feed, from source) error {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, w.cfg.Concurrency)
	for {
		msg, err := messages.first()
		if err != nil {
			return ended(err)
		}
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			if d := w.open(ctx, msg, from); d != nil {
				w.run(ctx, []*Delivery{d}, func(ctx context.Context) error { return w.cfg.Handle(ctx, d) })
			}
		})
	}
}

func (w *Worker) consumeBatches(ctx context.Context, messages feed, from source) error {
	var next *Delivery // the first of the next batch, when it was too many for the one before
	for {
		var batch []*Delivery
		var err error
		if batch, next, err = w.collect(ctx, messages, from, next); len(batch) > 0 {
			w.run(ctx, batch, func(ctx context.Context) error { return w.cfg.HandleBatch(ctx, batch) })
		}
		if err != nil {
			return ended(err)
		}
	}
}

// collect gathers a batch that begins with first, if there is one. What would make it too large it returns as next.
func (w *Worker) collect(ctx context.Context, messages feed, from source, first *Delivery) (batch []*Delivery, next *Delivery, err error) {
	var msg jetstream.Msg
	d := first
	if d == nil {
		if msg, err = messages.first(); err != nil {
			return nil, nil, err
		}
		d = w.open(ctx, msg, from)
	}
	closes, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.cfg.BatchWait)
	defer cancel()
	bytes, limit := 0, w.cfg.BatchSize
	for {
		if d != nil {
			if limit = min(limit, w.batchLimit(d)); len(batch) >= limit {
				return batch, d, nil
			}
			batch = append(batch, d)
			bytes += len(d.msg.Data())
		}
		if len(batch) >= limit || bytes >= w.cfg.BatchBytes {
			return batch, nil, nil
		}
		msg, err = messages.more(closes)
		switch {
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
			return batch, nil, nil
		case err != nil:
			return batch, nil, err
		}
		d = w.open(ctx, msg, from)
	}
}

// batchLimit is how many events a batch may have with this one among them: an eighth as many at each attempt, and one at the
// last. So an event that makes its batch fail takes no other to DEAD with it.
func (w *Worker) batchLimit(d *Delivery) int {
	if d.Attempt >= w.cfg.Consumer.MaxAttempts {
		return 1
	}
	return max(1, w.cfg.BatchSize>>(3*(d.Attempt-1)))
}

// ended hides the error of an orderly end.
func ended(err error) error {
	if errors.Is(err, jetstream.ErrMsgIteratorClosed) {
		return nil
	}
	return err
}

// open decodes a message. It settles what can't or must not be handled, and returns nil then.
func (w *Worker) open(ctx context.Context, msg jetstream.Msg, from source) *Delivery {
	meta, err := msg.Metadata()
	if err != nil {
		// Not a JetStream delivery: there is nothing to answer.
		w.log.Error().Err(err).Str("subject", msg.Subject()).Msg("message without metadata ignored")
		return nil
	}
	d := &Delivery{msg: msg, Attempt: int(min(meta.NumDelivered, 1<<30)), Replayed: from.replayed()}
	d.origin = w.originOf(msg, meta, from)
	d.Sequence = d.origin.Sequence
	d.Event, err = events.Decode(msg.Data())
	if !from.means(meta, d.Event.UserID) {
		w.skip(d)
		return nil
	}
	if from.due != nil {
		from.due.Add(1)
	}
	switch {
	case d.Attempt > w.cfg.Consumer.MaxAttempts:
		w.settle(ctx, d, Discard(fmt.Errorf("%d deliveries ended without an answer", d.Attempt-1)))
		return nil
	case err != nil:
		w.settle(ctx, d, Discard(fmt.Errorf("decode: %w", err)))
		return nil
	}
	return d
}

// run calls the handler while telling the server that work is in progress, and settles every delivery. Work in hand is
// finished, not cancelled, when ctx ends.
func (w *Worker) run(ctx context.Context, batch []*Delivery, handle func(context.Context) error) {
	work := context.WithoutCancel(ctx)
	alive := make(chan struct{})
	var beat sync.WaitGroup
	beat.Go(func() {
		ticker := time.NewTicker(w.cfg.Consumer.AckWait / 3)
		defer ticker.Stop()
		for {
			select {
			case <-alive:
				return
			case <-ticker.C:
				for _, d := range batch {
					if err := d.msg.InProgress(); err != nil {
						w.log.Warn().Err(err).Uint64("sequence", d.Sequence).Msg("could not report progress")
					}
				}
			}
		}
	})
	err := w.retry(ctx, func() error { return w.guard(work, batch, handle) })
	close(alive)
	beat.Wait()
	for _, d := range batch {
		if d.outcome == nil {
			d.outcome = err
		}
		w.settle(ctx, d, d.outcome)
	}
}

// retry repeats the attempt while a dependency is unavailable: an outage is not the event's fault and must not use up its
// attempts. It returns an outage when the service stops meanwhile. An error that only looks like an outage counts, such as
// that of a statement that always takes too long.
func (w *Worker) retry(ctx context.Context, attempt func() error) error {
	for tries := 1; ; tries++ {
		start := time.Now()
		err := attempt()
		w.duration.Observe(time.Since(start).Seconds())
		if !suspicious(err) {
			return err
		}
		unavailable := w.ping(ctx)
		if unavailable == nil {
			return err
		}
		w.log.Warn().Err(err).AnErr("ping", unavailable).Int("tries", tries).Msg("a dependency is unavailable; the event stays in progress")
		select {
		case <-ctx.Done():
			return &outage{err}
		case <-time.After(min(Backoff(tries), 5*time.Second)):
		}
	}
}

// suspicious reports whether err looks as if Postgres, NATS or another dependency were unavailable.
func suspicious(err error) bool {
	if err == nil {
		return false
	}
	return fault.KindOf(err) == fault.Unavailable || postgres.Unreachable(err) || bus.Unreachable(err)
}

// pingTimeout is how long a dependency may take to answer a ping before it counts as unavailable.
const pingTimeout = 5 * time.Second

// ping returns an error when NATS, or what the handler depends on besides, doesn't answer.
func (w *Worker) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := w.js.Consumer(ctx, bus.Events, w.cfg.Consumer.Name); err != nil {
		return fmt.Errorf("ping NATS: %w", err)
	}
	if w.cfg.Ping == nil {
		return nil
	}
	return w.cfg.Ping(ctx)
}

// outage is the error of an attempt that failed because a dependency was unavailable. It doesn't count as one.
type outage struct{ error }

func (o *outage) Unwrap() error { return o.error }

// guard turns a panic into an error: one event must not take the service down.
func (w *Worker) guard(ctx context.Context, batch []*Delivery, handle func(context.Context) error) (err error) {
	ctx, span := w.span(ctx, batch)
	defer span.End()
	defer func() {
		if p := recover(); p != nil {
			w.log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Msg("handler panicked")
			err = fmt.Errorf("handler panicked: %v", p)
		}
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
	}()
	return handle(ctx)
}

// span starts a trace of its own, linked to the request that caused the event: hours may lie between the two.
func (w *Worker) span(ctx context.Context, batch []*Delivery) (context.Context, trace.Span) {
	opts := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindConsumer)}
	if len(batch) == 1 {
		carrier := propagation.MapCarrier{"traceparent": batch[0].msg.Headers().Get("traceparent")}
		cause := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(ctx, carrier))
		if cause.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: cause}))
		}
	}
	return otel.Tracer("fdc/internal/platform/worker").Start(ctx, "process "+w.cfg.Consumer.Name, opts...)
}

// settle answers the server for one delivery.
func (w *Worker) settle(ctx context.Context, d *Delivery, err error) {
	outcome, answer := "acked", d.msg.Ack
	steer, steered := errors.AsType[*steering](err)
	_, uncounted := errors.AsType[*outage](err)
	switch {
	case err == nil:
	case steered && steer.discard, d.Attempt >= w.cfg.Consumer.MaxAttempts && !uncounted:
		outcome, answer = w.setAside(ctx, d, err)
	default:
		delay := Backoff(d.Attempt)
		if steered {
			delay = steer.after
		}
		outcome, answer = "retried", func() error { return d.msg.NakWithDelay(delay) }
	}
	if err != nil {
		w.log.Warn().Err(err).Str("event_id", d.Event.ID).Str("event_type", d.Event.Type).Str("subject", d.origin.Subject).
			Uint64("sequence", d.Sequence).Int("attempt", d.Attempt).Str("outcome", outcome).Msg("event not handled")
	}
	w.handled.WithLabelValues(outcome).Inc()
	w.answer(d, answer)
}

// answer tells the server. What it doesn't hear comes again after AckWait.
func (w *Worker) answer(d *Delivery, answer func() error) {
	if err := answer(); err != nil {
		w.log.Warn().Err(err).Uint64("sequence", d.Sequence).Msg("could not answer the server")
	}
}

// Backoff is the delay before the attempt after the given one: full jitter under a ceiling that doubles from 250 ms to a
// minute.
func Backoff(attempt int) time.Duration {
	ceiling := min(250*time.Millisecond<<min(max(attempt-1, 0), 8), time.Minute)
	return 50*time.Millisecond + rand.N(ceiling) //nolint:gosec // jitter is no secret
}

type steering struct {
	err     error
	discard bool
	after   time.Duration
}

func (s *steering) Error() string { return s.err.Error() }
func (s *steering) Unwrap() error { return s.err }

// Discard sets the event aside as a dead letter without another attempt.
func Discard(err error) error { return &steering{err: err, discard: true} }

// RetryAfter asks for the event again after d instead of the usual backoff. It counts as an attempt.
func RetryAfter(err error, d time.Duration) error { return &steering{err: err, after: d} }
