package nearcache

import (
	"context"
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
	"github.com/nats-io/nuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"fdc/internal/platform/fault"
)

const (
	// loadTimeout is far below the age that a bucket's tombstones reach, so that none expires under a load it has to fence.
	loadTimeout = 5 * time.Second
	// writeTimeout is how long a writer waits for the bucket after its commit.
	writeTimeout = 2 * time.Second
	readTimeout  = 500 * time.Millisecond
	// restTime is how long a bucket that did not answer is left alone.
	restTime = time.Second

	// distrust is how long after an outage of the watch the database is asked rather than the bucket: writers that could
	// not reach it repeat themselves each second, and the events that waited for the bus arrive.
	distrust = 5 * time.Second

	// maxEntry is the largest entry; the bus takes 1 MB with headers.
	maxEntry = 900 << 10
	// nearAge bounds how long the near layer keeps an entry, less up to a quarter so that not all expire at once.
	nearAge = 30 * time.Second
	// itemOverhead is about what an entry takes beside its key and its data.
	itemOverhead = 200
	// maxOwed bounds the writes that are remembered because the bucket did not take them.
	maxOwed = 10_000
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
type Value struct {
	Version int64
	Data    []byte
	Layer   Layer
}

// Load reads a key's newest version from the primary database.
type Load func(ctx context.Context, key string) (version int64, data []byte, err error)

// Config is what a Cache needs. Everything is required.
type Config struct {
	Name     string // in metrics and logs
	KV       jetstream.KeyValue
	JS       jetstream.JetStream
	NATS     *nats.Conn
	Load     Load
	MaxBytes uint64 // of the near layer
	Log      zerolog.Logger
	Metrics  prometheus.Registerer
}

// Cache is a bucket with a near layer in this process and a loader behind it. It is safe for concurrent use. Without Run
// it works, but its near layer serves nothing.
type Cache struct {
	Config
	bucket *Bucket
	node   string
	begun  time.Time
	near   *otter.Cache[string, *item]
	served map[Layer]prometheus.Counter

	trusted atomic.Int64 // from when on, since begun, the bucket's entries are believed; MaxInt64 while the watch is lost

	echoed atomic.Int64 // when the newest beat that came back was sent, since begun; 0: none did in this life
	rest   atomic.Int64 // until when the bucket is left alone, since begun

	// mu orders what the watch tells, what loads bring and purges. Hits don't take it.
	mu      sync.Mutex
	life    uint64 // of the watch: what was read in an earlier one must not enter the near layer
	flights map[string]*flight
	owed    map[string]int64 // versions that were committed here and that the bucket has not taken yet
}

// item is an entry of the near layer: a value, or, without data, the place of a newer one that is to come.
type item struct {
	version int64
	data    []byte
	until   time.Duration // since begun
}

// flight is the one read of a key under way.
type flight struct {
	done  chan struct{}
	life  uint64
	fence int64 // what is older was outdated while the flight was under way
	want  int64 // what is older in the bucket is of no use to who began the flight
	value Value
	err   error
}

// New returns a Cache and registers its metrics.
func New(c Config) (*Cache, error) {
	near, err := otter.New(&otter.Options[string, *item]{
		MaximumWeight: c.MaxBytes,
		Weigher: func(key string, i *item) uint32 {
			return uint32(len(key) + cap(i.data) + itemOverhead) //nolint:gosec // no more than maxEntry and a key
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make near cache %s: %w", c.Name, err)
	}
	cache := &Cache{
		Config: c, bucket: NewBucket(c.KV), node: nuid.Next(), begun: time.Now(), near: near,
		flights: map[string]*flight{}, owed: map[string]int64{}, served: map[Layer]prometheus.Counter{},
	}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cache_requests_total", Help: "Reads, by the layer that served them.", ConstLabels: prometheus.Labels{"cache": c.Name},
	}, []string{"layer"})
	for _, layer := range []Layer{Near, KV, DB, Bypass} {
		cache.served[layer] = requests.WithLabelValues(string(layer))
	}
	c.Metrics.MustRegister(requests, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nearcache_beat_age_seconds", ConstLabels: prometheus.Labels{"cache": c.Name},
		Help: "Age of the newest beat that the watch brought back; the near layer serves below 3. -1: none yet.",
	}, cache.beatAge))
	return cache, nil
}

// Get returns the newest version of a key that is known here, and no older one than atLeast if the database has that.
// The error is Load's; the cache has none of its own.
func (c *Cache) Get(ctx context.Context, key string, atLeast int64) (Value, error) {
	if i, ok := c.near.GetIfPresent(key); ok && i.data != nil && i.version >= atLeast && time.Since(c.begun) < i.until && c.Live() {
		c.served[Near].Inc()
		return Value{i.version, i.data, Near}, nil
	}
	for {
		f, mine := c.join(ctx, key, atLeast)
		select {
		case <-f.done:
		case <-ctx.Done():
			return Value{}, fault.Wrap(ctx.Err(), fault.Unavailable, "", "The answer took too long.")
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

// Put tells that a version was committed here, and waits for the bucket for 2 s at most. Call it after the commit and
// before the answer. After an error this node goes on to serve that version or newer ones, and repeats in the background
// that older ones are outdated; other nodes may serve the version before until they are told so (see the package).
func (c *Cache) Put(ctx context.Context, key string, version int64, data []byte) error {
	c.mu.Lock()
	if f := c.flights[key]; f != nil {
		f.fence = max(f.fence, version)
	}
	if old, ok := c.near.GetIfPresent(key); ok && old.version < version {
		// The watch brings the data: it alone knows whether there is something newer by now.
		c.near.Set(key, &item{version: version - 1})
	}
	c.owe(key, version)
	c.mu.Unlock()
	if !c.reachable() {
		return fmt.Errorf("write %s/%s: %w", c.Name, key, nats.ErrDisconnected)
	}
	e := Entry{Version: version, Data: data}
	if headerSize+len(data) > maxEntry {
		e = Entry{Version: version - 1, Tombstone: true}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	_, err := c.bucket.PutIfNewer(ctx, key, e)
	if c.answered(err) {
		c.paid(key, version)
	}
	return err
}

// owe notes that the bucket has to learn of a version; c.mu is held.
func (c *Cache) owe(key string, version int64) {
	if len(c.owed) < maxOwed || c.owed[key] > 0 {
		c.owed[key] = max(c.owed[key], version)
	}
}

func (c *Cache) paid(key string, version int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owed[key] <= version {
		delete(c.owed, key)
	}
}

// repay withdraws from the bucket what this node outdated while it could not say so.
func (c *Cache) repay(ctx context.Context) {
	c.mu.Lock()
	debts := maps.Clone(c.owed)
	c.mu.Unlock()
	for key, version := range debts {
		err := c.within(ctx, readTimeout, func(ctx context.Context) error {
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
func (c *Cache) join(ctx context.Context, key string, want int64) (f *flight, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[key]; f != nil {
		return f, false
	}
	f = &flight{done: make(chan struct{}), life: c.life, fence: c.owed[key], want: want}
	c.flights[key] = f
	// The flight is for everybody who joins: it outlasts the request that began it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	go func() {
		defer cancel()
		c.fly(ctx, key, f)
	}()
	return f, true
}

func (c *Cache) fly(ctx context.Context, key string, f *flight) {
	defer func() {
		if p := recover(); p != nil { // here nothing else would catch it
			f.err = fmt.Errorf("load %s/%s: panic: %v", c.Name, key, p)
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
		c.mu.Unlock()
		f.value, f.err = c.read(ctx, key, f, fence)
		landed = f.err != nil || c.land(key, f, fence)
	}
}

// land ends a flight that brought a value and keeps that; false when it was outdated meanwhile, so that who joined after a
// newer version was committed would get an old one. before is the fence from before the read.
func (c *Cache) land(key string, f *flight, before int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := c.near.GetIfPresent(key)
	switch {
	case f.value.Version < before:
		// The database was asked after the fence was set, so it has gone back: restored from a backup. It is the truth.
	case f.value.Version < f.fence:
		return false
	case f.value.Layer == Bypass, f.life != c.life: // of an earlier life: nobody would tell when it changes
	case !ok || old.version < f.value.Version || old.version == f.value.Version && old.data != nil:
		c.near.Set(key, c.newItem(f.value.Version, f.value.Data))
	}
	delete(c.flights, key)
	return true
}

func (c *Cache) newItem(version int64, data []byte) *item {
	if data == nil {
		data = []byte{}
	}
	age := nearAge - rand.N(nearAge/4) //nolint:gosec // jitter is no secret
	return &item{version: version, data: data, until: time.Since(c.begun) + age}
}

// read asks the bucket and then the database, whose answer goes into the bucket.
func (c *Cache) read(ctx context.Context, key string, f *flight, fence int64) (Value, error) {
	connections := c.NATS.Stats().Reconnects
	asked := false
	if c.reachable() {
		var e Entry
		var found bool
		err := c.within(ctx, readTimeout, func(ctx context.Context) (err error) {
			e, found, err = c.bucket.Get(ctx, key)
			return err
		})
		asked = c.answered(err)
		if asked && found && !e.Tombstone && e.Version >= max(fence, f.want) && int64(time.Since(c.begun)) >= c.trusted.Load() {
			return Value{e.Version, e.Data, KV}, nil
		}
	}
	version, data, err := c.Load(ctx, key)
	if err != nil {
		return Value{}, err
	}
	if headerSize+len(data) > maxEntry {
		return Value{version, data, Bypass}, nil
	}
	if asked {
		c.fill(ctx, key, Entry{Version: version, Data: data}, f.life, connections)
	}
	return Value{version, data, DB}, nil
}

// fill puts what was loaded into the bucket. A bucket that was lost during the load has lost its fences with it: then what
// was put is withdrawn again.
func (c *Cache) fill(ctx context.Context, key string, e Entry, life, connections uint64) {
	same := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.life == life && c.NATS.Stats().Reconnects == connections
	}
	if !same() {
		return
	}
	err := c.within(ctx, readTimeout, func(ctx context.Context) error {
		_, err := c.bucket.PutIfNewer(ctx, key, e)
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

func (c *Cache) within(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return do(ctx)
}

// reachable reports whether the bucket is worth asking. One that did not answer is asked by one caller a second.
func (c *Cache) reachable() bool {
	if !c.NATS.IsConnected() {
		return false
	}
	rest := c.rest.Load()
	now := int64(time.Since(c.begun))
	return rest == 0 || now >= rest && c.rest.CompareAndSwap(rest, now+int64(restTime))
}

// answered takes the outcome of asking the bucket.
func (c *Cache) answered(err error) bool {
	if err != nil {
		c.rest.Store(int64(time.Since(c.begun) + restTime))
		return false
	}
	if c.rest.Load() != 0 {
		c.rest.Store(0)
	}
	return true
}

// Live reports whether the near layer may serve: whether the watch is proven to have brought everything that was written
// up to less than 3 s ago.
func (c *Cache) Live() bool {
	echoed := c.echoed.Load()
	return echoed > 0 && time.Since(c.begun)-time.Duration(echoed) < beatLife
}

// NearBytes is about what the near layer takes of the process's memory.
func (c *Cache) NearBytes() uint64 { return c.near.WeightedSize() }

func (c *Cache) beatAge() float64 {
	echoed := c.echoed.Load()
	if echoed == 0 {
		return -1
	}
	return (time.Since(c.begun) - time.Duration(echoed)).Seconds()
}

var errBlind = errors.New("the watch is blind")
