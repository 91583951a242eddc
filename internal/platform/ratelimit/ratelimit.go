package ratelimit

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"fdc/internal/platform/bus"
)

const (
	confirmWait = 500 * time.Millisecond // how long a request waits for its count
	exactWait   = time.Second            // for each answer that an exact limit needs
	sendWait    = 2 * time.Second        // how long the background waits
	sendEvery   = 50 * time.Millisecond  // how long an increment waits for others
	senders     = 64                     // increments under way at the same time
	pause       = time.Second            // for which nothing is sent after a failure
)

// Policy is the limit of a key. Two policies are two keys even when they have one name: make each once.
type Policy struct {
	Key   string
	Limit int64 // per Window, at least 1
}

// ahead is how many requests a node may admit before their count over all nodes is known.
func (p *Policy) ahead() int64 { return p.Limit / 20 }

// exact reports whether the limit is too small for a node to admit anything before that.
func (p *Policy) exact() bool { return p.ahead() == 0 }

// batch is the number of charges that are sent at once. Those of a limit that a user can reach go out one by one.
func (p *Policy) batch() int64 { return max(1, p.Limit/1000) }

// Decision is the answer to one request.
type Decision struct {
	Allowed   bool
	Limit     int64
	Remaining int64         // at least so many more are allowed; it doesn't rise before Reset has passed
	Reset     time.Duration // when refused: until a request is allowed again
}

// Config is what a Limiter needs. NC, Log and Metrics are required.
type Config struct {
	NC          *nats.Conn
	Log         zerolog.Logger
	Metrics     prometheus.Registerer
	Follow      bool             // hear what other nodes count as they do; NC must be allowed to subscribe to bus.RateLimitTotals
	MaxSubjects int              // pairs of key and subject in memory; 65,536 when zero
	Now         func() time.Time // the clock; time.Now when nil
}

// Limiter decides. It is safe for concurrent use. Run has to run, or a node's charges stay its own.
type Limiter struct {
	nc     *nats.Conn
	log    zerolog.Logger
	now    func() time.Time
	follow bool
	table  *table

	mu     sync.Mutex
	queue  []*entry
	due    chan struct{} // something is in the queue
	urgent chan struct{} // and can't wait for more
	resume atomic.Int64  // when to try NATS again, in Unix nanoseconds of the real clock

	refused *prometheus.CounterVec
	errors  prometheus.Counter
}

// New returns a limiter on the streams RATELIMIT and RATELIMIT_EXACT.
func New(cfg Config) *Limiter {
	if cfg.MaxSubjects == 0 {
		cfg.MaxSubjects = 1 << 16
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Limiter{
		nc: cfg.NC, log: cfg.Log, now: cfg.Now, follow: cfg.Follow, table: newTable(cfg.MaxSubjects),
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

// Allow charges one request of the subject and reports whether it may pass. A refused request costs nothing. Allow always
// answers, whether or not NATS does. The end of ctx does not shorten the wait.
func (l *Limiter) Allow(ctx context.Context, p *Policy, subject string) Decision {
	var d Decision
	if p.exact() {
		d = l.exact(ctx, p, subject)
	} else {
		d = l.counted(ctx, p, subject)
	}
	if !d.Allowed {
		l.refused.WithLabelValues(p.Key).Inc()
	}
	return d
}

// Peek returns the decision that Allow would make, and charges nothing. Remaining leaves one request out.
func (l *Limiter) Peek(ctx context.Context, p *Policy, subject string) Decision {
	now := l.now()
	window, elapsed := windowAt(now)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), confirmWait)
	defer cancel()
	e := l.table.acquire(p, subject, window)
	defer e.shard.mu.Unlock()
	if p.exact() {
		l.unlocked(e, true, func() error { return l.readLog(ctx, e) })
		return judgeTimes(p.Limit, e.log.within(now.UnixMilli()), now.UnixMilli())
	}
	l.unlocked(e, e.read != window, func() error { return l.readTotals(ctx, e, window) })
	return judge(p.Limit, e.previous.all(), e.current.all(), elapsed)
}

// unlocked reads from NATS, if that is needed and possible, without the lock of the entry's shard.
func (l *Limiter) unlocked(e *entry, needed bool, read func() error) {
	if !needed || !l.reachable() {
		return
	}
	e.shard.mu.Unlock()
	defer e.shard.mu.Lock()
	if err := read(); err != nil {
		l.failed(err)
	}
}

// counted charges in memory and leaves the rest to Run, or waits for the total over all nodes.
func (l *Limiter) counted(ctx context.Context, p *Policy, subject string) Decision {
	window, elapsed := windowAt(l.now())
	e := l.table.acquire(p, subject, window)
	d := judge(p.Limit, e.previous.all(), e.current.all(), elapsed)
	if !d.Allowed {
		e.shard.mu.Unlock()
		return d
	}
	ahead := e.read == window && e.alone() && e.current.unsent+e.current.inflight < p.ahead()
	if !ahead && l.reachable() {
		return l.confirmed(ctx, e, window, elapsed)
	}
	e.current.unsent++
	enqueue := !e.queued
	e.queued = true
	urgent := e.current.unsent == p.batch()
	e.shard.mu.Unlock()
	if enqueue {
		l.enqueue(e)
	}
	if urgent {
		signal(l.urgent)
	}
	return d
}

// confirmed charges the request, and what was charged before it and not sent, and decides by the total over all nodes. Without
// an answer the node's own count decides. It unlocks the entry's shard.
func (l *Limiter) confirmed(ctx context.Context, e *entry, window, elapsed int64) Decision {
	limit, unread := e.policy.Limit, e.read != window
	n := e.current.unsent + 1
	e.current.unsent = 0
	e.current.inflight += n
	e.shard.mu.Unlock()

	// A client that hangs up must not get past the other nodes' counts.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), confirmWait)
	defer cancel()
	total, err := l.increment(ctx, e, window, n)
	if err == nil && unread {
		err = l.readPrevious(ctx, e, window)
	}

	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	count, before := e.tally(window), e.tally(window-1)
	if count == nil { // it took a whole window
		count = &tally{inflight: n}
	}
	if before == nil {
		before = new(tally)
	}
	count.inflight -= n
	if err != nil {
		l.failed(err)
		count.lost += n - 1 // admitted already
		d := judge(limit, before.all(), count.all(), elapsed)
		if d.Allowed {
			count.lost++
		}
		return d
	}
	count.own += n
	count.hear(total)
	if e.window == window {
		e.read = window
	}
	return judge(limit, before.settled(), total-1+count.lost, elapsed)
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

// Run sends what was charged in memory until ctx ends, the last charges included, and hears the other nodes' totals.
func (l *Limiter) Run(ctx context.Context) error {
	if l.follow {
		totals, err := l.nc.Subscribe(bus.RateLimitTotals+".>", l.heard)
		if err != nil {
			return fmt.Errorf("subscribe %s: %w", bus.RateLimitTotals, err)
		}
		defer totals.Unsubscribe() //nolint:errcheck // it fails when the connection is closed, and then nothing comes either
	}
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

// heard takes a total that a node's increment brought about.
func (l *Limiter) heard(msg *nats.Msg) {
	name := strings.TrimPrefix(msg.Subject, bus.RateLimitTotals+".")
	at := strings.LastIndexByte(name, '.')
	if at < 0 {
		return
	}
	e := l.table.named(name[:at])
	if e == nil {
		return
	}
	window, err := strconv.ParseInt(name[at+1:], 10, 64)
	if err != nil {
		return // no limiter wrote it
	}
	total, err := parseTotal(msg.Data)
	if err != nil {
		l.log.Warn().Err(err).Str("subject", msg.Subject).Msg("total of a rate limit not understood")
		return
	}
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	if count := e.tally(window); count != nil {
		count.hear(total)
	}
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
		if err := l.readTotals(ctx, e, window); err != nil {
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
	count.own += n
	count.hear(total)
	return true
}

// reachable reports whether NATS is worth asking.
func (l *Limiter) reachable() bool {
	return l.nc.Status() == nats.CONNECTED && time.Now().UnixNano() >= l.resume.Load()
}

// failed notes that NATS gave no count, and leaves it alone for a moment.
func (l *Limiter) failed(err error) {
	l.errors.Inc()
	now := time.Now()
	if last := l.resume.Swap(now.Add(pause).UnixNano()); now.UnixNano() >= last {
		l.log.Warn().Err(err).Msg("rate limits go by this node's own count")
	}
}

// counterOf is the NATS subject of an entry's counter in a window.
func counterOf(e *entry, window int64) string {
	return bus.RateLimitSubject + "." + e.name + "." + strconv.FormatInt(window, 10)
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
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, fmt.Errorf("count under %s: read the answer: %w", e.policy.Key, err)
	}
	if ack.Error != nil {
		return 0, fmt.Errorf("count under %s: %w", e.policy.Key, ack.Error)
	}
	total, err := parseTotal(reply.Data)
	if err != nil {
		return 0, fmt.Errorf("count under %s: %w", e.policy.Key, err)
	}
	return total, nil
}

// parseTotal reads a counter's total, which its message and the answer to an increment hold alike.
func parseTotal(data []byte) (int64, error) {
	var counter struct {
		Value string `json:"val"`
	}
	if err := json.Unmarshal(data, &counter); err != nil {
		return 0, fmt.Errorf("read the total: %w", err)
	}
	total, err := strconv.ParseInt(counter.Value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the total: %w", err)
	}
	return total, nil
}

// readPrevious reads what all nodes counted in the window before the given one.
func (l *Limiter) readPrevious(ctx context.Context, e *entry, window int64) error {
	total, err := l.readTotal(ctx, e, window-1)
	if err != nil {
		return err
	}
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	if e.window == window {
		e.previous.hear(total)
	}
	return nil
}

// readTotals reads what all nodes counted in the given window and the one before.
func (l *Limiter) readTotals(ctx context.Context, e *entry, window int64) error {
	total, err := l.readTotal(ctx, e, window)
	if err == nil {
		err = l.readPrevious(ctx, e, window)
	}
	if err != nil {
		return err
	}
	e.shard.mu.Lock()
	defer e.shard.mu.Unlock()
	if e.window == window {
		e.current.hear(total)
		e.read = window
	}
	return nil
}

func (l *Limiter) readTotal(ctx context.Context, e *entry, window int64) (int64, error) {
	reply, err := l.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+bus.RateLimits+"."+counterOf(e, window), nil)
	if err != nil {
		return 0, fmt.Errorf("read the count under %s: %w", e.policy.Key, err)
	}
	switch status := reply.Header.Get("Status"); status {
	case "404": // nothing was counted
		return 0, nil
	case "":
		total, err := parseTotal(reply.Data)
		if err != nil {
			return 0, fmt.Errorf("read the count under %s: %w", e.policy.Key, err)
		}
		return total, nil
	default:
		return 0, fmt.Errorf("read the count under %s: status %s", e.policy.Key, status)
	}
}
