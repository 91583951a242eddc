package service

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"fdc/internal/audit"
	"fdc/internal/platform/backup"
	"fdc/internal/platform/bus"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/telemetry"
	"fdc/migrations"
)

// MigrateConfig is the environment of `fdc migrate`. Its NATS user is provision.
type MigrateConfig struct {
	Database  postgres.Config
	Bus       bus.Config
	Telemetry telemetry.Config

	// ArchiveBucket is the object store to make for an archive in NATS; empty for an archive elsewhere.
	ArchiveBucket string `env:"-"`
}

// RunMigrate makes or updates all that services find ready: the schema, the months of audit_logs, and the streams,
// consumers and buckets. When NATS has lost streams that nothing else can bring back, it fills them from their backup. It
// changes nothing when all is as declared, and may run beside itself and beside services.
func RunMigrate(ctx context.Context, c MigrateConfig, log zerolog.Logger) error {
	conn, err := postgres.Connect(ctx, c.Database, "fdc-migrate")
	if err != nil {
		return fmt.Errorf("PostgreSQL (DATABASE_URL, DATABASE_DIRECT_URL): %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // everything is committed by then
	nc, err := bus.Connect(c.Bus, "provision", log)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := bus.JetStream(nc)
	if err != nil {
		return err
	}
	// Nothing is changed on one side while the other can't be reached.
	if err := bus.Reachable(ctx, nc, js); err != nil {
		return fmt.Errorf("NATS (NATS_URL): %w", err)
	}
	if err := migrateSchema(ctx, c.Database, conn, log); err != nil {
		return err
	}
	if c.ArchiveBucket != "" {
		if err := bus.ProvisionObjects(ctx, js, c.ArchiveBucket, c.Bus.Replicas); err != nil {
			return err
		}
	}
	if err := provision(ctx, js, c.Bus.Replicas, log); err != nil {
		return err
	}
	return backup.Restore(ctx, conn, js, log)
}

func migrateSchema(ctx context.Context, c postgres.Config, conn *pgx.Conn, log zerolog.Logger) error {
	applied, err := postgres.Migrate(ctx, c.Direct(), migrations.FS)
	if err != nil {
		return err
	}
	for _, m := range applied {
		log.Info().Int64("version", m.Version).Str("file", m.Name).Dur("took", m.Duration).Msg("migrated")
	}
	if _, err := conn.Exec(ctx, migrations.Grants()); err != nil {
		return fmt.Errorf("grant rights to roles: %w", err)
	}
	created, err := audit.EnsurePartitions(ctx, conn, time.Now(), audit.MonthsAhead)
	if err != nil {
		return err
	}
	log.Info().Int("migrations", len(applied)).Strs("partitions", created).Msg("schema is up to date")
	return nil
}

func provision(ctx context.Context, js jetstream.JetStream, replicas int, log zerolog.Logger) error {
	if err := bus.Provision(ctx, js, replicas); err != nil {
		return err
	}
	log.Info().Int("replicas", replicas).Msg("streams, consumers and buckets are up to date")
	return nil
}
