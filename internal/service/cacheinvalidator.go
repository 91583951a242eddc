package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"fdc/internal/httpapi"
	"fdc/internal/identity"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/worker"
	"fdc/internal/workspace"
)

// CacheInvalidatorConfig is the environment of cmd/cache-invalidator.
type CacheInvalidatorConfig struct{ Common }

// CacheInvalidator runs the service from the environment.
var CacheInvalidator = Standalone(bus.CacheInvalidator, RunCacheInvalidator)

// RunCacheInvalidator keeps the cache buckets true to what the events say and to the rows, until ctx ends.
func RunCacheInvalidator(ctx context.Context, c CacheInvalidatorConfig, r Runtime) error {
	b, err := Connect(ctx, bus.CacheInvalidator, c.Common, r)
	if err != nil {
		return Orderly(ctx, err)
	}
	defer b.Close()
	monitor := func(bucket string, truth nearcache.Truth) (*nearcache.Monitor, error) {
		kv, err := bus.BindBucket(ctx, b.JS, bucket, r.Waiting)
		if err != nil {
			return nil, err
		}
		return nearcache.NewMonitor(nearcache.MonitorConfig{
			KV: kv, JS: b.JS, NATS: b.NATS, Truth: truth, Log: r.Log, Metrics: r.Admin.Metrics,
		}), nil
	}
	sessions, err := monitor(bus.Sessions, identity.Truth(b.Pool))
	if err != nil {
		return Orderly(ctx, err)
	}
	documents, err := monitor(bus.WorkspaceData, httpapi.DocumentTruth(workspace.New(b.Outbox)))
	if err != nil {
		return Orderly(ctx, err)
	}
	handlers := identity.NewInvalidator(b.Pool, sessions).Handlers()
	withdraw := workspace.NewInvalidator(documents).Withdraw
	handlers["workspace.data_updated"], handlers["workspace.deleted"] = withdraw, withdraw
	// The monitors outlast the worker, which finishes what it has.
	monitorCtx, stopMonitors := context.WithCancel(context.WithoutCancel(ctx))
	defer stopMonitors()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return sessions.Run(monitorCtx) })
	group.Go(func() error { return documents.Run(monitorCtx) })
	group.Go(func() error {
		return watchForLoss(groupCtx, b.JS, func() {
			r.Log.Warn().Msg("events were lost before they were handled")
			sessions.Reconcile()
			documents.Reconcile()
		})
	})
	group.Go(func() error {
		defer stopMonitors()
		return Consume(groupCtx, b, r, bus.CacheInvalidator, worker.Config{
			Handle: func(ctx context.Context, d *worker.Delivery) error {
				handle, ok := handlers[d.Event.Action()]
				if !ok {
					return worker.Discard(fmt.Errorf("no handler for %s", d.Event.Type))
				}
				return handle(ctx, d)
			},
			Ping: func(ctx context.Context) error {
				return errors.Join(b.pingDatabase(ctx), sessions.Ping(ctx), documents.Ping(ctx))
			},
		})
	})
	return group.Wait()
}

// lossEvery is how often the consumer is looked at. Whatever is missed, no bucket keeps an entry for longer than its TTL.
const lossEvery = 5 * time.Second

// watchForLoss calls lost when events that the consumer had still to handle are gone: purged, expired, or with the stream
// that was made anew. The sequences of events can't tell, because the consumer's filter leaves gaps.
func watchForLoss(ctx context.Context, js jetstream.JetStream, lost func()) error {
	tick := time.NewTicker(lossEvery)
	defer tick.Stop()
	var before *jetstream.ConsumerInfo
	for {
		// While there is no answer there is nothing to compare; a new connection is reason enough to reconcile.
		if consumer, err := js.Consumer(ctx, bus.Events, bus.CacheInvalidator); err == nil {
			now := consumer.CachedInfo()
			if before != nil && eventsLost(before, now) {
				lost()
			}
			before = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// eventsLost compares two looks at a consumer: it was made anew or set back, or fewer events are left than its deliveries
// explain.
func eventsLost(before, now *jetstream.ConsumerInfo) bool {
	return !now.Created.Equal(before.Created) || now.Delivered.Consumer < before.Delivered.Consumer ||
		now.NumPending+now.Delivered.Consumer < before.NumPending+before.Delivered.Consumer
}
