package service

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"fdc/internal/gsync"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/ratelimit"
	"fdc/internal/platform/seal"
	"fdc/internal/platform/worker"
	"fdc/internal/task"
	"fdc/internal/workspace"
)

// SyncerConfig is the environment of cmd/syncer.
type SyncerConfig struct {
	Common
	Google gsync.OAuth
	Keys   KeyConfig

	PublicURL PublicURL `env:"PUBLIC_URL" envDefault:"http://127.0.0.1:8080"`
}

// Syncer runs the service from the environment.
var Syncer = Standalone(bus.Syncer, RunSyncer)

// RunSyncer runs the sync jobs of all users, those they ask for and those that are due, until ctx ends.
func RunSyncer(ctx context.Context, c SyncerConfig, r Runtime) error {
	keys, err := seal.ParseKeys(c.Keys.Master)
	if err != nil {
		return fmt.Errorf("MASTER_ENCRYPTION_KEYS: %w", err)
	}
	b, err := Connect(ctx, bus.Syncer, c.Common, r)
	if err != nil {
		return Orderly(ctx, err)
	}
	defer b.Close()
	workspaces := workspace.New(b.Outbox)
	limiter := ratelimit.New(ratelimit.Config{NC: b.NATS, Log: r.Log, Metrics: r.Admin.Metrics})
	google := gsync.New(gsync.Config{
		Outbox: b.Outbox, OAuth: c.Google, Keys: keys, Tasks: task.New(b.Outbox, workspaces), Members: workspaces,
		Source: "/fdc/syncer", Version: Version, Webhook: webhook(c.PublicURL, c.Google), Limiter: limiter,
		NATS: b.NATS, Log: r.Log, Metrics: r.Admin.Metrics,
	})
	runner := gsync.NewRunner(google, gsync.RunnerConfig{Grace: drainTime})
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return limiter.Run(groupCtx) })
	group.Go(func() error { return gsync.NewScheduler(google).Run(groupCtx) })
	group.Go(func() error { return gsync.NewRevoker(google).Run(groupCtx) })
	group.Go(func() error { return runner.Run(groupCtx) })
	group.Go(func() error {
		return Consume(groupCtx, b, r, bus.Syncer, worker.Config{Handle: runner.Handle, Ping: b.pingDatabase})
	})
	return group.Wait()
}
