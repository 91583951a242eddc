package nearcache

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

const (
	// maxChecks bounds the checks that wait, per window.
	maxChecks = 10_000
	// batchKeys and batchBytes bound what one statement compares and how much of the bucket is in memory for it.
	batchKeys  = 200
	batchBytes = 16 << 20
	// lastChecks is how long a monitor that ends may take for the checks that still wait.
	lastChecks = 3 * time.Second
)

// Row is what a key's row says.
type Row struct {
	Version int64
	// Holds reports whether data is what the bucket has to hold of this version.
	Holds func(data []byte) bool
}

// Truth reads the rows of some keys from the primary database, with one statement. It leaves out the keys that have no row,
// or one that no value may be kept of.
type Truth func(ctx context.Context, keys []string) (map[string]Row, error)

// MonitorConfig is what a Monitor needs. Everything is required but Windows.
type MonitorConfig struct {
	KV      jetstream.KeyValue // its name is the cache's, in metrics and logs
	JS      jetstream.JetStream
	NATS    *nats.Conn
	Truth   Truth
	Log     zerolog.Logger
	Metrics prometheus.Registerer

	// Windows say how long after an invalidation the bucket is compared with the row, the shortest first; 1 s and 10 s when
	// there are none.
	Windows []time.Duration
}

// Monitor repeats the invalidations of a bucket from events, proves afterwards that they hold, and compares the whole
// bucket with the rows after an outage. It is safe for concurrent use, and any number of them may look after one bucket.
type Monitor struct {
	MonitorConfig
	name   string
	bucket *Bucket
	asked  chan struct{}

	checks, inconsistent []prometheus.Counter // by window
	dropped, walks       prometheus.Counter
	found, reconciled    prometheus.Counter // entries withdrawn by a check, and by a walk

	mu      sync.Mutex
	waiting [][]check // by window, each in the order of time
}

// check is to be made of a key's entry at a time: no value of the outdated version or an older one may be there.
type check struct {
	key      string
	outdated int64
	at       time.Time
}

// NewMonitor returns a Monitor and registers its metrics.
func NewMonitor(c MonitorConfig) *Monitor {
	if len(c.Windows) == 0 {
		c.Windows = []time.Duration{time.Second, 10 * time.Second}
	}
	m := &Monitor{
		MonitorConfig: c, name: c.KV.Bucket(), bucket: NewBucket(c.KV),
		asked: make(chan struct{}, 1), waiting: make([][]check, len(c.Windows)),
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		vec := prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: name, Help: help, ConstLabels: prometheus.Labels{"cache": m.name},
		}, labels)
		c.Metrics.MustRegister(vec)
		return vec
	}
	checks := counter("cache_checks_total", "Keys whose entry was compared with the row, by the time since the event.", "window")
	inconsistent := counter("cache_inconsistency_total",
		"Keys whose entry was not what the row says, by the time since the event. Any is a bug.", "window")
	withdrawn := counter("cache_withdrawn_total",
		"Entries withdrawn because they were not what the row says: found by a check, or by comparing the whole bucket.", "by")
	for _, window := range c.Windows {
		m.checks = append(m.checks, checks.WithLabelValues(window.String()))
		m.inconsistent = append(m.inconsistent, inconsistent.WithLabelValues(window.String()))
	}
	m.found, m.reconciled = withdrawn.WithLabelValues("check"), withdrawn.WithLabelValues("reconcile")
	m.dropped = counter("cache_checks_dropped_total", "Checks not made because too many were waiting.").WithLabelValues()
	m.walks = counter("cache_reconciliations_total", "Comparisons of the whole bucket with the rows.").WithLabelValues()
	return m
}

// Withdraw repeats for each key that a version, and the older ones with it, is outdated: the bucket loses them and takes none
// of them any more. It may be called late, twice or out of order. While Run runs, the bucket is compared with the row after
// each window.
func (m *Monitor) Withdraw(ctx context.Context, outdated map[string]int64) error {
	for key, version := range outdated {
		if _, err := m.bucket.PutIfNewer(ctx, key, Entry{Version: version, Tombstone: true}); err != nil {
			return err
		}
		m.expect(key, version)
	}
	return nil
}

// Ping reports whether the bucket answers.
func (m *Monitor) Ping(ctx context.Context) error {
	if _, err := m.KV.Status(ctx); err != nil {
		return fmt.Errorf("ping bucket %s: %w", m.name, err)
	}
	return nil
}

// expect has the key checked after each window.
func (m *Monitor) expect(key string, outdated int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for w, window := range m.Windows {
		m.waiting[w] = m.bounded(append(m.waiting[w], check{key, outdated, time.Now().Add(window)}))
	}
}

// bounded leaves out the oldest of too many checks.
func (m *Monitor) bounded(checks []check) []check {
	excess := max(len(checks)-maxChecks, 0)
	m.dropped.Add(float64(excess))
	return checks[excess:]
}

// Run makes the checks and reconciles until ctx ends. Then it makes those that still wait at once: an entry that is wrong
// early is wrong.
func (m *Monitor) Run(ctx context.Context) error {
	var reconciler sync.WaitGroup
	defer reconciler.Wait()
	reconciler.Go(func() { m.reconcileAfterOutages(ctx) })
	tick := time.NewTicker(m.Windows[0])
	defer tick.Stop()
	for failures := 0; ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case now := <-tick.C:
			err := m.check(ctx, now)
			if err == nil || ctx.Err() != nil {
				failures = 0
				continue
			}
			if failures++; failures == 1 {
				m.Log.Warn().Err(err).Str("cache", m.name).Msg("cache not compared with the database; trying again")
			}
		}
	}
	endCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastChecks)
	defer cancel()
	if err := m.check(endCtx, time.Now().Add(m.Windows[len(m.Windows)-1])); err != nil {
		m.Log.Warn().Err(err).Str("cache", m.name).Msg("the last checks of the cache were not made")
	}
	return nil
}

// check makes the checks that are due, or none: after an error they wait on.
func (m *Monitor) check(ctx context.Context, now time.Time) error {
	due := m.take(now)
	outdated := map[string]map[int]int64{} // by key and window, the newest version
	for w, checks := range due {
		for _, c := range checks {
			if outdated[c.key] == nil {
				outdated[c.key] = map[int]int64{}
			}
			outdated[c.key][w] = max(outdated[c.key][w], c.outdated)
		}
	}
	for p, err := range m.pairs(ctx, slices.Collect(maps.Keys(outdated))) {
		if err == nil {
			err = m.judge(ctx, p, outdated[p.key])
		}
		if err != nil {
			m.putBack(due)
			return err
		}
	}
	for _, windows := range outdated {
		for w := range windows {
			m.checks[w].Inc()
		}
	}
	return nil
}

// take removes the checks that are due from those that wait.
func (m *Monitor) take(now time.Time) [][]check {
	m.mu.Lock()
	defer m.mu.Unlock()
	due := make([][]check, len(m.waiting))
	for w, checks := range m.waiting {
		n := 0
		for n < len(checks) && !checks[n].at.After(now) {
			n++
		}
		due[w], m.waiting[w] = checks[:n:n], checks[n:]
	}
	return due
}

func (m *Monitor) putBack(due [][]check) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for w, checks := range due {
		m.waiting[w] = m.bounded(append(checks, m.waiting[w]...))
	}
}

// judge withdraws an entry that is wrong, and then counts it by window: what could not be withdrawn is judged again.
func (m *Monitor) judge(ctx context.Context, p pair, outdated map[int]int64) error {
	for w, version := range outdated {
		fault := p.fault(version)
		if fault == "" {
			continue
		}
		if err := m.withdraw(ctx, p, m.found); err != nil {
			return err
		}
		m.inconsistent[w].Inc()
		event := m.Log.Warn().Str("cache", m.name).Str("key", p.key).Str("fault", fault).Stringer("window", m.Windows[w]).
			Int64("entry_version", p.entry.Version).Int64("outdated_version", version)
		if p.row != nil {
			event = event.Int64("row_version", p.row.Version)
		}
		event.Msg("cache entry is not what the row says")
	}
	return nil
}

// pair is an entry with a value, and the row, nil when there is none, that was read after it. So whoever wrote the entry had
// committed before the row was read.
type pair struct {
	key   string
	entry Entry
	row   *Row
}

// fault names what is wrong with the entry when a version, and the older ones with it, is known to be outdated; "" when nothing
// is.
func (p pair) fault(outdated int64) string {
	switch {
	case p.entry.Version <= outdated:
		return "stale"
	case p.row == nil || p.entry.Version < p.row.Version:
		return "" // the row has changed since, and its event is on its way
	case p.entry.Version > p.row.Version:
		return "ahead"
	case !p.row.Holds(p.entry.Data):
		return "corrupt"
	default:
		return ""
	}
}

// withdraw puts a tombstone in the place of the entry and of all that the row has outdated.
func (m *Monitor) withdraw(ctx context.Context, p pair, counter prometheus.Counter) error {
	version := p.entry.Version
	if p.row != nil {
		version = max(version, p.row.Version-1)
	}
	stored, err := m.bucket.PutIfNewer(ctx, p.key, Entry{Version: version, Tombstone: true})
	if stored {
		counter.Inc()
	}
	return err
}

// pairs reads entries and then their rows, in batches. Keys without a value, which can't contradict a row, are left out and
// cost the database nothing.
func (m *Monitor) pairs(ctx context.Context, keys []string) iter.Seq2[pair, error] {
	return func(yield func(pair, error) bool) {
		var batch []pair
		size := 0
		for i, key := range keys {
			e, found, err := m.bucket.Get(ctx, key)
			if err != nil {
				yield(pair{}, err)
				return
			}
			if found && !e.Tombstone {
				batch = append(batch, pair{key: key, entry: e})
				size += len(e.Data)
			}
			if len(batch) == 0 || len(batch) < batchKeys && size < batchBytes && i < len(keys)-1 {
				continue
			}
			if err := m.addRows(ctx, batch); err != nil {
				yield(pair{}, err)
				return
			}
			for _, p := range batch {
				if !yield(p, nil) {
					return
				}
			}
			batch, size = nil, 0
		}
	}
}

func (m *Monitor) addRows(ctx context.Context, batch []pair) error {
	keys := make([]string, len(batch))
	for i, p := range batch {
		keys[i] = p.key
	}
	rows, err := m.Truth(ctx, keys)
	if err != nil {
		return fmt.Errorf("read the rows of %s: %w", m.name, err)
	}
	for i, key := range keys {
		if row, ok := rows[key]; ok {
			batch[i].row = &row
		}
	}
	return nil
}
