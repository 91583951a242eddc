package service

import (
	"context"
	"fmt"

	"fdc/internal/identity"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/nearcache"
	"fdc/internal/platform/worker"
	"fdc/internal/workspace"
)

// CacheInvalidatorConfig is the environment of cmd/cache-invalidator.
type CacheInvalidatorConfig struct{ Common }

// CacheInvalidator runs the service from the environment.
var CacheInvalidator = standalone(bus.CacheInvalidator, RunCacheInvalidator)

// RunCacheInvalidator keeps the cache buckets true to what the events say, until ctx ends.
func RunCacheInvalidator(ctx context.Context, c CacheInvalidatorConfig, r Runtime) error {
	b, err := connect(ctx, bus.CacheInvalidator, c.Common, r)
	if err != nil {
		return orderly(ctx, err)
	}
	defer b.close()
	sessions, err := bus.BindBucket(ctx, b.js, bus.Sessions, r.waiting)
	if err != nil {
		return orderly(ctx, err)
	}
	documents, err := bus.BindBucket(ctx, b.js, bus.WorkspaceData, r.waiting)
	if err != nil {
		return orderly(ctx, err)
	}
	handlers := identity.NewInvalidator(b.pool, nearcache.NewBucket(sessions)).Handlers()
	handlers["workspace.data_updated"] = workspace.NewInvalidator(nearcache.NewBucket(documents)).DataUpdated
	return consume(ctx, b, r, bus.CacheInvalidator, worker.Config{
		Handle: func(ctx context.Context, d *worker.Delivery) error {
			handle, ok := handlers[d.Event.Action()]
			if !ok {
				return worker.Discard(fmt.Errorf("no handler for %s", d.Event.Type))
			}
			return handle(ctx, d)
		},
	})
}
