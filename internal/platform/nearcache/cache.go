package nearcache

import (
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"fdc/internal/platform/fault"
	"fdc/internal/platform/seal"
)

const (
	// loadTimeout is far below the age that a bucket's tombstones reach, so that none expires under a load it has to fence.
	loadTimeout = 5 * time.Second
	// writeTimeout is how long a writer waits for the bucket after its commit: a logout is to be answered within 2 s.
	writeTimeout = 1500 * time.Millisecond
	readTimeout  = 500 * time.Millisecond
	// joinTime is how long after its beginning a read may be joined. A reader gets nothing that was read longer before it came,
	// not even where the watch can't tell that the value has changed.
	joinTime = time.Second
	// restTime is how long a bucket that did not answer is left alone.
	restTime = time.Second

	// maxEntry is the largest entry; the bus takes 1 MB with headers.
	maxEntry = 900 << 10
	// nearAge bounds how long the near layer keeps an entry, less up to a quarter so that not all expire at once.
	nearAge = 30 * time.Second
	// goneAge is how long the near layer remembers that a key has no value and never will have one.
	goneAge = 10 * time.Second
	// itemOverhead is about what an entry takes beside its key and its value.
	itemOverhead = 250
	// maxOwed bounds the writes that are remembered because the bucket did not take them.
	maxOwed = 10_000
	// maxTelling is how many keys one call of Withdraw writes at a time.
	maxTelling = 16
)

// Layer is where a value came from.
type Layer string

// The layers, nearest first. Bypass is the database, for what is too large to be kept.
const (
	Near   Layer = "near"
	KV     Layer = "kv"
	DB     Layer = "db"
	Bypass Layer = "bypass"
)

// Value is what Get found. Data is shared: never change it.
type Value[V any] struct {
	Version int64
	Data    V
	Layer   Layer
}

// Load reads a key's newest version from the primary database. An error that wraps ErrGone says that the key has no value
// and never will have one again; it is remembered for some seconds.
type Load func(ctx context.Context, key string) (version int64, data []byte, err error)

// ErrGone is for the errors of a Load.
var ErrGone = errors.New("gone for good")

// Decode makes what Get gives out of an entry's data, once for each entry that comes to this node, and says about how many
// bytes that takes. Data of the bucket that it refuses is no entry.
type Decode[V any] func(data []byte) (value V, size int, err error)

// Config is what a Cache needs. Everything is required.
type Config struct {
	KV       jetstream.KeyValue // its name is the cache's, in metrics and logs
	Signer   *seal.Signer       // of the values in the bucket: one without a valid signature is no value
	JS       jetstream.JetStream
	NATS     *nats.Conn
	MaxBytes uint64 // of the near layer
	Log      zerolog.Logger
	Metrics  prometheus.Registerer
}

// Cache is a bucket with a near layer in this process and a loader behind it. It is safe for concurrent use. Without Run
// it works, but its near layer serves nothing.
type Cache[V any] struct {
	Config
	load   Load
	decode Decode[V]
	name   string
	bucket *Bucket
	node   string
	begun  time.Time
	limits limits
	near   *otter.Cache[string, *item[V]]
	served map[Layer]prometheus.Counter

	trusted atomic.Pointer[trust] // nil while there is no watch

	echoed atomic.Int64 // when the newest beat that came back was sent, since begun; 0: none did in this life
	rest   atomic.Int64 // until when the bucket is left alone, since begun

	// mu orders what the watch tells, what loads bring and purges. Hits don't take it.
	mu      sync.Mutex
	filled  bool   // the near layer has had values since the last purge
	life    uint64 // of the watch: what was read in an earlier one must not enter the near layer
	flights map[string]*flight[V]
	owed    map[string]int64 // versions that were committed here and that the bucket has not taken yet
}

// limits bound how long the bucket is waited for.
type limits struct{ read, write time.Duration }

// trust says which entries of the bucket are believed: those that were written since the watch began, on its connection. What
// was there before may be outdated: by somebody who could not say so, or because a server that ended badly came back without
// its newest entries.
type trust struct {
	since      uint64 // the bucket's newest revision then
	reconnects uint64 // of the connection, then
}

// item is an entry of the near layer: a value, the error that says that there never will be one, or, with neither, the place of a
// value that is to come. A place is what keeps versions from going back when the bucket has lost its fences.
type item[V any] struct {
	version int64 // a place is for newer ones
	value   V
	gone    error
	held    bool // the value is
	size    uint32
	until   time.Duration // since begun
}

// flight is the one read of a key under way.
type flight[V any] struct {
	done  chan struct{}
	begun time.Time
	life  uint64
	fence int64 // what is older is outdated, or may be: a bucket that did not answer may hold what it was given
	news  int64 // the newest version that this node was told of during the present read
	want  int64 // what is older in the bucket is of no use to who began the flight
	value Value[V]
	size  int
	err   error
}

// New returns a Cache and registers its metrics.
func New[V any](c Config, load Load, decode Decode[V]) (*Cache[V], error) {
	name := c.KV.Bucket()
	if c.Signer == nil {
		return nil, fmt.Errorf("make cache %s: no signer", name)
	}
	near, err := otter.New(&otter.Options[string, *item[V]]{
		MaximumWeight: c.MaxBytes,
		Weigher: func(key string, i *item[V]) uint32 {
			return uint32(len(key)) + i.size + itemOverhead //nolint:gosec // a key is short
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make near cache %s: %w", name, err)
	}
	cache := &Cache[V]{
		Config: c, load: load, decode: decode, name: name, bucket: NewSignedBucket(c.KV, c.Signer), node: cryptorand.Text(), begun: time.Now(), near: near,
		limits:  limits{read: readTimeout, write: writeTimeout},
		flights: map[string]*flight[V]{}, owed: map[string]int64{}, served: map[Layer]prometheus.Counter{},
	}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cache_requests_total", Help: "Reads, by the layer that served them.", ConstLabels: prometheus.Labels{"cache": name},
	}, []string{"layer"})
	for _, layer := range []Layer{Near, KV, DB, Bypass} {
		cache.served[layer] = requests.WithLabelValues(string(layer))
	}
	c.Metrics.MustRegister(cache.bucket.rejected, requests, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nearcache_beat_age_seconds", ConstLabels: prometheus.Labels{"cache": name},
		Help: "Age of the newest beat that the watch brought back; the near layer serves below 3. -1: none yet.",
	}, cache.beatAge))
	return cache, nil
}

// Near returns what Get would, if the near layer alone can tell. It reads nothing else.
func (c *Cache[V]) Near(key string, atLeast int64) (v Value[V], known bool, err error) {
	if i, ok := c.near.GetIfPresent(key); ok && time.Since(c.begun) < i.until && c.Live() {
		switch {
		case i.gone != nil:
			c.served[Near].Inc()
			return Value[V]{}, true, i.gone
		case i.held && i.version >= atLeast:
			c.served[Near].Inc()
			return Value[V]{i.version, i.value, Near}, true, nil
		}
	}
	return Value[V]{}, false, nil
}

// Get returns the newest version of a key that is known here, and no older one than atLeast if the database has that.
// The error is Load's; the cache has none of its own.
func (c *Cache[V]) Get(ctx context.Context, key string, atLeast int64) (Value[V], error) {
	if v, known, err := c.Near(key, atLeast); known {
		return v, err
	}
	for {
		f, mine := c.join(ctx, key, atLeast)
		select {
		case <-f.done:
		case <-ctx.Done():
			return Value[V]{}, fault.Wrap(ctx.Err(), fault.Unavailable, "", "The answer took too long.")
		}
		// Whose flight began with less knowledge may be too old for this reader, who then begins one of its own.
		if !mine && f.err == nil && f.value.Version < atLeast {
			continue
		}
		if f.err == nil {
			c.served[f.value.Layer].Inc()
		}
		return f.value, f.err
	}
}

// Put tells that a version was committed here, and waits for the bucket for 1.5 s at most. Call it after the commit and
// before the answer. After an error this node goes on to serve that version or newer ones, and repeats in the background
// that older ones are outdated; other nodes may serve the version before until they are told so (see the package).
func (c *Cache[V]) Put(ctx context.Context, key string, version int64, data []byte) error {
	e := Entry{Version: version, Data: data}
	if signedSize+len(data) > maxEntry {
		e = Entry{Version: version - 1, Tombstone: true}
	}
	c.expect(key, e.current())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.limits.write)
	defer cancel()
	return c.tell(ctx, key, e)
}

// Withdraw tells for each key which version, and the older ones with it, was outdated by a commit made here. All else is as
// with Put.
func (c *Cache[V]) Withdraw(ctx context.Context, outdated map[string]int64) error {
	for key, version := range outdated {
		c.expect(key, version+1)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.limits.write)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(maxTelling)
	for key, version := range outdated {
		group.Go(func() error { return c.tell(ctx, key, Entry{Version: version, Tombstone: true}) })
	}
	return group.Wait()
}

// expect makes this node serve that version of a key or newer ones from now on, and owe the bucket the news.
func (c *Cache[V]) expect(key string, version int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flights[key].hear(version)
	if old, ok := c.near.GetIfPresent(key); ok && old.version < version {
		// The watch brings the data: it alone knows whether there is something newer by now.
		c.keepPlace(key, version)
	}
	c.owe(key, version)
}

// keepPlace keeps the place of that version or a newer one, for longer than anybody takes to write an older one. c.mu is held.
func (c *Cache[V]) keepPlace(key string, version int64) {
	c.near.Set(key, &item[V]{version: version - 1, until: time.Since(c.begun) + nearAge})
}

// known returns what the near layer has of a key, and the version that the row has reached for all that is known here. A place
// that is out of date is nothing: the row may have gone back, restored from a backup. c.mu is held.
func (c *Cache[V]) known(key string) (i *item[V], reached int64) {
	i, ok := c.near.GetIfPresent(key)
	switch {
	case !ok:
		return nil, 0
	case i.held || i.gone != nil:
		return i, i.version
	case time.Since(c.begun) >= i.until:
		return nil, 0
	default:
		return i, i.version + 1
	}
}

// tell writes an entry that a commit made here calls for.
func (c *Cache[V]) tell(ctx context.Context, key string, e Entry) error {
	if !c.reachable() {
		return fmt.Errorf("write %s/%s: %w", c.name, key, errAway)
	}
	_, err := c.bucket.PutIfNewer(ctx, key, e)
	if c.answered(err) {
		c.paid(key, e.current())
	}
	return err
}

// hear takes what a flight, if there is one, is told; the cache's mu is held.
func (f *flight[V]) hear(version int64) {
	if f != nil {
		f.fence, f.news = max(f.fence, version), max(f.news, version)
	}
}

// owe notes that the bucket has to learn of a version; c.mu is held.
func (c *Cache[V]) owe(key string, version int64) {
	if len(c.owed) < maxOwed || c.owed[key] > 0 {
		c.owed[key] = max(c.owed[key], version)
	}
}

func (c *Cache[V]) paid(key string, version int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owed[key] <= version {
		delete(c.owed, key)
	}
}

// repay withdraws from the bucket what this node outdated while it could not say so.
func (c *Cache[V]) repay(ctx context.Context) {
	c.mu.Lock()
	debts := maps.Clone(c.owed)
	c.mu.Unlock()
	for key, version := range debts {
		err := c.within(ctx, c.limits.read, func(ctx context.Context) error {
			_, err := c.bucket.PutIfNewer(ctx, key, Entry{Version: version - 1, Tombstone: true})
			return err
		})
		if err != nil {
			return
		}
		c.paid(key, version)
	}
}

// join returns the flight for a key, and whether it was begun by this call.
func (c *Cache[V]) join(ctx context.Context, key string, want int64) (f *flight[V], mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[key]; f != nil && time.Since(f.begun) < joinTime {
		return f, false
	}
	_, reached := c.known(key)
	f = &flight[V]{done: make(chan struct{}), begun: time.Now(), life: c.life, fence: max(reached, c.owed[key]), want: want}
	c.flights[key] = f
	// The flight is for everybody who joins: it outlasts the request that began it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	go func() {
		defer cancel()
		c.fly(ctx, key, f)
	}()
	return f, true
}

func (c *Cache[V]) fly(ctx context.Context, key string, f *flight[V]) {
	defer func() {
		if p := recover(); p != nil { // here nothing else would catch it
			f.err = fmt.Errorf("load %s/%s: panic: %v", c.name, key, p)
		}
		c.mu.Lock()
		if c.flights[key] == f {
			delete(c.flights, key)
		}
		c.mu.Unlock()
		close(f.done)
	}()
	for landed := false; !landed; {
		c.mu.Lock()
		fence := f.fence
		f.begun, f.news = time.Now(), 0
		c.mu.Unlock()
		f.value, f.size, f.err = c.read(ctx, key, f, fence)
		landed = f.err != nil || c.land(key, f, fence)
	}
	if errors.Is(f.err, ErrGone) {
		c.forget(key, f)
	}
}

// land ends a flight that brought a value and keeps that; false when it was outdated meanwhile, so that who joined after a
// newer version was committed would get an old one. before is the fence from before the read.
func (c *Cache[V]) land(key string, f *flight[V], before int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, _ := c.known(key)
	switch {
	case f.value.Version < f.news:
		return false
	case f.value.Version < before:
		// The database was asked after the fence was set, and is the truth: it has gone back, restored from a backup; or the fence is
		// one for a version that is still to come.
	case f.value.Layer == Bypass:
	case f.life != c.life, f != c.flights[key]: // nobody would have told, or would tell, when it changes
	case old == nil || old.version < f.value.Version || old.version == f.value.Version && old.held:
		c.hold(key, f.value.Version, f.value.Data, f.size)
	}
	if c.flights[key] == f {
		delete(c.flights, key)
	}
	return true
}

// forget keeps what a flight brought that found nothing and never will.
func (c *Cache[V]) forget(key string, f *flight[V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.life == c.life && f == c.flights[key] {
		c.filled = true
		c.near.Set(key, &item[V]{gone: f.err, until: time.Since(c.begun) + goneAge})
	}
}

// hold keeps a value; c.mu is held.
func (c *Cache[V]) hold(key string, version int64, value V, size int) {
	age := nearAge - rand.N(nearAge/4) //nolint:gosec // jitter is no secret
	c.filled = true
	c.near.Set(key, &item[V]{
		version: version, value: value, held: true, size: uint32(max(0, size)), //nolint:gosec // no more than a few entries
		until: time.Since(c.begun) + age,
	})
}

// read asks the bucket and then the database, whose answer goes into the bucket.
func (c *Cache[V]) read(ctx context.Context, key string, f *flight[V], fence int64) (v Value[V], size int, err error) {
	connections := c.NATS.Stats().Reconnects
	doubted := uint64(0)
	asked := false
	if c.reachable() {
		var e stored
		err := c.within(ctx, c.limits.read, func(ctx context.Context) (err error) {
			e, err = c.bucket.load(ctx, key)
			return err
		})
		asked = c.answered(err)
		believed := false
		if t := c.trusted.Load(); t != nil && t.reconnects == c.NATS.Stats().Reconnects {
			doubted, believed = t.since, e.revision > t.since
		}
		if asked && e.found && e.fresh && believed && !e.Tombstone && e.Version >= max(fence, f.want) {
			if value, size, err := c.decode(e.Data); err == nil {
				return Value[V]{e.Version, value, KV}, size, nil
			}
		}
	}
	version, data, err := c.load(ctx, key)
	if err != nil {
		return Value[V]{}, 0, err
	}
	value, size, err := c.decode(data)
	if err != nil {
		return Value[V]{}, 0, fmt.Errorf("load %s/%s: %w", c.name, key, err)
	}
	if signedSize+len(data) > maxEntry {
		return Value[V]{version, value, Bypass}, size, nil
	}
	if asked {
		c.fill(ctx, key, Entry{Version: version, Data: data}, doubted, f.life, connections)
	}
	return Value[V]{version, value, DB}, size, nil
}

// fill puts what was loaded into the bucket. A bucket that was lost during the load has lost its fences with it: then what
// was put is withdrawn again.
func (c *Cache[V]) fill(ctx context.Context, key string, e Entry, doubted, life, connections uint64) {
	same := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.life == life && c.NATS.Stats().Reconnects == connections
	}
	if !same() {
		return
	}
	err := c.within(ctx, c.limits.read, func(ctx context.Context) error {
		_, err := c.bucket.put(ctx, key, e, doubted)
		return err
	})
	if c.answered(err) && same() {
		return
	}
	// It may have arrived, even after an error.
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owe(key, e.Version+1)
}

func (c *Cache[V]) within(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return do(ctx)
}

// reachable reports whether the bucket is worth asking. One that did not answer is asked by one caller a second.
func (c *Cache[V]) reachable() bool {
	if !c.NATS.IsConnected() {
		return false
	}
	rest := c.rest.Load()
	now := int64(time.Since(c.begun))
	return rest == 0 || now >= rest && c.rest.CompareAndSwap(rest, now+int64(restTime))
}

// answered takes the outcome of asking the bucket. One line tells of the beginning of an outage, one of its end.
func (c *Cache[V]) answered(err error) bool {
	if err != nil {
		if c.rest.Swap(int64(time.Since(c.begun)+restTime)) == 0 {
			c.Log.Warn().Err(err).Str("cache", c.name).Msg("bucket does not answer; the database does")
		}
		return false
	}
	if c.rest.Load() != 0 && c.rest.Swap(0) != 0 {
		c.Log.Info().Str("cache", c.name).Msg("bucket answers again")
	}
	return true
}

// Live reports whether the near layer may serve: whether the watch is proven to have brought everything that was written
// up to less than 3 s ago.
func (c *Cache[V]) Live() bool {
	echoed := c.echoed.Load()
	return echoed > 0 && time.Since(c.begun)-time.Duration(echoed) < beatLife
}

// NearBytes is about what the near layer takes of the process's memory.
func (c *Cache[V]) NearBytes() uint64 { return c.near.WeightedSize() }

func (c *Cache[V]) beatAge() float64 {
	echoed := c.echoed.Load()
	if echoed == 0 {
		return -1
	}
	return (time.Since(c.begun) - time.Duration(echoed)).Seconds()
}

var (
	errBlind = errors.New("the watch is blind")
	errAway  = errors.New("the bucket is not connected, or did not answer a moment ago")
)
