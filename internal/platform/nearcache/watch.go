package nearcache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	beatEvery = time.Second
	beatLife  = 3 * time.Second

	watchTimeout   = 2 * time.Second
	watchHeartbeat = 500 * time.Millisecond // a consumer that is silent twice as long is gone
	watchExpiry    = 10 * time.Second
	watchPrefetch  = 256
	watchRetry     = 100 * time.Millisecond
)

// Run watches the bucket until ctx ends. The client's own watch is not used: after a restart of the server it stays blind
// for up to 18 s, and in a bucket that came back empty it waits for a sequence that may never come.
func (c *Cache[V]) Run(ctx context.Context) error {
	for failures := 0; ctx.Err() == nil; {
		err := c.watch(ctx, func() {
			if failures > 0 {
				c.Log.Info().Str("cache", c.name).Msg("near cache serves again")
			}
			failures = 0
		})
		c.purge()
		c.trusted.Store(nil)
		if ctx.Err() != nil {
			break
		}
		if failures++; failures == 1 {
			c.Log.Warn().Err(err).Str("cache", c.name).Msg("near cache purged")
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchRetry/2 + rand.N(watchRetry)): //nolint:gosec // jitter is no secret
		}
	}
	return nil //nolint:nilerr // ctx has ended: nobody has to know how the last watch did
}

// purge ends a life of the watch: the near layer serves nothing and takes nothing that was read before. Of its values it keeps the
// places, so that a bucket which comes back empty, and is given an old version by a writer that was slow, takes nobody back.
func (c *Cache[V]) purge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life++
	c.echoed.Store(0)
	if !c.filled {
		return
	}
	c.filled = false
	for key, i := range c.near.All() {
		switch {
		case i.held:
			c.keepPlace(key, i.version)
		case i.gone != nil:
			c.near.Invalidate(key)
		}
	}
}

// watch is one life: one consumer, from its making to the first doubt.
func (c *Cache[V]) watch(ctx context.Context, live func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var companions sync.WaitGroup
	defer companions.Wait()
	defer cancel(nil)
	status := c.NATS.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	defer c.NATS.RemoveStatusListener(status)
	companions.Go(func() {
		select {
		case <-status:
			cancel(nats.ErrDisconnected)
		case <-ctx.Done():
		}
	})

	reconnects := c.NATS.Stats().Reconnects
	prefix := "$KV." + c.KV.Bucket() + "."
	own := "beat." + c.node
	consumer, err := c.consumer(ctx, prefix, own)
	if err != nil {
		return err
	}
	// What was read before the consumer was made may have changed unseen.
	c.purge()
	c.trusted.Store(&trust{since: consumer.CachedInfo().Delivered.Stream, reconnects: reconnects})
	messages, err := consumer.Messages(jetstream.PullMaxMessages(watchPrefetch), jetstream.PullExpiry(watchExpiry),
		jetstream.PullHeartbeat(watchHeartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fmt.Errorf("watch %s: %w", c.name, err)
	}
	defer messages.Stop()
	companions.Go(func() { cancel(c.beat(ctx, prefix+own)) })
	companions.Go(func() { c.settle(ctx) })
	var last uint64
	for n := uint64(1); ; n++ {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("watch %s: %w", c.name, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("watch %s: %w", c.name, err)
		}
		if meta.Sequence.Consumer != n || meta.Sequence.Stream <= last {
			return fmt.Errorf("watch %s: %w", c.name, errBlind)
		}
		last = meta.Sequence.Stream
		key := strings.TrimPrefix(msg.Subject(), prefix)
		if key != own {
			c.apply(key, msg.Data())
			continue
		}
		// Everything that was stored before this beat is applied by now.
		if sent, err := strconv.ParseInt(string(msg.Data()), 10, 64); err == nil && sent > 0 {
			c.echoed.Store(sent)
			live()
		}
	}
}

// beat writes a beat each second, stamped with this process's own clock, and returns when they stop coming back.
func (c *Cache[V]) beat(ctx context.Context, subject string) error {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for born := time.Now(); ; {
		sent := strconv.FormatInt(int64(time.Since(c.begun)), 10)
		if err := c.NATS.Publish(subject, []byte(sent)); err != nil {
			return fmt.Errorf("beat: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if time.Since(born) > beatLife && !c.Live() {
			return errBlind
		}
	}
}

// settle repays debts each second.
func (c *Cache[V]) settle(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		c.repay(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// consumer makes one that delivers in order, once, what is written from now on, and goes away when nobody pulls. Of the
// heartbeats it delivers this node's only: with all of them, n nodes would have n² deliveries a second. A key is one token and a
// heartbeat two, so the first filter matches no heartbeat.
func (c *Cache[V]) consumer(ctx context.Context, prefix, own string) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	consumer, err := c.JS.CreateConsumer(ctx, "KV_"+c.KV.Bucket(), jetstream.ConsumerConfig{
		FilterSubjects: []string{prefix + "*", prefix + own}, DeliverPolicy: jetstream.DeliverNewPolicy, AckPolicy: jetstream.AckNonePolicy, MaxDeliver: 1,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: 3 * watchExpiry,
	})
	if err != nil {
		return nil, fmt.Errorf("make a watch of %s: %w", c.name, err)
	}
	return consumer, nil
}

// apply takes over what was written to the bucket. A value is verified only when it may replace one here, or outdate a read.
func (c *Cache[V]) apply(key string, encoded []byte) {
	e, err := DecodeEntry(encoded)
	c.mu.Lock()
	defer c.mu.Unlock()
	old, reached := c.known(key)
	fresh := true
	if err != nil || !e.Tombstone {
		if err == nil && c.flights[key] == nil && (old == nil || old.gone != nil || old.version >= e.Version) {
			return
		}
		e, fresh, err = c.bucket.open(key, encoded)
	}
	if err != nil || !fresh { // expired, purged by an operator, or forged: what it replaced is not known
		c.leave(key, old, reached)
		return
	}
	c.flights[key].hear(e.current())
	switch {
	case old == nil || old.gone != nil || old.version > e.Version || old.version == e.Version && !e.Tombstone:
	case e.Tombstone:
		c.keepPlace(key, e.current())
	default:
		value, size, err := c.decode(e.Data)
		if err != nil {
			c.leave(key, old, reached)
			return
		}
		c.hold(key, e.Version, value, size)
	}
}

// leave takes a value out of the near layer, but for its place; c.mu is held.
func (c *Cache[V]) leave(key string, old *item[V], reached int64) {
	switch {
	case old == nil || old.gone != nil:
		c.near.Invalidate(key)
	case old.held:
		c.keepPlace(key, reached)
	}
}
