// Package auditarchiver runs the service audit-archiver. It is apart from package service because it alone of the services links the
// archive and its clients of object storage.
package auditarchiver

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"fdc/internal/audit"
	"fdc/internal/audit/archive"
	"fdc/internal/platform/backup"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/seal"
	"fdc/internal/platform/worker"
	"fdc/internal/service"
)

// Config is the environment of cmd/audit-archiver.
type Config struct {
	service.Common
	Archive archive.Location
	Signing SigningConfig

	Retention int `env:"AUDIT_RETENTION_MONTHS" envDefault:"24"`
}

// Validate names what is malformed.
func (c Config) Validate() error {
	if c.Retention < 1 || c.Retention > 1200 {
		return fmt.Errorf("AUDIT_RETENTION_MONTHS: %d is not between 1 and 1200", c.Retention)
	}
	return nil
}

// SigningConfig holds the key that the audit log's manifests and checkpoints are signed with.
type SigningConfig struct {
	Key seal.Secret `env:"AUDIT_SIGNING_KEY,required,notEmpty"`
}

// Validate names what is malformed.
func (c SigningConfig) Validate() error {
	if c.Key == "" {
		return nil // said already: required
	}
	if _, err := archive.ParseSigningKey(c.Key.Reveal()); err != nil {
		return fmt.Errorf("AUDIT_SIGNING_KEY: %w", err)
	}
	return nil
}

// Main runs the service from the environment.
var Main = service.Standalone(bus.AuditArchiver, Run)

// batchSize is where COPY has nearly reached its best rate; a quiet stream closes a batch after 100 ms.
const batchSize = 5000

// Run writes every event to its month of audit_logs, makes the months ahead and archives the old ones, and copies what NATS alone holds
// into the database, until ctx ends.
func Run(ctx context.Context, c Config, r service.Runtime) error {
	key, err := archive.ParseSigningKey(c.Signing.Key.Reveal())
	if err != nil {
		return fmt.Errorf("AUDIT_SIGNING_KEY: %w", err)
	}
	b, err := service.Connect(ctx, bus.AuditArchiver, c.Common, r)
	if err != nil {
		return service.Orderly(ctx, err)
	}
	defer b.Close()
	keeper := audit.NewKeeper(c.Database, r.Log, r.Admin.Metrics)
	writer := audit.NewWriter(b.Pool, r.Log, r.Admin.Metrics)
	if err := keeper.EnsureAhead(ctx); err != nil {
		// Neither the keeper nor the writer needs it to have worked: both try again.
		r.Log.Warn().Err(err).Msg("audit partitions not looked after yet")
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return keeper.Run(groupCtx) })
	archiver := archive.NewArchiver(archive.Config{
		Database: c.Database, Key: key, Retention: c.Retention, Log: r.Log, Metrics: r.Admin.Metrics,
	})
	group.Go(func() error {
		return archiver.Run(groupCtx, func(ctx context.Context) (archive.Storage, error) { return c.Archive.Open(ctx, b.JS) })
	})
	group.Go(func() error {
		if _, err := bus.BindStream(groupCtx, b.JS, bus.Checkpoints, r.Waiting); err != nil {
			return service.Orderly(groupCtx, err)
		}
		return (&archive.Checkpointer{DB: c.Database, JS: b.JS, Key: key, Log: r.Log, Keys: func(ctx context.Context) (*archive.Keys, error) {
			storage, err := c.Archive.Open(ctx, b.JS)
			if err != nil {
				return nil, err
			}
			keys, err := archive.ReadKeys(ctx, storage, archive.Public(key))
			return keys, errors.Join(err, storage.Close())
		}}).Run(groupCtx)
	})
	copier := backup.NewKeeper(c.Database, b.JS, r.Log, r.Admin.Metrics)
	group.Go(func() error { return copier.Run(groupCtx) })
	group.Go(func() error {
		return service.Consume(groupCtx, b, r, bus.AuditArchiver, worker.Config{
			HandleBatch: writer.HandleBatch, BatchSize: batchSize, Ping: writer.Ping,
		})
	})
	return group.Wait()
}
