package ratelimit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"fdc/internal/platform/bus"
)

const (
	exactWait = 250 * time.Millisecond // how long an exact key waits for its count
	sendWait  = 2 * time.Second        // how long the background waits
	sendEvery = 50 * time.Millisecond  // how long an increment waits for others
	senders   = 64                     // increments under way at the same time
	pause     = time.Second            // for which nothing is sent after a failure
)

// Policy is the limit of a key. Two policies are two keys even when they have one name: make each once.
type Policy struct {
	Key   string
	Limit int64 // per Window, at least 1
	Exact bool  // wait for the count over all nodes
}

// batch is the number of charges that don't wait for more.
func (p *Policy) batch() int64 { return max(1, p.Limit/16) }

// Decision is the answer to one request.
type Decision struct {
	Allowed   bool
	Limit     int64
	Remaining int64
	Reset     time.Duration // until the window ends; when refused: until a request is allowed again
}

// Config is what a Limiter needs. NC, Log and Metrics are required.
type Config struct {
	NC          *nats.Conn
	Log         zerolog.Logger
	Metrics     prometheus.Registerer
	MaxSubjects int              // pairs of key and subject in memory; 65,536 when zero
	Now         func() time.Time // the clock; time.Now when nil
}

// Limiter decides. It is safe for concurrent use. Run has to run, or a node's charges stay its own.
type Limiter struct {
	nc    *nats.Conn
	log   zerolog.Logger
	now   func() time.Time
	table *table

	mu     sync.Mutex
	queue  []*entry
	due    chan struct{} // something is in the queue
	urgent chan struct{} // and can't wait for more
	resume atomic.Int64  // when to try NATS again, in Unix nanoseconds of the real clock

	refused *prometheus.CounterVec
	errors  prometheus.Counter
}

// New returns a limiter on the stream RATELIMIT.
func New(cfg Config) *Limiter {
	if cfg.MaxSubjects == 0 {
		cfg.MaxSubjects = 1 << 16
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Limiter{
		nc: cfg.NC, log: cfg.Log, now: cfg.Now, table: newTable(cfg.MaxSubjects),
		due: make(chan struct{}, 1), urgent: make(chan struct{}, 1),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimit_refused_total", Help: "Requests refused, by key.",
		}, []string{"key"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimit_nats_errors_total", Help: "Counts that NATS gave no answer to; the node went by its own.",
		}),
	}
	cfg.Metrics.MustRegister(l.refused, l.errors)
	return l
}

// Allow charges one request of the subject and says whether it may pass. What is refused costs nothing. It always
// answers; ctx only shortens the waiting of an exact key.
func (l *Limiter) Allow(ctx context.Context, p *Policy, subject string) Decision {
	var d Decision
	if p.Exact {
		d = l.exact(ctx, p, subject)
	} else {
		d = l.local(p, subject)
	}
	if !d.Allowed {
		l.refused.WithLabelValues(p.Key).Inc()
	}
	return d
}

// local charges in memory and leaves the rest to Run.
func (l *Limiter) local(p *Policy, subject string) Decision {
	window, elapsed := windowAt(l.now())
	e := l.table.acquire(p, subject, window)
	d := judge(p.Limit, e.previous.all(), e.current.all(), elapsed)
	enqueue, urgent := false, false
	if d.Allowed {
		e.current.unsent++
		enqueue = !e.queued
		e.queued = true
		urgent = e.current.unsent == p.batch()
	}
	e.shard.mu.Unlock()
	if enqueue {
		l.enqueue(e)
	}
	if urgent {
		signal(l.urgent)
	}
	return d
}

// exact waits for the count. When there is none, the node's own decides.
func (l *Limiter) exact(ctx context.Context, p *Policy, subject string) Decision {
	window, elapsed := windowAt(l.now())
	e := l.table.acquire(p, subject, window)
	d := judge(p.Limit, e.previous.settled(), e.current.settled(), elapsed)
	if !d.Allowed || !l.reachable() {
		if d = judge(p.Limit, e.previous.all(), e.current.all(), elapsed); d.Allowed {
			e.current.lost++
		}
		e.shard.mu.Unlock()
		return d
	}
	e.current.inflight++
	unread := e.read != window
	e.shard.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, exactWait)
	defer cancel()
	var err error
	if unread {
		err = l.readPrevious(ctx, e, window)
	}
	var total int64
	if err == nil {
		total, err = l.increment(ctx, e, window, 1)
	}

	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	count, before := e.tally(window), e.tally(window-1)
	if count == nil { // it took a whole window
		count = new(tally)
	} else {
		count.inflight--
	}
	if before == nil {
		before = new(tally)
	}
	if err != nil {
		l.failed(err)
		if d = judge(p.Limit, before.all(), count.all(), elapsed); d.Allowed {
			count.lost++
		}
		return d
	}
	count.shared = max(count.shared, total)
	return judge(p.Limit, before.settled(), total-1+count.lost, elapsed)
}

func (l *Limiter) enqueue(e *entry) {
	l.mu.Lock()
	l.queue = append(l.queue, e)
	l.mu.Unlock()
	signal(l.due)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is signalled already
	}
}

// Run sends what was charged in memory until ctx ends, the last charges included.
func (l *Limiter) Run(ctx context.Context) error {
	var sending sync.WaitGroup
	defer sending.Wait()
	slots := make(chan struct{}, senders)
	timer := time.NewTimer(sendEvery)
	defer timer.Stop()
	for running := true; running; {
		select {
		case <-l.due:
			timer.Reset(sendEvery)
			select {
			case <-timer.C:
			case <-l.urgent:
			case <-ctx.Done():
				running = false
			}
		case <-ctx.Done():
			running = false
		}
		l.mu.Lock()
		batch := l.queue
		l.queue = nil
		l.mu.Unlock()
		for _, e := range batch {
			slots <- struct{}{}
			sending.Go(func() {
				defer func() { <-slots }()
				l.send(context.WithoutCancel(ctx), e)
			})
		}
	}
	return nil
}

// send tells the stream what an entry was charged, and the entry what the stream knows.
func (l *Limiter) send(ctx context.Context, e *entry) {
	ctx, cancel := context.WithTimeout(ctx, sendWait)
	defer cancel()
	e.shard.mu.Lock()
	window, unread := e.window, e.read != e.window
	e.shard.mu.Unlock()
	reachable := l.reachable()
	if reachable && unread {
		if err := l.readPrevious(ctx, e, window); err != nil {
			l.failed(err)
			reachable = false
		}
	}
	for _, w := range []int64{window - 1, window} {
		reachable = l.sendWindow(ctx, e, w, reachable)
	}
	e.shard.mu.Lock()
	e.queued = e.current.unsent > 0 // charged since
	again, urgent := e.queued, e.current.unsent >= e.policy.batch()
	e.shard.mu.Unlock()
	if again {
		l.enqueue(e)
	}
	if urgent {
		signal(l.urgent)
	}
}

// sendWindow sends the increments of one window. It reports whether NATS answers; if not, they are lost to the others.
func (l *Limiter) sendWindow(ctx context.Context, e *entry, window int64, reachable bool) bool {
	e.shard.mu.Lock()
	count := e.tally(window)
	if count == nil || count.unsent == 0 {
		e.shard.mu.Unlock()
		return reachable
	}
	n := count.unsent
	count.unsent = 0
	if !reachable {
		count.lost += n
		e.shard.mu.Unlock()
		l.errors.Inc()
		return false
	}
	count.inflight += n
	e.shard.mu.Unlock()

	total, err := l.increment(ctx, e, window, n)
	if err != nil {
		l.failed(err)
	}
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	if count = e.tally(window); count == nil {
		return err == nil
	}
	count.inflight -= n
	if err != nil {
		count.lost += n
		return false
	}
	count.shared = max(count.shared, total)
	return true
}

// reachable reports whether NATS is worth asking.
func (l *Limiter) reachable() bool {
	return l.nc.Status() == nats.CONNECTED && time.Now().UnixNano() >= l.resume.Load()
}

// failed notes that NATS gave no count, and leaves it alone for a moment.
func (l *Limiter) failed(err error) {
	if errors.Is(err, context.Canceled) {
		return // the client has gone
	}
	l.errors.Inc()
	now := time.Now()
	if last := l.resume.Swap(now.Add(pause).UnixNano()); now.UnixNano() >= last {
		l.log.Warn().Err(err).Msg("rate limits go by this node's own count")
	}
}

// counterOf is the NATS subject of an entry's counter in a window.
func counterOf(e *entry, window int64) string {
	return bus.RateLimitSubject + "." + e.policy.Key + "." + e.token + "." + strconv.FormatInt(window, 10)
}

// increment adds to the counter of a window and returns its total.
func (l *Limiter) increment(ctx context.Context, e *entry, window, n int64) (int64, error) {
	msg := nats.NewMsg(counterOf(e, window))
	msg.Header["Nats-Incr"] = []string{strconv.FormatInt(n, 10)}
	reply, err := l.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return 0, fmt.Errorf("count under %s: %w", e.policy.Key, err)
	}
	var ack struct {
		Value string `json:"val"`
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, fmt.Errorf("count under %s: read the answer: %w", e.policy.Key, err)
	}
	if ack.Error != nil {
		return 0, fmt.Errorf("count under %s: %s", e.policy.Key, ack.Error.Description)
	}
	total, err := strconv.ParseInt(ack.Value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("count under %s: read the total: %w", e.policy.Key, err)
	}
	return total, nil
}

// readPrevious learns what all nodes counted in the window before the given one; once per window. That window's own total
// comes with the answer to each increment.
func (l *Limiter) readPrevious(ctx context.Context, e *entry, window int64) error {
	reply, err := l.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+bus.RateLimits+"."+counterOf(e, window-1), nil)
	if err != nil {
		return fmt.Errorf("read the count under %s: %w", e.policy.Key, err)
	}
	var total int64
	switch status := reply.Header.Get("Status"); status {
	case "404": // nothing was counted
	case "":
		var stored struct {
			Value string `json:"val"`
		}
		if err := json.Unmarshal(reply.Data, &stored); err != nil {
			return fmt.Errorf("read the count under %s: %w", e.policy.Key, err)
		}
		if total, err = strconv.ParseInt(stored.Value, 10, 64); err != nil {
			return fmt.Errorf("read the count under %s: %w", e.policy.Key, err)
		}
	default:
		return fmt.Errorf("read the count under %s: status %s", e.policy.Key, status)
	}
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	if e.window == window {
		e.previous.shared = max(e.previous.shared, total)
		e.read = window
	}
	return nil
}
