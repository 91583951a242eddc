package main

import (
	"github.com/spf13/cobra"

	"fdc/internal/devstack"
	"fdc/internal/gsync"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/telemetry"
	"fdc/internal/service"
)

// seedConfig is the environment of the demo's seed.
type seedConfig struct {
	Database  postgres.Config
	Google    gsync.OAuth
	Keys      service.KeyConfig
	Telemetry telemetry.Config
}

// demoSeed is for the profile demo of docker-compose.yml; fdc dev seeds by itself.
func (c *cli) demoSeed() *cobra.Command {
	return &cobra.Command{
		Use: "demo-seed", Short: "Fill an empty database with the demo of fdc dev", Args: cobra.NoArgs, Hidden: true,
		Long: "demo-seed does what fdc dev does at its first start, with the database, the keys and the Google emulator of the environment.\n" +
			"A database that somebody has used is left alone.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := daemon.ParseEnv[seedConfig](c.environ)
			if err != nil {
				return err
			}
			if config.Google.Endpoint == "" {
				return usage("GOOGLE_ENDPOINT: not set; the demo's people are known to the emulator alone")
			}
			log := telemetry.Logger(config.Telemetry, c.stderr, "seed")
			return devstack.Seed(cmd.Context(), devstack.SeedConfig{
				Database: config.Database, Google: config.Google, Keys: config.Keys.Master, Log: log,
				Begin: func() error { log.Info().Msg("seeding demo data"); return nil },
			})
		},
	}
}
