package main

import (
	"encoding/json"
	"fmt"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"fdc/internal/devstack"
	"fdc/internal/platform/daemon"
	"fdc/internal/platform/telemetry"
	"fdc/internal/service"
)

func (c *cli) dev() *cobra.Command {
	var o devstack.Options
	var format string
	command := &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine: NATS, PostgreSQL, a Google emulator and all services",
		Long: "dev needs no set-up. It keeps its data in the --data directory, seeds a demo the first time, and prints a line\n" +
			"`ready {…}` with its addresses on stdout; logs go to stderr. Ctrl-C drains and stops everything.",
		Example: "  fdc dev\n  fdc dev --http 127.0.0.1:0 --nats 127.0.0.1:0 --google 127.0.0.1:0 --metrics 127.0.0.1:0 --ephemeral",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config := telemetry.Config{Level: "info", Format: format}
			if level := c.environ["LOG_LEVEL"]; level != "" {
				config.Level = level
			}
			if err := config.Validate(); err != nil {
				return &daemon.UsageError{Err: fmt.Errorf("--log-format, LOG_LEVEL: %w", err)}
			}
			if !(o.RateLimitFactor > 0) || o.RateLimitFactor > service.MaxRateFactor {
				return &daemon.UsageError{Err: fmt.Errorf("--rate-limit-factor: want a number above 0, at most %g", float64(service.MaxRateFactor))}
			}
			o.Data, o.PGBin = c.data, c.environ["FDC_PG_BIN"]
			o.Logger = func(service string) zerolog.Logger { return telemetry.Logger(config, c.stderr, service) }
			log := o.Logger("dev")
			o.Progress = func(what string) { log.Info().Msg(what) }
			o.Ready = func(a devstack.Addresses) error {
				line, err := json.Marshal(a)
				if err != nil {
					return fmt.Errorf("print addresses: %w", err)
				}
				return c.printf("ready %s\n", line)
			}
			return devstack.Run(cmd.Context(), o)
		},
	}
	flags := command.Flags()
	flags.StringVar(&o.HTTP, "http", "127.0.0.1:8080", "where the API listens, `HOST:PORT`; port 0 picks a free one")
	flags.StringVar(&o.NATS, "nats", "127.0.0.1:4222", "where NATS listens, `HOST:PORT`")
	flags.StringVar(&o.Google, "google", "127.0.0.1:8085", "where the Google emulator listens, `HOST:PORT`")
	flags.StringVar(&o.Metrics, "metrics", "127.0.0.1:9090", "where /metrics, /healthz and /readyz are served, `HOST:PORT`")
	flags.BoolVar(&o.Ephemeral, "ephemeral", false, "keep the data in a temporary directory, removed at exit")
	flags.BoolVar(&o.NoSeed, "no-seed", false, "start without demo data")
	flags.Float64Var(&o.RateLimitFactor, "rate-limit-factor", 1, "multiply every rate limit by `N`")
	flags.StringVar(&format, "log-format", "console", "`console` or json")
	return command
}
