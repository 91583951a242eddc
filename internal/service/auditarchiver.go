package service

import (
	"context"

	"golang.org/x/sync/errgroup"

	"fdc/internal/audit"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/worker"
)

// AuditArchiverConfig is the environment of cmd/audit-archiver.
type AuditArchiverConfig struct{ Common }

// AuditArchiver runs the service from the environment.
var AuditArchiver = standalone(bus.AuditArchiver, RunAuditArchiver)

// auditBatch is where COPY has nearly reached its best rate; a quiet stream closes a batch after 100 ms.
const auditBatch = 5000

// RunAuditArchiver writes every event to its month of audit_logs and makes the months ahead, until ctx ends.
func RunAuditArchiver(ctx context.Context, c AuditArchiverConfig, r Runtime) error {
	b, err := connect(ctx, bus.AuditArchiver, c.Common, r)
	if err != nil {
		return orderly(ctx, err)
	}
	defer b.close()
	keeper := audit.NewKeeper(c.Database, r.Log, r.Admin.Metrics)
	writer := audit.NewWriter(b.pool, r.Log, r.Admin.Metrics)
	if err := keeper.EnsureAhead(ctx); err != nil {
		// Neither the keeper nor the writer needs it to have worked: both try again.
		r.Log.Warn().Err(err).Msg("audit partitions not looked after yet")
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return keeper.Run(groupCtx) })
	group.Go(func() error {
		return consume(groupCtx, b, r, bus.AuditArchiver, worker.Config{HandleBatch: writer.HandleBatch, BatchSize: auditBatch})
	})
	return group.Wait()
}
