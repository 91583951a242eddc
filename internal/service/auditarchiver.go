package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"fdc/events"
	"fdc/internal/audit"
	"fdc/internal/httpapi"
	"fdc/internal/platform/backup"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/seal"
	"fdc/internal/platform/worker"
)

// AuditArchiverConfig is the environment of cmd/audit-archiver.
type AuditArchiverConfig struct {
	Common
	Archive ArchiveConfig
	Signing SigningConfig

	Retention int `env:"AUDIT_RETENTION_MONTHS" envDefault:"24"`
}

// Validate names what is malformed.
func (c AuditArchiverConfig) Validate() error {
	if c.Retention < 1 || c.Retention > 1200 {
		return fmt.Errorf("AUDIT_RETENTION_MONTHS: %d is not between 1 and 1200", c.Retention)
	}
	return nil
}

// ArchiveConfig says where the archive of the audit log is.
type ArchiveConfig struct {
	URL string `env:"ARCHIVE_URL"` // empty: the folder archive in the working directory
}

// Validate names what is malformed.
func (c ArchiveConfig) Validate() error {
	if c.URL == "" {
		return nil
	}
	if err := audit.CheckArchiveURL(c.URL); err != nil {
		return fmt.Errorf("ARCHIVE_URL: %w", err)
	}
	return nil
}

// Open opens the archive. Over NATS it is the user audit-archiver's.
func (c ArchiveConfig) Open(ctx context.Context, js jetstream.JetStream) (audit.Storage, error) {
	if c.URL != "" {
		return audit.OpenStorage(ctx, c.URL, js)
	}
	dir, err := filepath.Abs("archive")
	if err != nil {
		return nil, fmt.Errorf("ARCHIVE_URL: %w", err)
	}
	return audit.OpenDir(dir)
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
	if _, err := audit.ParseSigningKey(c.Key.Reveal()); err != nil {
		return fmt.Errorf("AUDIT_SIGNING_KEY: %w", err)
	}
	return nil
}

// AuditArchiver runs the service from the environment.
var AuditArchiver = standalone(bus.AuditArchiver, RunAuditArchiver)

// auditBatch is where COPY has nearly reached its best rate; a quiet stream closes a batch after 100 ms.
const auditBatch = 5000

// RunAuditArchiver writes every event to its month of audit_logs, makes the months ahead and archives the old ones, and copies what NATS
// alone holds into the database, until ctx ends.
func RunAuditArchiver(ctx context.Context, c AuditArchiverConfig, r Runtime) error {
	key, err := audit.ParseSigningKey(c.Signing.Key.Reveal())
	if err != nil {
		return fmt.Errorf("AUDIT_SIGNING_KEY: %w", err)
	}
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
	archiver := audit.NewArchiver(audit.ArchiveConfig{
		Database: c.Database, Key: key, Retention: c.Retention, Log: r.Log, Metrics: r.Admin.Metrics,
	})
	group.Go(func() error {
		return archiver.Run(groupCtx, func(ctx context.Context) (audit.Storage, error) { return c.Archive.Open(ctx, b.js) })
	})
	group.Go(func() error {
		if _, err := bus.BindStream(groupCtx, b.js, bus.Checkpoints, r.waiting); err != nil {
			return orderly(groupCtx, err)
		}
		return (&audit.Checkpointer{DB: c.Database, JS: b.js, Key: key, Log: r.Log}).Run(groupCtx)
	})
	copier := backup.NewKeeper(c.Database, b.js, r.Log, r.Admin.Metrics)
	group.Go(func() error { return copier.Run(groupCtx) })
	group.Go(func() error {
		return consume(groupCtx, b, r, bus.AuditArchiver, worker.Config{HandleBatch: writer.HandleBatch, BatchSize: auditBatch})
	})
	return group.Wait()
}

// ExportAudit writes the entries of the audit log that match, newest first, as NDJSON or CSV, and returns how many those are. progress is told
// how many there are so far.
func ExportAudit(ctx context.Context, log *audit.Log, meta events.Meta, f audit.Filter, format string, w io.Writer, progress func(int64)) (int64, error) {
	lines := httpapi.AuditLines(format)
	done := int64(0)
	rows, err := log.Export(ctx, meta, f, format, func(entries []audit.Entry) error {
		b, err := lines(entries)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		done += int64(len(entries))
		progress(done)
		return err
	})
	if err == nil && rows == 0 { // a header, in CSV
		b, linesErr := lines(nil)
		_, writeErr := w.Write(b)
		err = errors.Join(linesErr, writeErr)
	}
	return rows, err
}

// ExportFormats are the forms of ExportAudit.
var ExportFormats = []string{httpapi.FormatNDJSON, httpapi.FormatCSV}
