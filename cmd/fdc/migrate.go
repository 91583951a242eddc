package main

import (
	"github.com/spf13/cobra"

	"fdc/internal/audit/archive"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/telemetry"
	"fdc/internal/service"
)

// migrateConfig is the environment of fdc migrate.
type migrateConfig struct {
	service.MigrateConfig
	Archive string `env:"ARCHIVE_URL"` // only nats:// means anything here
}

// Validate names what is malformed.
func (c migrateConfig) Validate() error {
	return archive.Location{URL: c.Archive}.Validate()
}

func (c *cli) migrate() *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Make or update the schema and the streams, consumers and buckets",
		Long: "migrate makes what the services expect to find, and updates what has changed; nothing is recreated. When NATS has lost\n" +
			"its data, it puts back what PostgreSQL has a copy of: flags, dead letters, checkpoints of the audit log. It reads\n" +
			"DATABASE_URL (or DATABASE_DIRECT_URL) and NATS_URL, NATS_PASSWORD and NATS_REPLICAS from the environment; its NATS user\n" +
			"is provision. It may run while services run.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := daemon.ParseEnv[migrateConfig](c.environ)
			if err != nil {
				return err
			}
			config.ArchiveBucket = archive.Location{URL: config.Archive}.ObjectStore()
			return service.RunMigrate(cmd.Context(), config.MigrateConfig, telemetry.Logger(config.Telemetry, c.stderr, "migrate"))
		},
	}
}
